//! Channels: one encrypted, flow-controlled stream of bytes in each direction between a server and an
//! agent, over two subjects of the broker.
//!
//! [`seal`] is the cryptography: X25519 keys from the signed open and its response, ChaCha20-Poly1305
//! with a counter, so that the broker sees only ciphertext, and only the next message of the other side
//! is accepted. [`frame`] is the plaintext, compressed if that is smaller. [`link`] carries it over NATS:
//! credits in both directions, retransmission of lost messages, keep-alives, and an end that both sides
//! notice. [`sealed`] is for single messages that the broker must not read: input and output of
//! programs. [`publish`] is the other path from a device to the servers: messages that the broker stores
//! and confirms.
//!
//! Invariant: neither side buffers more than [`MAX_WINDOW`] bytes that the other has sent and that were not
//! consumed.
//! Invariant: this crate has no knowledge of shells, files or ports.
#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "small numbers of the tests"
    )
)]

pub mod frame;
pub mod link;
mod listen;
mod pack;
pub mod publish;
mod receive_queue;
pub mod seal;
pub mod sealed;
mod state;
mod window;

pub use frame::Frame;
pub use link::{Channel, Receiver, Sender};
pub use publish::{PublishError, Publisher};
pub use seal::{KeyExchange, Keys, SealError, Side};
pub use sealed::{SEALED_OVERHEAD, SealedError, open_by, seal_to};
pub use state::ChannelEnded;

/// Protocol version of a channel; in the device's response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolVersion {
    /// The first version: messages of 32 KiB, no compression, a fixed window.
    V1,
    /// All features.
    V2,
}

/// Maximum number of bytes in flight in one direction.
pub const MAX_WINDOW: u32 = 1 << 20;
/// Initial window, in bytes, on every line.
pub const INITIAL_WINDOW: u32 = 256 * 1024;
/// Maximum size of the data in one message, in bytes.
pub const MAX_CHUNK_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests;
