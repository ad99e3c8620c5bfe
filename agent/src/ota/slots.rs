//! The files of installed and staged packages: `slots/<slot>/{a,b}`, `staging/<slot>`, `parts/`.
//!
//! Which bank is valid or active is not known here: the store says so, and names a bank only after its files are synced.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use flotilla_protocol::chunks::BlobRef;
use flotilla_protocol::codec::{self, MAX_DOCUMENT_BYTES};
use flotilla_protocol::ids::{Digest, Hasher, SlotName};
use flotilla_protocol::manifest::{ComponentKind, Manifest};
use flotilla_protocol::report::InstalledModel;
use flotilla_protocol::trust::Envelope;

use crate::files::{self, Access, FileError, at};
use crate::ota::state::{Bank, OtaState};

/// The signed manifest beside its components.
pub const MANIFEST_FILE: &str = "manifest.cose";
/// Longest envelope of a manifest: the document's own cap, and signatures.
pub const MAX_ENVELOPE_BYTES: u64 = 128 * 1024;

/// Why installed files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("there is no manifest in {}", .0.display())]
    NoManifest(PathBuf),
    #[error("the manifest in {} cannot be read: {why}", path.display())]
    Manifest { path: PathBuf, why: String },
    #[error("the manifest in {} is {found}, {expected} was installed", path.display())]
    OtherManifest {
        path: PathBuf,
        expected: Digest,
        found: Digest,
    },
}

impl SlotError {
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::File(error) if error.is_disk_full())
    }
}

/// Where packages lie.
#[derive(Debug, Clone)]
pub struct SlotDirs {
    slots: PathBuf,
    staging: PathBuf,
    parts: PathBuf,
}

impl SlotDirs {
    pub fn open(data_dir: &Path) -> Result<Self, FileError> {
        let dirs = Self {
            slots: data_dir.join("slots"),
            staging: data_dir.join("staging"),
            parts: data_dir.join("parts"),
        };
        for dir in [&dirs.slots, &dirs.staging, &dirs.parts] {
            files::create_dir(dir)?;
        }
        Ok(dirs)
    }

    pub fn bank(&self, slot: &SlotName, bank: Bank) -> PathBuf {
        self.slots.join(slot.as_str()).join(bank.as_str())
    }

    pub fn staging(&self, slot: &SlotName) -> PathBuf {
        self.staging.join(slot.as_str())
    }

    pub fn parts(&self) -> &Path {
        &self.parts
    }

    /// Makes the staged package the content of a bank.
    pub fn install(&self, slot: &SlotName, bank: Bank) -> Result<(), FileError> {
        let staging = self.staging(slot);
        let target = self.bank(slot, bank);
        files::sync_dir(&staging)?;
        files::remove_dir_if_there(&target)?;
        if let Some(parent) = target.parent() {
            files::create_dir(parent)?;
            files::sync_dir(&self.slots)?;
        }
        files::rename(&staging, &target)?;
        files::sync_dir(&self.staging)
    }

    pub fn discard(&self, slot: &SlotName, bank: Bank) -> Result<(), FileError> {
        files::remove_dir_if_there(&self.bank(slot, bank))
    }

    pub fn clear_staging(&self, slot: &SlotName) -> Result<(), FileError> {
        files::remove_dir_if_there(&self.staging(slot))
    }

    /// Reads the manifest of an installed package. It was verified before its digest came into the store.
    pub fn manifest(&self, slot: &SlotName, bank: Bank, installed: &InstalledModel) -> Result<Manifest, SlotError> {
        let (manifest, digest) = read_manifest(&self.bank(slot, bank))?;
        if digest != installed.manifest {
            return Err(SlotError::OtherManifest {
                path: self.bank(slot, bank),
                expected: installed.manifest,
                found: digest,
            });
        }
        Ok(manifest)
    }

    /// A file on this device with just this content, if there is one: what need not be fetched.
    pub fn find(&self, blob: &BlobRef) -> Result<Option<PathBuf>, FileError> {
        let slots = entries(&self.slots)?;
        let banks = slots
            .iter()
            .flat_map(|slot| [Bank::A, Bank::B].map(|bank| slot.join(bank.as_str())));
        let names = || {
            ComponentKind::ALL
                .map(ComponentKind::file_name)
                .into_iter()
                .chain([MANIFEST_FILE])
        };
        for path in banks.flat_map(|bank| names().map(move |name| bank.join(name))) {
            if has_content(&path, blob)? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Removes what no state speaks of: left over from a crash between a transaction and the deletion of files.
    pub fn sweep(&self, states: &BTreeMap<SlotName, OtaState>) -> Result<(), FileError> {
        for dir in entries(&self.slots)? {
            let slot = name_of(&dir).and_then(|name| SlotName::new(name).ok());
            let state = slot.as_ref().and_then(|slot| states.get(slot));
            for bank in [Bank::A, Bank::B] {
                if state.is_none_or(|state| state.bank(bank).is_none()) {
                    files::remove_dir_if_there(&dir.join(bank.as_str()))?;
                }
            }
        }
        for dir in entries(&self.staging)? {
            let slot = name_of(&dir).and_then(|name| SlotName::new(name).ok());
            let state = slot.as_ref().and_then(|slot| states.get(slot));
            if state.is_none_or(|state| state.phase.job().is_none()) {
                files::remove_dir_if_there(&dir)?;
            }
        }
        Ok(())
    }
}

fn name_of(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    let mut paths = fs::read_dir(dir)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<io::Result<Vec<_>>>()
        })
        .map_err(at("list", dir))?;
    paths.sort();
    Ok(paths)
}

/// Reads a manifest without believing it: its digest is what the caller compares.
pub fn read_manifest(dir: &Path) -> Result<(Manifest, Digest), SlotError> {
    let path = dir.join(MANIFEST_FILE);
    let unreadable = |why: String| SlotError::Manifest {
        path: path.clone(),
        why,
    };
    let bytes = files::read_capped(&path, MAX_ENVELOPE_BYTES)?.ok_or_else(|| SlotError::NoManifest(dir.to_owned()))?;
    let envelope = Envelope::decode(&bytes).map_err(|why| unreadable(why.to_string()))?;
    let manifest =
        codec::from_slice(envelope.payload(), MAX_DOCUMENT_BYTES).map_err(|why| unreadable(why.to_string()))?;
    Ok((manifest, envelope.digest()))
}

/// The envelope's bytes as they lie in `dir`.
pub fn read_envelope(dir: &Path) -> Result<Vec<u8>, SlotError> {
    files::read_capped(&dir.join(MANIFEST_FILE), MAX_ENVELOPE_BYTES)?
        .ok_or_else(|| SlotError::NoManifest(dir.to_owned()))
}

pub fn write_envelope(dir: &Path, bytes: &[u8]) -> Result<(), FileError> {
    files::write_atomic(&dir.join(MANIFEST_FILE), bytes, Access::Everybody)
}

/// Has this file exactly this content? One that is not there has not.
pub fn has_content(path: &Path, blob: &BlobRef) -> Result<bool, FileError> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() && meta.len() == blob.length => Ok(digest_file(path)? == *blob),
        Ok(_) => Ok(false),
        Err(why) if matches!(why.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(why) => Err(at("look at", path)(why)),
    }
}

/// Digest and length of a file, read in pieces.
pub fn digest_file(path: &Path) -> Result<BlobRef, FileError> {
    use std::io::Read as _;
    let mut file = File::open(path).map_err(at("open", path))?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0u8; 64 * 1024];
    loop {
        let read = file.read(&mut buffer).map_err(at("read", path))?;
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else {
            break;
        };
        hasher.update(piece);
    }
    let length = hasher.length();
    Ok(BlobRef {
        sha256: hasher.finish(),
        length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_by_content_and_leftovers_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = SlotDirs::open(dir.path()).unwrap();
        let slot = SlotName::new("main").unwrap();
        let staging = dirs.staging(&slot);
        files::create_dir(&staging).unwrap();
        fs::write(staging.join("model.onnx"), b"bytes").unwrap();
        let blob = BlobRef::of(b"bytes");
        assert_eq!(dirs.find(&blob).unwrap(), None, "what is staged is not installed");
        files::create_dir(&dirs.bank(&slot, Bank::A)).unwrap();
        fs::write(dirs.bank(&slot, Bank::A).join("model.onnx"), b"old").unwrap();
        dirs.install(&slot, Bank::A).unwrap();
        assert_eq!(
            dirs.find(&blob).unwrap(),
            Some(dirs.bank(&slot, Bank::A).join("model.onnx"))
        );
        fs::write(dirs.bank(&slot, Bank::A).join("model.onnx"), b"bytEs").unwrap();
        assert_eq!(dirs.find(&blob).unwrap(), None, "a changed file is not what it was");
        dirs.sweep(&BTreeMap::new()).unwrap();
        assert!(!dirs.bank(&slot, Bank::A).exists());
    }
}
