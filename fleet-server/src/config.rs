//! The server's configuration: one TOML file, every key known, and a few environment overrides. The only reader of the
//! environment.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::heavy;

/// Why the configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {path}: {source}. 'fleet-server init' makes one")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("configuration {path}: {source}")]
    Parse {
        path: PathBuf,
        source: Box<toml::de::Error>,
    },
    #[error("cannot write the configuration: {0}")]
    Write(#[from] toml::ser::Error),
    #[error("environment variable {name}: '{value}' is not {expected}")]
    Environment {
        name: &'static str,
        value: String,
        expected: &'static str,
    },
    #[error("configuration {path}: {why}")]
    Invalid { path: PathBuf, why: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Where the server listens. Port 0 takes a free one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// API for people and tools: plain HTTP, therefore loopback only.
    pub api: SocketAddr,
    /// Enrolment and blobs for devices: HTTPS.
    pub device_api: SocketAddr,
    /// MQTT over mutual TLS.
    pub broker: SocketAddr,
}

/// How devices observe themselves, unless a rollout says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Between two bundles of a device.
    pub bundle_interval_ms: u64,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            bundle_interval_ms: 60_000,
        }
    }
}

/// What training, evaluating and packaging may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Training {
    /// Most bytes of samples that one of them may hold in memory; what needs more is refused.
    pub max_dataset_bytes: u64,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            max_dataset_bytes: heavy::DEFAULT_DATASET_BYTES,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Keys, database and blobs. Relative to the configuration file.
    pub data_dir: PathBuf,
    /// The name by which devices reach this server; it stands in the server's certificate.
    pub host: String,
    pub listen: Listen,
    /// How browsers reach `listen.api`, where a TLS proxy stands in front: `https://fleet.example`. Sign-in links begin
    /// with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_url: Option<String>,
    #[serde(default)]
    pub log: LogFormat,
    /// Seconds that a clean stop may take.
    #[serde(default = "default_stop_s")]
    pub stop_deadline_s: u64,
    #[serde(default)]
    pub telemetry: Telemetry,
    #[serde(default)]
    pub training: Training,
}

const fn default_stop_s() -> u64 {
    10
}

impl Config {
    /// Reads the file, applies the environment, and makes `data_dir` absolute.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut config = Self::parse(&text, path)?;
        config.apply_environment()?;
        if config.data_dir.is_relative() {
            let folder = path.parent().unwrap_or(Path::new("."));
            config.data_dir = folder.join(&config.data_dir);
        }
        if let Some(url) = &config.public_url
            && !(url.starts_with("https://") || url.starts_with("http://"))
        {
            return Err(ConfigError::Invalid {
                path: path.to_owned(),
                why: format!("public_url = '{url}' begins with neither https:// nor http://"),
            });
        }
        if !config.listen.api.ip().is_loopback() {
            return Err(ConfigError::Invalid {
                path: path.to_owned(),
                why: format!(
                    "listen.api = {} is reachable from other machines, and the API speaks plain HTTP: use a loopback address \
                     and put a TLS proxy in front",
                    config.listen.api
                ),
            });
        }
        Ok(config)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    #[expect(clippy::disallowed_methods, reason = "config.rs is where the environment is read")]
    fn apply_environment(&mut self) -> Result<(), ConfigError> {
        let address = |name: &'static str, into: &mut SocketAddr| -> Result<(), ConfigError> {
            if let Ok(value) = std::env::var(name) {
                *into = value.parse().map_err(|_why| ConfigError::Environment {
                    name,
                    value,
                    expected: "an address such as 127.0.0.1:8080",
                })?;
            }
            Ok(())
        };
        address("FLOTILLA_LISTEN_API", &mut self.listen.api)?;
        address("FLOTILLA_LISTEN_DEVICE_API", &mut self.listen.device_api)?;
        address("FLOTILLA_LISTEN_BROKER", &mut self.listen.broker)
    }

    pub fn to_toml(&self) -> Result<String, ConfigError> {
        Ok(toml::to_string_pretty(self)?)
    }

    pub fn stop_deadline(&self) -> Duration {
        Duration::from_secs(self.stop_deadline_s)
    }

    pub fn database(&self) -> PathBuf {
        self.data_dir.join("flotilla.db")
    }

    pub fn blobs(&self) -> PathBuf {
        self.data_dir.join("blobs")
    }

    pub fn director_key(&self) -> PathBuf {
        self.data_dir.join("keys/director.key")
    }

    pub fn ca_certificate(&self) -> PathBuf {
        self.data_dir.join("keys/ca.pem")
    }

    pub fn ca_key(&self) -> PathBuf {
        self.data_dir.join("keys/ca.key")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "data_dir = \"data\"\nhost = \"localhost\"\n[listen]\napi = \"127.0.0.1:0\"\n\
                        device_api = \"127.0.0.1:0\"\nbroker = \"127.0.0.1:0\"\n";

    #[test]
    fn unknown_keys_are_named() {
        let error = Config::parse(&format!("colour = \"red\"\n{GOOD}"), Path::new("fleet.toml")).unwrap_err();
        assert!(error.to_string().contains("unknown field `colour`"), "{error}");
        let error = Config::parse(&format!("{GOOD}[telemetry]\ninterval = 3\n"), Path::new("fleet.toml")).unwrap_err();
        assert!(error.to_string().contains("unknown field `interval`"), "{error}");
    }

    #[test]
    fn what_is_in_force_reads_back() {
        let config = Config::parse(GOOD, Path::new("fleet.toml")).unwrap();
        assert_eq!(
            Config::parse(&config.to_toml().unwrap(), Path::new("x")).unwrap(),
            config
        );
    }

    #[test]
    fn plain_http_stays_on_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fleet.toml");
        std::fs::write(
            &path,
            GOOD.replace("api = \"127.0.0.1:0\"\ndevice", "api = \"0.0.0.0:80\"\ndevice"),
        )
        .unwrap();
        let error = Config::load(&path).unwrap_err();
        assert!(error.to_string().contains("loopback"), "{error}");
        std::fs::write(&path, GOOD).unwrap();
        assert_eq!(Config::load(&path).unwrap().data_dir, dir.path().join("data"));
    }
}
