//! Copies a file block by block, and compares each block with the content of the other side's disk.
//! An earlier partial copy is compared first and kept.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::{Context, anyhow};
use futures::{StreamExt, TryStreamExt};
use muster_schemas::wire::MAX_SFTP_IO_BYTES;
use russh_sftp::protocol::FileAttributes;
use sha2::{Digest, Sha256};

use super::link::{CopyError, Session};
use super::progress::Progress;
use super::rate_limit::RateLimit;

/// Size of a compared block, in bytes; the device hashes at most 64 MiB.
const BLOCK_BYTES: u64 = 16 << 20;
/// Maximum number of requests in flight: 2 MiB.
const MAX_REQUESTS_IN_FLIGHT: usize = 16;
/// Maximum number of attempts to copy a block until both sides are equal.
const MAX_ATTEMPTS: u32 = 3;

/// A file that is open on both sides.
pub(super) struct FilePair<'a> {
    pub(super) session: &'a Session,
    /// Handle of the file on the device.
    pub(super) handle: &'a str,
    /// The file on this machine.
    pub(super) file: &'a File,
    pub(super) size: u64,
    pub(super) rate_limit: &'a RateLimit,
    pub(super) counted: CountedBytes,
}

/// Bytes of a file that were counted as copied; subtracted again if the copy fails.
pub(super) struct CountedBytes {
    progress: Progress,
    bytes: u64,
    pub(super) is_complete: bool,
}

impl CountedBytes {
    pub(super) fn new(progress: &Progress) -> Self {
        Self { progress: progress.clone(), bytes: 0, is_complete: false }
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.progress.add(bytes);
    }

    fn subtract(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.progress.subtract(bytes);
    }
}

impl Drop for CountedBytes {
    fn drop(&mut self) {
        if !self.is_complete {
            self.progress.subtract(self.bytes);
        }
    }
}

/// Direction of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// To the device.
    Send,
    /// From the device.
    Fetch,
}

/// Part of a file: offset and length in bytes.
type Part = (u64, u32);

/// A block, and the hash of its content on this side.
struct Block {
    from: u64,
    to: u64,
    hash: [u8; 32],
}

/// Whether the device's block equals this side's.
async fn is_equal_on_device(
    session: &Session,
    handle: &str,
    block: &Block,
) -> Result<bool, CopyError> {
    let length = block.to - block.from;
    let (bytes, theirs) = session.hash(handle, block.from, length).await?;
    Ok(bytes == length && theirs == block.hash)
}

/// Splits a range into the parts that are requested.
fn parts(from: u64, to: u64) -> impl Iterator<Item = Part> {
    let step = u64::from(MAX_SFTP_IO_BYTES);
    (0..(to - from).div_ceil(step)).map(move |index| {
        let at = from + index * step;
        (at, u32::try_from(step.min(to - at)).unwrap_or(MAX_SFTP_IO_BYTES))
    })
}

fn hash(file: &File, from: u64, to: u64) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; MAX_SFTP_IO_BYTES as usize];
    for (at, length) in parts(from, to) {
        file.read_exact_at(&mut buffer[..length as usize], at)?;
        hasher.update(&buffer[..length as usize]);
    }
    Ok(hasher.finalize().into())
}

impl FilePair<'_> {
    /// Returns how many of the first `there` bytes of the target equal the source.
    ///
    /// # Errors
    /// When one of the sides cannot be read.
    pub(super) async fn equal_prefix(&mut self, there: u64) -> Result<u64, CopyError> {
        let there = there.min(self.size);
        let mut at = 0;
        while at < there {
            let end = there.min(at + BLOCK_BYTES);
            let ours = hash(self.file, at, end).context("failed to read the local file")?;
            let block = Block { from: at, to: end, hash: ours };
            if !is_equal_on_device(self.session, self.handle, &block).await? {
                break;
            }
            self.counted.add(end - at);
            at = end;
        }
        Ok(at)
    }

    /// Copies the remainder. Returns the number of transferred bytes.
    ///
    /// While a block is in flight, the previous one is compared.
    ///
    /// # Errors
    /// When one of the sides fails, or a block still differs after the last attempt.
    pub(super) async fn copy(
        &mut self,
        mut at: u64,
        direction: Direction,
    ) -> Result<u64, CopyError> {
        let (session, handle) = (self.session, self.handle);
        let mut moved = 0;
        let mut tries = 0;
        let mut before: Option<Block> = None;
        while at < self.size || before.is_some() {
            let end = self.size.min(at + BLOCK_BYTES);
            let compared = async {
                match &before {
                    Some(block) => is_equal_on_device(session, handle, block).await,
                    None => Ok(true),
                }
            };
            let copied = async {
                Ok(match direction {
                    _ if at == end => None,
                    Direction::Send => Some(self.send(at, end).await?),
                    Direction::Fetch => Some(self.fetch(at, end).await?),
                })
            };
            // In this order: the device must compare before it writes the next block.
            let (is_there, hash) = tokio::try_join!(biased; compared, copied)?;
            moved += end - at;
            let start = before.as_ref().map_or(at, |block| block.from);
            if is_there {
                if before.is_some() {
                    tries = 0;
                }
                before = hash.map(|hash| Block { from: at, to: end, hash });
                at = end;
                continue;
            }
            // Repeat both blocks, after the target was truncated.
            match direction {
                Direction::Send => self.resize_remote(start).await?,
                Direction::Fetch => {
                    self.file.set_len(start).context("failed to write the local file")?;
                }
            }
            self.counted.subtract(end - start);
            (at, before) = (start, None);
            tries += 1;
            if tries >= MAX_ATTEMPTS {
                return Err(
                    anyhow!("the file changes while it is copied, or the disk is damaged").into()
                );
            }
        }
        Ok(moved)
    }

    /// Truncates or extends the file on the device to this size; an extension is a hole.
    pub(super) async fn resize_remote(&self, size: u64) -> Result<(), CopyError> {
        let attrs = FileAttributes { size: Some(size), ..FileAttributes::empty() };
        let cut = self.session.sftp.fsetstat(self.handle, attrs);
        self.session.require("failed to write", cut).await.map(drop)
    }

    /// Sends a block at the end of the file: zeros are skipped, and become holes.
    async fn send(&mut self, from: u64, to: u64) -> Result<[u8; 32], CopyError> {
        let (session, handle, file, pace) = (self.session, self.handle, self.file, self.rate_limit);
        let mut hasher = Sha256::new();
        let mut written = futures::stream::iter(parts(from, to))
            .map(|(at, length)| {
                let mut bytes = vec![0; length as usize];
                let read =
                    file.read_exact_at(&mut bytes, at).context("failed to read the local file");
                if read.is_ok() {
                    hasher.update(&bytes);
                }
                async move {
                    read?;
                    if is_hole(&bytes) {
                        return Ok(length);
                    }
                    pace.wait(bytes.len()).await;
                    session.write(handle, at, bytes).await?;
                    Ok::<_, CopyError>(length)
                }
            })
            .buffered(MAX_REQUESTS_IN_FLIGHT);
        while let Some(length) = written.try_next().await? {
            self.counted.add(length.into());
        }
        drop(written);
        self.resize_remote(to).await?;
        Ok(hasher.finalize().into())
    }

    async fn fetch(&mut self, from: u64, to: u64) -> Result<[u8; 32], CopyError> {
        let (session, handle, pace) = (self.session, self.handle, self.rate_limit);
        let mut hasher = Sha256::new();
        let mut read = futures::stream::iter(parts(from, to))
            .map(async |(at, length)| {
                pace.wait(length as usize).await;
                Ok::<_, CopyError>((at, length, read_all(session, handle, at, length).await?))
            })
            .buffered(MAX_REQUESTS_IN_FLIGHT);
        while let Some((at, length, bytes)) = read.try_next().await? {
            if bytes.len() < length as usize {
                return Err(anyhow!("the file became shorter while it was copied").into());
            }
            // The target ends here, so skipped bytes become a hole.
            if !is_hole(&bytes) {
                self.file.write_all_at(&bytes, at).context("failed to write the local file")?;
            }
            hasher.update(&bytes);
            self.counted.add(length.into());
        }
        drop(read);
        self.file.set_len(to).context("failed to write the local file")?;
        Ok(hasher.finalize().into())
    }

    /// Copies a file that reports size 0, as those of `/proc` do, to its end. Nothing is compared,
    /// because the content may differ at each read.
    ///
    /// # Errors
    /// When one of the sides fails.
    pub(super) async fn fetch_to_end(&mut self) -> Result<u64, CopyError> {
        let mut at = 0;
        loop {
            let bytes = self.session.read(self.handle, at, MAX_SFTP_IO_BYTES).await?;
            if bytes.is_empty() {
                return Ok(at);
            }
            self.rate_limit.wait(bytes.len()).await;
            self.file.write_all_at(&bytes, at).context("failed to write the local file")?;
            at += bytes.len() as u64;
        }
    }
}

fn is_hole(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Returns all bytes of a part, or those up to the end of the file.
async fn read_all(
    session: &Session,
    handle: &str,
    at: u64,
    length: u32,
) -> Result<Vec<u8>, CopyError> {
    let mut bytes = session.read(handle, at, length).await?;
    while bytes.len() < length as usize {
        let done = bytes.len() as u64;
        let rest = u32::try_from(u64::from(length) - done).unwrap_or(length);
        let more = session.read(handle, at + done, rest).await?;
        if more.is_empty() {
            break;
        }
        bytes.extend(more);
    }
    Ok(bytes)
}
