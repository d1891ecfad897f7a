//! The names of blobs.

use muster_schemas::wire::OutputStream;
use muster_schemas::{DeviceId, OperationId, ProjectId, SessionId};

/// The folder of the operations of a project, a folder each.
#[must_use]
pub fn operations(project: &ProjectId) -> String {
    format!("{project}/operations")
}

/// What is private of an operation.
#[must_use]
pub fn private(project: &ProjectId, operation: OperationId) -> String {
    format!("{}/{operation}/private", operations(project))
}

/// The folder of one output of a run.
#[must_use]
pub fn output(
    project: &ProjectId,
    operation: OperationId,
    device: DeviceId,
    stream: OutputStream,
) -> String {
    format!("{project}/runs/{operation}/{device}/{}", stream.as_str())
}

/// The folder of the part of an output that is passed on and not kept.
#[must_use]
pub fn live_output(
    project: &ProjectId,
    operation: OperationId,
    device: DeviceId,
    stream: OutputStream,
) -> String {
    format!("{}-live", output(project, operation, device, stream))
}

/// A chunk of a recording: its salt, then its lines.
#[must_use]
pub fn recording(project: &ProjectId, session: SessionId, recording: u32, chunk: u32) -> String {
    format!("{project}/sessions/{session}/{recording:06}-{chunk:06}.cast")
}

/// A piece of an output: where it begins, how many bytes it is, whether it is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where in the output it begins.
    pub offset: u64,
    /// How many bytes of the output it is.
    pub bytes: u64,
    /// Is it compressed by zlib?
    pub compressed: bool,
}

impl Piece {
    /// Where the next piece begins.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.offset + self.bytes
    }

    /// The last part of its name; names sort as the pieces do.
    #[must_use]
    pub fn name(self) -> String {
        let kind = if self.compressed { "zlib" } else { "raw" };
        format!("{:012}-{}.{kind}", self.offset, self.bytes)
    }

    /// Reads the last part of a name; `None` when it is no piece.
    #[must_use]
    pub fn read(name: &str) -> Option<Self> {
        let (numbers, kind) = name.split_once('.')?;
        let (offset, bytes) = numbers.split_once('-')?;
        Some(Self {
            offset: offset.parse().ok()?,
            bytes: bytes.parse().ok()?,
            compressed: match kind {
                "zlib" => true,
                "raw" => false,
                _ => return None,
            },
        })
    }
}

/// The last part of the name of an empty blob: all of an output that is passed on was sent.
pub const ENDED: &str = "ended";

/// The last part of the name of an output's salt.
pub const SALT: &str = "salt";

/// The last part of the name of an empty blob that says how many bytes a file will be.
#[must_use]
pub fn size(bytes: u64) -> String {
    format!("size-{bytes}")
}

/// How many bytes a file will be, by the names in its folder.
#[must_use]
pub fn size_in(names: &[super::Found]) -> Option<u64> {
    names.iter().find_map(|found| found.name.strip_prefix("size-")?.parse().ok())
}

/// The pieces that follow each other without a gap from the beginning on. They may overlap, where
/// something was taken twice or put together; what they hold of the same place is the same.
/// One without bytes is what a power failure has left.
#[must_use]
pub fn whole(names: &[super::Found]) -> Vec<Piece> {
    whole_from(names, 0)
}

/// The same, of an output whose beginning is not in the folder.
#[must_use]
pub fn whole_from(names: &[super::Found], start: u64) -> Vec<Piece> {
    let there = names.iter().filter(|found| found.bytes > 0);
    let mut pieces: Vec<Piece> = there.filter_map(|found| Piece::read(&found.name)).collect();
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
