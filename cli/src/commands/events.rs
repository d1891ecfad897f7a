//! `muster events`: prints the log and follows it.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use futures::StreamExt;
use muster_api_types::events::{END_EVENT, Event, LogHead};
use muster_client::{Client, Received};
use muster_schemas::Position;

use super::target::{NamedDevice, Selected, Target};
use crate::connection::Connection;
use crate::exit;
use crate::output::{line, note, text};

/// Timeout after which a live stream is reopened; the server sends keep-alives every 15 s.
const STREAM_TIMEOUT: Duration = Duration::from_secs(45);
/// Delay before the first attempt to reopen a lost stream; later delays are longer.
const MIN_RECONNECT_DELAY: Duration = Duration::from_millis(500);
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(15);

#[derive(Args, Debug)]
pub(crate) struct EventsArgs {
    /// Devices whose events to show: names or ids (a,b), or a selector such as env=prod
    device: Option<String>,
    #[command(flatten)]
    selected: Selected,
    /// Continue with new events
    #[arg(short, long)]
    follow: bool,
    /// Show only these types, such as DeviceConnected,DeviceDisconnected
    #[arg(long = "type", value_name = "TYPES")]
    types: Option<String>,
    /// Maximum number of newest events to show
    #[arg(short = 'n', long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

pub(crate) async fn run(connection: Connection, args: EventsArgs) -> Result<()> {
    let target = if args.device.is_some() || args.selected.is_given() {
        Some(args.selected.target_alone(args.device)?)
    } else {
        None
    };
    let client = connection.client()?;
    // By id, because a name can be reused before an event arrives.
    let devices: Option<Vec<NamedDevice>> = match &target {
        Some(Target::One(name)) if !args.follow => {
            Some(vec![NamedDevice { key: name.clone(), name: name.clone() }])
        }
        Some(target) => Some(target.find(&client).await?),
        None => None,
    };
    let mut query: Vec<(&str, String)> = vec![("order", "desc".to_owned())];
    query.extend(args.types.clone().map(|types| ("type", types)));
    let head = client.get::<LogHead>("/api/v1/log/head", &[]).await?;
    let (events, more) = newest(&client, devices.as_deref(), &query, args.limit).await?;
    if more && !args.follow {
        note(format!("showing the newest {}; there are older ones: -n shows more", events.len()));
    }
    for event in &events {
        print(event, connection.json)?;
    }
    if !args.follow {
        return Ok(());
    }
    // The head was read first: a newer event is either printed above or follows it.
    let after = events.last().map_or(head.position, |event| event.position);
    follow(&client, after, args.types, devices, connection.json).await
}

/// Returns the newest events in log order, and whether there are more.
async fn newest(
    client: &Client,
    devices: Option<&[NamedDevice]>,
    query: &[(&str, String)],
    limit: u16,
) -> Result<(Vec<Received<Event>>, bool)> {
    let paths = match devices {
        None => vec!["/api/v1/events".to_owned()],
        Some(devices) => devices.iter().map(|device| format!("{}/events", device.path())).collect(),
    };
    let (mut events, mut more) = (Vec::new(), false);
    for path in paths {
        let (found, is_cut) = client.first(&path, query, limit).await?;
        events.extend(found);
        more |= is_cut;
    }
    events.sort_by_key(|event: &Received<Event>| event.position);
    let surplus = events.len().saturating_sub(limit.into());
    Ok((events.split_off(surplus), more || surplus > 0))
}

/// Prints new events; a lost connection is reopened at its last position.
async fn follow(
    client: &Client,
    mut after: Position,
    types: Option<String>,
    devices: Option<Vec<NamedDevice>>,
    json: bool,
) -> Result<()> {
    let mut wait = MIN_RECONNECT_DELAY;
    loop {
        let mut query = vec![("after", after.to_string())];
        query.extend(types.clone().map(|types| ("type", types)));
        if let Some([one]) = devices.as_deref() {
            query.push(("device", one.key.clone()));
        }
        match client.stream("/api/v1/events/stream", &query).await {
            Ok(response) => {
                let mut stream = response.bytes_stream();
                let mut buffer = Vec::new();
                while let Ok(Some(Ok(chunk))) =
                    tokio::time::timeout(STREAM_TIMEOUT, stream.next()).await
                {
                    wait = MIN_RECONNECT_DELAY;
                    buffer.extend_from_slice(&chunk);
                    while let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
                        let message: Vec<u8> = buffer.drain(..end + 2).collect();
                        let message = String::from_utf8_lossy(&message);
                        let event = match data(&message) {
                            Some(Ok(event)) => event,
                            Some(Err(unknown)) => {
                                unknown.print(json);
                                continue;
                            }
                            None => continue,
                        };
                        after = event.position;
                        if is_about(&event, devices.as_deref()) {
                            print(&event, json)?;
                        }
                    }
                }
            }
            Err(error) if exit::is_temporary(&error) => {}
            Err(error) => return Err(error),
        }
        // Jitter prevents all clients from reconnecting simultaneously after a server restart.
        tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..1.5))).await;
        wait = (wait * 2).min(MAX_RECONNECT_DELAY);
    }
}

/// Filters events for several devices; for one device, the server filters.
fn is_about(event: &Event, devices: Option<&[NamedDevice]>) -> bool {
    let is_of = |device: &NamedDevice| event.stream.contains(&device.key);
    devices.is_none_or(|devices| devices.iter().any(is_of))
}

/// An event that this version cannot parse.
#[derive(Debug)]
struct UnknownEvent {
    text: String,
    error: anyhow::Error,
}

impl UnknownEvent {
    fn print(&self, json: bool) {
        if json {
            line(text(&self.text));
        } else {
            note(format!("skipped an event, which --json shows: {:#}", self.error));
        }
    }
}

/// Parses the JSON in the `data:` lines of one server-sent event; `None` for a keep-alive.
fn data(message: &str) -> Option<Result<Received<Event>, UnknownEvent>> {
    // The stream is opened again, which fails if the token is no longer valid.
    if message.lines().any(|line| line == format!("event: {END_EVENT}")) {
        return None;
    }
    let data: Vec<&str> = message
        .lines()
        .filter_map(|line| line.strip_prefix("data:").map(str::trim_start))
        .collect();
    let parse = |text: String| {
        let json = serde_json::from_str(&text).map_err(anyhow::Error::from);
        json.and_then(Received::from_json).map_err(|error| UnknownEvent { text, error })
    };
    (!data.is_empty()).then(|| parse(data.join("\n")))
}

fn print(event: &Received<Event>, json: bool) -> Result<()> {
    if json {
        line(serde_json::to_string(event)?);
        return Ok(());
    }
    let mut about = event.data.to_string();
    if about.chars().count() > 140 {
        about = about.chars().take(140).chain(['…']).collect();
    }
    line(format!(
        "{:>6}  {:<27}  {:<24}  {:<56}  {about}",
        event.position,
        text(event.recorded_at),
        text(&event.kind),
        text(&event.stream),
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_sent_events_are_parsed_and_comments_ignored() {
        assert!(data(": still here\n\n").is_none());
        let event = serde_json::json!({
            "project": "default", "position": 7, "stream": "x", "version": 1, "type": "Later",
            "schema_version": 1,
            "occurred_at": "2026-11-23T08:00:00Z", "recorded_at": "2026-11-23T08:00:00Z",
            "actor": "x", "sealed": false, "time_implausible": false, "data": null, "later": 1,
        });
        let found = data(&format!("id: 7\nevent: x\ndata: {event}\n\n")).unwrap().unwrap();
        assert!(data("data: {}\n\n").unwrap().is_err());
        assert_eq!((found.position, found.kind.as_str()), (Position(7), "Later"));
        assert_eq!(serde_json::to_value(&found).unwrap(), event);
    }
}
