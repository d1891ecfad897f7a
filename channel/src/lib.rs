//! Channels: one sealed, flow-controlled stream of bytes in each direction between a server and an
//! agent, over two subjects of the broker.
//!
//! [`seal`] is the cryptography: X25519 halves from the signed open and its answer, ChaCha20-Poly1305
//! with a counter, so that the broker sees only ciphertext, and nothing is taken but the next message that the other
//! side sealed. [`frame`] is what is sealed, packed where that is worth it. [`link`] carries both over
//! NATS: credits in both directions, messages that were lost said again, signs of life, an end that both sides notice.
//! [`sealed`] is for single messages that the broker must not read: what programs are given, and write.
//! [`publish`] is the other way from a device to the servers: messages that the broker stores and confirms.
//!
//! Invariant: neither side ever holds more than [`WINDOW`] bytes that the other has sent and nobody
//! has taken.
//! Invariant: this crate knows nothing of shells, files or ports; it carries bytes.

pub mod frame;
pub mod link;
mod listen;
mod pack;
pub mod publish;
pub mod seal;
pub mod sealed;
mod window;

pub use frame::Frame;
pub use link::{Channel, Gone, Receiver, Sender};
pub use publish::{PublishError, Publisher};
pub use seal::{Half, Keys, SealError, Side};
pub use sealed::{SEALED_OVERHEAD, SealedError, open_by, seal_to};

/// What both sides of a channel understand; the device's answer says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// As the first agents: messages of 32 KiB, nothing packed, a window that stays as it is.
    Narrow,
    /// All that is here.
    Wide,
}

/// How many bytes may be on their way in one direction at most.
pub const WINDOW: u32 = 1 << 20;
/// How many may be at first, and whatever the line.
pub const LEAST: u32 = 256 * 1024;
/// The most bytes in one message.
pub const CHUNK: usize = 64 * 1024;

#[cfg(test)]
mod tests;
