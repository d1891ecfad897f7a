//! One server process: started ready, restarted when it crashes, stopped in good order.
//!
//! | module | is |
//! |---|---|
//! | `spec` | what to run and how to treat it; knows nothing of a particular server |
//! | `process` | one operating system process, from spawn to reaping |
//! | `supervisor` | the task that owns the current process and the restart policy |
//! | `handle` | [`Child`], what callers hold |
//! | `claim` | one owner a folder; ends what an earlier, killed owner left running |
//! | `one_shot` | a program that is run to its end |
//! | `log` | the server's own output: rotation, and its last lines for error messages |
//! | `family` | the descendants of a process, for fault injection |

mod claim;
mod error;
mod family;
mod handle;
mod log;
mod one_shot;
mod process;
mod spec;
mod supervisor;

pub use error::ChildError;
pub use handle::{Child, ChildEvent};
pub(crate) use one_shot::OneShot;
pub use one_shot::OneShotError;
pub use process::Exit;
pub(crate) use spec::Check;
pub use spec::{ChildSpec, NotReady, Progress, Restart};
