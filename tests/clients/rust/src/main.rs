//! The same program (see `../python/program.py`) with the client of progenitor.
#![expect(clippy::print_stdout, reason = "the program's result")]

use std::collections::HashMap;
use std::env;
use std::time::Duration;

use anyhow::{Context, Result};
use data_encoding::HEXLOWER;
use futures::TryStreamExt;
use muster_client_example::types::{
    Action, DevicesTarget, DevicesTargetKind, Event, ExecAction, ExecActionKind,
    GetRunOutputStream, LabelValue, OperationStatus, QueryMetricsFn, Role, UploadAction,
    UploadActionKind, UploadStatus, WhoAmI,
};
use muster_client_example::{ByteStream, Client};
use sha2::{Digest, Sha256};
use uuid::Uuid;

const DEVICE: &str = "robot";
const CLIENT: &str = "progenitor";
const POLL_INTERVAL: Duration = Duration::from_millis(100);

fn connect(token: &str) -> Result<Client> {
    let authority = reqwest::Certificate::from_pem_bundle(&std::fs::read(env::var("MUSTER_CA")?)?)?;
    let mut headers = reqwest::header::HeaderMap::new();
    headers.insert("authorization", format!("Bearer {token}").parse()?);
    let http =
        reqwest::Client::builder().tls_certs_only(authority).default_headers(headers).build()?;
    Ok(Client::new_with_client(&env::var("MUSTER_URL")?, http))
}

/// Reads all pages of the list; a page has one device here.
async fn list_names(client: &Client, selector: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut page = client.list_devices().selector(selector).limit(1).send().await?.into_inner();
    loop {
        names.extend(page.items.iter().map(|device| device.name.to_string()));
        let Some(next) = page.next else { return Ok(names) };
        let request = client.list_devices().selector(selector).limit(1).cursor(next);
        page = request.send().await?.into_inner();
    }
}

/// Sets a label; returns the position of the event in the log.
async fn label(client: &Client) -> Result<i64> {
    let value: LabelValue = CLIENT.parse()?;
    let labels = HashMap::from([("client".to_owned(), Some(value))]);
    let request = client.change_device().device(DEVICE).body_map(|body| body.labels(labels));
    Ok(request.send().await?.updated_position)
}

/// Requests an operation; returns its id.
async fn request(client: &Client, action: impl Into<Action>) -> Result<Uuid> {
    let (kind, devices) = (DevicesTargetKind::Devices, vec![DEVICE.to_owned()]);
    let action: Action = action.into();
    let request = client
        .request_operation()
        .body_map(|body| body.target(DevicesTarget { devices, kind }).action(action));
    Ok(request.send().await?.id.0)
}

/// Runs a program, waits for its end and returns its output.
async fn execute(client: &Client, argv: &[&str]) -> Result<String> {
    let argv: Vec<String> = argv.iter().map(|&argument| argument.to_owned()).collect();
    let action: ExecAction =
        ExecAction::builder().kind(ExecActionKind::Exec).argv(argv).try_into()?;
    let operation = request(client, action).await?;
    loop {
        let status = client.get_operation().operation(operation).send().await?.status;
        if matches!(status, OperationStatus::Finished | OperationStatus::Aborted) {
            break;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let request = client.get_run_output().operation(operation).device(DEVICE);
    let output = request.stream(GetRunOutputStream::Stdout).send().await?;
    Ok(String::from_utf8(read(output.into_inner()).await?)?)
}

async fn read(body: ByteStream) -> Result<Vec<u8>> {
    let chunks: Vec<bytes::Bytes> = body.into_inner().try_collect().await?;
    Ok(chunks.concat())
}

/// Returns the first event after this position. The generator has no server-sent events: the body is
/// a stream of bytes, and the data is parsed with the generated type.
async fn next_event(client: &Client, after: i64) -> Result<Event> {
    let stream = client.stream_events().device(DEVICE).after(after).send().await?;
    let mut stream = stream.into_inner().into_inner();
    let mut text = Vec::new();
    while let Some(chunk) = stream.try_next().await? {
        text.extend_from_slice(&chunk);
        let mut lines = text.split_inclusive(|&byte| byte == b'\n');
        let data = lines.find_map(|line| line.strip_suffix(b"\n")?.strip_prefix(b"data:"));
        if let Some(data) = data {
            return Ok(serde_json::from_slice(data)?);
        }
    }
    anyhow::bail!("the stream has ended")
}

/// Creates a token, and returns the role that it has.
async fn create_viewer(client: &Client) -> Result<Role> {
    let request = client.create_token().body_map(|body| body.name(CLIENT).role(Role::Viewer));
    let viewer = connect(&request.send().await?.secret)?;
    let WhoAmI { role, .. } = viewer.get_whoami().send().await?.into_inner();
    Ok(role)
}

/// Has the device upload a file, and downloads it.
async fn fetch(client: &Client, path: String) -> Result<Vec<u8>> {
    let action: UploadAction =
        UploadAction::builder().kind(UploadActionKind::Upload).path(path).try_into()?;
    let operation = request(client, action).await?;
    let upload = || client.get_upload().operation(operation).device(DEVICE);
    while upload().send().await?.status != UploadStatus::Stored {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let content = client.get_upload_content().operation(operation).device(DEVICE).send().await?;
    read(content.into_inner()).await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    // The provider of cryptography is the program's choice.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let path = env::args().nth(1).context("usage: muster-client-example PATH")?;
    let client = connect(&env::var("MUSTER_TOKEN")?)?;
    let devices = list_names(&client, "env=test").await?;
    let position = label(&client).await?;
    let output = execute(&client, &["sh", "-c", "printf 'from %s' robot"]).await?;
    let requested = next_event(&client, position - 1).await?;
    let query = client.query_metrics().device(DEVICE).field("mem.used_percent").since("1h");
    let found = query.fn_(QueryMetricsFn::Mean).send().await?;
    let result = serde_json::json!({
        "devices": devices,
        "output": output,
        "event": requested.type_,
        "points": found.series.iter().map(|series| series.points.len()).sum::<usize>(),
        "role": create_viewer(&client).await?,
        "sha256": HEXLOWER.encode(&Sha256::digest(fetch(&client, path).await?)),
    });
    println!("{result}");
    Ok(())
}
