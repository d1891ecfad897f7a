//! One server process: started until ready, restarted when it crashes, stopped orderly.
//!
//! | module | contents |
//! |---|---|
//! | `spec` | the specification of a process and of its supervision, independent of the server |
//! | `process`, `exit` | one operating system process, from spawn to reaping |
//! | `supervisor` | the task that owns the process and the restart policy; its events |
//! | `handle` | [`Child`], the handle for callers |
//! | `folder_lock` | one owner per folder; ends the process that an earlier, killed owner left |
//! | `one_shot` | a program that runs to its end |
//! | `log` | the server's own output: rotation, and its last lines for error messages |
//! | `process_tree` | the descendants of a process, for fault injection |

mod error;
mod exit;
mod folder_lock;
mod handle;
mod log;
mod one_shot;
mod process;
mod process_tree;
mod spec;
mod supervisor;

pub use error::ChildError;
pub use exit::Exit;
pub use handle::Child;
pub(crate) use one_shot::OneShot;
pub use one_shot::OneShotError;
pub(crate) use spec::Check;
pub use spec::{ChildSpec, NotReady, Progress, Restart};
pub use supervisor::ChildEvent;
