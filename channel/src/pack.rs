//! Compression of data that becomes smaller: LZ4 blocks. Text of a terminal or a log takes a third of
//! the bytes, and less CPU than to encrypt and carry it uncompressed.

use bytes::Bytes;

use crate::MAX_CHUNK_BYTES;

/// Minimum size to compress, in bytes: keystrokes and their echo, including passwords, stay as they are.
const MIN_COMPRESS_BYTES: usize = 1024;
/// Number of frames that are not compressed after data that did not become smaller: the stream is
/// compressed already, or encrypted.
const SKIPPED_FRAMES: u32 = 31;
/// Size of the length prefix, in bytes.
const LENGTH_PREFIX_BYTES: usize = 4;

/// Compresses the data of one side.
#[derive(Debug, Default)]
pub(crate) struct Packer {
    frames_to_skip: u32,
}

impl Packer {
    /// The compressed data, if it is smaller by an eighth.
    pub(crate) fn pack(&mut self, data: &[u8]) -> Option<Vec<u8>> {
        if data.len() < MIN_COMPRESS_BYTES {
            return None;
        }
        if self.frames_to_skip > 0 {
            self.frames_to_skip -= 1;
            return None;
        }
        let packed = lz4_flex::block::compress(data);
        if packed.len() + LENGTH_PREFIX_BYTES > data.len() - data.len() / 8 {
            self.frames_to_skip = SKIPPED_FRAMES;
            return None;
        }
        let size = u32::try_from(data.len()).ok()?;
        Some([&size.to_be_bytes(), packed.as_slice()].concat())
    }
}

/// The uncompressed data; `None` when it is damaged, or larger than a frame.
pub(crate) fn unpack(packed: &[u8]) -> Option<Bytes> {
    let (size, packed) = packed.split_first_chunk::<LENGTH_PREFIX_BYTES>()?;
    let size = usize::try_from(u32::from_be_bytes(*size)).ok()?;
    if !(1..=MAX_CHUNK_BYTES).contains(&size) {
        return None;
    }
    let data = lz4_flex::block::decompress(packed, size).ok()?;
    (data.len() == size).then(|| data.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn after_incompressible_data_compression_is_skipped_for_a_while() {
        let text = b"2026-11-25 INFO the device is connected\r\n".repeat(400);
        let mut seed = 1_u32;
        let noise: Vec<u8> = (0..4096)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                seed.to_be_bytes()[0]
            })
            .collect();
        let mut packer = Packer::default();
        let packed = packer.pack(&text).unwrap();
        assert!(packed.len() < text.len() / 10, "{}", packed.len());
        assert_eq!(unpack(&packed).as_deref(), Some(&text[..]));
        assert_eq!(packer.pack(&text[..100]), None, "too little");
        assert_eq!(packer.pack(&noise), None);
        for _ in 0..SKIPPED_FRAMES {
            assert_eq!(packer.pack(&text), None);
        }
        assert!(packer.pack(&text).is_some());
    }

    #[test]
    fn a_decompression_bomb_is_rejected() {
        let bomb = lz4_flex::block::compress(&vec![0; MAX_CHUNK_BYTES + 1]);
        for size in [MAX_CHUNK_BYTES + 1, MAX_CHUNK_BYTES, 10, 0] {
            let size = u32::try_from(size).unwrap().to_be_bytes();
            assert_eq!(unpack(&[&size, bomb.as_slice()].concat()), None);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_input_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack(&bytes);
        }
    }
}
