//! Recordings: played as they were made, and searched.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{SESSIONS, no_recording};
use crate::client::{Client, segment};
use crate::exit::Partly;
use crate::output::{self, line, note, table, text};

async fn recording(client: &Client, id: &str) -> Result<String> {
    let path = format!("{SESSIONS}/{}/recording", segment(id));
    let response = client.bytes(&path, &[], None).await?;
    response.text().await.context("the recording broke off")
}

/// The events of a recording: when, of which kind, what.
fn events(cast: &str) -> Vec<(f64, String, String)> {
    cast.lines()
        .filter_map(|line| {
            let event: Value = serde_json::from_str(line).ok()?;
            Some((event[0].as_f64()?, event[1].as_str()?.to_owned(), event[2].as_str()?.to_owned()))
        })
        .collect()
}

pub(super) async fn play(
    client: &Client,
    id: &str,
    speed: f64,
    idle: f64,
    cast: bool,
) -> Result<()> {
    let recording = recording(client, id).await?;
    if cast {
        std::io::stdout().write_all(recording.as_bytes())?;
        return Ok(());
    }
    let events = events(&recording);
    if events.is_empty() {
        return Err(no_recording(id));
    }
    let speed = if speed.is_finite() && speed > 0.0 { speed } else { 1.0 };
    let mut before = 0.0;
    let mut stdout = std::io::stdout();
    for (at, kind, shown) in events {
        // A recording that was gone on with begins at 0 again.
        let pause = ((at - before).max(0.0) / speed).min(idle.max(0.0));
        before = at;
        tokio::time::sleep(Duration::from_secs_f64(pause)).await;
        if kind == "o" {
            stdout.write_all(shown.as_bytes())?;
            stdout.flush()?;
        }
    }
    // Whatever it left switched on.
    stdout.write_all(b"\x1b[0m\x1b[?1049l\x1b[?25h\n")?;
    Ok(())
}

/// Recordings as plain text, without what moves the cursor and colors.
fn plain(shown: &str) -> String {
    let mut plain = String::with_capacity(shown.len());
    let mut chars = shown.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => match chars.next() {
                Some('[') => while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
                Some(']') => while chars.next().is_some_and(|c| c != '\x07' && c != '\x1b') {},
                _ => {}
            },
            '\r' => {}
            c if c.is_control() && c != '\n' => {}
            c => plain.push(c),
        }
    }
    plain
}

pub(super) async fn search(
    client: &Client,
    wanted: &str,
    device: Option<String>,
    json: bool,
) -> Result<()> {
    let mut query: Vec<(&str, String)> = Vec::new();
    query.extend(device.map(|device| ("device", device)));
    let (mut found, mut read, mut unread) = (Vec::new(), 0, 0);
    for session in client.list(SESSIONS, &query).await? {
        if session["recording_bytes"].as_u64().unwrap_or(0) == 0 {
            continue;
        }
        let id = text(&session["id"]);
        let cast = match recording(client, &id).await {
            Ok(cast) => cast,
            Err(error) => {
                note(format!("the recording of session {id} cannot be searched: {error:#}"));
                unread += 1;
                continue;
            }
        };
        read += 1;
        let shown: String =
            events(&cast).into_iter().filter(|event| event.1 == "o").map(|event| event.2).collect();
        for hit in plain(&shown).lines().filter(|line| line.contains(wanted)) {
            found.push(json!({"session": id, "name": session["name"], "line": hit.trim()}));
        }
    }
    let whole = || match unread {
        0 => Ok(()),
        failed => Err(Partly { failed, of: read + failed, code: 1 }.into()),
    };
    if json {
        output::json(&found)?;
        return whole();
    }
    if found.is_empty() {
        line(format!("'{wanted}' is in no recording that could be read"));
        return whole();
    }
    let rows = found
        .iter()
        .map(|hit| vec![text(&hit["session"]), text(&hit["name"]), text(&hit["line"])])
        .collect();
    table(&["session", "device", "line"], rows, "");
    whole()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_is_found_without_its_colors() {
        assert_eq!(plain("\x1b[1;32mroot\x1b[0m@vm\r\n\x1b]0;title\x07$ ls\x08"), "root@vm\n$ ls");
    }
}
