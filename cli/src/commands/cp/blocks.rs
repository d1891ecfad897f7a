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

use super::link::{Session, Trouble};
use super::pace::Pace;
use super::progress::Progress;

/// Size of a compared block, in bytes; the device hashes at most 64 MiB.
const BLOCK: u64 = 16 << 20;
/// Maximum number of requests in flight: 2 MiB.
const AHEAD: usize = 16;
/// Maximum number of attempts to copy a block until both sides are equal.
const TRIES: u32 = 3;

/// A file that is open on both sides.
pub(super) struct Both<'a> {
    pub(super) session: &'a Session,
    /// Handle of the file on the device.
    pub(super) handle: &'a str,
    /// The file on this machine.
    pub(super) file: &'a File,
    pub(super) size: u64,
    pub(super) pace: &'a Pace,
    pub(super) counted: Counted,
}

/// Bytes of a file that were counted as copied; subtracted again if the copy fails.
pub(super) struct Counted {
    progress: Progress,
    bytes: u64,
    pub(super) is_whole: bool,
}

impl Counted {
    pub(super) fn new(progress: &Progress) -> Self {
        Self { progress: progress.clone(), bytes: 0, is_whole: false }
    }

    pub(super) fn step(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.progress.step(bytes);
    }

    fn back(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.progress.back(bytes);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if !self.is_whole {
            self.progress.back(self.bytes);
        }
    }
}

/// Direction of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
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
async fn is_there(session: &Session, handle: &str, block: &Block) -> Result<bool, Trouble> {
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

impl Both<'_> {
    /// Returns how many of the first `there` bytes of the target equal the source.
    ///
    /// # Errors
    /// When one of the sides cannot be read.
    pub(super) async fn kept(&mut self, there: u64) -> Result<u64, Trouble> {
        let there = there.min(self.size);
        let mut at = 0;
        while at < there {
            let end = there.min(at + BLOCK);
            let ours = hash(self.file, at, end).context("failed to read the local file")?;
            let block = Block { from: at, to: end, hash: ours };
            if !is_there(self.session, self.handle, &block).await? {
                break;
            }
            self.counted.step(end - at);
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
    pub(super) async fn copy(&mut self, mut at: u64, way: Way) -> Result<u64, Trouble> {
        let (session, handle) = (self.session, self.handle);
        let mut moved = 0;
        let mut tries = 0;
        let mut before: Option<Block> = None;
        while at < self.size || before.is_some() {
            let end = self.size.min(at + BLOCK);
            let compared = async {
                match &before {
                    Some(block) => is_there(session, handle, block).await,
                    None => Ok(true),
                }
            };
            let copied = async {
                Ok(match way {
                    _ if at == end => None,
                    Way::Send => Some(self.send(at, end).await?),
                    Way::Fetch => Some(self.fetch(at, end).await?),
                })
            };
            // In this order: the device must compare before it writes the next block.
            let (is_there, hash) = tokio::try_join!(biased; compared, copied)?;
            moved += end - at;
            let began = before.as_ref().map_or(at, |block| block.from);
            if is_there {
                if before.is_some() {
                    tries = 0;
                }
                before = hash.map(|hash| Block { from: at, to: end, hash });
                at = end;
                continue;
            }
            // Repeat both blocks, after the target was truncated.
            match way {
                Way::Send => self.cut_there(began).await?,
                Way::Fetch => self.file.set_len(began).context("failed to write the local file")?,
            }
            self.counted.back(end - began);
            (at, before) = (began, None);
            tries += 1;
            if tries >= TRIES {
                return Err(
                    anyhow!("the file changes while it is copied, or the disk is damaged").into()
                );
            }
        }
        Ok(moved)
    }

    /// Truncates or extends the file on the device to this size; an extension is a hole.
    pub(super) async fn cut_there(&self, size: u64) -> Result<(), Trouble> {
        let attrs = FileAttributes { size: Some(size), ..FileAttributes::empty() };
        let cut = self.session.sftp.fsetstat(self.handle, attrs);
        self.session.need("failed to write", cut).await.map(drop)
    }

    /// Sends a block at the end of the file: zeros are skipped, and become holes.
    async fn send(&mut self, from: u64, to: u64) -> Result<[u8; 32], Trouble> {
        let (session, handle, file, pace) = (self.session, self.handle, self.file, self.pace);
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
                    pace.take(bytes.len()).await;
                    session.write(handle, at, bytes).await?;
                    Ok::<_, Trouble>(length)
                }
            })
            .buffered(AHEAD);
        while let Some(length) = written.try_next().await? {
            self.counted.step(length.into());
        }
        drop(written);
        self.cut_there(to).await?;
        Ok(hasher.finalize().into())
    }

    async fn fetch(&mut self, from: u64, to: u64) -> Result<[u8; 32], Trouble> {
        let (session, handle, pace) = (self.session, self.handle, self.pace);
        let mut hasher = Sha256::new();
        let mut read = futures::stream::iter(parts(from, to))
            .map(async |(at, length)| {
                pace.take(length as usize).await;
                Ok::<_, Trouble>((at, length, whole(session, handle, at, length).await?))
            })
            .buffered(AHEAD);
        while let Some((at, length, bytes)) = read.try_next().await? {
            if bytes.len() < length as usize {
                return Err(anyhow!("the file became shorter while it was copied").into());
            }
            // The target ends here, so skipped bytes become a hole.
            if !is_hole(&bytes) {
                self.file.write_all_at(&bytes, at).context("failed to write the local file")?;
            }
            hasher.update(&bytes);
            self.counted.step(length.into());
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
    pub(super) async fn fetch_to_end(&mut self) -> Result<u64, Trouble> {
        let mut at = 0;
        loop {
            let bytes = self.session.read(self.handle, at, MAX_SFTP_IO_BYTES).await?;
            if bytes.is_empty() {
                return Ok(at);
            }
            self.pace.take(bytes.len()).await;
            self.file.write_all_at(&bytes, at).context("failed to write the local file")?;
            at += bytes.len() as u64;
        }
    }
}

fn is_hole(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Returns all bytes of a part, or those up to the end of the file.
async fn whole(session: &Session, handle: &str, at: u64, length: u32) -> Result<Vec<u8>, Trouble> {
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
