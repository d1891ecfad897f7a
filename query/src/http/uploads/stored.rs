//! A response with a stored file, piece by piece, verified against the hash that the device has
//! signed.
//!
//! One piece is in memory, for any size of the file. The last piece is held back until the hash of
//! the whole file is verified: the response with a damaged file is aborted.

use std::io;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use muster_api::Problem;
use muster_api::problem::Kind;
use muster_api_types::uploads::UploadStatus;
use muster_blobs::Blobs;
use muster_blobs::key::{self, Piece};
use muster_schemas::errors::error_chain;
use muster_schemas::events::FileSummary;
use muster_schemas::wire::{MAX_FILE_PIECE_BYTES, OutputStream};
use muster_schemas::{Hash, ProjectId, compress};
use sha2::{Digest, Sha256};

use super::list::UploadRow;
use super::range::{Part, Selected, selected};
use super::view::status_of;
use crate::http::sessions::blob_problem;
use crate::live_streams::{Holder, LiveStream};
use crate::state::QueryState;

/// Reads a stored file.
struct Reader {
    blobs: Blobs,
    folder: String,
    /// Pieces that are not read yet, the last one first.
    pieces: Vec<Piece>,
    file: FileSummary,
    hasher: Sha256,
    /// Offset up to which the file was read.
    offset: u64,
    part: Part,
    _slot: LiveStream,
}

/// Responds with a stored file, or the part of it that the request's headers select.
pub(super) async fn respond(
    state: &QueryState,
    project: &ProjectId,
    upload: UploadRow,
    holder: Holder,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let (operation, device) = upload.key;
    match status_of(&upload.run) {
        UploadStatus::Stored => {}
        UploadStatus::Erased => {
            return Err(Problem::new(Kind::Gone, "the file was erased"));
        }
        other => {
            let message = format!("the file is not stored; its upload is {}", other.as_str());
            return Err(Problem::conflict(message));
        }
    }
    let file = upload.run.report.and_then(|report| report.file);
    let file = file.ok_or_else(|| Problem::not_found("the upload has no file"))?;
    let slot = state.streams.acquire(holder)?;
    let damaged = |what: String| {
        let message = format!(
            "{what} of upload {operation} of device {device} is missing: the blob store was \
             modified"
        );
        Problem::new(Kind::Gone, message)
    };
    let folder = key::output(project, operation, device, OutputStream::File);
    let names = state.blobs.list(&folder).await.map_err(|error| blob_problem(&error))?;
    let mut pieces = key::contiguous(&names);
    let end = pieces.last().map_or(0, |piece| piece.end());
    if end < file.bytes {
        return Err(damaged(format!("the part after byte {end}")));
    }
    let salt = state.blobs.get(&format!("{folder}/{}", key::SALT)).await;
    let salt = salt.map_err(|error| blob_problem(&error))?;
    let salt = salt.ok_or_else(|| damaged("the salt".to_owned()))?;
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let tag = tag(&file);
    let (part, is_part) =
        match selected(text(header::RANGE), text(header::IF_RANGE), &tag, file.bytes) {
            Selected::Whole => (Part { from: 0, to: file.bytes }, false),
            Selected::Part(part) => (part, true),
            Selected::Nothing => return Ok(unsatisfiable(file.bytes)),
        };
    if part.to < file.bytes {
        // The file is not read completely, so its hash cannot be verified.
        pieces.retain(|piece| piece.end() > part.from && piece.offset < part.to);
    }
    let mut response = response_without_body(&file, &tag, part, is_part);
    let reader = Reader {
        blobs: state.blobs.clone(),
        folder,
        offset: pieces.first().map_or(0, |piece| piece.offset),
        pieces: pieces.into_iter().rev().collect(),
        file,
        hasher: Sha256::new_with_prefix(&salt),
        part,
        _slot: slot,
    };
    *response.body_mut() =
        Body::from_stream(futures::stream::try_unfold(reader, |mut reader| async move {
            Ok::<_, io::Error>(reader.next().await?.map(|bytes| (bytes, reader)))
        }));
    Ok(response)
}

/// Returns the entity tag of a file: its salted hash.
fn tag(file: &FileSummary) -> String {
    format!("\"{}\"", file.hash)
}

/// Returns the response to a request for a part that the file does not have.
fn unsatisfiable(bytes: u64) -> Response {
    let detail = format!("the file has {bytes} bytes, and not the requested part");
    let mut response = Problem::new(Kind::RangeNotSatisfiable, detail).into_response();
    if let Ok(range) = HeaderValue::try_from(format!("bytes */{bytes}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, range);
    }
    response
}

/// Creates the response without its body.
fn response_without_body(file: &FileSummary, tag: &str, part: Part, is_part: bool) -> Response {
    let mut headers = HeaderMap::new();
    let mut set = |name, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    };
    set(header::CONTENT_TYPE, "application/octet-stream".to_owned());
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned());
    set(header::ACCEPT_RANGES, "bytes".to_owned());
    set(header::ETAG, tag.to_owned());
    set(header::CACHE_CONTROL, "private, no-store".to_owned());
    set(header::CONTENT_LENGTH, (part.to - part.from).to_string());
    set(header::CONTENT_DISPOSITION, disposition(&file.name));
    if is_part {
        let last = part.to.saturating_sub(1);
        set(header::CONTENT_RANGE, format!("bytes {}-{last}/{}", part.from, file.bytes));
    }
    let status = if is_part { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    (status, headers).into_response()
}

/// Formats a file's name for a header (RFC 6266): in ASCII, and completely in UTF-8.
fn disposition(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_. ".contains(c);
    let plain: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    let mut whole = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            whole.push(char::from(byte));
        } else {
            whole.push_str(&format!("%{byte:02X}"));
        }
    }
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{whole}")
}

impl Reader {
    /// Returns the next bytes of the part; `None` at its end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        while let Some(piece) = self.pieces.pop() {
            if piece.offset >= self.part.to {
                return Ok(None);
            }
            let bytes = self.read(piece).await.map_err(|problem| {
                tracing::error!(folder = self.folder, problem, "failed to read a stored file");
                io::Error::other(problem)
            })?;
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Reads a piece and returns its bytes in the part.
    async fn read(&mut self, piece: Piece) -> Result<Bytes, String> {
        let name = format!("{}/{}", self.folder, piece.name());
        let found = self.blobs.get(&name).await.map_err(|error| error_chain(&error))?;
        let bytes = found.ok_or_else(|| format!("{name} is missing"))?;
        let bytes = if piece.is_compressed {
            let whole = compress::decompress(&bytes, MAX_FILE_PIECE_BYTES);
            Bytes::from(whole.ok_or_else(|| format!("{name} is damaged"))?)
        } else {
            bytes
        };
        if bytes.len() as u64 != piece.bytes {
            return Err(format!("{name} is {} bytes", bytes.len()));
        }
        // Bytes that the previous piece has, too.
        let skipped = self.offset.saturating_sub(piece.offset).min(piece.bytes);
        let bytes = bytes.slice(usize::try_from(skipped).unwrap_or(usize::MAX)..);
        let length = bytes.len() as u64;
        let position_of = |at: u64| {
            let within = at.saturating_sub(self.offset).min(length);
            usize::try_from(within).unwrap_or(usize::MAX)
        };
        let (ends, from, to) =
            (position_of(self.file.bytes), position_of(self.part.from), position_of(self.part.to));
        let is_all = self.part.to == self.file.bytes;
        if is_all {
            self.hasher.update(bytes.get(..ends).unwrap_or_default());
        }
        self.offset = piece.end();
        if is_all && self.offset >= self.file.bytes {
            let hash = Hash(self.hasher.clone().finalize().into());
            if hash != self.file.hash {
                return Err(format!(
                    "the content of {} does not match the file's hash",
                    self.folder
                ));
            }
        }
        Ok(bytes.slice(from.min(to)..to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_escaped_in_headers() {
        let shown = disposition("a \"b\"\r\nX: ü/.log");
        assert_eq!(
            shown,
            "attachment; filename=\"a _b___X_ __.log\"; \
             filename*=UTF-8''a%20%22b%22%0D%0AX%3A%20%C3%BC%2F.log"
        );
    }
}
