//! Chunk lists and bitmaps: the first eight bytes are the length that was signed, the rest is the list.
#![no_main]

use flotilla_protocol::chunks::{Bitmap, BlobRef, ChunkList};
use flotilla_protocol::ids::Digest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return;
    };
    let length = u64::from_le_bytes(*length);
    let blob = BlobRef {
        sha256: Digest([0; 32]),
        length,
    };
    if let Ok(list) = ChunkList::decode(rest, &blob) {
        let count = blob.chunk_count().expect("a list was read");
        assert!(list.digest(count).is_none());
        assert!(list.check(count, rest).is_err());
    }
    if let Some(bitmap) = Bitmap::from_bytes((length % 4096) as u32, rest.to_vec()) {
        assert_eq!(bitmap.is_complete(), bitmap.missing().next().is_none());
    }
});
