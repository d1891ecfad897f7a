//! Waits for an operation: one run as if its program ran locally, several with their progress.

use std::convert::Infallible;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::api::{device_of, path};
use super::requested::RequestedOperation;
use super::show::{states, summary};
use crate::client::{Client, segment};
use crate::exit::{Exited, UsageError};
use crate::output::{self, line, note, text};
use crate::terminal_modes::Contained;

/// Poll interval of an operation on several devices.
const POLL_INTERVAL: Duration = Duration::from_millis(300);
/// Poll interval of a run that has not started, to explain why.
const EXPLAIN_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum size of each output in memory, in bytes.
const MAX_JSON_BYTES: usize = 16 << 20;
/// Maximum number of devices whose outputs are printed; for more, a hint names the command.
const MAX_PRINTED_DEVICES: u64 = 20;

/// One output of one run.
pub(super) struct Source<'a> {
    pub(super) id: &'a str,
    pub(super) device: &'a str,
    pub(super) stream: &'static str,
    pub(super) position: Option<u64>,
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
        if let Err(error) = client.post(&format!("{}/abort", path(&operation.id)), &json!({})).await
        {
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
    let page = client.get(&format!("{}/runs", path(id)), &[("limit", "2".to_owned())]).await?;
    match page["items"].as_array().map(Vec::as_slice) {
        Some([run]) => Ok(text(&run["device"])),
        _ => {
            let message = format!(
                "the operation is for several devices; name one: muster operation runs {id}"
            );
            Err(UsageError(message).into())
        }
    }
}

/// Reports output of a program that was not printed.
pub(super) fn report_missing(run: &Value, stream: &str, shown: u64) {
    if let Some(bytes) = run[stream]["bytes"].as_u64().filter(|bytes| *bytes > shown) {
        note(format!(
            "warning: {stream} is truncated: {bytes} bytes were written, {shown} are shown"
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
            ("stream", source.stream.to_owned()),
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
pub(crate) async fn get_with_retry(
    client: &Client,
    path: &str,
    query: &[(&str, String)],
    position: Option<u64>,
) -> Result<Value> {
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
) -> Result<Value> {
    let path = format!("{}/runs/{}", path(&operation.id), segment(device));
    loop {
        let run = get_with_retry(client, &path, &[], operation.position).await?;
        let is_open = ["requested", "dispatched", "accepted", "running"];
        if !is_open.contains(&run["state"].as_str().unwrap_or_default()) {
            return Ok(run);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn one(client: &Client, operation: &RequestedOperation, json: bool) -> Result<()> {
    let runs = format!("{}/runs", path(&operation.id));
    let found = get_with_retry(client, &runs, &[("limit", "1".into())], operation.position).await?;
    let run = &found["items"][0];
    let device = text(&run["device"]);
    if !json && run["state"] == "requested" {
        report_if_offline(client, &device).await;
    }
    let source = |stream| Source {
        id: &operation.id,
        device: &device,
        stream,
        position: operation.position,
    };
    let (out, err) = (source("stdout"), source("stderr"));
    if json {
        let (mut stdout, mut stderr) = (BoundedBuffer::default(), BoundedBuffer::default());
        let shown = tokio::try_join!(
            copy(client, &out, true, &mut stdout),
            copy(client, &err, true, &mut stderr)
        )?;
        let run = wait_for_end(client, operation, &device).await?;
        let is_cut = |stream: &str, text: &BoundedBuffer, shown| {
            text.is_truncated || run[stream]["bytes"].as_u64().is_some_and(|bytes| bytes > shown)
        };
        output::json(&json!({
            "stdout": String::from_utf8_lossy(&stdout.bytes),
            "stderr": String::from_utf8_lossy(&stderr.bytes),
            "stdout_truncated": is_cut("stdout", &stdout, shown.0),
            "stderr_truncated": is_cut("stderr", &stderr, shown.1),
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
    report_missing(&run, "stdout", shown.0);
    report_missing(&run, "stderr", shown.1);
    outcome(&run, true)
}

/// Waits for the only run and returns its standard output; fails if the run fails or the output is
/// too long.
pub(crate) async fn collect(client: &Client, operation: &RequestedOperation) -> Result<Vec<u8>> {
    let runs = format!("{}/runs", path(&operation.id));
    let found = get_with_retry(client, &runs, &[("limit", "1".into())], operation.position).await?;
    let device = text(&found["items"][0]["device"]);
    let position = operation.position;
    let source = Source { id: &operation.id, device: &device, stream: "stdout", position };
    let mut output = BoundedBuffer::default();
    let shown = copy(client, &source, true, &mut output).await?;
    let run = wait_for_end(client, operation, &device).await?;
    outcome(&run, true)?;
    if output.is_truncated || run["stdout"]["bytes"].as_u64().is_some_and(|bytes| bytes > shown) {
        bail!(
            "the output of {} is truncated: {shown} bytes were received, at most {} are accepted",
            device_of(&run),
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
        let Ok(run) = client.get(&path, &[]).await else { continue };
        if matches!(run["state"].as_str(), Some("requested" | "dispatched" | "accepted")) {
            let text = text(&run["explanation"]);
            if text != explained {
                note(format!("waiting: {text}"));
                explained = text;
            }
        }
    }
}

/// Reports that the operation waits for an offline device.
async fn report_if_offline(client: &Client, device: &str) {
    let Ok(device) = client.get(&format!("/api/v1/devices/{}", segment(device)), &[]).await else {
        return;
    };
    if device["status"] == "offline" {
        let since = device["last_seen"].as_str().map(|at| format!(" since {at}"));
        note(format!(
            "{} is offline{}; it receives the operation when it reconnects. Ctrl-C aborts the \
             operation",
            text(&device["name"]),
            since.unwrap_or_default()
        ));
    }
}

/// Returns the program's exit code; any other end of the run is reported.
fn outcome(run: &Value, is_verbose: bool) -> Result<()> {
    let exit = run["exit_code"].as_i64().and_then(|code| u8::try_from(code & 0xff).ok());
    match (run["state"].as_str().unwrap_or_default(), exit) {
        ("succeeded", _) => Ok(()),
        ("failed", Some(code)) if code != 0 => Err(Exited(code).into()),
        (state, _) => {
            if is_verbose {
                let explanation = text(&run["explanation"]);
                note(format!("{}: {state}. {explanation}", device_of(run)));
            }
            let signal = run["signal"].as_u64().and_then(|signal| u8::try_from(signal).ok());
            let code = match (state, signal) {
                (_, Some(signal)) if state == "failed" => 128_u8.saturating_add(signal),
                ("timed_out", _) => 124,
                _ => 125,
            };
            Err(Exited(code).into())
        }
    }
}

async fn many(client: &Client, operation: &RequestedOperation, json: bool) -> Result<()> {
    let bar = ProgressBar::new(operation.devices);
    let style = "{bar:30} {pos}/{len} devices  {elapsed}  {msg}";
    bar.set_style(ProgressStyle::with_template(style)?);
    note(format!("operation {}", operation.id));
    let found = loop {
        let found = get_with_retry(client, &path(&operation.id), &[], operation.position).await?;
        bar.set_position(found["finished"].as_u64().unwrap_or(0));
        bar.set_message(states(&found["runs"]));
        if matches!(found["status"].as_str(), Some("finished" | "aborted")) {
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
        line(format!("{}: {}", text(&found["status"]), states(&found["runs"])));
        summary(&found);
    }
    let succeeded = found["runs"]["succeeded"].as_u64().unwrap_or(0);
    if succeeded == operation.devices { Ok(()) } else { Err(Exited(1).into()) }
}

/// Prints the output of each device, under its name.
async fn outputs(client: &Client, operation: &RequestedOperation) -> Result<()> {
    for run in client.list(&format!("{}/runs", path(&operation.id)), &[]).await? {
        let device = text(&run["device"]);
        line(format!("── {} ({})", device_of(&run), text(&run["state"])));
        for stream in ["stdout", "stderr"] {
            if run[stream]["kept"].as_u64().unwrap_or(0) > 0 {
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
