//! Waits for an operation: one run as if its program ran locally, several with their progress.

use std::convert::Infallible;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use muster_api_types::devices::{DeviceDetail, Status};
use muster_api_types::operations::{OperationDetail, OperationStatus};
use muster_api_types::runs::{OutputSummary, Run};
use muster_api_types::{Page, WriteResult};
use muster_client::{Client, Received, segment};
use muster_schemas::{Position, RunState};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::api::path;
use super::requested::RequestedOperation;
use super::show::{statuses, summary};
use crate::exit::{Exited, UsageError};
use crate::output::{self, line, note, optional, text};
use crate::terminal_modes::Contained;

/// Poll interval of an operation on several devices.
const POLL_INTERVAL: Duration = Duration::from_millis(300);
/// Poll interval of a run that has not started, to explain why.
const EXPLAIN_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum size of each output in memory, in bytes.
const MAX_JSON_BYTES: usize = 16 << 20;
/// Maximum number of devices whose outputs are printed; for more, a hint names the command.
const MAX_PRINTED_DEVICES: u64 = 20;

/// An output of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    const fn of(self, run: &Run) -> Option<&OutputSummary> {
        match self {
            Self::Stdout => run.stdout.as_ref(),
            Self::Stderr => run.stderr.as_ref(),
        }
    }

    /// Returns the number of bytes that were written, if it is more than this.
    fn missing(self, run: &Run, shown: u64) -> Option<u64> {
        self.of(run).map(|output| output.size_bytes).filter(|bytes| *bytes > shown)
    }
}

/// One output of one run.
pub(super) struct Source<'a> {
    pub(super) id: &'a str,
    pub(super) device: &'a str,
    pub(super) stream: Stream,
    pub(super) position: Option<Position>,
}

/// Waits until an operation has ended; its outcome is the exit code.
pub(crate) async fn follow(
    client: &Client,
    operation: &RequestedOperation,
    json: bool,
) -> Result<()> {
    let waiting = async {
        if operation.devices == 1 {
            one(client, operation, json).await
        } else {
            many(client, operation, json).await
        }
    };
    wait_or_abort(client, operation, waiting).await
}

/// Waits for a future; Ctrl-C aborts the operation, and a second Ctrl-C does not wait for the
/// abort.
pub(crate) async fn wait_or_abort(
    client: &Client,
    operation: &RequestedOperation,
    waiting: impl Future<Output = Result<()>>,
) -> Result<()> {
    tokio::pin!(waiting);
    tokio::select! {
        done = &mut waiting => return done,
        _ = tokio::signal::ctrl_c() => {}
    }
    note("aborting the operation; press Ctrl-C again to exit without waiting");
    let aborted = async {
        let abort = format!("{}/abort", path(&operation.id));
        if let Err(error) = client.post_empty::<WriteResult>(&abort).await {
            note(format!("failed to abort the operation: {error:#}"));
        }
        waiting.await
    };
    tokio::select! {
        done = aborted => done,
        _ = tokio::signal::ctrl_c() => {
            note(format!("exited without waiting; see muster operation show {}", operation.id));
            Err(Exited(130).into())
        }
    }
}

/// Returns the only device of an operation.
pub(super) async fn only_device(client: &Client, id: &str) -> Result<String> {
    let (runs, _) = client.first::<Run>(&format!("{}/runs", path(id)), &[], 2).await?;
    match runs.as_slice() {
        [run] => Ok(text(run.device.id)),
        _ => {
            let message = format!(
                "the operation is for several devices; name one: muster operation runs {id}"
            );
            Err(UsageError(message).into())
        }
    }
}

/// Reports output of a program that was not printed.
pub(super) fn report_missing(run: &Run, stream: Stream, shown: u64) {
    if let Some(bytes) = stream.missing(run, shown) {
        note(format!(
            "warning: {} is truncated: {bytes} bytes were written, {shown} are shown",
            stream.as_str()
        ));
    }
}

/// Buffer of the first bytes that are written to it.
#[derive(Default)]
struct BoundedBuffer {
    bytes: Vec<u8>,
    is_truncated: bool,
}

impl Write for BoundedBuffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let fitting = bytes.len().min(MAX_JSON_BYTES - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..fitting]);
        self.is_truncated |= fitting < bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Copies an output live; a lost connection is reopened at its last position. Returns the number of
/// bytes.
pub(super) async fn copy(
    client: &Client,
    source: &Source<'_>,
    follow: bool,
    sink: &mut (impl Write + ?Sized),
) -> Result<u64> {
    let path = format!("{}/runs/{}/output", path(source.id), segment(source.device));
    let mut from = 0_u64;
    let mut failures = 0;
    loop {
        let query = [
            ("stream", source.stream.as_str().to_owned()),
            ("from", from.to_string()),
            ("follow", follow.to_string()),
        ];
        let broken = match client.bytes(&path, &query, source.position).await {
            Ok(response) => {
                let mut stream = response.bytes_stream();
                loop {
                    match stream.next().await {
                        Some(Ok(bytes)) => {
                            failures = 0;
                            from += bytes.len() as u64;
                            sink.write_all(&bytes)?;
                            sink.flush()?;
                        }
                        None => return Ok(from),
                        Some(Err(error)) => break anyhow::Error::from(error),
                    }
                }
            }
            Err(error) if crate::exit::is_temporary(&error) => error,
            Err(error) => return Err(error),
        };
        failures += 1;
        if failures > 30 {
            return Err(broken).context("failed to follow the output");
        }
        tokio::time::sleep(POLL_INTERVAL * failures).await;
    }
}

/// Sends a request, and retries while the server is temporarily unavailable.
pub(crate) async fn get_with_retry<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    query: &[(&str, String)],
    position: Option<Position>,
) -> Result<Received<T>> {
    let mut failures = 0;
    loop {
        match client.get_at(path, query, position).await {
            Err(error) if failures < 30 && crate::exit::is_temporary(&error) => {
                failures += 1;
                if failures == 2 {
                    note(format!("waiting for a response: {error:#}"));
                }
            }
            result => return result,
        }
        tokio::time::sleep(POLL_INTERVAL * failures).await;
    }
}

/// Returns the run after it has ended.
async fn wait_for_end(
    client: &Client,
    operation: &RequestedOperation,
    device: &str,
) -> Result<Received<Run>> {
    let path = format!("{}/runs/{}", path(&operation.id), segment(device));
    loop {
        let run: Received<Run> = get_with_retry(client, &path, &[], operation.position).await?;
        if run.status.known().is_none_or(|state| state.is_final()) {
            return Ok(run);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Returns the first run of an operation.
async fn first_run(client: &Client, operation: &RequestedOperation) -> Result<Run> {
    let runs = format!("{}/runs", path(&operation.id));
    let query = [("limit", "1".to_owned())];
    let found: Received<Page<Run>> =
        get_with_retry(client, &runs, &query, operation.position).await?;
    found.into_content().items.pop().context("the operation has no run")
}

async fn one(client: &Client, operation: &RequestedOperation, json: bool) -> Result<()> {
    let run = first_run(client, operation).await?;
    let device = text(run.device.id);
    if !json && run.status == RunState::Requested {
        report_if_offline(client, &device).await;
    }
    let source = |stream| Source {
        id: &operation.id,
        device: &device,
        stream,
        position: operation.position,
    };
    let (out, err) = (source(Stream::Stdout), source(Stream::Stderr));
    if json {
        let (mut stdout, mut stderr) = (BoundedBuffer::default(), BoundedBuffer::default());
        let shown = tokio::try_join!(
            copy(client, &out, true, &mut stdout),
            copy(client, &err, true, &mut stderr)
        )?;
        let run = wait_for_end(client, operation, &device).await?;
        let is_cut = |stream: Stream, text: &BoundedBuffer, shown| {
            text.is_truncated || stream.missing(&run, shown).is_some()
        };
        output::json(&json!({
            "stdout": String::from_utf8_lossy(&stdout.bytes),
            "stderr": String::from_utf8_lossy(&stderr.bytes),
            "stdout_truncated": is_cut(Stream::Stdout, &stdout, shown.0),
            "stderr_truncated": is_cut(Stream::Stderr, &stderr, shown.1),
            "run": run,
        }))?;
        return outcome(&run, false);
    }
    let (mut stdout, mut stderr) = (std::io::stdout(), std::io::stderr());
    let copied = async {
        tokio::try_join!(
            copy(client, &out, true, &mut stdout),
            copy(client, &err, true, &mut stderr)
        )
    };
    let shown = tokio::select! {
        copied = copied => copied?,
        never = explain_waiting(client, operation, &device) => match never {},
    };
    let run = wait_for_end(client, operation, &device).await?;
    report_missing(&run, Stream::Stdout, shown.0);
    report_missing(&run, Stream::Stderr, shown.1);
    outcome(&run, true)
}

/// Waits for the only run and returns its standard output; fails if the run fails or the output is
/// too long.
pub(crate) async fn collect(client: &Client, operation: &RequestedOperation) -> Result<Vec<u8>> {
    let device = text(first_run(client, operation).await?.device);
    let (stream, position) = (Stream::Stdout, operation.position);
    let source = Source { id: &operation.id, device: &device, stream, position };
    let mut output = BoundedBuffer::default();
    let shown = copy(client, &source, true, &mut output).await?;
    let run = wait_for_end(client, operation, &device).await?;
    outcome(&run, true)?;
    if output.is_truncated || stream.missing(&run, shown).is_some() {
        bail!(
            "the output of {} is truncated: {shown} bytes were received, at most {} are accepted",
            text(&run.device),
            MAX_JSON_BYTES
        );
    }
    Ok(output.bytes)
}

/// Explains why a run does not start, after a while; never returns.
async fn explain_waiting(
    client: &Client,
    operation: &RequestedOperation,
    device: &str,
) -> Infallible {
    let path = format!("{}/runs/{}", path(&operation.id), segment(device));
    let mut explained = String::new();
    loop {
        tokio::time::sleep(EXPLAIN_INTERVAL).await;
        let Ok(run) = client.get::<Run>(&path, &[]).await else { continue };
        let waits = [RunState::Requested, RunState::Dispatched, RunState::Accepted];
        if waits.iter().any(|state| run.status == *state) {
            let text = optional(run.explanation.as_ref());
            if text != explained {
                note(format!("waiting: {text}"));
                explained = text;
            }
        }
    }
}

/// Reports that the operation waits for an offline device.
async fn report_if_offline(client: &Client, device: &str) {
    let path = format!("/api/v1/devices/{}", segment(device));
    let Ok(device) = client.get::<DeviceDetail>(&path, &[]).await else { return };
    if device.summary.status == Status::Offline {
        let since = device.summary.last_seen_at.map(|at| format!(" since {at}"));
        note(format!(
            "{} is offline{}; it receives the operation when it reconnects. Ctrl-C aborts the \
             operation",
            optional(device.summary.name.as_ref()),
            since.unwrap_or_default()
        ));
    }
}

/// Returns the program's exit code; any other end of the run is reported.
fn outcome(run: &Run, is_verbose: bool) -> Result<()> {
    let exit = run.exit_code.and_then(|code| u8::try_from(code & 0xff).ok());
    match (run.status.known(), exit) {
        (Some(RunState::Succeeded), _) => Ok(()),
        (Some(RunState::Failed), Some(code)) if code != 0 => Err(Exited(code).into()),
        (state, _) => {
            if is_verbose {
                let explanation = optional(run.explanation.as_ref());
                note(format!("{}: {}. {explanation}", text(&run.device), run.status));
            }
            let signal = run.signal.and_then(|signal| u8::try_from(signal).ok());
            let code = match (state, signal) {
                (Some(RunState::Failed), Some(signal)) => 128_u8.saturating_add(signal),
                (Some(RunState::TimedOut), _) => 124,
                _ => 125,
            };
            Err(Exited(code).into())
        }
    }
}

/// Whether all runs of an operation have ended.
pub(crate) fn is_over(found: &OperationDetail) -> bool {
    let status = found.operation.status.known();
    matches!(status, Some(OperationStatus::Finished | OperationStatus::Aborted))
}

async fn many(client: &Client, operation: &RequestedOperation, json: bool) -> Result<()> {
    let bar = ProgressBar::new(operation.devices);
    let style = "{bar:30} {pos}/{len} devices  {elapsed}  {msg}";
    bar.set_style(ProgressStyle::with_template(style)?);
    note(format!("operation {}", operation.id));
    let found = loop {
        let found: Received<OperationDetail> =
            get_with_retry(client, &path(&operation.id), &[], operation.position).await?;
        bar.set_position(found.operation.finished_count);
        bar.set_message(statuses(&found.operation.run_counts));
        if is_over(&found) {
            break found;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    bar.finish_and_clear();
    if json {
        output::json(&found)?;
    } else {
        if operation.devices <= MAX_PRINTED_DEVICES {
            outputs(client, operation).await?;
        } else {
            note(format!(
                "muster operation output {} DEVICE shows the output of a device",
                operation.id
            ));
        }
        line(format!(
            "{}: {}",
            text(&found.operation.status),
            statuses(&found.operation.run_counts)
        ));
        summary(&found);
    }
    let succeeded =
        found.operation.run_counts.get(RunState::Succeeded.as_str()).copied().unwrap_or(0);
    if succeeded == operation.devices { Ok(()) } else { Err(Exited(1).into()) }
}

/// Prints the output of each device, under its name.
async fn outputs(client: &Client, operation: &RequestedOperation) -> Result<()> {
    for run in client.list::<Run>(&format!("{}/runs", path(&operation.id)), &[]).await? {
        let device = text(run.device.id);
        line(format!("── {} ({})", text(&run.device), text(&run.status)));
        for stream in [Stream::Stdout, Stream::Stderr] {
            if stream.of(&run).is_some_and(|output| output.stored_bytes > 0) {
                let source = Source { id: &operation.id, device: &device, stream, position: None };
                let stdout = std::io::stdout();
                let shown = if stdout.is_terminal() {
                    let mut contained = Contained::new(stdout);
                    let shown = copy(client, &source, true, &mut contained).await?;
                    contained.finish()?;
                    shown
                } else {
                    copy(client, &source, true, &mut &stdout).await?
                };
                report_missing(&run, stream, shown);
            }
        }
    }
    Ok(())
}
