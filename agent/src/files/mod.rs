//! Access to the files of this device.
//!
//! | file | contents |
//! |---|---|
//! | `channel` | the helper process that serves one channel |
//! | `deadline` | the timeouts of its requests |
//! | `bounds` | the paths that one order may access, and how a path becomes an open file |
//! | `server`, `extended`, `status` | SFTP (version 3) within these bounds; fields of extended requests; status codes |
//!
//! Invariant: no file is opened, created, changed or deleted before its real path is known:
//! symbolic links are followed first, and their target is checked.

mod bounds;
mod channel;
mod deadline;
mod extended;
mod server;
mod status;

pub(crate) use bounds::{Bounds, Failure, is_virtual};
pub(crate) use channel::{FilesJob, FilesReply, Refusal};
