//! Channels to devices: opened by a signed order, sealed end to end, bridged to websockets.
//!
//! `reach` checks that the device can be reached; `open` agrees on keys with it; `bridge` carries bytes between a websocket and the
//! channel, until the process stops (`bridges`); `record` keeps what a shell shows; `audit` writes who did what into the log;
//! `token` and `shells` end what was opened with a token when the token ends.
//!
//! Invariant: what is done on a device is in the log before the device is asked.
//! Invariant: a shell that is to be recorded ends when its recording cannot be written.

mod audit;
mod bridge;
mod bridges;
mod open;
mod reach;
mod record;
mod shells;
mod token;

pub use audit::Session;
pub(crate) use bridge::LARGEST;
pub use bridge::{bridge_bytes, bridge_shell};
pub use bridges::{Bridges, Opening};
pub use open::OpenError;
pub use reach::Unreachable;
pub use record::{Recorded, Recorder};
