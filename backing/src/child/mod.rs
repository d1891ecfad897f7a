//! One server process: started until ready, restarted when it crashes, stopped orderly.
//!
//! | module | contents |
//! |---|---|
//! | `spec` | the specification of a process and of its supervision, independent of the server |
//! | `process` | one operating system process, from spawn to reaping |
//! | `supervisor` | the task that owns the current process and the restart policy |
//! | `handle` | [`Child`], the handle for callers |
//! | `claim` | one owner per folder; ends a process that an earlier, killed owner left running |
//! | `one_shot` | a program that runs to its end |
//! | `log` | the server's own output: rotation, and its last lines for error messages |
//! | `family` | the descendants of a process, for fault injection |

mod error;
mod folder_lock;
mod handle;
mod log;
mod one_shot;
mod process;
mod process_tree;
mod spec;
mod supervisor;

pub use error::ChildError;
pub use handle::{Child, ChildEvent};
pub(crate) use one_shot::OneShot;
pub use one_shot::OneShotError;
pub use process::Exit;
pub(crate) use spec::Check;
pub use spec::{ChildSpec, NotReady, Progress, Restart};
