//! Parts of events, and the states of runs, that are in responses.

use serde::Serialize;
use utoipa::ToSchema;

use super::{Hash, Timestamp};

/// Why an operation was aborted.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AbortCause {
    /// An operator requested it.
    Asked,
    /// The number of unsuccessful runs reached the operation's limit.
    Failures,
}

/// Why a device rejects a run.
#[derive(Debug, ToSchema)]
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

/// The action of an operation.
#[derive(Debug, ToSchema)]
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

/// A program to run.
#[derive(Debug, ToSchema)]
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

/// The command: a program with its arguments, or a line for the device's shell.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// The program and its arguments, without a shell. The first one is looked up in `PATH`.
    Argv(Vec<String>),
    /// A line for `/bin/sh -c`.
    Shell(String),
}

/// The output of a program on one stream.
#[derive(Debug, ToSchema)]
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

/// Why a stored file was erased.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EraseCause {
    /// An operator deleted it.
    Asked,
    /// Its retention expired.
    Kept,
    /// A later upload of the same path was stored.
    Replaced,
}

/// A file, or a folder, to upload to the server and store there.
#[derive(Debug, ToSchema)]
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

/// The kind of a session.
#[derive(Debug, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SessionKind {
    /// A shell.
    Shell {
        /// The requested user; the agent's own when absent.
        #[serde(default)]
        user: Option<String>,
        /// A line for the shell, instead of an interactive one.
        #[serde(default)]
        command: Option<String>,
    },
    /// A TCP connection from the device.
    Tcp {
        /// The host, as the device resolves it.
        host: String,
        /// The port.
        port: u16,
    },
    /// Files of the device.
    Files {
        /// A file, or a folder with its contents; nothing else was accessible.
        path: String,
        /// Whether they could be modified.
        write: bool,
    },
}

/// The role of an API token.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads the state of devices and their metrics.
    Viewer,
    /// Reads, and changes devices.
    Operator,
    /// Reads and changes all, tokens included.
    Admin,
    /// Reads all, the log and the tokens included; changes nothing.
    Auditor,
}

/// Why a device is offline.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DisconnectReason {
    /// The connection was closed.
    Closed,
    /// The device was silent for too long.
    Silent,
    /// The broker no longer listed the connection.
    Gone,
}

/// Why a part of a device's history was lost.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossCause {
    /// The outbox was full: these events were never recorded.
    OutboxFull,
    /// The log requested events that the device had already deleted.
    Pruned,
    /// The outbox was unreadable.
    Damaged,
}

/// A device reported its inventory; at start and after a change. Unknown values are absent. Stream
/// `device-report/<id>/<epoch>`.
#[derive(Debug, Default, ToSchema)]
#[serde(default)]
pub struct DeviceInventoryReported {
    /// The agent's version.
    pub agent_version: String,
    /// The host name.
    pub hostname: Option<String>,
    /// `ID` of os-release, such as `debian`.
    pub os_id: Option<String>,
    /// `VERSION_ID` of os-release, such as `12`.
    pub os_version: Option<String>,
    /// `PRETTY_NAME` of os-release.
    pub os_name: Option<String>,
    /// The kernel's release.
    pub kernel: Option<String>,
    /// The machine's architecture as the kernel names it, such as `x86_64`.
    pub arch: Option<String>,
    /// The processor's model.
    pub cpu_model: Option<String>,
    /// The number of logical processors.
    pub cpu_cores: Option<u32>,
    /// The size of the memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// SHA-256 of the machine id, with a prefix.
    pub machine: Option<Hash>,
    /// The hardware's vendor.
    pub hardware_vendor: Option<String>,
    /// The vendor's product name.
    pub hardware_model: Option<String>,
    /// The hardware's serial number, if the agent may read it.
    pub hardware_serial: Option<String>,
    /// The kind of virtual machine or container, if any.
    pub virtualization: Option<String>,
    /// Network interfaces, by name.
    pub interfaces: Vec<Interface>,
    /// The time of the kernel's start.
    pub boot_time: Option<Timestamp>,
    /// The kernel's id of this boot.
    pub boot_id: Option<String>,
    /// The version of the Docker Engine, if it is running.
    pub docker_version: Option<String>,
    /// The time zone, such as `Europe/Berlin`.
    pub timezone: Option<String>,
}

/// A network interface of a device.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(default)]
pub struct Interface {
    /// Its name, such as `eth0`.
    pub name: String,
    /// Its hardware address.
    pub mac: Option<String>,
    /// Its addresses with their prefix length, such as `10.0.0.7/24`.
    pub addresses: Vec<String>,
    /// Whether it is up.
    pub up: bool,
}

/// State of a run.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// The run waits for a slot or for its device.
    Requested,
    /// The order is sent repeatedly until the device responds.
    Dispatched,
    /// The order is in the device's journal.
    Accepted,
    /// Its program runs.
    Running,
    /// The run succeeded.
    Succeeded,
    /// Its program failed, or could not be started.
    Failed,
    /// The run exceeded its timeout.
    TimedOut,
    /// An operator canceled the run.
    Canceled,
    /// The run was not started in time.
    Expired,
    /// The device rejected the run.
    Rejected,
    /// The result is unknown.
    Unknown,
}
