//! Channels to devices: opened by a signed order, encrypted end to end, relayed to websockets.
//!
//! `reachability` checks that the device can be reached; `open` agrees on keys with the device; `relay`
//! relays bytes between a websocket and the channel until the process stops (`relays`); `record`
//! keeps a shell's output; `audit` records who did what; `token` and `shells` end what was opened
//! with a token when the token ends.
//!
//! Invariant: an action on a device is in the log before the device is contacted.
//! Invariant: a shell that must be recorded ends when its recording cannot be written.

mod audit;
mod open;
mod reachability;
mod record;
mod relay;
mod relays;
mod shells;
mod token;

pub use audit::Session;
pub use open::OpenError;
pub use reachability::Unreachable;
pub use record::{RecordedStreams, Recorder};
pub(crate) use relay::MAX_MESSAGE_BYTES;
pub use relay::{relay_bytes, relay_shell};
pub use relays::{Opening, Relays};
