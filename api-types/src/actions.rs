//! What an operation runs on each of its devices.

use std::collections::BTreeMap;

use muster_schemas::events;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::Schema;
use utoipa::openapi::{ObjectBuilder, Type};

use crate::union::describe_union;

/// What each device of an operation runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Action {
    /// Run a program.
    Exec(ExecAction),
    /// Run a command line by the device's shell.
    Shell(ShellAction),
    /// Stop the agent, so that its service manager starts it again.
    RestartAgent(RestartAgentAction),
    /// Restart the machine.
    Reboot(RebootAction),
    /// Collect diagnostics.
    Diagnostics(DiagnosticsAction),
    /// Change the agent's log level.
    LogLevel(LogLevelAction),
    /// Upload a file or a folder to the server.
    Upload(UploadAction),
}

describe_union! {
    /// What each device of an operation runs.
    Action {
        "exec" => ExecAction,
        "shell" => ShellAction,
        "restart_agent" => RestartAgentAction,
        "reboot" => RebootAction,
        "diagnostics" => DiagnosticsAction,
        "log_level" => LogLevelAction,
        "upload" => UploadAction,
    }
}

/// Declares an action that starts a program: its own field, and those that all of them have.
macro_rules! process_action {
    ($(#[$meta:meta])* $name:ident { $(#[$field_meta:meta])* $field:ident: $type:ty }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $(#[$field_meta])*
            pub $field: $type,
            /// Working directory; default: the user's home.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub cwd: Option<String>,
            /// User that the program runs as; default: the agent's own.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub user: Option<String>,
            /// Environment variables. Responses have only their names.
            #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
            #[schema(schema_with = env)]
            pub env: BTreeMap<String, String>,
            /// Names of the environment variables.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            #[schema(value_type = EnvironmentNames, read_only, required = false)]
            pub env_names: Vec<String>,
            /// Standard input, in base64. Responses have only its size.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schema(write_only, content_encoding = "base64")]
            pub stdin_base64: Option<String>,
            /// Size of the standard input, in bytes.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schema(read_only)]
            pub stdin_bytes: Option<u64>,
            /// Whether the run ends as soon as the program has started. The program continues, and
            /// its output is not kept.
            #[serde(default, skip_serializing_if = "std::ops::Not::not")]
            pub background: bool,
        }
    };
}

/// Returns the schema of `env`: the derived one marks its values as write-only, not the field.
fn env() -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .description(Some("Environment variables. Responses have only their names."))
        .additional_properties(Some(ObjectBuilder::new().schema_type(Type::String)))
        .write_only(true)
        .into()
}

/// Names of environment variables.
// A named schema, because a reference can be read-only, and an array cannot.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes `env_names` in the OpenAPI document")]
struct EnvironmentNames(Vec<String>);

process_action! {
    /// Run a program, without a shell.
    ExecAction {
        /// The program, which is looked up in `PATH`, and its arguments.
        #[schema(min_items = 1, example = json!(["uname", "-a"]))]
        argv: Vec<String>
    }
}

process_action! {
    /// Run a command line by `/bin/sh -c`.
    ShellAction {
        /// The command line.
        #[schema(min_length = 1, example = "df -h / | tail -1")]
        command: String
    }
}

/// Stop the agent, so that its service manager starts it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestartAgentAction {}

/// Restart the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RebootAction {}

/// Collect diagnostics: a gzip-compressed tar archive, as standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DiagnosticsAction {}

/// Change the agent's log level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogLevelAction {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    #[schema(example = "debug")]
    pub level: String,
    /// Time after which the configured level applies again, in seconds; default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub duration_seconds: Option<u32>,
}

/// Upload a file or a folder to the server, which stores it: `GET /uploads`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadAction {
    /// Path of the file: absolute, or relative to the home of the agent's user. A folder becomes a
    /// tar archive, compressed with gzip.
    #[schema(min_length = 1, max_length = 4096, example = "/var/log/app.log")]
    pub path: String,
    /// Whether the device removes the file once the server has all of it. Not for folders.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remove_source: bool,
    /// Whether this upload, once it is stored, replaces earlier uploads of the same path of the
    /// same device, which are erased.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
    /// Time after which the stored copy is erased, in seconds since it was stored; default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub expires_in_seconds: Option<u32>,
    /// Maximum size of the file, in bytes; default: 1 GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 68_719_476_736_u64)]
    pub max_bytes: Option<u64>,
    /// Maximum rate of the upload, in bytes per second; default: unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1024)]
    pub max_bytes_per_second: Option<u64>,
}

impl Action {
    /// Returns the action of an event, with the size of its standard input.
    #[must_use]
    pub fn from_event(action: events::Action, stdin_bytes: u64) -> Self {
        match action {
            events::Action::Exec(exec) => Self::from_exec(exec, stdin_bytes),
            events::Action::RestartAgent => Self::RestartAgent(RestartAgentAction {}),
            events::Action::Reboot => Self::Reboot(RebootAction {}),
            events::Action::Diagnostics => Self::Diagnostics(DiagnosticsAction {}),
            events::Action::LogLevel { level, seconds } => {
                Self::LogLevel(LogLevelAction { level, duration_seconds: seconds })
            }
            events::Action::Upload(upload) => Self::Upload(upload.into()),
        }
    }

    fn from_exec(exec: events::Exec, stdin_bytes: u64) -> Self {
        let events::Exec { program, cwd, user, env: env_names, background } = exec;
        let stdin_bytes = (stdin_bytes > 0).then_some(stdin_bytes);
        let (env, stdin_base64) = (BTreeMap::new(), None);
        match program {
            events::Program::Argv(argv) => Self::Exec(ExecAction {
                argv,
                cwd,
                user,
                env,
                env_names,
                stdin_base64,
                stdin_bytes,
                background,
            }),
            events::Program::Shell(command) => Self::Shell(ShellAction {
                command,
                cwd,
                user,
                env,
                env_names,
                stdin_base64,
                stdin_bytes,
                background,
            }),
        }
    }
}

impl From<events::Upload> for UploadAction {
    fn from(upload: events::Upload) -> Self {
        let events::Upload { path, remove_source, replace, .. } = upload;
        Self {
            path,
            remove_source,
            replace,
            expires_in_seconds: upload.keep_seconds,
            max_bytes: upload.max_bytes,
            max_bytes_per_second: upload.bytes_per_second,
        }
    }
}

impl From<UploadAction> for events::Upload {
    fn from(action: UploadAction) -> Self {
        let UploadAction { path, remove_source, replace, .. } = action;
        Self {
            path,
            remove_source,
            replace,
            keep_seconds: action.expires_in_seconds,
            max_bytes: action.max_bytes,
            bytes_per_second: action.max_bytes_per_second,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn actions_refuse_unknown_fields() {
        let read = |value| serde_json::from_value::<Action>(value);
        assert!(read(json!({"kind": "exec", "argv": ["true"]})).is_ok());
        assert!(read(json!({"kind": "exec", "argv": ["true"], "shell": "true"})).is_err());
        assert!(read(json!({"kind": "exec"})).is_err());
        assert!(read(json!({"kind": "reboot"})).is_ok());
        assert!(read(json!({"kind": "reboot", "force": true})).is_err());
    }

    #[test]
    fn the_action_of_a_request_comes_back_in_the_same_shape() {
        let exec = events::Exec {
            program: events::Program::Argv(vec!["cat".to_owned()]),
            cwd: None,
            user: Some("robot".to_owned()),
            env: vec!["LANG".to_owned()],
            background: false,
        };
        let action = Action::from_event(events::Action::Exec(exec), 3);
        let expected = json!({
            "kind": "exec", "argv": ["cat"], "user": "robot", "env_names": ["LANG"],
            "stdin_bytes": 3
        });
        assert_eq!(json!(action), expected);
    }
}
