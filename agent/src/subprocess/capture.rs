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

/// The reason why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// It failed with this output.
    #[error("{output}")]
    Failed { output: String },
    #[error("the command failed without a message")]
    NoMessage,
    #[error("the command did not end within {} s", .0.as_secs())]
    Timeout(Duration),
    /// It could not be started, or its output could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Runs a command; the error contains its output if it fails.
pub(crate) async fn run_command(argv: &[String], timeout: Duration) -> Result<(), CommandError> {
    let captured = time::timeout(timeout, capture(argv, MAX_ERROR_BYTES)).await;
    let (output, is_success) = captured.map_err(|_| CommandError::Timeout(timeout))??;
    if is_success {
        return Ok(());
    }
    match String::from_utf8_lossy(&output).trim() {
        "" => Err(CommandError::NoMessage),
        output => Err(CommandError::Failed { output: output.to_owned() }),
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
        run_command(&line("true"), second).await.unwrap();
        let failed = run_command(&line("echo no >&2; false"), second).await.unwrap_err();
        assert_eq!(failed.to_string(), "no");
        let silent = run_command(&line("exit 1"), second).await.unwrap_err();
        assert_eq!(silent.to_string(), "the command failed without a message");
        let hung = run_command(&line("sleep 60"), Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(hung.to_string(), "the command did not end within 0 s");
        let missing = run_command(&["/no/such".to_owned()], second).await.unwrap_err();
        assert!(matches!(missing, CommandError::Io(_)), "{missing}");
        assert_eq!(output_of(&line("echo 12345"), 3, second).await.as_deref(), Some(&b"123"[..]));
        assert_eq!(output_of(&line("echo 12345; false"), 3, second).await, None);
    }
}
