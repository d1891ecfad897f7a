//! Operations: what the project requests of this device, performed at most once, and reported.
//!
//! | file | contents |
//! |---|---|
//! | `orders` | received orders: checked (`check`, `prepare`), then put into the `journal` |
//! | `queue`, `runner` | the open runs; the loop that starts them |
//! | `exec` | one program |
//! | `builtins`, `diagnostics` | operations that the agent performs itself |
//! | `upload` | sending a file to the server |
//! | `record`, `recover` | a run's events; runs that an earlier agent process left open |
//! | `spool`, `send` | the output of programs, stored and sent |
//!
//! Invariant: a run starts only after the journal entry that records its start is on disk.
//! Invariant: a run in the journal has one end, recorded in the transaction that closes it.

mod builtins;
mod check;
mod diagnostics;
mod exec;
mod journal;
mod live;
mod options;
mod orders;
mod prepare;
mod queue;
mod record;
mod recover;
mod runner;
mod send;
mod sent_file;
mod spool;
mod upload;

pub use options::OperationOptions;
pub(crate) use orders::{handle_cancel, handle_order};
pub(crate) use queue::Operations;
pub(crate) use recover::interrupt;
pub use recover::{INTERRUPTED, LEFTOVERS_ENDED, STOPPED};
pub(crate) use runner::{prune_journal, run_operations};
pub(crate) use send::send_outputs;
pub(crate) use upload::UploadJob;
