//! Content-addressed blobs in an object store: a folder by default.
//!
//! A blob's name is its digest, so that writing twice is writing once, and what is read can be checked.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_protocol::chunks::{BlobRef, CHUNK_BYTES, ChunkError, ChunkList};
use flotilla_protocol::codec::CodecError;
use flotilla_protocol::desired_state::{Encoding, Source};
use flotilla_protocol::ids::{Digest, Hasher};
use futures_util::TryStreamExt as _;
use metrics::counter;
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt as _};

/// Of zstd: slow to pack, and packed once for every device.
const LEVEL: i32 = 19;
/// Bytes packed between two looks at whether to stop: a tenth of a second.
const PIECE: usize = 256 << 10;

/// Why a blob cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("no blob {0}")]
    NotFound(Digest),
    #[error("blob {0} is damaged: its contents have another digest")]
    Damaged(Digest),
    #[error("blob store: {0}")]
    Store(#[from] object_store::Error),
    #[error("blob store: {0}")]
    Chunks(#[from] ChunkError),
    #[error("blob store: {0}")]
    Codec(#[from] CodecError),
    #[error("cannot compress: {0}")]
    Compress(#[from] std::io::Error),
    #[error("stopped")]
    Stopped,
}

/// The blob store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blobs(Arc<dyn ObjectStore>);

impl Blobs {
    /// A folder, made if it is not there.
    pub fn open_folder(path: &Path) -> Result<Self, BlobError> {
        std::fs::create_dir_all(path)?;
        Ok(Self(Arc::new(LocalFileSystem::new_with_prefix(path)?.with_fsync(true))))
    }

    /// Keeps bytes under their digest. What is there already is read: damaged, it is written again.
    pub async fn put(&self, bytes: Bytes) -> Result<BlobRef, BlobError> {
        let blob = BlobRef::of(&bytes);
        match self.verify(&blob.sha256).await {
            Ok(()) => return Ok(blob),
            Err(BlobError::NotFound(_)) => {}
            Err(error) => {
                counter!("flotilla_blobs_repaired_total").increment(1);
                tracing::error!(blob = %blob.sha256, %error, "a stored blob was not whole: it is written again");
            }
        }
        self.0.put(&path_of(&blob.sha256), bytes.into()).await?;
        Ok(blob)
    }

    /// Is the stored blob whole? It is read once, a piece at a time.
    pub async fn verify(&self, digest: &Digest) -> Result<(), BlobError> {
        let mut pieces = match self.0.get(&path_of(digest)).await {
            Ok(found) => found.into_stream(),
            Err(object_store::Error::NotFound { .. }) => return Err(BlobError::NotFound(*digest)),
            Err(error) => return Err(error.into()),
        };
        let mut hasher = Hasher::default();
        while let Some(piece) = pieces.try_next().await? {
            hasher.update(&piece);
        }
        if hasher.finish() == *digest {
            Ok(())
        } else {
            Err(BlobError::Damaged(*digest))
        }
    }

    /// The whole blob, checked.
    pub async fn get(&self, digest: &Digest) -> Result<Bytes, BlobError> {
        let bytes = match self.0.get(&path_of(digest)).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Err(BlobError::NotFound(*digest)),
            Err(error) => return Err(error.into()),
        };
        if Digest::of(&bytes) != *digest {
            return Err(BlobError::Damaged(*digest));
        }
        Ok(bytes)
    }

    /// One chunk, unchecked: whoever receives it checks it against the signed list.
    pub async fn get_chunk(&self, blob: &BlobRef, index: u32) -> Result<Bytes, BlobError> {
        let length = blob.chunk_length(index).ok_or(ChunkError::NoSuchChunk(index))?;
        let start = u64::from(index) * u64::from(CHUNK_BYTES);
        match self
            .0
            .get_range(&path_of(&blob.sha256), start..start + u64::from(length))
            .await
        {
            Ok(bytes) => Ok(bytes),
            Err(object_store::Error::NotFound { .. }) => Err(BlobError::NotFound(blob.sha256)),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps a component and the ways to send it: zstd where that saves something, then as it is. Best first. `stopping` is
    /// asked while it is compressed.
    pub async fn put_with_sources(
        &self,
        bytes: Bytes,
        stopping: impl Fn() -> bool + Send + 'static,
    ) -> Result<(BlobRef, Vec<Source>), BlobError> {
        let plain = self.put_source(Encoding::Identity, bytes.clone()).await?;
        let packed = tokio::task::spawn_blocking(move || compress(&bytes, &stopping))
            .await
            .map_err(std::io::Error::other)??;
        let blob = plain.blob;
        if (packed.len() as u64) < blob.length {
            let packed = self.put_source(Encoding::Zstd, packed.into()).await?;
            return Ok((blob, vec![packed, plain]));
        }
        Ok((blob, vec![plain]))
    }

    async fn put_source(&self, encoding: Encoding, bytes: Bytes) -> Result<Source, BlobError> {
        let list = ChunkList::of(&bytes)?;
        let blob = self.put(bytes).await?;
        let chunk_list = if blob.chunk_count()? > 1 {
            Some(self.put(list.encode()?.into()).await?)
        } else {
            None
        };
        Ok(Source {
            encoding,
            blob,
            chunk_list,
        })
    }
}

/// A piece at a time, because a large model takes minutes.
fn compress(bytes: &[u8], stopping: &dyn Fn() -> bool) -> Result<Vec<u8>, BlobError> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), LEVEL)?;
    // The length fits the window to small files, as compressing at once does.
    encoder.set_pledged_src_size(Some(bytes.len() as u64))?;
    for piece in bytes.chunks(PIECE) {
        if stopping() {
            return Err(BlobError::Stopped);
        }
        encoder.write_all(piece)?;
    }
    Ok(encoder.finish()?)
}

/// `ab/cdef…`: a folder per first byte keeps listings short.
fn path_of(digest: &Digest) -> object_store::path::Path {
    let hex = digest.hex();
    let (folder, rest) = hex.split_at(2);
    object_store::path::Path::from_iter([folder, rest])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn blobs_read_back_checked_and_in_chunks() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open_folder(dir.path()).unwrap();
        let bytes: Bytes = (0..150_000u32).map(|i| (i % 7) as u8).collect();
        let (blob, sources) = blobs.put_with_sources(bytes.clone(), || false).await.unwrap();
        assert_eq!(blobs.get(&blob.sha256).await.unwrap(), bytes);
        assert_eq!(sources.len(), 2, "zstd pays here");
        let plain = &sources[1];
        let list_blob = plain.chunk_list.unwrap();
        let list = ChunkList::decode(&blobs.get(&list_blob.sha256).await.unwrap(), &plain.blob).unwrap();
        for index in 0..3 {
            list.check(index, &blobs.get_chunk(&plain.blob, index).await.unwrap())
                .unwrap();
        }
        assert!(matches!(
            blobs.get_chunk(&plain.blob, 3).await,
            Err(BlobError::Chunks(_))
        ));
        assert!(matches!(
            blobs.get(&Digest::of(b"none")).await,
            Err(BlobError::NotFound(_))
        ));
    }

    #[tokio::test]
    async fn damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open_folder(dir.path()).unwrap();
        let blob = blobs.put(Bytes::from_static(b"model")).await.unwrap();
        let hex = blob.sha256.hex();
        let (folder, rest) = hex.split_at(2);
        std::fs::write(dir.path().join(folder).join(rest), b"other").unwrap();
        assert!(matches!(blobs.get(&blob.sha256).await, Err(BlobError::Damaged(_))));
        assert!(matches!(blobs.verify(&blob.sha256).await, Err(BlobError::Damaged(_))));
    }

    #[tokio::test]
    async fn damage_of_the_same_length_is_repaired_by_whoever_keeps_the_blob_again() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open_folder(dir.path()).unwrap();
        let bytes: Bytes = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        let blob = blobs.put(bytes.clone()).await.unwrap();
        let hex = blob.sha256.hex();
        let (folder, rest) = hex.split_at(2);
        let mut damaged = bytes.to_vec();
        damaged[70_000] ^= 1;
        std::fs::write(dir.path().join(folder).join(rest), damaged).unwrap();
        assert!(blobs.verify(&blob.sha256).await.is_err());
        assert_eq!(blobs.put(bytes.clone()).await.unwrap(), blob);
        blobs.verify(&blob.sha256).await.unwrap();
        assert_eq!(blobs.get(&blob.sha256).await.unwrap(), bytes);
    }

    #[tokio::test]
    async fn packing_stops_when_it_is_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open_folder(dir.path()).unwrap();
        let asked = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let bytes = Bytes::from(vec![7; 10 * PIECE]);
        let stopped = blobs
            .put_with_sources(bytes, move || {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 3
            })
            .await;
        assert!(matches!(stopped, Err(BlobError::Stopped)), "{stopped:?}");
        assert_eq!(
            asked.load(std::sync::atomic::Ordering::Relaxed),
            4,
            "nothing was packed after that"
        );
    }
}
