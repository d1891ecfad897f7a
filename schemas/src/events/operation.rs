//! Operations and runs: what was asked of devices, and what became of it on each of them.
//!
//! An operation is the request with its targets; a run is one device's share of it, named by the
//! operation and the device. What operators and the dispatcher decide about a run stands in the
//! stream `run/<operation>/<device>`; what the device says of it, in the device's own reports,
//! signed. A device's word is always a fact: it replaces what the server had to assume.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::cose::Hash;
use crate::ids::OperationId;
use crate::timestamp::Timestamp;

/// What is run: a program with its arguments, or a line for the device's shell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// The program and its arguments; no shell sees them. The first one is looked up in `PATH`.
    Argv(Vec<String>),
    /// A line for `/bin/sh -c`.
    Shell(String),
}

/// A program to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Exec {
    /// What is run.
    pub program: Program,
    /// The folder that it starts in; the user's home when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The user that it runs as; the agent's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The names of the environment variables that are set for it; their values are private.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// It may outlive its timeout: the run ends as soon as the program was started.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub background: bool,
}

/// A file, or a folder, that is pulled to the server and kept there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Upload {
    /// Which: absolute, or from the home of the agent's user on. A folder becomes a tar archive,
    /// compressed by gzip.
    pub path: String,
    /// The device removes the file once the server has all of it. Not for folders.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remove_source: bool,
    /// What was stored before from the same path of the same device is erased once this is stored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
    /// The stored copy is erased so many seconds after it was stored; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_seconds: Option<u32>,
    /// More bytes are not taken; [`crate::wire::USUAL_UPLOAD_BYTES`] when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Sent no faster than this, in bytes per second; as fast as it goes when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
}

impl Upload {
    /// How many bytes are taken at most.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.max_bytes.unwrap_or(crate::wire::USUAL_UPLOAD_BYTES)
    }
}

/// What is to be done on a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Action {
    /// Run a program.
    Exec(Exec),
    /// End the agent, so that its supervisor starts it again.
    RestartAgent,
    /// Restart the machine.
    Reboot,
    /// Collect what helps to find a fault; its output is a tar archive, compressed by gzip.
    Diagnostics,
    /// Log more or less for a while.
    LogLevel {
        /// `error`, `warn`, `info`, `debug` or `trace`.
        level: String,
        /// Seconds after which the level is what the config says again; for good when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds: Option<u32>,
    },
    /// Pull a file to the server.
    Upload(Upload),
}

impl Action {
    /// Its name, as it stands in policies and lists.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::RestartAgent => "restart_agent",
            Self::Reboot => "reboot",
            Self::Diagnostics => "diagnostics",
            Self::LogLevel { .. } => "log_level",
            Self::Upload(_) => "upload",
        }
    }
}

/// Bytes that an event does not hold, because they are private: environment values and standard
/// input. They are kept as a blob, which can be erased, and sent to the device beside the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PrivatePart {
    /// SHA-256 of the bytes; they begin with a random salt.
    pub hash: Hash,
    /// How many bytes they are.
    pub bytes: u64,
    /// How many of them are standard input.
    pub stdin_bytes: u64,
}

/// Something was asked of devices. Stream `operation/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationRequested {
    /// What is to be done.
    pub action: Action,
    /// Which devices were meant, in the words of whoever asked: names, ids, a selector.
    pub target: String,
    /// How many devices that was.
    pub devices: u64,
    /// What is private of it.
    #[serde(default)]
    pub private: Option<PrivatePart>,
    /// A run that takes longer is ended, in milliseconds.
    pub timeout_ms: u64,
    /// A run that no device has begun by then has expired.
    pub expires_at: Timestamp,
    /// How many devices work at it at once, at most.
    pub at_once: u32,
    /// After so many runs that did not succeed no further one is begun; never when absent.
    #[serde(default)]
    pub stop_after: Option<u32>,
}

/// No further run is begun for now. Stream `operation/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationPaused {}

/// Runs are begun again. Stream `operation/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationResumed {}

/// Why an operation was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AbortCause {
    /// Somebody asked for it.
    Asked,
    /// As many runs as the operation allows did not succeed.
    Failures,
}

/// No further run is begun; those at work are canceled. Stream `operation/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationAborted {
    /// Why.
    pub cause: AbortCause,
}

/// A device has its share of an operation. Stream `run/<operation>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunRequested {}

/// The order for a device was signed, and is sent until the device answers. Stream
/// `run/<operation>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunDispatched {
    /// The epoch of the device that the order is for.
    pub epoch: u64,
    /// The order: COSE_Sign1 of kind `run` by the project's operation key.
    #[serde(with = "serde_bytes")]
    #[schema(value_type = Vec<u8>)]
    pub order: Vec<u8>,
}

/// A run is to be ended. Stream `run/<operation>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunCancelRequested {}

/// What a run ended as, as far as the server can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClosedState {
    /// No device took it in time.
    Expired,
    /// The device took it and said nothing more in time.
    TimedOut,
    /// It was canceled before a device took it.
    Canceled,
    /// The device is gone for good.
    Unknown,
}

/// The server no longer waits for a device's word on a run; one that comes later counts all the
/// same. Stream `run/<operation>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunClosed {
    /// What it counts as.
    pub state: ClosedState,
    /// Why, in words.
    pub reason: String,
}

/// The device has written the run into its journal: from here on it happens once, and its end is
/// reported. In the device's reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunAccepted {
    /// The operation.
    pub operation: OperationId,
    /// SHA-256 of the order that was taken.
    pub order: Hash,
}

/// The program runs. In the device's reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunStarted {
    /// The operation.
    pub operation: OperationId,
    /// The process, which leads a process group of its own.
    #[serde(default)]
    pub pid: Option<u32>,
    /// The user that it runs as.
    #[serde(default)]
    pub user: Option<String>,
}

/// What a program wrote to one of its outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputSummary {
    /// How many bytes it wrote.
    pub bytes: u64,
    /// How many of them are kept: the first ones. The rest was cut.
    pub kept: u64,
    /// SHA-256 of a salt, which is kept beside the output, and the kept bytes; absent when nothing
    /// is kept.
    #[serde(default)]
    pub hash: Option<Hash>,
}

/// A file that the server has whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileSummary {
    /// What it is called: the last part of its path, with `.tar.gz` behind for a folder.
    pub name: String,
    /// How many bytes it is.
    pub bytes: u64,
    /// SHA-256 of a salt, which is kept beside the file, and the bytes.
    pub hash: Hash,
    /// Is it the archive of a folder?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_folder: bool,
}

/// How a run went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunReport {
    /// The operation.
    pub operation: OperationId,
    /// The exit code, when the program ended by itself.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// What kept it from starting, or what is known of its end, in words.
    #[serde(default)]
    pub problem: Option<String>,
    /// When the program started, by the device's clock.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// When it ended, by the device's clock.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
    /// CPU time in user mode, in microseconds.
    #[serde(default)]
    pub user_us: u64,
    /// CPU time in the kernel, in microseconds.
    #[serde(default)]
    pub system_us: u64,
    /// The most memory that one of its processes had, in bytes.
    #[serde(default)]
    pub peak_memory: u64,
    /// Standard output.
    #[serde(default)]
    pub stdout: OutputSummary,
    /// Standard error.
    #[serde(default)]
    pub stderr: OutputSummary,
    /// The file, of an upload that was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileSummary>,
}

/// The run did what was asked: its program ended with 0. In the device's reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunSucceeded(pub RunReport);

/// The program ended with another code, by a signal, or could not be started. In the device's
/// reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunFailed(pub RunReport);

/// The run took longer than it may, and was ended. In the device's reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunTimedOut(pub RunReport);

/// The run was ended because somebody asked for it. In the device's reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunCanceled(pub RunReport);

/// The agent was gone while the run was at work; what became of the program is not known. In the
/// device's reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunInterrupted(pub RunReport);

/// Why a device refuses a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCause {
    /// The policy file on the device forbids it.
    Policy,
    /// It cannot be done as asked: no such user, a NUL in an argument, no such folder.
    Invalid,
    /// The private part did not come, or is not the one that was signed.
    PrivatePart,
    /// The device has as many runs waiting as it takes.
    Busy,
    /// This agent does not know how to do it.
    Unsupported,
}

/// The device refuses the run; nothing was done. In the device's reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunRejected {
    /// The operation.
    pub operation: OperationId,
    /// Why.
    pub cause: RefusalCause,
    /// Why, in words: what was refused, by which rule, and where that rule stands.
    pub reason: String,
}

/// The order came too late, by the server's time; nothing was done. In the device's reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunExpired {
    /// The operation.
    pub operation: OperationId,
}
