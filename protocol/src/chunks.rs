//! Blobs in chunks: lists of chunk digests, the bitmap of what is here, and the check of every chunk on arrival.
//!
//! A blob is cut into chunks of [`CHUNK_BYTES`]; its list is a blob of its own, named by digest and length in the signed
//! `DesiredState`. A blob of one chunk needs no list: its digest is the chunk's.

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::ids::{Digest, Hasher};

/// 64 KiB.
pub const CHUNK_BYTES: u32 = 64 * 1024;
/// Longest blob that a list can describe: 16 GiB.
pub const MAX_CHUNKS: u32 = 262_144;

/// A blob's name: digest and length of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlobRef {
    pub sha256: Digest,
    /// Bytes.
    pub length: u64,
}

impl BlobRef {
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            sha256: Digest::of(bytes),
            length: bytes.len() as u64,
        }
    }

    /// How many chunks the blob has. An empty blob has none.
    pub fn chunk_count(&self) -> Result<u32, ChunkError> {
        let count = self.length.div_ceil(u64::from(CHUNK_BYTES));
        match u32::try_from(count) {
            Ok(count) if count <= MAX_CHUNKS => Ok(count),
            _ => Err(ChunkError::TooLong(self.length)),
        }
    }

    /// Length in bytes of chunk `index`.
    pub fn chunk_length(&self, index: u32) -> Option<u32> {
        let start = u64::from(index) * u64::from(CHUNK_BYTES);
        if start >= self.length {
            return None;
        }
        u32::try_from((self.length - start).min(u64::from(CHUNK_BYTES))).ok()
    }
}

/// Why a list or a chunk is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    #[error("a blob of {0} bytes is longer than a chunk list can describe")]
    TooLong(u64),
    #[error("the chunk list cannot be read: {0}")]
    List(#[from] CodecError),
    #[error(
        "the chunk list is for {found_length} bytes with digest {found}, not for {expected_length} bytes with digest {expected}"
    )]
    OtherBlob {
        expected: Digest,
        expected_length: u64,
        found: Digest,
        found_length: u64,
    },
    #[error("the chunk list has {found} digests where {expected} are needed")]
    Count { expected: u32, found: usize },
    #[error("the blob has no chunk {0}")]
    NoSuchChunk(u32),
    #[error("chunk {index} has {found} bytes where {expected} are needed")]
    Length { index: u32, expected: u32, found: usize },
    #[error("chunk {index} does not have its signed digest")]
    Digest { index: u32 },
}

/// The digests of a blob's chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkList {
    pub blob: BlobRef,
    /// 32 bytes per chunk, one after the other.
    #[serde(with = "serde_bytes")]
    digests: Vec<u8>,
}

impl ChunkList {
    /// The list of a blob held in memory.
    pub fn of(bytes: &[u8]) -> Result<Self, ChunkError> {
        let mut builder = ChunkListBuilder::default();
        builder.update(bytes);
        builder.finish()
    }

    /// Reads a list and checks that it is the one of `blob`.
    pub fn decode(bytes: &[u8], blob: &BlobRef) -> Result<Self, ChunkError> {
        let expected = blob.chunk_count()?;
        let cap = (expected as usize).saturating_mul(32).saturating_add(256);
        let list: Self = codec::from_slice(bytes, cap)?;
        if list.blob != *blob {
            return Err(ChunkError::OtherBlob {
                expected: blob.sha256,
                expected_length: blob.length,
                found: list.blob.sha256,
                found_length: list.blob.length,
            });
        }
        if list.digests.len() != expected as usize * 32 {
            return Err(ChunkError::Count {
                expected,
                found: list.digests.len() / 32,
            });
        }
        Ok(list)
    }

    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::to_vec(self)
    }

    pub fn digest(&self, index: u32) -> Option<Digest> {
        let start = (index as usize).checked_mul(32)?;
        let bytes = self.digests.get(start..start.checked_add(32)?)?;
        Some(Digest(bytes.try_into().ok()?))
    }

    /// Checks one chunk as it arrives: its index, its length, its digest.
    pub fn check(&self, index: u32, bytes: &[u8]) -> Result<(), ChunkError> {
        let expected = self.blob.chunk_length(index).ok_or(ChunkError::NoSuchChunk(index))?;
        if bytes.len() != expected as usize {
            return Err(ChunkError::Length {
                index,
                expected,
                found: bytes.len(),
            });
        }
        if self.digest(index) != Some(Digest::of(bytes)) {
            return Err(ChunkError::Digest { index });
        }
        Ok(())
    }
}

/// Makes a chunk list from a stream, in bounded memory.
#[derive(Debug, Default)]
pub struct ChunkListBuilder {
    whole: Hasher,
    chunk: Hasher,
    digests: Vec<u8>,
}

impl ChunkListBuilder {
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.whole.update(bytes);
        while !bytes.is_empty() {
            let room = u64::from(CHUNK_BYTES) - self.chunk.length();
            let take = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at(take);
            self.chunk.update(now);
            if self.chunk.length() == u64::from(CHUNK_BYTES) {
                self.close_chunk();
            }
            bytes = later;
        }
    }

    pub fn finish(mut self) -> Result<ChunkList, ChunkError> {
        if self.chunk.length() > 0 {
            self.close_chunk();
        }
        let length = self.whole.length();
        let blob = BlobRef {
            sha256: self.whole.finish(),
            length,
        };
        blob.chunk_count()?;
        Ok(ChunkList {
            blob,
            digests: self.digests,
        })
    }

    fn close_chunk(&mut self) {
        let digest = std::mem::take(&mut self.chunk).finish();
        self.digests.extend_from_slice(&digest.0);
    }
}

/// Which chunks are here. One bit per chunk, least significant first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawBitmap")]
pub struct Bitmap {
    count: u32,
    #[serde(with = "serde_bytes")]
    bits: Vec<u8>,
}

/// A bitmap as read, before its bytes are known to fit its count.
#[derive(Deserialize)]
struct RawBitmap {
    count: u32,
    #[serde(with = "serde_bytes")]
    bits: Vec<u8>,
}

impl TryFrom<RawBitmap> for Bitmap {
    type Error = &'static str;

    fn try_from(raw: RawBitmap) -> Result<Self, Self::Error> {
        Self::from_bytes(raw.count, raw.bits).ok_or("the bitmap's bytes do not fit its count")
    }
}

impl Bitmap {
    pub fn new(count: u32) -> Self {
        Self {
            count,
            bits: vec![0; (count as usize).div_ceil(8)],
        }
    }

    /// From the wire; the number of bytes must fit the number of chunks. Bits beyond the last chunk are cleared: counted,
    /// they could make a blob with holes look complete.
    pub fn from_bytes(count: u32, mut bits: Vec<u8>) -> Option<Self> {
        if count > MAX_CHUNKS || bits.len() != (count as usize).div_ceil(8) {
            return None;
        }
        if let (Some(last), used @ 1..) = (bits.last_mut(), count % 8) {
            *last &= (1 << used) - 1;
        }
        Some(Self { count, bits })
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bits
    }

    pub fn get(&self, index: u32) -> bool {
        index < self.count
            && self
                .bits
                .get(index as usize / 8)
                .is_some_and(|byte| byte & (1 << (index % 8)) != 0)
    }

    /// Marks a chunk; `true` if it was not marked before.
    pub fn set(&mut self, index: u32) -> bool {
        if index >= self.count || self.get(index) {
            return false;
        }
        if let Some(byte) = self.bits.get_mut(index as usize / 8) {
            *byte |= 1 << (index % 8);
        }
        true
    }

    pub fn present(&self) -> u32 {
        self.bits.iter().map(|byte| byte.count_ones()).sum()
    }

    pub fn is_complete(&self) -> bool {
        self.present() == self.count
    }

    pub fn len(&self) -> u32 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The missing chunks, in order.
    pub fn missing(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.count).filter(|index| !self.get(*index))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_flipped_bit_a_wrong_place_and_a_wrong_length_are_refused() {
        let blob: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        let list = ChunkList::of(&blob).unwrap();
        let chunks: Vec<&[u8]> = blob.chunks(CHUNK_BYTES as usize).collect();
        assert_eq!(list.blob.chunk_count(), Ok(4));
        for (i, chunk) in (0..).zip(&chunks) {
            list.check(i, chunk).unwrap();
        }
        let mut flipped = chunks[1].to_vec();
        flipped[7] ^= 1;
        assert_eq!(list.check(1, &flipped), Err(ChunkError::Digest { index: 1 }));
        assert_eq!(list.check(2, chunks[1]), Err(ChunkError::Digest { index: 2 }));
        assert!(matches!(list.check(3, chunks[1]), Err(ChunkError::Length { .. })));
        assert_eq!(list.check(4, chunks[1]), Err(ChunkError::NoSuchChunk(4)));
    }

    #[test]
    fn bits_beyond_the_last_chunk_do_not_make_a_blob_complete() {
        // Chunk 7 of 9 is missing; a stray bit 9 would make up for it in the count.
        let bitmap = Bitmap::from_bytes(9, vec![0x7f, 0x03]).unwrap();
        assert_eq!((bitmap.present(), bitmap.is_complete()), (8, false));
        assert_eq!(bitmap.missing().collect::<Vec<_>>(), [7]);
        assert!(Bitmap::from_bytes(9, vec![0xff]).is_none());
        let lying = codec::to_vec(&std::collections::BTreeMap::from([("count", 9u8)])).unwrap();
        assert!(codec::from_slice::<Bitmap>(&lying, 64).is_err());
    }

    proptest! {
        #[test]
        fn lists_do_not_depend_on_how_the_stream_was_cut(
            length in 0usize..200_000, cuts in proptest::collection::vec(1usize..70_000, 1..8)
        ) {
            let blob: Vec<u8> = (0..=250u8).cycle().take(length).collect();
            let mut builder = ChunkListBuilder::default();
            let mut rest = blob.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                builder.update(now);
                rest = later;
            }
            let list = builder.finish().unwrap();
            prop_assert_eq!(&list, &ChunkList::of(&blob).unwrap());
            let read = ChunkList::decode(&list.encode().unwrap(), &BlobRef::of(&blob)).unwrap();
            prop_assert_eq!(read, list);
        }

        #[test]
        fn bitmaps_count_what_was_set(count in 0u32..500, set in proptest::collection::vec(0u32..600, 0..100)) {
            let mut bitmap = Bitmap::new(count);
            let mut model = std::collections::BTreeSet::new();
            for index in set {
                prop_assert_eq!(bitmap.set(index), index < count && model.insert(index));
            }
            prop_assert_eq!(bitmap.present() as usize, model.len());
            prop_assert_eq!(bitmap.missing().count(), count as usize - model.len());
            prop_assert_eq!(bitmap.is_complete(), model.len() == count as usize);
        }
    }
}
