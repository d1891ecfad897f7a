//! Operations and runs: requests to devices, and their results.
//!
//! An operation is the request with its targets; a run is one device's part of it, named by the
//! operation and the device. Decisions of operators and the dispatcher on a run are in the stream
//! `run/<operation>/<device>`; the device's signed reports of it are in the device's own stream. A
//! device's report is always a fact: it replaces what the server had to assume.

use serde::{Deserialize, Serialize};

use crate::cose::Hash;
use crate::ids::OperationId;
use crate::numbers::Epoch;
use crate::timestamp::Timestamp;

/// The command: a program with its arguments, or a line for the device's shell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// The program and its arguments, without a shell. The first one is looked up in `PATH`.
    Argv(Vec<String>),
    /// A line for `/bin/sh -c`.
    Shell(String),
}

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The command.
    pub program: Program,
    /// The working directory; the user's home when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The user; the agent's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The names of its environment variables; their values are private.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Whether it may outlive its timeout: the run ends as soon as the program has started.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub background: bool,
}

/// A file, or a folder, to upload to the server and store there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// The path: absolute, or relative to the home of the agent's user. A folder becomes a tar archive,
    /// compressed by gzip.
    pub path: String,
    /// Whether the device removes the file when the server has all of it. Not for folders.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remove_source: bool,
    /// Whether the stored file of the same path and device is erased when this one is stored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
    /// Seconds after which the stored copy is erased; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_seconds: Option<u32>,
    /// Maximum size, in bytes; 1 GiB when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Maximum rate, in bytes per second; unlimited when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
}

impl Upload {
    /// Default maximum size, in bytes: 1 GiB.
    const DEFAULT_MAX_BYTES: u64 = 1 << 30;

    /// Maximum size, in bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.max_bytes.unwrap_or(Self::DEFAULT_MAX_BYTES)
    }
}

/// The action of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Action {
    /// Run a program.
    Exec(Exec),
    /// End the agent, so that its supervisor restarts it.
    RestartAgent,
    /// Restart the machine.
    Reboot,
    /// Collect information for troubleshooting; its output is a tar archive, compressed by gzip.
    Diagnostics,
    /// Change the log level.
    LogLevel {
        /// `error`, `warn`, `info`, `debug` or `trace`.
        level: String,
        /// Seconds after which the level is that of the config again; permanent when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds: Option<u32>,
    },
    /// Upload a file to the server.
    Upload(Upload),
}

impl Action {
    /// Its name, as in policies and lists.
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

/// Bytes that are not in an event because they are private: environment values and standard
/// input. They are stored as a blob, which can be erased, and sent to the device with the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivatePart {
    /// SHA-256 of the bytes, which start with a random salt.
    pub hash: Hash,
    /// Their size.
    pub bytes: u64,
    /// The number of bytes of standard input in them.
    pub stdin_bytes: u64,
}

/// The devices that an operation was requested for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestedTarget {
    /// Ids or names of devices.
    Devices(Vec<String>),
    /// A selector.
    Selector(String),
    /// Text of version 1: names, ids, or a selector.
    Text(String),
}

/// An operation was requested. Stream `operation/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRequested {
    /// The action.
    pub action: Action,
    /// The requested devices, as in the request.
    pub target: RequestedTarget,
    /// The number of devices.
    pub devices: u64,
    /// The private part.
    #[serde(default)]
    pub private: Option<PrivatePart>,
    /// Timeout of a run, in milliseconds.
    pub timeout_ms: u64,
    /// Time after which a run that no device has started has expired.
    pub expires_at: Timestamp,
    /// Maximum number of devices that run it concurrently.
    pub at_once: u32,
    /// Number of unsuccessful runs after which no further one is started; unlimited when absent.
    #[serde(default)]
    pub stop_after: Option<u32>,
}

/// An operation was paused: no further run starts. Stream `operation/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationPaused {}

/// An operation was resumed. Stream `operation/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationResumed {}

/// Why an operation was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AbortCause {
    /// An operator requested it.
    Asked,
    /// The number of unsuccessful runs reached the operation's limit.
    Failures,
}

/// An operation was aborted: no further run starts, running ones are canceled. Stream `operation/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationAborted {
    /// Why.
    pub cause: AbortCause,
}

/// A run was requested from a device. Stream `run/<operation>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRequested {}

/// A run's order was signed; it is sent until the device responds. Stream
/// `run/<operation>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDispatched {
    /// The device's epoch that the order is for.
    pub epoch: Epoch,
    /// The order: COSE_Sign1 of kind `run` by the project's operation key.
    #[serde(with = "serde_bytes")]
    pub order: Vec<u8>,
}

/// Cancellation of a run was requested. Stream `run/<operation>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunCancelRequested {}

/// The result of a run, as far as the server can determine it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClosedState {
    /// No device accepted it in time.
    Expired,
    /// The device accepted it and did not report its end in time.
    TimedOut,
    /// It was canceled before a device accepted it.
    Canceled,
    /// The device was deleted or revoked.
    Unknown,
}

/// The server closed a run without the device's report; a later report still counts. Stream
/// `run/<operation>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunClosed {
    /// The assumed result.
    pub state: ClosedState,
    /// The reason, as text.
    pub reason: String,
}

/// The device has journaled the run: from here on it runs once, and its end is reported. In the
/// device's reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAccepted {
    /// The operation.
    pub operation: OperationId,
    /// SHA-256 of the accepted order.
    pub order: Hash,
}

/// The program was started. In the device's reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStarted {
    /// The operation.
    pub operation: OperationId,
    /// The process, which leads a process group of its own.
    #[serde(default)]
    pub pid: Option<u32>,
    /// The user it runs as.
    #[serde(default)]
    pub user: Option<String>,
}

/// The output of a program on one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputSummary {
    /// The number of bytes written.
    pub bytes: u64,
    /// The number of bytes stored: the first ones.
    pub kept: u64,
    /// SHA-256 of a salt, which is stored with the output, and the stored bytes; absent when nothing is
    /// stored.
    #[serde(default)]
    pub hash: Option<Hash>,
}

/// A file that the server has completely.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSummary {
    /// Its name: the last part of its path, with the suffix `.tar.gz` for a folder.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256 of a salt, which is stored with the file, and the bytes.
    pub hash: Hash,
    /// Whether it is the archive of a folder.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_folder: bool,
}

/// The report of a run's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunReport {
    /// The operation.
    pub operation: OperationId,
    /// The exit code, unless a signal ended the program.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// Why it could not be started, or details of its end, as text.
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
    /// The largest memory of one of its processes, in bytes.
    #[serde(default)]
    pub peak_memory: u64,
    /// Standard output.
    #[serde(default)]
    pub stdout: OutputSummary,
    /// Standard error.
    #[serde(default)]
    pub stderr: OutputSummary,
    /// The file of a completed upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileSummary>,
}

/// The run succeeded: its program ended with 0. In the device's reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSucceeded(pub RunReport);

/// The program ended with another code, by a signal, or could not be started. In the device's
/// reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFailed(pub RunReport);

/// The run exceeded its timeout, and was ended. In the device's reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunTimedOut(pub RunReport);

/// The run was canceled. In the device's reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunCanceled(pub RunReport);

/// The agent stopped while the run was in progress; the program's result is unknown. In the
/// device's reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInterrupted(pub RunReport);

/// Why a device rejects a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCause {
    /// The policy file on the device forbids it.
    Policy,
    /// It is invalid: no such user, a NUL in an argument, no such folder.
    Invalid,
    /// The private part is missing, or is not the signed one.
    PrivatePart,
    /// The device's queue of runs is full.
    Busy,
    /// This agent does not support the action.
    Unsupported,
}

/// The device rejected the run; nothing was done. In the device's reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRejected {
    /// The operation.
    pub operation: OperationId,
    /// Why.
    pub cause: RefusalCause,
    /// The reason, as text: what was refused, by which rule, in which file.
    pub reason: String,
}

/// The order arrived after its expiry, by the server's time; nothing was done. In the device's reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunExpired {
    /// The operation.
    pub operation: OperationId,
}
