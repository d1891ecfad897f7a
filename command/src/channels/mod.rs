//! Channels to devices: opened by a signed order, encrypted end to end, relayed to websockets.
//!
//! `reachability` checks that the device can be reached; `open` agrees on keys with the device;
//! `relay` relays bytes between a websocket and the channel; `relays` are the open ones, and
//! `reaper` ends them with their process; `record` keeps a shell's output; `session` and `opening`
//! record who did what; `token` and `shells` end what was opened with a token when the token ends.
//! `ports` are the parts of the write side that all of it needs.
//!
//! Invariant: an action on a device is in the log before the device is contacted.
//! Invariant: a shell that must be recorded ends when its recording cannot be written.

mod open;
mod open_shells;
mod opening;
mod ports;
mod reachability;
mod reaper;
mod record;
mod recording_rule;
mod relay;
mod relay_rows;
mod relays;
mod session;
mod shells;
mod token;

pub use open::OpenError;
pub use opening::Opening;
pub use ports::Channels;
pub use reachability::Unreachable;
pub use record::{RecordedStreams, Recorder};
pub use recording_rule::Recording;
pub(crate) use relay::MAX_MESSAGE_BYTES;
pub use relay::{relay_bytes, relay_shell};
pub use relays::Relays;
pub use session::Session;
