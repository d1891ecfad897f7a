//! Channels: shells, connections and files that people open on this device, sealed end to end.
//!
//! | file | is |
//! |---|---|
//! | `take` | opens come in: checked, once each (`opened`), allowed by the policy |
//! | `answer` | the answer: refused, or the keys and the channel |
//! | `tcp` | a TCP connection from the device |
//! | `files` | the device's files, by SFTP |
//! | `shell` | opens of sessions: a new one, one more attached, its end |
//! | `session`, `member` | a session, which outlives its channels; those who are attached |
//! | `ends` | how sessions ended, as the log is told |
//! | `terminal`, `screen` | a program behind a pseudo-terminal; what its terminal looks like |
//! | `registry`, `options` | what is open, and how much may be |
//!
//! No thread of its own: pseudo-terminals and sockets wake the agent's one thread.
//!
//! Invariant: nothing that goes over a channel is logged, or written to the disk.
//! Invariant: a terminal's output is read only as fast as those who type take it.

mod answer;
mod ends;
mod files;
mod member;
mod opened;
mod options;
mod registry;
mod screen;
mod session;
mod shell;
mod take;
mod tcp;
mod terminal;

pub(crate) use ends::{end_lost_sessions, record_ends, record_ends_now};
pub use options::ChannelOptions;
pub(crate) use registry::Channels;
pub(crate) use take::take_open;
