//! Operations: what the project requests of this device, performed at most once, and reported.
//!
//! | file | contents |
//! |---|---|
//! | `orders` | received orders: checked (`check`, `policy`, `prepare`), then put into the `journal` |
//! | `queue`, `runner` | the open runs; the loop that starts them |
//! | `exec`, `group` | one program, and all its processes |
//! | `policy`, `ports`, `pattern` | what the device's owner allows |
//! | `builtins`, `diagnostics`, `capture` | operations that the agent performs itself |
//! | `upload` | sending a file to the server |
//! | `record`, `recover` | a run's events; runs that an earlier agent process left open |
//! | `spool`, `send` | the output of programs, stored and sent |
//!
//! Invariant: a run starts only after the journal entry that records its start is on disk.
//! Invariant: a run in the journal has one end, recorded in the transaction that closes it.

mod builtins;
mod capture;
mod check;
mod diagnostics;
mod exec;
mod group;
mod journal;
mod live;
mod options;
mod orders;
mod pattern;
mod policy;
mod ports;
mod prepare;
mod queue;
mod record;
mod recover;
mod runner;
mod send;
mod spool;
mod upload;

pub(crate) use check::{CurrentIdentity, Ignored, is_expired, is_for};
pub(crate) use exec::wait_for_end;
pub(crate) use group::{has_ended, pid_of};
pub use options::OperationOptions;
pub(crate) use orders::{handle_cancel, handle_order};
pub use policy::{POLICY_FILE, Policy};
pub(crate) use prepare::{PATH, RunAs, run_as};
pub(crate) use queue::Operations;
pub(crate) use recover::interrupt;
pub use recover::{INTERRUPTED, LEFTOVERS_ENDED, STOPPED};
pub(crate) use runner::{prune_journal, run_operations};
pub(crate) use send::send_outputs;
pub(crate) use upload::{UploadJob, serve_upload};
