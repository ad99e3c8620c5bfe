//! Which server, and with what right: flags and environment first, then the profile that `fleetctl login` wrote.
//!
//! Only this file (and clap, for the flags that name a variable) reads the environment.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::error::CliError;
use crate::files;

const DEFAULT_SERVER: &str = "http://127.0.0.1:8080";

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct GlobalArgs {
    /// The fleet server's address [default: the profile's, or <http://127.0.0.1:8080>]
    #[arg(long, global = true, env = "FLOTILLA_SERVER", value_name = "URL")]
    pub(crate) server: Option<String>,
    /// API token; a file is better: command lines are seen by everyone on the machine
    #[arg(
        long,
        global = true,
        env = "FLOTILLA_TOKEN",
        hide_env_values = true,
        conflicts_with = "token_file"
    )]
    pub(crate) token: Option<String>,
    /// File that holds the API token
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Certificates (PEM) to trust instead of the system's
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Profile file [default: ~/.config/flotilla/fleetctl.toml]
    #[arg(long, global = true, env = "FLOTILLA_PROFILE", value_name = "FILE")]
    pub(crate) profile: Option<PathBuf>,
    /// Print the API's JSON instead of tables
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// What `fleetctl login` remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
}

impl Profile {
    /// Replaces what was there.
    pub(crate) fn write(&self, path: &Path) -> Result<(), CliError> {
        let text = toml::to_string(self).map_err(|why| CliError::file(path, why))?;
        files::write(path, text.as_bytes())
    }
}

/// What a client needs.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) server: String,
    pub(crate) token: Option<String>,
    pub(crate) ca_pem: Option<Vec<u8>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl GlobalArgs {
    /// Where the profile stands, whether it exists or not.
    pub(crate) fn profile_path(&self) -> Result<PathBuf, CliError> {
        if let Some(path) = &self.profile {
            return Ok(path.clone());
        }
        let base = match std::env::var_os("XDG_CONFIG_HOME") {
            Some(dir) if !dir.is_empty() => PathBuf::from(dir),
            _ => match std::env::var_os("HOME") {
                Some(home) if !home.is_empty() => Path::new(&home).join(".config"),
                _ => {
                    return Err(CliError::Usage(
                        "neither HOME nor XDG_CONFIG_HOME is set: name the profile with --profile".to_owned(),
                    ));
                }
            },
        };
        Ok(base.join("flotilla").join("fleetctl.toml"))
    }

    /// Flags over environment over profile over defaults. A profile that was named must be there, unless this is `login`, which
    /// writes it.
    pub(crate) fn connection(&self, writes_profile: bool) -> Result<Connection, CliError> {
        let profile = match self.profile_path() {
            Ok(path) if path.exists() => files::read_toml(&path)?,
            Ok(path) if self.profile.is_some() && !writes_profile => {
                let why = "there is no such profile (--profile, FLOTILLA_PROFILE): 'fleetctl login' writes it";
                return Err(CliError::file(&path, why));
            }
            // Without a home there is no profile, and flags may say all that is needed.
            Ok(_) | Err(_) => Profile::default(),
        };
        let server = self
            .server
            .clone()
            .or(profile.server)
            .unwrap_or_else(|| DEFAULT_SERVER.to_owned());
        let token_file = self.token_file.clone().or(profile.token_file);
        let token = match (&self.token, token_file) {
            (Some(token), _) => Some(token.trim().to_owned()),
            (None, Some(path)) => Some(files::read_text(&path)?.trim().to_owned()),
            (None, None) => None,
        };
        let ca_pem = match self.ca.clone().or(profile.ca) {
            Some(path) => Some(files::read_text(&path)?.into_bytes()),
            None => None,
        };
        Ok(Connection { server, token, ca_pem })
    }
}

/// This very program, to be run again.
pub(crate) fn own_program() -> Result<PathBuf, CliError> {
    std::env::current_exe().map_err(|why| CliError::Failed(format!("where this program stands is not known: {why}")))
}

/// May colours be used on a terminal? (<https://no-color.org>)
pub(crate) fn colours_allowed() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(profile: &Path) -> GlobalArgs {
        GlobalArgs {
            server: None,
            token: None,
            token_file: None,
            ca: None,
            profile: Some(profile.to_owned()),
            json: false,
        }
    }

    #[test]
    fn flags_win_over_the_profile() {
        let dir = tempfile::tempdir().unwrap();
        let profile = dir.path().join("fleetctl.toml");
        let token = dir.path().join("token");
        std::fs::write(&token, "secret\n").unwrap();
        let text = toml::to_string(&Profile {
            server: Some("https://fleet:1".into()),
            token_file: Some(token),
            ca: None,
        });
        std::fs::write(&profile, text.unwrap()).unwrap();
        let mut args = args(&profile);
        let connection = args.connection(false).unwrap();
        assert_eq!(
            (connection.server.as_str(), connection.token.as_deref()),
            ("https://fleet:1", Some("secret"))
        );
        args.server = Some("http://other:2".into());
        args.token = Some("given".into());
        let connection = args.connection(false).unwrap();
        assert_eq!(
            (connection.server.as_str(), connection.token.as_deref()),
            ("http://other:2", Some("given"))
        );
    }

    #[test]
    fn an_unknown_profile_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let profile = dir.path().join("fleetctl.toml");
        std::fs::write(&profile, "sever = 'x'").unwrap();
        let error = args(&profile).connection(false).unwrap_err().to_string();
        assert!(error.contains("unknown field `sever`"), "{error}");
    }

    #[test]
    fn without_a_profile_the_default_server_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let named = args(&dir.path().join("none.toml"));
        let why = named.connection(false).unwrap_err().to_string();
        assert!(why.contains("none.toml: there is no such profile"), "{why}");
        let connection = named.connection(true).unwrap();
        assert_eq!(connection.server, DEFAULT_SERVER);
        assert!(connection.token.is_none());
    }
}
