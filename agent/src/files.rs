//! Files that survive a power cut: written beside, synced, renamed, and the directory synced. And who may read them.
//!
//! Knows nothing of what is in them.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tracing::warn;

/// An I/O error that says where.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {source}", path.display())]
pub struct FileError {
    pub what: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

impl FileError {
    pub fn is_disk_full(&self) -> bool {
        is_disk_full(&self.source)
    }
}

/// No space, or no quota.
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Names what was tried and on which path.
pub fn at<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FileError + 'a {
    move |source| FileError {
        what,
        path: path.to_owned(),
        source,
    }
}

/// Who may read a written file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// 0600: private keys.
    Owner,
    /// 0644.
    Everybody,
}

/// Replaces `path` by `bytes`: afterwards the old or the new content is there, also after a power cut.
pub fn write_atomic(path: &Path, bytes: &[u8], access: Access) -> Result<(), FileError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    remove_if_there(&beside)?;
    let mode = match access {
        Access::Owner => 0o600,
        Access::Everybody => 0o644,
    };
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
    if let Err(source) = written {
        // What was half written is of no use; the first error is the one to tell.
        remove_if_there(&beside)?;
        return Err(at("write", &beside)(source));
    }
    rename(&beside, path)
}

/// Renames within one file system and syncs the target's directory.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(at("rename", from))?;
    match to.parent() {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

pub fn sync_dir(path: &Path) -> Result<(), FileError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(at("sync directory", path))
}

pub fn create_dir(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(at("create directory", path))
}

/// Makes a directory that nobody but its owner can enter (0700), or closes the one that is there to the others.
pub fn create_private_dir(path: &Path) -> Result<(), FileError> {
    if let Some(parent) = path.parent() {
        create_dir(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => close_to_others(path),
        made => made.map_err(at("create directory", path)),
    }
}

/// Makes an empty file that nobody but its owner can read (0600), or closes the one that is there to the others.
pub fn create_private_file(path: &Path) -> Result<(), FileError> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => close_to_others(path),
        made => made.map(drop).map_err(at("create", path)),
    }
}

/// Takes from everybody but the owner what they may do with a file or directory. Where that is not permitted it is told:
/// whoever installed the agent may have meant it so.
fn close_to_others(path: &Path) -> Result<(), FileError> {
    let mode = fs::metadata(path).map_err(at("look at", path))?.permissions().mode() & 0o777;
    if mode.trailing_zeros() >= 6 {
        return Ok(());
    }
    let (path_shown, was) = (path.display(), format!("{mode:03o}"));
    match fs::set_permissions(path, Permissions::from_mode(mode & 0o700)) {
        Ok(()) => warn!(path = %path_shown, was, "others could read it: its mode is tightened"),
        Err(error) => warn!(path = %path_shown, was, %error, "others can read it, and its mode cannot be tightened"),
    }
    Ok(())
}

/// Bytes of a file; one that is not there has none.
pub fn length(path: &Path) -> Result<u64, FileError> {
    match fs::metadata(path) {
        Ok(meta) => Ok(meta.len()),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(source) => Err(at("look at", path)(source)),
    }
}

/// Bytes of the files that lie directly in a directory; one that is not there has none.
pub fn bytes_in(dir: &Path) -> Result<u64, FileError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(source) => return Err(at("list", dir)(source)),
    };
    entries
        .map(|entry| entry.map_err(at("list", dir)).and_then(|entry| length(&entry.path())))
        .try_fold(0, |sum: u64, bytes| Ok(sum.saturating_add(bytes?)))
}

/// Removes a file; one that is not there is fine.
pub fn remove_if_there(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(at("remove", path)(source)),
        _ => Ok(()),
    }
}

/// Removes a directory and what is in it; one that is not there is fine.
pub fn remove_dir_if_there(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(at("remove directory", path)(source)),
        _ => Ok(()),
    }
}

/// Reads a file of at most `cap` bytes; `None` if it is not there.
pub fn read_capped(path: &Path, cap: u64) -> Result<Option<Vec<u8>>, FileError> {
    use std::io::Read as _;
    let file = match File::open(path) {
        Ok(file) => file,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(at("open", path)(source)),
    };
    let mut bytes = Vec::new();
    file.take(cap.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(at("read", path))?;
    if bytes.len() as u64 > cap {
        return Err(at("read", path)(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it is longer than {cap} bytes"),
        )));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_private_is_made_so_and_tightened_where_it_was_not() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, file) = (dir.path().join("new/data"), dir.path().join("new/data/store"));
        create_private_dir(&folder).unwrap();
        create_private_file(&file).unwrap();
        assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
        fs::write(&file, b"kept").unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        create_private_dir(&folder).unwrap();
        create_private_file(&file).unwrap();
        assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
        assert_eq!(fs::read(&file).unwrap(), b"kept");
    }

    #[test]
    fn keys_are_for_their_owner_and_leftovers_do_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(dir.path().join("key.new"), b"torn").unwrap();
        write_atomic(&path, b"secret", Access::Owner).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(read_capped(&path, 6).unwrap().unwrap(), b"secret");
        assert!(read_capped(&path, 5).is_err());
        assert!(read_capped(&dir.path().join("none"), 5).unwrap().is_none());
        assert!(!dir.path().join("key.new").exists());
    }
}
