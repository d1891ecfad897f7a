//! `muster events`: the log, as it is and as it grows.

use anyhow::Result;
use clap::Args;
use futures::StreamExt;
use serde_json::Value;

use crate::client::{Client, Connection, segment};
use crate::output::{line, text};

#[derive(Args, Debug)]
pub(crate) struct EventsArgs {
    /// Only this device's life: name or id
    device: Option<String>,
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// Only these types, such as DeviceConnected,DeviceDisconnected
    #[arg(long = "type", value_name = "TYPES")]
    types: Option<String>,
    /// How many of the newest events to show
    #[arg(short = 'n', long, default_value_t = 50)]
    limit: u16,
}

pub(crate) async fn run(connection: Connection, args: EventsArgs) -> Result<()> {
    let client = connection.client()?;
    let mut query: Vec<(&str, String)> =
        vec![("limit", args.limit.to_string()), ("order", "desc".to_owned())];
    query.extend(args.types.clone().map(|types| ("type", types)));
    let path = match &args.device {
        Some(device) => format!("/api/v1/devices/{}/events", segment(device)),
        None => "/api/v1/events".to_owned(),
    };
    // The device's id, for what follows: a name may be another's by then.
    let device = match &args.device {
        Some(device) if args.follow => {
            let found = client.get(&format!("/api/v1/devices/{}", segment(device)), &[]).await?;
            Some(text(&found["id"]))
        }
        _ => None,
    };
    let mut page = client.get(&path, &query).await?;
    let mut events = match page["items"].take() {
        Value::Array(events) => events,
        _ => Vec::new(),
    };
    events.reverse();
    for event in &events {
        print(event, connection.json)?;
    }
    if !args.follow {
        return Ok(());
    }
    let head = client.get("/api/v1/log/head", &[]).await?;
    let after = events
        .last()
        .and_then(|event| event["position"].as_u64())
        .or_else(|| head["position"].as_u64())
        .unwrap_or(0);
    follow(&client, after, args.types, device, connection.json).await
}

/// Prints what comes; a connection that was lost is made again, from where it was.
async fn follow(
    client: &Client,
    mut after: u64,
    types: Option<String>,
    device: Option<String>,
    json: bool,
) -> Result<()> {
    loop {
        let mut query = vec![("after", after.to_string())];
        query.extend(types.clone().map(|types| ("type", types)));
        let response = match client.stream("/api/v1/events/stream", &query).await {
            Ok(response) => response,
            Err(error)
                if matches!(
                    error.downcast_ref(),
                    Some(crate::exit::Refused::Unreachable { .. })
                ) =>
            {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut stream = response.bytes_stream();
        let mut buffer = Vec::new();
        while let Some(Ok(chunk)) = stream.next().await {
            buffer.extend_from_slice(&chunk);
            while let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
                let message: Vec<u8> = buffer.drain(..end + 2).collect();
                let Some(event) = data(&String::from_utf8_lossy(&message)) else { continue };
                after = event["position"].as_u64().unwrap_or(after);
                if device.as_ref().is_none_or(|id| text(&event["stream"]).contains(id)) {
                    print(&event, json)?;
                }
            }
        }
    }
}

/// The JSON in the `data:` lines of one server-sent event.
fn data(message: &str) -> Option<Value> {
    let data: Vec<&str> = message
        .lines()
        .filter_map(|line| line.strip_prefix("data:").map(str::trim_start))
        .collect();
    serde_json::from_str(&data.join("\n")).ok()
}

fn print(event: &Value, json: bool) -> Result<()> {
    if json {
        line(serde_json::to_string(event)?);
        return Ok(());
    }
    let mut about = event["data"].to_string();
    if about.chars().count() > 140 {
        about = about.chars().take(140).chain(['…']).collect();
    }
    line(format!(
        "{:>6}  {:<27}  {:<24}  {:<56}  {about}",
        text(&event["position"]),
        text(&event["recorded_at"]),
        text(&event["type"]),
        text(&event["stream"]),
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_sent_events_are_read_and_comments_are_not() {
        assert_eq!(data(": still here\n\n"), None);
        assert_eq!(
            data("id: 7\nevent: x\ndata: {\"position\":7}\n\n"),
            Some(serde_json::json!({"position": 7}))
        );
    }
}
