//! Files that commands read and write; every error names the file.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::CliError;

/// Specifications, keys, signing requests: what is longer is no such file.
const MAX_TEXT_BYTES: u64 = 64 * 1024 * 1024;

pub(crate) fn read_text(path: &Path) -> Result<String, CliError> {
    let metadata = fs::metadata(path).map_err(|why| CliError::file(path, why))?;
    if metadata.len() > MAX_TEXT_BYTES {
        return Err(CliError::file(
            path,
            format!("{} bytes are more than {MAX_TEXT_BYTES}", metadata.len()),
        ));
    }
    fs::read_to_string(path).map_err(|why| CliError::file(path, why))
}

pub(crate) fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T, CliError> {
    toml::from_str(&read_text(path)?).map_err(|why| CliError::file(path, why))
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, CliError> {
    serde_json::from_str(&read_text(path)?).map_err(|why| CliError::file(path, why))
}

/// TOML where the name says so, else JSON.
pub(crate) fn read_spec<T: DeserializeOwned>(path: &Path) -> Result<T, CliError> {
    if path.extension().is_some_and(|extension| extension == "toml") {
        return read_toml(path);
    }
    read_json(path)
}

/// Makes the folders above, replaces what was there.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), CliError> {
    create_parent(path)?;
    fs::write(path, content).map_err(|why| CliError::file(path, why))
}

pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), CliError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|why| CliError::file(path, why))?;
    text.push(b'\n');
    write(path, &text)
}

/// A new file that only its owner can read; never replaces one.
pub(crate) fn write_new_secret(path: &Path, content: &[u8]) -> Result<(), CliError> {
    create_parent(path)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|why| CliError::file(path, why))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(|why| CliError::file(path, why))
}

fn create_parent(path: &Path) -> Result<(), CliError> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => {
            fs::create_dir_all(parent).map_err(|why| CliError::file(parent, why))
        }
        _ => Ok(()),
    }
}
