//! Makes a component's file of a received blob: exactly the signed bytes, or nothing.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write as _};
use std::path::Path;

use flotilla_protocol::chunks::BlobRef;
use flotilla_protocol::desired_state::Encoding;
use flotilla_protocol::ids::Hasher;
use tracing::debug;

use crate::files::{self, at};
use crate::ota::fetch::FetchError;

/// Decodes a received blob into `to`: exactly the signed length and digest, or nothing.
pub(super) fn decode(from: &Path, encoding: Encoding, plain: &BlobRef, to: &Path) -> Result<(), FetchError> {
    let file = BufReader::new(File::open(from).map_err(at("open", from))?);
    match encoding {
        Encoding::Identity => write_exactly(file, from, plain, to),
        Encoding::Zstd => {
            let decoder = zstd::stream::read::Decoder::new(file).map_err(at("decode", from))?;
            write_exactly(decoder, from, plain, to)
        }
    }
}

/// Copies a file that is known to have this content, checking as it goes.
pub(super) fn copy_exactly(from: &Path, to: &Path, blob: &BlobRef) -> Result<(), FetchError> {
    write_exactly(File::open(from).map_err(at("open", from))?, from, blob, to)
}

fn write_exactly(reader: impl Read, from: &Path, plain: &BlobRef, to: &Path) -> Result<(), FetchError> {
    let beside = to.with_extension("staging");
    let undecodable = |why: String| FetchError::Undecodable {
        component: plain.sha256,
        blob: plain.sha256,
        why: format!("{}: {why}", from.display()),
    };
    let mut out = File::create(&beside).map_err(at("create", &beside))?;
    let mut hasher = Hasher::default();
    // One byte more than is signed is enough to know that it is too long.
    let mut limited = reader.take(plain.length.saturating_add(1));
    let mut buffer = vec![0u8; 64 * 1024];
    let outcome = loop {
        let read = match limited.read(&mut buffer) {
            Ok(read) => read,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
            Err(why) => break Err(undecodable(why.to_string())),
        };
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else {
            break Ok(());
        };
        hasher.update(piece);
        if let Err(why) = out.write_all(piece) {
            break Err(at("write", &beside)(why).into());
        }
    };
    let found = BlobRef {
        length: hasher.length(),
        sha256: hasher.finish(),
    };
    let outcome = outcome.and_then(|()| {
        if found != *plain {
            return Err(undecodable(format!(
                "it holds {} bytes with digest {}, {} bytes with digest {} are signed",
                found.length, found.sha256, plain.length, plain.sha256
            )));
        }
        out.sync_all().map_err(at("sync", &beside))?;
        Ok(files::rename(&beside, to)?)
    });
    if outcome.is_err()
        && let Err(why) = fs::remove_file(&beside)
    {
        debug!(%why, "a torn file stays in staging");
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_stops_at_the_signed_length_and_leaves_nothing_wrong_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("x.part"), dir.path().join("model.onnx"));
        let plain = vec![7u8; 300_000];
        fs::write(&from, zstd::bulk::compress(&plain, 3).unwrap()).unwrap();
        decode(&from, Encoding::Zstd, &BlobRef::of(&plain), &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), plain);
        fs::remove_file(&to).unwrap();

        for signed in [&plain[..1000], &vec![8u8; 300_000]] {
            let refused = decode(&from, Encoding::Zstd, &BlobRef::of(signed), &to).unwrap_err();
            assert!(matches!(refused, FetchError::Undecodable { .. }), "{refused}");
        }
        fs::write(&from, b"not zstd at all").unwrap();
        assert!(decode(&from, Encoding::Zstd, &BlobRef::of(&plain), &to).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only the part is left");
    }
}
