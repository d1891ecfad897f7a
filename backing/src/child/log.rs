//! A server's own output: one file, bounded in size, and its last lines.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::error::ChildError;

/// Size at which the log is rotated, in bytes.
const ROTATE_AT_BYTES: u64 = 8 << 20;
/// Number of kept rotated logs: `.1` is the newest.
const MAX_ROTATED_LOGS: u32 = 4;
/// Size of the end that is read for error messages, in bytes.
const TAIL_BYTES: u64 = 8 << 10;
const TAIL_LINES: usize = 15;

/// The log file of one server.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    path: PathBuf,
}

impl Log {
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        Self { path: dir.join("logs").join(format!("{name}.log")) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it for a new process; returns the offset at which that process's output starts.
    pub(crate) fn open(&self) -> Result<(File, u64), ChildError> {
        self.open_rotated().map_err(|source| ChildError::File {
            attempt: "open the log",
            path: self.path.clone(),
            source,
        })
    }

    fn open_rotated(&self) -> io::Result<(File, u64)> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        if fs::metadata(&self.path).is_ok_and(|meta| meta.len() > ROTATE_AT_BYTES) {
            self.rotate()?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        let begins = file.metadata()?.len();
        Ok((file, begins))
    }

    /// Rotates a large log while its server is writing. The server keeps the file open, so it is
    /// copied and truncated; data that is written between the two steps is lost.
    pub(crate) fn trim(&self) {
        if let Err(error) = self.copy_and_empty() {
            tracing::warn!(%error, log = %self.path.display(), "failed to rotate a server's log");
        }
    }

    fn copy_and_empty(&self) -> io::Result<()> {
        if fs::metadata(&self.path)?.len() <= ROTATE_AT_BYTES {
            return Ok(());
        }
        self.shift_rotated()?;
        fs::copy(&self.path, self.rotated(1))?;
        OpenOptions::new().write(true).open(&self.path)?.set_len(0)
    }

    fn rotate(&self) -> io::Result<()> {
        self.shift_rotated()?;
        fs::rename(&self.path, self.rotated(1))
    }

    fn shift_rotated(&self) -> io::Result<()> {
        for age in (1..MAX_ROTATED_LOGS).rev() {
            let from = self.rotated(age);
            if from.exists() {
                fs::rename(from, self.rotated(age + 1))?;
            }
        }
        Ok(())
    }

    fn rotated(&self, age: u32) -> PathBuf {
        self.path.with_extension(format!("log.{age}"))
    }

    /// Returns the last lines that were written since `begins`; never fails, because it serves
    /// error messages.
    pub(crate) fn tail(&self, start_offset: u64) -> String {
        let text = self.read_from(start_offset).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.len().saturating_sub(TAIL_LINES);
        match &lines[first..] {
            [] => "(the log is empty)".into(),
            last => last.join("\n"),
        }
    }

    fn read_from(&self, start_offset: u64) -> io::Result<String> {
        let mut file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(start_offset.max(length.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_tail_is_short_and_only_from_this_process() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::new(dir.path(), "server");
        let (mut first, _) = log.open().unwrap();
        writeln!(first, "an earlier process").unwrap();
        let (mut second, begins) = log.open().unwrap();
        assert_eq!(log.tail(begins), "(the log is empty)");
        for line in 0..100 {
            writeln!(second, "line {line}").unwrap();
        }
        let tail = log.tail(begins);
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.ends_with("line 99"));
    }

    #[test]
    fn a_log_is_rotated_while_its_server_keeps_writing() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::new(dir.path(), "server");
        let (mut file, _) = log.open().unwrap();
        file.write_all(b"before").unwrap();
        log.trim();
        assert_eq!(fs::read(log.path()).unwrap(), b"before");
        file.set_len(ROTATE_AT_BYTES + 1).unwrap();
        log.trim();
        file.write_all(b"after").unwrap();
        assert_eq!(fs::read(log.path()).unwrap(), b"after");
        assert!(fs::read(log.rotated(1)).unwrap().starts_with(b"before"));
    }

    #[test]
    fn a_large_log_is_rotated_and_the_oldest_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::new(dir.path(), "server");
        for round in 0..7_u8 {
            let (mut file, begins) = log.open().unwrap();
            assert_eq!(begins, 0);
            file.write_all(&[round]).unwrap();
            file.set_len(ROTATE_AT_BYTES + 1).unwrap();
        }
        let mut ages: Vec<_> = fs::read_dir(dir.path().join("logs"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        ages.sort();
        assert_eq!(
            ages,
            ["server.log", "server.log.1", "server.log.2", "server.log.3", "server.log.4"]
        );
        assert_eq!(fs::read(log.rotated(1)).unwrap()[0], 5);
    }
}
