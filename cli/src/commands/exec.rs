//! `muster exec`: runs a program on one device, as if locally, or on all devices of a selector.

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::{Context, Result, bail};
use clap::Args;
use data_encoding::BASE64;
use muster_api_types::actions::{Action, ExecAction, ShellAction};
use muster_api_types::operations::{self as api, DevicesTarget, RequestOperation, SelectorTarget};
use muster_schemas::units::parse_seconds;

use super::confirm::Confirm;
use super::operation::{self, RequestedOperation};
use super::target::{Selected, Target};
use crate::connection::Connection;
use crate::exit::UsageError;

/// Run a program on devices
///
/// For one device, this command prints the program's output and returns its
/// exit code. For several devices, it shows the progress, then the result of
/// each.
///
///   muster exec robot-7 -- uname -a
///   muster exec robot-7 --shell 'df -h / | tail -1'
///   muster exec env=dev,online --at-once 10 --stop-after 3 -- systemctl restart app
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct ExecArgs {
    /// Names or ids (a,b), or a selector such as env=prod
    device: Option<String>,
    #[command(flatten)]
    selected: Selected,
    /// Line for the device's shell instead of a program
    #[arg(long, value_name = "LINE")]
    shell: Option<String>,
    /// User that runs the program; default: the agent's user
    #[arg(short, long)]
    user: Option<String>,
    /// Working folder of the program
    #[arg(long, value_name = "FOLDER")]
    cwd: Option<String>,
    /// Environment variable KEY=VALUE, or KEY to copy a local variable
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Send the standard input of this command to the program
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Exit after the start; the program continues, its output is not stored
    #[arg(long)]
    background: bool,
    #[command(flatten)]
    limits: Limits,
    /// Print the operation's id and do not wait
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    confirm: Confirm,
    /// Program and arguments, after --
    #[arg(last = true)]
    argv: Vec<String>,
}

/// Time limits and concurrency of an operation.
#[derive(Args, Debug)]
pub(crate) struct Limits {
    /// Time limit of a run
    #[arg(long, default_value = "5m", value_parser = parse_seconds)]
    timeout: u32,
    /// Time for which an offline device can still receive the run
    #[arg(long, default_value = "24h", value_parser = parse_seconds)]
    expires: u32,
    /// Maximum number of devices that run concurrently
    #[arg(long, default_value_t = 100, value_name = "N")]
    at_once: u32,
    /// Number of unsuccessful runs after which no further run is started
    #[arg(long, value_name = "N")]
    stop_after: Option<u32>,
}

impl Limits {
    /// Builds the request: `action` for `target`.
    pub(crate) fn request(&self, target: &Target, action: Action) -> RequestOperation {
        RequestOperation {
            target: operation_target(target),
            action,
            timeout_seconds: Some(self.timeout),
            expires_in_seconds: self.expires,
            max_concurrent_devices: self.at_once,
            max_failures: self.stop_after,
        }
    }
}

/// Returns the target as in a request.
pub(crate) fn operation_target(target: &Target) -> api::Target {
    match target.clone() {
        Target::One(name) => api::Target::Devices(DevicesTarget { devices: vec![name] }),
        Target::Named(devices) => api::Target::Devices(DevicesTarget { devices }),
        Target::Matching(selector) => api::Target::Selector(SelectorTarget { selector }),
    }
}

pub(crate) async fn run(connection: Connection, args: ExecArgs) -> Result<()> {
    let action = action(&args)?;
    let mut rest = Vec::new();
    let target = args.selected.target(args.device, &mut rest)?;
    if let Some(word) = rest.first() {
        let message = format!("give '{word}' or -l, not both; the program comes after --");
        return Err(UsageError(message).into());
    }
    let client = connection.client()?;
    args.confirm.confirm_many(&client, "run a program on", &target).await?;
    let request = args.limits.request(&target, action);
    let requested = RequestedOperation::new(&client, &request).await?;
    if args.detach {
        return requested.print(connection.json);
    }
    operation::follow(&client, &requested, connection.json).await
}

/// Builds the action, as the API accepts it.
fn action(args: &ExecArgs) -> Result<Action> {
    let env = variables(&args.env)?;
    let mut stdin_base64 = None;
    if args.stdin {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).context("failed to read standard input")?;
        stdin_base64 = Some(BASE64.encode(&bytes));
    }
    let (cwd, user, background) = (args.cwd.clone(), args.user.clone(), args.background);
    match (args.shell.clone(), args.argv.clone()) {
        (Some(command), argv) if argv.is_empty() => Ok(Action::Shell(ShellAction {
            command,
            cwd,
            user,
            env,
            stdin_base64,
            background,
            ..ShellAction::default()
        })),
        (None, argv) if !argv.is_empty() => Ok(Action::Exec(ExecAction {
            argv,
            cwd,
            user,
            env,
            stdin_base64,
            background,
            ..ExecAction::default()
        })),
        (Some(_), _) => {
            Err(UsageError("give --shell LINE or a program after --, not both".into()).into())
        }
        (None, _) => {
            let message =
                "name a program: muster exec DEVICE -- PROGRAM [ARGUMENT…], or --shell LINE";
            Err(UsageError(message.to_owned()).into())
        }
    }
}

fn variables(assignments: &[String]) -> Result<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    for word in assignments {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => match std::env::var(word) {
                Ok(value) => (word.as_str(), value),
                Err(_) => bail!(UsageError(format!("--env {word}: no such variable is set here"))),
            },
        };
        variables.insert(name.to_owned(), value);
    }
    Ok(variables)
}
