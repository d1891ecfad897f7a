//! Channels: shells, connections and files that users open on this device, with end-to-end
//! encryption.
//!
//! | file | contents |
//! |---|---|
//! | `open_order` | received opens: validated, each once (`open_record`) |
//! | `opening` | the response: a refusal, or the keys and the channel |
//! | `tcp` | a TCP connection from the device |
//! | `files` | the device's files, by SFTP |
//! | `shell` | opens of sessions: create, attach, end |
//! | `session`, `member` | a session, which outlives its channels; the attached clients |
//! | `session_request`, `session_ends` | requests to a session; its end, recorded in the log |
//! | `terminal`, `screen` | a program with a pseudo-terminal; the contents of its terminal |
//! | `registry`, `options` | the open channels, and their limits |
//!
//! Channels need no thread: pseudo-terminals and sockets wake the agent's only thread.
//!
//! Invariant: the content of a channel is neither logged nor written to disk.
//! Invariant: a terminal's output is read only as fast as the clients with input accept it.

mod files;
mod member;
mod open_order;
mod open_record;
mod opening;
mod options;
pub mod reason;
mod registry;
mod screen;
mod session;
mod session_ends;
mod session_request;
mod shell;
mod tcp;
mod terminal;

pub(crate) use open_order::ChannelOpener;
pub use options::ChannelOptions;
pub(crate) use registry::Channels;
pub use session_ends::UNKNOWN_END;
