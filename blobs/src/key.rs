//! The names of blobs.

use muster_schemas::wire::OutputStream;
use muster_schemas::{DeviceId, OperationId, ProjectId, SessionId};

/// Returns the folder of a project's operations; each operation has a folder in it.
#[must_use]
pub fn operations(project: &ProjectId) -> String {
    format!("{project}/operations")
}

/// Returns the name of an operation's private input.
#[must_use]
pub fn private(project: &ProjectId, operation: OperationId) -> String {
    format!("{}/{operation}/private", operations(project))
}

/// Returns the folder of one output of a run.
#[must_use]
pub fn output(
    project: &ProjectId,
    operation: OperationId,
    device: DeviceId,
    stream: OutputStream,
) -> String {
    format!("{project}/runs/{operation}/{device}/{}", stream.as_str())
}

/// Returns the folder of the part of an output that is relayed and not kept.
#[must_use]
pub fn live_output(
    project: &ProjectId,
    operation: OperationId,
    device: DeviceId,
    stream: OutputStream,
) -> String {
    format!("{}-live", output(project, operation, device, stream))
}

/// Returns the name of a chunk of a recording: its salt, then its lines.
#[must_use]
pub fn recording(project: &ProjectId, session: SessionId, recording: u32, chunk: u32) -> String {
    format!("{project}/sessions/{session}/{recording:06}-{chunk:06}.cast")
}

/// A piece of an output: its offset, its length, and whether it is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Offset of the piece in the output, in bytes.
    pub offset: u64,
    /// Length of the piece in the output, in bytes.
    pub bytes: u64,
    /// Whether it is compressed with zlib.
    pub is_compressed: bool,
}

impl Piece {
    /// Returns the offset of the next piece.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.offset + self.bytes
    }

    /// Returns the last part of its name; names sort in the order of the pieces.
    #[must_use]
    pub fn name(self) -> String {
        let kind = if self.is_compressed { "zlib" } else { "raw" };
        format!("{:012}-{}.{kind}", self.offset, self.bytes)
    }

    /// Parses the last part of a name; `None` when it is not a piece.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (numbers, kind) = name.split_once('.')?;
        let (offset, bytes) = numbers.split_once('-')?;
        Some(Self {
            offset: offset.parse().ok()?,
            bytes: bytes.parse().ok()?,
            is_compressed: match kind {
                "zlib" => true,
                "raw" => false,
                _ => return None,
            },
        })
    }
}

/// The last part of the name of an empty blob: the whole relayed output was sent.
pub const ENDED: &str = "ended";

/// The last part of the name of an output's salt.
pub const SALT: &str = "salt";

/// Returns the last part of the name of an empty blob: its name has the final size of a file, in
/// bytes.
#[must_use]
pub fn size(bytes: u64) -> String {
    format!("size-{bytes}")
}

/// Returns the final size of a file, in bytes, from the names in its folder.
#[must_use]
pub fn size_in(names: &[crate::BlobEntry]) -> Option<u64> {
    names.iter().find_map(|found| found.name.strip_prefix("size-")?.parse().ok())
}

/// Selects the pieces that follow each other without a gap from the start. They may overlap where
/// bytes were received twice or pieces were merged; overlapping bytes are identical. A piece
/// without bytes was left by a power failure.
#[must_use]
pub fn contiguous(names: &[crate::BlobEntry]) -> Vec<Piece> {
    contiguous_from(names, 0)
}

/// Like [`contiguous`], for an output whose start is not in the folder.
#[must_use]
pub fn contiguous_from(names: &[crate::BlobEntry], start: u64) -> Vec<Piece> {
    let there = names.iter().filter(|found| found.bytes > 0);
    let mut pieces: Vec<Piece> = there.filter_map(|found| Piece::parse(&found.name)).collect();
    pieces.sort_by_key(|piece| (piece.offset, std::cmp::Reverse(piece.bytes)));
    let mut end = start;
    pieces.retain(|piece| {
        let goes_on = piece.offset <= end && piece.end() > end;
        if goes_on {
            end = piece.end();
        }
        goes_on
    });
    pieces
}
