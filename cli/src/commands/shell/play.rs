//! Playback and search of recordings.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use muster_api_types::sessions::Session;
use muster_client::{Client, segment};
use muster_schemas::SessionId;
use serde::Serialize;

use super::sessions::SESSIONS;
use crate::exit::{Exited, NotFound, PartialFailure};
use crate::output::{self, line, note, optional, table, text};
use crate::terminal_modes::Contained;

/// Maximum length of a line in a search, in bytes; longer text is split.
const MAX_LINE_BYTES: usize = 1 << 20;

/// Downloads a recording to a temporary file: it may be larger than this machine's memory.
async fn recording(client: &Client, id: &str) -> Result<File> {
    let path = format!("{SESSIONS}/{}/recording", segment(id));
    let mut stream = client.bytes(&path, &[], None).await?.bytes_stream();
    // The default folder of temporary files may be in memory.
    let file = tempfile::tempfile_in("/var/tmp").or_else(|_| tempfile::tempfile());
    let mut file =
        file.context("failed to create a temporary file; set TMPDIR to a folder with free space")?;
    while let Some(bytes) = stream.next().await {
        let bytes = bytes.context("failed to read the recording completely")?;
        file.write_all(&bytes).context("failed to write a temporary file")?;
    }
    file.rewind().context("failed to read a temporary file")?;
    Ok(file)
}

/// Returns the events of a recording: time, kind, data.
fn events(recording: File) -> impl Iterator<Item = io::Result<(f64, String, String)>> {
    BufReader::new(recording).lines().filter_map(|line| match line {
        Ok(line) => event(&line).map(Ok),
        Err(error) => Some(Err(error)),
    })
}

fn event(line: &str) -> Option<(f64, String, String)> {
    serde_json::from_str(line).ok()
}

/// Returns the error for a session without a recording.
fn no_recording(id: &str) -> anyhow::Error {
    NotFound(format!("session {id} has no recording")).into()
}

pub(super) async fn play(
    client: &Client,
    id: &str,
    speed: f64,
    idle: f64,
    cast: bool,
) -> Result<()> {
    let mut recording = recording(client, id).await?;
    if cast {
        io::copy(&mut recording, &mut io::stdout())?;
        return Ok(());
    }
    let mut events = events(recording).peekable();
    if events.peek().is_none() {
        return Err(no_recording(id));
    }
    let speed = if speed.is_finite() && speed > 0.0 { speed } else { 1.0 };
    let mut before = 0.0;
    let mut screen = Contained::new(io::stdout());
    let playing = async {
        for event in events {
            let (at, kind, shown) = event.context("failed to read a temporary file")?;
            // A resumed recording starts again at time 0.
            let pause = ((at - before).max(0.0) / speed).min(idle.max(0.0));
            before = at;
            tokio::time::sleep(Duration::from_secs_f64(pause)).await;
            if kind == "o" {
                screen.write_all(shown.as_bytes())?;
                screen.flush()?;
            }
        }
        Ok(())
    };
    let played = tokio::select! {
        played = playing => played,
        _ = tokio::signal::ctrl_c() => Err(Exited(130).into()),
    };
    // Resets terminal modes that the recorded program left enabled.
    screen.finish()?;
    played
}

/// Converts a recording to plain text, without the escape sequences for cursor and colors.
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

/// Returns the lines of a recording that contain a text.
fn matching_lines(recording: File, pattern: &str) -> Result<Vec<String>> {
    let mut hits = Vec::new();
    let mut look = |shown: &str| {
        let plain = plain(shown);
        let found = plain.lines().filter(|line| line.contains(pattern));
        hits.extend(found.map(|line| line.trim().to_owned()));
    };
    let mut waiting = String::new();
    for event in events(recording) {
        let (_, kind, shown) = event.context("failed to read a temporary file")?;
        if kind != "o" {
            continue;
        }
        let ends = shown.rfind('\n').map(|at| waiting.len() + at + 1);
        waiting.push_str(&shown);
        let whole = match ends {
            Some(end) => end,
            None if waiting.len() > MAX_LINE_BYTES => waiting.len(),
            None => continue,
        };
        let rest = waiting.split_off(whole);
        look(&std::mem::replace(&mut waiting, rest));
    }
    look(&waiting);
    Ok(hits)
}

/// A line of a recording that contains a text.
#[derive(Debug, Serialize)]
struct Hit {
    line: String,
    name: Option<String>,
    session: SessionId,
}

pub(super) async fn search(
    client: &Client,
    pattern: &str,
    device: Option<String>,
    json: bool,
) -> Result<()> {
    let mut query: Vec<(&str, String)> = Vec::new();
    query.extend(device.map(|device| ("device", device)));
    let (mut found, mut read, mut unread) = (Vec::new(), 0, 0);
    for session in client.list::<Session>(SESSIONS, &query).await? {
        if session.recording_bytes == 0 {
            continue;
        }
        let id = session.id;
        let lines =
            match recording(client, &text(id)).await.and_then(|cast| matching_lines(cast, pattern))
            {
                Ok(lines) => lines,
                Err(error) => {
                    note(format!("the recording of session {id} cannot be searched: {error:#}"));
                    unread += 1;
                    continue;
                }
            };
        read += 1;
        for line in lines {
            found.push(Hit { line, name: session.device.name.clone(), session: id });
        }
    }
    let whole = || match unread {
        0 => Ok(()),
        failed => Err(PartialFailure { failed, total: read + failed, code: 1 }.into()),
    };
    if json {
        output::json(&found)?;
        return whole();
    }
    if found.is_empty() {
        line(format!("'{pattern}' was not found in the readable recordings"));
        return whole();
    }
    let rows = found
        .iter()
        .map(|hit| vec![text(hit.session), optional(hit.name.as_ref()), text(&hit.line)])
        .collect();
    table(&["session", "device", "line"], rows, "");
    whole()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_split_across_events_are_found() {
        let mut file = tempfile::tempfile().unwrap();
        let chunks = ["one sec", "ret\r\ntwo\r\n\x1b[1msec\x1b[0m", "rets", " end"];
        writeln!(file, "{}", json!({"version": 2})).unwrap();
        for (at, shown) in chunks.iter().enumerate() {
            writeln!(file, "{}", json!([at, "o", shown])).unwrap();
            writeln!(file, "{}", json!([at, "i", "secret"])).unwrap();
        }
        file.rewind().unwrap();
        assert_eq!(matching_lines(file, "secret").unwrap(), ["one secret", "secrets end"]);
    }

    #[test]
    fn text_is_found_without_its_colors() {
        assert_eq!(plain("\x1b[1;32mroot\x1b[0m@vm\r\n\x1b]0;title\x07$ ls\x08"), "root@vm\n$ ls");
    }
}
