//! One server per data folder: an advisory lock that is held for as long as the process lives, and that the operating system
//! takes back however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use crate::files::FileError;

/// Why the folder is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "another fleet-server ({holder}) runs on {folder}: two on one folder would undo each other's work. Stop it, or give \
         this one a data_dir of its own"
    )]
    Held { folder: PathBuf, holder: String },
    #[error("{0}")]
    File(#[from] FileError),
}

/// The folder is ours until this is dropped.
#[derive(Debug)]
pub(super) struct DataLock {
    #[expect(dead_code, reason = "held for its lock")]
    file: File,
}

impl DataLock {
    /// Takes the folder before anything in it is touched.
    pub(super) fn take(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join("lock");
        let at = || FileError::at(&path);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(at())?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held {
                    folder: folder.to_owned(),
                    holder: holder(&mut file),
                });
            }
            Err(TryLockError::Error(source)) => return Err(at()(source).into()),
        }
        file.set_len(0).map_err(at())?;
        writeln!(file, "{}", std::process::id()).map_err(at())?;
        Ok(Self { file })
    }
}

/// For people: the lock is the file's, not the number in it.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(id)) => format!("process {id}"),
        _ => "its process id is not known".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_server_and_is_free_when_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataLock::take(dir.path()).unwrap();
        let refused = DataLock::take(dir.path()).unwrap_err().to_string();
        let process = format!("process {}", std::process::id());
        assert!(refused.contains(&process), "{refused}");
        assert!(refused.contains(&dir.path().display().to_string()), "{refused}");
        drop(first);
        // What a longer number left behind does not stay.
        std::fs::write(dir.path().join("lock"), "99999999999999").unwrap();
        let again = DataLock::take(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join("lock")).unwrap();
        assert_eq!(text.trim(), std::process::id().to_string());
        drop(again);
    }
}
