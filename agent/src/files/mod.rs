//! Files of this device, for those who may reach them.
//!
//! | file | is |
//! |---|---|
//! | `channel` | the helper process that serves one channel, and the deadlines of its requests |
//! | `bounds` | what one order may reach, and how a path becomes an open file |
//! | `server`, `status` | SFTP (version 3) within such bounds; what went wrong, in its words |
//!
//! Invariant: no file is opened, made, changed or removed before it is known where it really is:
//! symbolic links are followed first and judged by where they lead.

mod bounds;
mod channel;
mod server;
mod status;

pub(crate) use bounds::{Bounds, Failure, is_virtual};
pub(crate) use channel::{FilesJob, FilesReply, Refusal, serve};
