//! Compression of backlogs and bulk data: zlib (RFC 1950), in memory, bounded.
//!
//! A compressed message is recognized by its first byte, with which no CBOR message of muster starts.

use std::io::Write;

use flate2::Compression;
use flate2::write::{ZlibDecoder, ZlibEncoder};

/// First byte of a zlib stream with the usual window; in CBOR a text of 24 bytes or more, which no
/// message of muster is.
const ZLIB_FIRST_BYTE: u8 = 0x78;

/// Whether the bytes are compressed.
#[must_use]
pub fn is_compressed(bytes: &[u8]) -> bool {
    bytes.first() == Some(&ZLIB_FIRST_BYTE)
}

/// Compresses the bytes if that is smaller; otherwise returns them unchanged.
#[must_use]
pub fn compress(bytes: Vec<u8>) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    let compressed = encoder.write_all(&bytes).and_then(|()| encoder.finish());
    match compressed {
        Ok(compressed) if compressed.len() < bytes.len() => compressed,
        // Writing to memory does not fail; otherwise the bytes stay as they are.
        _ => bytes,
    }
}

/// Decompresses the bytes; `None` when they are damaged, or would exceed `limit`.
#[must_use]
pub fn decompress(bytes: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut decoder = ZlibDecoder::new(BoundedWriter { bytes: Vec::new(), limit });
    decoder.write_all(bytes).ok()?;
    let whole = decoder.finish().ok()?;
    Some(whole.bytes)
}

/// Accepts a limited number of bytes: a few kilobytes can decompress to gigabytes.
struct BoundedWriter {
    bytes: Vec<u8>,
    limit: usize,
}

impl Write for BoundedWriter {
    fn write(&mut self, more: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + more.len() > self.limit {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressible_bytes_are_compressed_and_decompress_to_the_original() {
        let long = b"cpu ".repeat(1000);
        let small = compress(long.clone());
        assert!(is_compressed(&small) && small.len() < 100, "{}", small.len());
        assert_eq!(decompress(&small, long.len()), Some(long));
        assert_eq!(compress(b"x".to_vec()), b"x");
    }

    #[test]
    fn decompression_bombs_and_broken_bytes_are_rejected() {
        let bomb = compress(vec![0; 10_000_000]);
        assert!(bomb.len() < 20_000);
        assert_eq!(decompress(&bomb, 1_000_000), None);
        let mut cut = compress(b"cpu ".repeat(1000));
        cut.truncate(cut.len() - 6);
        assert_eq!(decompress(&cut, 1_000_000), None);
        assert_eq!(decompress(b"x no zlib", 1_000_000), None);
        assert_eq!(decompress(b"", 1_000_000), None);
    }
}
