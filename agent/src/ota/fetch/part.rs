//! A blob being received: a preallocated file and a durable bitmap of the chunks in it.
//!
//! Data is synced before the bitmap says that it is there. What a crash kept in the file but not in the bitmap is found
//! again by its digest when the part is opened, so that it is not fetched twice.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flotilla_protocol::chunks::{Bitmap, BlobRef, CHUNK_BYTES, ChunkError, ChunkList};
use flotilla_protocol::ids::Digest;
use rustix::fs::FallocateFlags;
use tracing::warn;

use crate::files::{self, FileError, at};
use crate::ota::slots;
use crate::store::{PARTS, Store, StoreError};

/// The bitmap is written after so many chunks.
const FLUSH_EVERY: u32 = 16;
/// How far beyond the last known chunk lost ones are looked for.
const SCAN_BEYOND: u32 = 512;

/// How a chunk is checked on arrival.
#[derive(Debug)]
pub enum Checker {
    /// The blob is one chunk: its digest is the chunk's.
    Single(BlobRef),
    List(ChunkList),
    /// A blob of several chunks without a list: lengths only, the whole at the end. Only for what is bounded and small, a long
    /// chunk list or a long manifest; never for a component's source.
    LengthOnly(BlobRef),
}

impl Checker {
    pub fn new(blob: &BlobRef, list: Option<ChunkList>) -> Self {
        match list {
            Some(list) => Self::List(list),
            None if blob.length <= u64::from(CHUNK_BYTES) => Self::Single(*blob),
            None => Self::LengthOnly(*blob),
        }
    }

    pub fn check(&self, index: u32, bytes: &[u8]) -> Result<(), ChunkError> {
        let blob = match self {
            Self::List(list) => return list.check(index, bytes),
            Self::Single(blob) | Self::LengthOnly(blob) => blob,
        };
        let expected = blob.chunk_length(index).ok_or(ChunkError::NoSuchChunk(index))?;
        if bytes.len() != expected as usize {
            return Err(ChunkError::Length {
                index,
                expected,
                found: bytes.len(),
            });
        }
        match self {
            Self::Single(blob) if Digest::of(bytes) != blob.sha256 => Err(ChunkError::Digest { index }),
            _ => Ok(()),
        }
    }
}

/// Why a part cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Chunk(#[from] ChunkError),
}

impl PartError {
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::File(error) => error.is_disk_full(),
            Self::Store(error) => error.is_disk_full(),
            Self::Chunk(_) => false,
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Part {
    store: Arc<Store>,
    path: PathBuf,
    file: File,
    blob: BlobRef,
    have: Bitmap,
    unsaved: u32,
}

impl Part {
    pub fn path_of(dir: &Path, blob: &BlobRef) -> PathBuf {
        dir.join(format!("{}.part", blob.sha256.hex()))
    }

    /// Opens the part, or makes it at its full length: a disk without room for it is found now.
    pub fn open(store: Arc<Store>, dir: &Path, blob: &BlobRef, checker: &Checker) -> Result<Self, PartError> {
        let path = Self::path_of(dir, blob);
        let count = blob.chunk_count()?;
        let kept = store.read(|txn| {
            let table = txn.open_table(PARTS)?;
            let bits = table.get(blob.sha256.0.as_slice())?;
            Ok(bits.and_then(|bits| Bitmap::from_bytes(count, bits.value().to_vec())))
        })?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(at("open", &path))?;
        let whole = file.metadata().map_err(at("look at", &path))?.len() == blob.length;
        let mut part = Self {
            store,
            path,
            file,
            blob: *blob,
            have: Bitmap::new(count),
            unsaved: 0,
        };
        match kept {
            Some(kept) if whole => {
                part.have = kept;
                part.find_unmarked(checker)?;
            }
            _ => part.preallocate()?,
        }
        Ok(part)
    }

    fn preallocate(&self) -> Result<(), PartError> {
        let failed = |source: io::Error| at("preallocate", &self.path)(source);
        self.file.set_len(0).map_err(failed)?;
        if self.blob.length == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, self.blob.length) {
            Ok(()) => {}
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                self.file.set_len(self.blob.length).map_err(failed)?;
            }
            Err(errno) => return Err(failed(errno.into()).into()),
        }
        self.file.sync_all().map_err(failed)?;
        Ok(self.save_bitmap()?)
    }

    /// Marks chunks that are in the file and not in the bitmap. Only what has a digest can be believed.
    fn find_unmarked(&mut self, checker: &Checker) -> Result<(), PartError> {
        if matches!(checker, Checker::LengthOnly(_)) {
            return Ok(());
        }
        let last = (0..self.have.len())
            .rev()
            .find(|index| self.have.get(*index))
            .unwrap_or(0);
        let end = last.saturating_add(SCAN_BEYOND);
        let missing: Vec<u32> = self.have.missing().take_while(|index| *index <= end).collect();
        for index in missing {
            let bytes = self.read(index)?;
            // An empty stretch of a preallocated file is not worth hashing.
            if bytes.iter().any(|byte| *byte != 0) && checker.check(index, &bytes).is_ok() && self.have.set(index) {
                self.unsaved += 1;
            }
        }
        if self.unsaved > 0 { self.flush() } else { Ok(()) }
    }

    fn read(&self, index: u32) -> Result<Vec<u8>, PartError> {
        let length = self.blob.chunk_length(index).ok_or(ChunkError::NoSuchChunk(index))?;
        let mut bytes = vec![0u8; length as usize];
        self.file
            .read_exact_at(&mut bytes, u64::from(index) * u64::from(CHUNK_BYTES))
            .map_err(at("read", &self.path))?;
        Ok(bytes)
    }

    /// Keeps a checked chunk; `false` if it was here before.
    pub fn write(&mut self, index: u32, bytes: &[u8]) -> Result<bool, PartError> {
        if self.have.get(index) {
            return Ok(false);
        }
        self.file
            .write_all_at(bytes, u64::from(index) * u64::from(CHUNK_BYTES))
            .map_err(at("write", &self.path))?;
        self.have.set(index);
        self.unsaved += 1;
        if self.unsaved >= FLUSH_EVERY || self.have.is_complete() {
            self.flush()?;
        }
        Ok(true)
    }

    /// Data first, bitmap second.
    pub fn flush(&mut self) -> Result<(), PartError> {
        self.file.sync_data().map_err(at("sync", &self.path))?;
        self.save_bitmap()?;
        self.unsaved = 0;
        Ok(())
    }

    fn save_bitmap(&self) -> Result<(), StoreError> {
        self.store.write(|txn| {
            txn.table(PARTS)?
                .insert(self.blob.sha256.0.as_slice(), self.have.as_bytes())?;
            Ok(())
        })
    }

    pub fn have(&self) -> &Bitmap {
        &self.have
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the chunks that are here.
    pub fn bytes(&self) -> u64 {
        (0..self.have.len())
            .filter(|index| self.have.get(*index))
            .filter_map(|index| self.blob.chunk_length(index))
            .map(u64::from)
            .sum()
    }

    /// Is the whole what was signed?
    pub fn is_intact(&self) -> Result<bool, FileError> {
        Ok(slots::digest_file(&self.path)? == self.blob)
    }

    /// Has a chunk changed on disk that was right when it came? Not known where chunks have no digests of their own.
    pub fn has_rotten(&self, checker: &Checker) -> Result<bool, PartError> {
        if matches!(checker, Checker::LengthOnly(_)) {
            return Ok(false);
        }
        for index in 0..self.have.len() {
            if checker.check(index, &self.read(index)?).is_err() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.unsaved > 0
            && let Err(error) = self.flush()
        {
            warn!(%error, "received chunks are looked for again at the next start");
        }
    }
}

/// Forgets a part: the bitmap first, or it would speak of a file that is gone.
pub fn remove(store: &Store, dir: &Path, blob: &BlobRef) -> Result<(), PartError> {
    let path = Part::path_of(dir, blob);
    let known = store.read(|txn| Ok(txn.open_table(PARTS)?.get(blob.sha256.0.as_slice())?.is_some()))?;
    if known {
        store.write(|txn| {
            txn.table(PARTS)?.remove(blob.sha256.0.as_slice())?;
            Ok(())
        })?;
    }
    Ok(files::remove_if_there(&path)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blob(chunks: usize) -> Vec<u8> {
        let length = chunks * CHUNK_BYTES as usize - 100;
        (0..length).map(|i| u8::try_from(i * 31 % 251).unwrap() + 1).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        /// Whatever was written when the agent ended is here after the next start: saved chunks by the bitmap, unsaved
        /// ones by their digest, torn ones not at all.
        #[test]
        fn a_part_resumes_with_every_good_chunk(
            written in proptest::collection::btree_set(0u32..24, 0..24), torn in 0u32..24, flush: bool
        ) {
            let dir = tempfile::tempdir().unwrap();
            let store = Arc::new(Store::open(dir.path(), 0).unwrap());
            let bytes = blob(24);
            let reference = BlobRef::of(&bytes);
            let chunks: Vec<&[u8]> = bytes.chunks(CHUNK_BYTES as usize).collect();
            let checker = Checker::new(&reference, Some(ChunkList::of(&bytes).unwrap()));
            let mut part = Part::open(Arc::clone(&store), dir.path(), &reference, &checker).unwrap();
            for index in &written { prop_assert!(part.write(*index, chunks[*index as usize]).unwrap()); }
            if flush { part.flush().unwrap(); }
            if !written.contains(&torn) {
                part.file.write_all_at(b"half a chunk", u64::from(torn) * u64::from(CHUNK_BYTES)).unwrap();
            }
            part.unsaved = 0;
            drop(part);
            let mut part = Part::open(Arc::clone(&store), dir.path(), &reference, &checker).unwrap();
            let here: Vec<u32> = (0..24).filter(|index| part.have().get(*index)).collect();
            prop_assert_eq!(here, written.iter().copied().collect::<Vec<_>>());
            for (index, chunk) in (0u32..).zip(&chunks) { part.write(index, chunk).unwrap(); }
            prop_assert!(part.have().is_complete() && part.is_intact().unwrap());
            drop(part);
            remove(&store, dir.path(), &reference).unwrap();
            prop_assert!(!Part::path_of(dir.path(), &reference).exists());
        }
    }

    #[test]
    fn a_file_that_was_replaced_is_not_believed_by_its_bitmap() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), 0).unwrap());
        let bytes = blob(2);
        let reference = BlobRef::of(&bytes);
        let checker = Checker::new(&reference, Some(ChunkList::of(&bytes).unwrap()));
        let mut part = Part::open(Arc::clone(&store), dir.path(), &reference, &checker).unwrap();
        part.write(0, &bytes[..CHUNK_BYTES as usize]).unwrap();
        part.flush().unwrap();
        drop(part);
        std::fs::write(Part::path_of(dir.path(), &reference), b"short").unwrap();
        let part = Part::open(store, dir.path(), &reference, &checker).unwrap();
        assert_eq!(part.have().present(), 0);
    }
}
