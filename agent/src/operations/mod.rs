//! Operations: what the project asks of this device, done once or not at all, and told.
//!
//! | file | is |
//! |---|---|
//! | `take` | orders come in: checked (`check`, `policy`, `prepare`), then written into the `journal` |
//! | `queue`, `perform` | what is open; the loop that begins what may begin |
//! | `exec`, `group` | one program, and all processes that belong to it |
//! | `policy`, `ports`, `pattern` | what the device's owner allows |
//! | `builtins`, `diagnostics`, `capture` | what the agent does itself |
//! | `upload` | a file that is sent to the server |
//! | `record`, `recover` | a run's facts; what an agent before this one left open |
//! | `spool`, `send` | what programs write, kept and sent |
//!
//! Invariant: nothing starts that is not in the journal as begun, on the disk.
//! Invariant: a run that is in the journal has one end, recorded in the transaction that closes it.

mod builtins;
mod capture;
mod check;
mod diagnostics;
mod exec;
mod group;
mod journal;
mod live;
mod options;
mod pattern;
mod perform;
mod policy;
mod ports;
mod prepare;
mod queue;
mod record;
mod recover;
mod send;
mod spool;
mod take;
mod upload;

pub(crate) use check::{Ignored, Me, is_expired, is_for};
pub(crate) use exec::ended;
pub(crate) use group::{has_ended, pid_of};
pub use options::OperationOptions;
pub(crate) use perform::{perform, prune_journal};
pub use policy::{POLICY_FILE, Policy};
pub(crate) use prepare::{PATH, RunAs, run_as};
pub(crate) use queue::Operations;
pub(crate) use recover::interrupt;
pub(crate) use send::send_outputs;
pub(crate) use take::{take_cancel, take_order};
pub(crate) use upload::{UploadJob, serve_upload};
