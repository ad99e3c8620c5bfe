//! The CBOR codec: every decode has a size cap, a depth bound and refuses trailing bytes.
//!
//! Maps have text keys in declaration order. Unknown fields are ignored on the wire so that a server can read N and
//! N−1; signed documents check their `schema` instead.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Signed documents: at most 64 KiB. What is longer is a blob named by digest and length.
pub const MAX_DOCUMENT_BYTES: usize = 64 * 1024;
/// Anything published on a topic: at most 128 KiB before decoding.
pub const MAX_MESSAGE_BYTES: usize = 128 * 1024;
/// A bundle after decompression.
pub const MAX_BUNDLE_BYTES: usize = 1024 * 1024;
/// Components that are read whole: feature specifications, reference profiles, golden sets.
pub const MAX_COMPONENT_BYTES: usize = 8 * 1024 * 1024;

/// Windows up to 8 MiB are accepted whatever the cap: encoders up to level 19 choose no larger ones.
const MIN_WINDOW_LOG: u32 = 23;

/// Why bytes could not be read (or a value not be written).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("{length} bytes exceed the cap of {cap}")]
    TooLarge { length: usize, cap: usize },
    #[error("not the expected CBOR: {0}")]
    Malformed(String),
    #[error("not valid zstd: {0}")]
    Compression(String),
}

/// Encodes as CBOR.
pub fn to_vec<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    serde_cbor::to_vec(value).map_err(|e| CodecError::Malformed(e.to_string()))
}

/// Decodes one CBOR value of at most `cap` bytes. Refuses trailing bytes; nesting is bounded by the decoder (128).
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8], cap: usize) -> Result<T, CodecError> {
    check_cap(bytes.len(), cap)?;
    serde_cbor::from_slice(bytes).map_err(|e| CodecError::Malformed(e.to_string()))
}

/// CBOR, then zstd level 3.
pub fn to_vec_zstd<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    zstd::bulk::compress(&to_vec(value)?, 3).map_err(|e| CodecError::Compression(e.to_string()))
}

/// zstd, then CBOR: at most `wire_cap` bytes as received and `cap` bytes decompressed.
pub fn from_slice_zstd<T: DeserializeOwned>(bytes: &[u8], wire_cap: usize, cap: usize) -> Result<T, CodecError> {
    from_slice(&decompress(bytes, wire_cap, cap)?, cap)
}

/// Decompresses at most `cap` bytes; a frame that holds more is refused, whatever its header claims.
pub fn decompress(bytes: &[u8], wire_cap: usize, cap: usize) -> Result<Vec<u8>, CodecError> {
    use std::io::Read as _;
    check_cap(bytes.len(), wire_cap)?;
    let mut decoder =
        zstd::stream::read::Decoder::with_buffer(bytes).map_err(|e| CodecError::Compression(e.to_string()))?;
    // A frame's header may ask for a window of 128 MiB before its first byte comes out.
    let window_log = (cap as u64).next_power_of_two().ilog2().clamp(MIN_WINDOW_LOG, 27);
    decoder
        .window_log_max(window_log)
        .map_err(|e| CodecError::Compression(e.to_string()))?;
    let mut out = Vec::new();
    decoder
        .take(cap as u64 + 1)
        .read_to_end(&mut out)
        .map_err(|e| CodecError::Compression(e.to_string()))?;
    check_cap(out.len(), cap)?;
    Ok(out)
}

fn check_cap(length: usize, cap: usize) -> Result<(), CodecError> {
    if length > cap {
        return Err(CodecError::TooLarge { length, cap });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_bytes_are_refused() {
        let mut bytes = to_vec(&7u8).unwrap();
        assert_eq!(from_slice::<u8>(&bytes, 16), Ok(7));
        bytes.push(0);
        assert!(matches!(from_slice::<u8>(&bytes, 16), Err(CodecError::Malformed(_))));
    }

    #[test]
    fn caps_hold_before_decoding() {
        let bytes = to_vec(&vec![0u8; 100]).unwrap();
        assert!(matches!(
            from_slice::<Vec<u8>>(&bytes, 10),
            Err(CodecError::TooLarge { .. })
        ));
        // A bomb: 16 MiB of zeros in a few hundred bytes.
        let bomb = zstd::bulk::compress(&vec![0u8; 16 << 20], 3).unwrap();
        assert!(matches!(
            decompress(&bomb, 4096, 1 << 20),
            Err(CodecError::TooLarge { .. })
        ));
    }

    #[test]
    fn deep_nesting_and_lying_lengths_are_refused() {
        let deep = vec![0x81u8; 10_000];
        assert!(from_slice::<serde_cbor::Value>(&deep, 1 << 20).is_err());
        // An array that claims 2^62 elements, a byte string that claims 2^40 bytes.
        assert!(from_slice::<serde_cbor::Value>(&[0x9b, 0x40, 0, 0, 0, 0, 0, 0, 0], 64).is_err());
        assert!(from_slice::<serde_bytes::ByteBuf>(&[0x5b, 0, 0, 1, 0, 0, 0, 0, 0], 64).is_err());
    }
}
