//! Runs short helper commands of the agent, and captures a bounded amount of their output in
//! memory.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::{sleep, timeout};

use super::group;

/// Interval between checks whether a command has ended: these commands are short.
const LOOK: Duration = Duration::from_millis(20);
/// Maximum size of the error output that is kept, in bytes.
const COMPLAINT: usize = 500;

/// A child process that is killed and reaped when it is dropped.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let pid = group::pid_of(self.0.id());
        if !group::has_ended(pid) {
            group::kill_group(pid);
        }
        // A killed process ends immediately, unless it is blocked by a failed disk.
        for _ in 0..10 {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Runs a command and captures the first `most` bytes of both its outputs. The flag is true if the
/// exit code was 0.
async fn capture(words: &[String], most: usize) -> io::Result<(Vec<u8>, bool)> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let (reader, writer) = io::pipe()?;
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .spawn()?;
    let mut child = Killed(child);
    let mut said = Vec::new();
    let mut pipe = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    let mut buffer = vec![0; 8 * 1024];
    loop {
        let count = pipe.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        let fitting = count.min(most - said.len());
        said.extend_from_slice(&buffer[..fitting]);
    }
    loop {
        if let Some(status) = child.0.try_wait()? {
            return Ok((said, status.success()));
        }
        sleep(LOOK).await;
    }
}

/// Runs a command; returns its output as the error if it fails.
pub(super) async fn run_quietly(words: &[String], limit: Duration) -> Result<(), String> {
    match timeout(limit, capture(words, COMPLAINT)).await {
        Ok(Ok((_, true))) => Ok(()),
        Ok(Ok((said, false))) => match String::from_utf8_lossy(&said).trim() {
            "" => Err("the command failed without a message".to_owned()),
            complaint => Err(complaint.to_owned()),
        },
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the command did not end within {} s", limit.as_secs())),
    }
}

/// Returns the output of a command if it exists, succeeds, and ends within the limit.
pub(super) async fn said_by(words: &[String], most: usize, limit: Duration) -> Option<Vec<u8>> {
    let (said, is_content) = timeout(limit, capture(words, most)).await.ok()?.ok()?;
    is_content.then_some(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Vec<String> {
        ["/bin/sh", "-c", text].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn programs_answer_complain_or_are_left() {
        let second = Duration::from_secs(5);
        assert_eq!(run_quietly(&line("true"), second).await, Ok(()));
        assert_eq!(run_quietly(&line("echo no >&2; false"), second).await, Err("no".to_owned()));
        assert!(run_quietly(&line("exit 1"), second).await.is_err_and(|text| !text.is_empty()));
        let hung = run_quietly(&line("sleep 60"), Duration::from_millis(50)).await;
        assert!(hung.is_err());
        assert!(run_quietly(&["/no/such".to_owned()], second).await.is_err());
        assert_eq!(said_by(&line("echo 12345"), 3, second).await.as_deref(), Some(&b"123"[..]));
        assert_eq!(said_by(&line("echo 12345; false"), 3, second).await, None);
    }
}
