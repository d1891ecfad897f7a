//! Runs short helper commands of the agent, and captures a bounded amount of their output in
//! memory.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::{self, sleep};

use super::child::{has_ended, pid_of};
use super::group;

/// Interval between checks whether a command has ended: these commands are short.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Maximum size of the error output that is kept, in bytes.
const MAX_ERROR_BYTES: usize = 500;

/// A child process that is killed and reaped when it is dropped.
struct KillOnDrop(std::process::Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let pid = pid_of(self.0.id());
        if !has_ended(pid) {
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
async fn capture(argv: &[String], max_bytes: usize) -> io::Result<(Vec<u8>, bool)> {
    let Some((program, arguments)) = argv.split_first() else {
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
    let mut child = KillOnDrop(child);
    let mut output = Vec::new();
    let mut pipe = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    let mut buffer = vec![0; 8 * 1024];
    loop {
        let count = pipe.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        let fitting = count.min(max_bytes - output.len());
        output.extend_from_slice(&buffer[..fitting]);
    }
    loop {
        if let Some(status) = child.0.try_wait()? {
            return Ok((output, status.success()));
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Runs a command; returns its output as the error if it fails.
pub(crate) async fn run_command(argv: &[String], timeout: Duration) -> Result<(), String> {
    match time::timeout(timeout, capture(argv, MAX_ERROR_BYTES)).await {
        Ok(Ok((_, true))) => Ok(()),
        Ok(Ok((output, false))) => match String::from_utf8_lossy(&output).trim() {
            "" => Err("the command failed without a message".to_owned()),
            complaint => Err(complaint.to_owned()),
        },
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the command did not end within {} s", timeout.as_secs())),
    }
}

/// Returns the output of a command if it exists, succeeds, and ends within the limit.
pub(crate) async fn output_of(
    argv: &[String],
    max_bytes: usize,
    timeout: Duration,
) -> Option<Vec<u8>> {
    let (output, is_content) = time::timeout(timeout, capture(argv, max_bytes)).await.ok()?.ok()?;
    is_content.then_some(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Vec<String> {
        ["/bin/sh", "-c", text].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn commands_succeed_fail_or_time_out() {
        let second = Duration::from_secs(5);
        assert_eq!(run_command(&line("true"), second).await, Ok(()));
        assert_eq!(run_command(&line("echo no >&2; false"), second).await, Err("no".to_owned()));
        assert!(run_command(&line("exit 1"), second).await.is_err_and(|text| !text.is_empty()));
        let hung = run_command(&line("sleep 60"), Duration::from_millis(50)).await;
        assert!(hung.is_err());
        assert!(run_command(&["/no/such".to_owned()], second).await.is_err());
        assert_eq!(output_of(&line("echo 12345"), 3, second).await.as_deref(), Some(&b"123"[..]));
        assert_eq!(output_of(&line("echo 12345; false"), 3, second).await, None);
    }
}
