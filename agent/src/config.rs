//! The agent's configuration: one TOML file, typed, unknown keys refused by name, a few overrides from the environment.
//!
//! Only this file reads the environment.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use flotilla_protocol::ids::DeviceId;
use serde::{Deserialize, Serialize};

use crate::files::{self, FileError};
use crate::ota::state::PhaseName;
use crate::serve::stream::StreamConfig;
use crate::spool::SpoolLimits;

/// Longest configuration file that is read.
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("there is no configuration file {}", .0.display())]
    Missing(PathBuf),
    #[error("{} is not UTF-8 text", .0.display())]
    NotText(PathBuf),
    #[error("{}: {message}", path.display())]
    Toml { path: PathBuf, message: String },
    #[error("{name}={value}: {message}")]
    Environment {
        name: String,
        value: String,
        message: String,
    },
    #[error("{0}")]
    Stream(String),
    #[error("'{key}' = {value}: {rule}")]
    Rule {
        key: &'static str,
        value: String,
        rule: &'static str,
    },
}

/// The keys of the file. What has a default may be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Everything that the agent keeps.
    pub data_dir: PathBuf,
    /// The name to ask for at enrolment; without it, one is derived from the device's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<DeviceId>,
    #[serde(default = "default_hardware_class")]
    pub hardware_class: String,
    /// Local inference and status, on a loopback address; port 0 takes a free one, which stands in `<data_dir>/rest.addr`.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    #[serde(default)]
    pub log: LogConfig,
    #[serde(default)]
    pub enrolment: EnrolmentConfig,
    #[serde(default)]
    pub link: LinkConfig,
    #[serde(default)]
    pub spool: SpoolConfig,
    #[serde(default)]
    pub telemetry: TelemetryConfig,
    #[serde(default)]
    pub update: UpdateConfig,
    #[serde(default)]
    pub shutdown: ShutdownConfig,
    #[serde(default, rename = "stream", skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<StreamConfig>,
    #[serde(default)]
    pub debug: DebugConfig,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    pub format: LogFormat,
    /// `tracing` directives: `info`, `fleet_agent=debug,info`.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            filter: "info".to_owned(),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnrolmentConfig {
    /// `run` enrols with this factory bundle when the device has no identity yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkConfig {
    /// After two of these without a sign of the broker, the connection is given up.
    pub keep_alive_s: u64,
    /// Longest pause between attempts to connect.
    pub backoff_cap_ms: u64,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            keep_alive_s: 10,
            backoff_cap_ms: 30_000,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolConfig {
    pub max_records: usize,
    pub max_bytes: u64,
    /// Audit entries are kept beyond the other caps, up to this; then the oldest go, which is itself audited.
    pub max_audit_bytes: u64,
    /// Records published and not yet receipted.
    pub max_in_flight: usize,
    pub resend_after_ms: u64,
    /// Kept on disk for the day it is full.
    pub reserve_bytes: u64,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            max_records: 20_000,
            max_bytes: 256 * 1024 * 1024,
            max_audit_bytes: 64 * 1024 * 1024,
            max_in_flight: 8,
            resend_after_ms: 20_000,
            reserve_bytes: 4 * 1024 * 1024,
        }
    }
}

impl SpoolConfig {
    pub fn limits(&self) -> SpoolLimits {
        SpoolLimits {
            max_records: self.max_records,
            max_bytes: self.max_bytes,
            max_audit_bytes: self.max_audit_bytes,
            max_in_flight: self.max_in_flight,
            resend_after_ms: self.resend_after_ms,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// Until a desired state says otherwise.
    pub bundle_interval_ms: u64,
    /// Shortest interval that a desired state can ask for.
    pub min_bundle_interval_ms: u64,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            bundle_interval_ms: 60_000,
            min_bundle_interval_ms: 1_000,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateConfig {
    /// Chunks of 64 KiB asked for and not yet here.
    pub window_chunks: u16,
    /// Attempts to fetch a package before its deployment fails.
    pub max_fetch_attempts: u32,
    /// First pause between attempts; doubles, up to an hour.
    pub retry_ms: u64,
}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            window_chunks: 16,
            max_fetch_attempts: 10,
            retry_ms: 5_000,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShutdownConfig {
    pub deadline_ms: u64,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { deadline_ms: 10_000 }
    }
}

/// For tests of whole systems.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DebugConfig {
    /// An update durably enters this state, `<data_dir>/paused` is written, and it goes no further. Inference goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_in_state: Option<PhaseName>,
}

fn default_hardware_class() -> String {
    "generic".to_owned()
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8740))
}

impl Config {
    /// Reads the file and applies `FLOTILLA_AGENT_…`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let bytes = files::read_capped(path, MAX_CONFIG_BYTES)?.ok_or_else(|| ConfigError::Missing(path.to_owned()))?;
        let text = String::from_utf8(bytes).map_err(|_not_utf8| ConfigError::NotText(path.to_owned()))?;
        let config = Self::parse(&text, path)?;
        config.overridden(environment)?.checked()
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|why| ConfigError::Toml {
            path: path.to_owned(),
            message: why.to_string(),
        })
    }

    /// Applies overrides that `read` knows by name.
    fn overridden(mut self, read: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(name: &str, value: String) -> Result<T, ConfigError> {
            value.parse().map_err(|why: T::Err| ConfigError::Environment {
                name: name.to_owned(),
                message: why.to_string(),
                value,
            })
        }
        let named = |name: &'static str| read(name).map(|value| (name, value));
        if let Some((_, value)) = named("FLOTILLA_AGENT_DATA_DIR") {
            self.data_dir = PathBuf::from(value);
        }
        if let Some((name, value)) = named("FLOTILLA_AGENT_DEVICE_ID") {
            self.device_id = Some(parsed(name, value)?);
        }
        if let Some((_, value)) = named("FLOTILLA_AGENT_HARDWARE_CLASS") {
            self.hardware_class = value;
        }
        if let Some((name, value)) = named("FLOTILLA_AGENT_LISTEN") {
            self.listen = parsed(name, value)?;
        }
        if let Some((_, value)) = named("FLOTILLA_AGENT_BUNDLE") {
            self.enrolment.bundle = Some(PathBuf::from(value));
        }
        if let Some((_, value)) = named("FLOTILLA_AGENT_LOG") {
            self.log.filter = value;
        }
        Ok(self)
    }

    fn checked(self) -> Result<Self, ConfigError> {
        if !self.listen.ip().is_loopback() {
            return Err(ConfigError::Rule {
                key: "listen",
                value: self.listen.to_string(),
                rule: "an address of this device alone, as 127.0.0.1 or [::1]: local inference has no authentication",
            });
        }
        let rule = |ok: bool, key: &'static str, value: u64, rule: &'static str| {
            if ok {
                return Ok(());
            }
            Err(ConfigError::Rule {
                key,
                value: value.to_string(),
                rule,
            })
        };
        let keep_alive = self.link.keep_alive_s;
        rule(
            (1..=3600).contains(&keep_alive),
            "link.keep_alive_s",
            keep_alive,
            "1 to 3600",
        )?;
        let cap = self.link.backoff_cap_ms;
        rule(cap >= 10, "link.backoff_cap_ms", cap, "at least 10")?;
        let window = self.update.window_chunks;
        rule(
            (1..=256).contains(&window),
            "update.window_chunks",
            u64::from(window),
            "1 to 256",
        )?;
        let flight = self.spool.max_in_flight;
        rule(
            (1..=64).contains(&flight),
            "spool.max_in_flight",
            flight as u64,
            "1 to 64",
        )?;
        let records = self.spool.max_records;
        rule(records >= 16, "spool.max_records", records as u64, "at least 16")?;
        let bytes = self.spool.max_bytes;
        rule(bytes >= 1024 * 1024, "spool.max_bytes", bytes, "at least 1 MiB")?;
        let audit = self.spool.max_audit_bytes;
        rule(audit >= 1024 * 1024, "spool.max_audit_bytes", audit, "at least 1 MiB")?;
        let interval = self.telemetry.bundle_interval_ms;
        rule(
            interval >= 100,
            "telemetry.bundle_interval_ms",
            interval,
            "at least 100",
        )?;
        for stream in &self.streams {
            stream.check().map_err(ConfigError::Stream)?;
        }
        Ok(self)
    }

    /// What is in force, as TOML.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        toml::to_string_pretty(self).map_err(|why| ConfigError::Toml {
            path: PathBuf::from("(configuration in force)"),
            message: why.to_string(),
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("agent.toml"))
    }

    #[test]
    fn an_unknown_key_is_refused_by_name_and_place() {
        let refused = parse("data_dir = '/x'\n[link]\nkeep_alive_s = 5\nkeepalive = 7\n").unwrap_err();
        insta::assert_snapshot!(refused, @r"
        agent.toml: TOML parse error at line 4, column 1
          |
        4 | keepalive = 7
          | ^^^^^^^^^
        unknown field `keepalive`, expected `keep_alive_s` or `backoff_cap_ms`
        ");
    }

    #[test]
    fn the_environment_overrides_and_is_named_when_wrong() {
        let config = parse("data_dir = '/x'").unwrap();
        let changed = config
            .clone()
            .overridden(|name| (name == "FLOTILLA_AGENT_DEVICE_ID").then(|| "press-07".to_owned()))
            .unwrap();
        assert_eq!(changed.device_id.unwrap().as_str(), "press-07");
        let refused = config
            .overridden(|name| (name == "FLOTILLA_AGENT_LISTEN").then(|| "nowhere".to_owned()))
            .unwrap_err();
        assert!(
            refused.to_string().starts_with("FLOTILLA_AGENT_LISTEN=nowhere"),
            "{refused}"
        );
    }

    #[test]
    fn an_address_that_others_reach_is_refused_by_its_key() {
        for address in ["0.0.0.0:8740", "192.0.2.1:80", "[::]:8740", "[2001:db8::1]:8740"] {
            let config = parse(&format!("data_dir = '/x'\nlisten = '{address}'")).unwrap();
            let refused = config.checked().unwrap_err().to_string();
            let told = format!("'listen' = {address}: an address of this device alone");
            assert!(refused.starts_with(&told), "{refused}");
        }
        for address in ["127.0.0.1:0", "127.9.9.9:80", "[::1]:8740"] {
            let config = parse(&format!("data_dir = '/x'\nlisten = '{address}'")).unwrap();
            assert!(config.checked().is_ok(), "{address}");
        }
        let overridden = parse("data_dir = '/x'")
            .unwrap()
            .overridden(|name| (name == "FLOTILLA_AGENT_LISTEN").then(|| "0.0.0.0:1".to_owned()));
        let refused = overridden.unwrap().checked().unwrap_err().to_string();
        assert!(refused.contains("'listen' = 0.0.0.0:1"), "{refused}");
    }

    #[test]
    fn what_is_printed_reads_back() {
        let text = "data_dir = '/x'\n[debug]\npause_in_state = 'soaking'\n[update]\nwindow_chunks = 0\n";
        let config = parse(text).unwrap();
        assert_eq!(parse(&config.to_toml().unwrap()).unwrap(), config);
        assert!(
            config
                .checked()
                .unwrap_err()
                .to_string()
                .contains("update.window_chunks")
        );
    }
}
