//! Makes a fleet: CA, director key, database, blob folder, admin token; root and release keys into a folder of their own,
//! which `serve` never opens. Refuses to overwrite anything.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

use clap::Args;
use flotilla_protocol::ids::FleetId;
use flotilla_protocol::trust::{Document as _, Header, KeyPair, Role, RoleKeys, Root, TrustError, sign};
use serde_bytes::ByteBuf;
use uuid::Uuid;

use crate::ca::{Ca, CaError};
use crate::config::{Config, ConfigError, Listen, LogFormat, Telemetry, Training};
use crate::domain::authz::Role as ApiRole;
use crate::files::{self, Access, FileError};
use crate::store::{Db, StoreError, documents, tokens};
use crate::{audit, clock};

/// A year: roots are renewed before.
const ROOT_LIFETIME_MS: i64 = 365 * 24 * 3600 * 1000;

#[derive(Debug, Clone, Args)]
pub struct InitOptions {
    /// Folder to make: configuration, keys, database, blobs
    #[arg(long)]
    pub dir: PathBuf,
    /// The fleet's name, for people
    #[arg(long, default_value = "fleet")]
    pub name: String,
    /// Folder to make for the root and release keys; move it off this machine
    #[arg(long)]
    pub offline_keys: PathBuf,
    /// The name or address by which devices reach this server
    #[arg(long, default_value = "localhost")]
    pub host: String,
    /// API for people and tools (plain HTTP, loopback)
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub api: SocketAddr,
    /// Enrolment for devices (HTTPS)
    #[arg(long, default_value = "0.0.0.0:8443")]
    pub device_api: SocketAddr,
    /// MQTT broker for devices (mutual TLS)
    #[arg(long, default_value = "0.0.0.0:8883")]
    pub broker: SocketAddr,
    /// Milliseconds between two telemetry bundles of a device
    #[arg(long, default_value_t = 60_000)]
    pub bundle_interval_ms: u64,
}

/// Why no fleet was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("{0} exists already: a fleet is never overwritten. Choose another folder")]
    Exists(PathBuf),
    #[error("the keys of {offline} would lie inside {dir}, which the server reads: choose a folder outside it")]
    KeysInside { offline: PathBuf, dir: PathBuf },
    #[error("{0}")]
    File(#[from] FileError),
    #[error("certificate authority: {0}")]
    Ca(#[from] CaError),
    #[error("root of trust: {0}")]
    Trust(#[from] TrustError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("no randomness from the system: {0}")]
    Random(String),
}

/// What was made, for people.
#[derive(Debug)]
pub struct Made {
    dir: PathBuf,
    offline_keys: PathBuf,
    name: String,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dir, offline) = (self.dir.display(), self.offline_keys.display());
        writeln!(f, "Made fleet '{}' in {dir}.", self.name)?;
        writeln!(f, "  admin token    {dir}/admin.token")?;
        writeln!(
            f,
            "  offline keys   {offline} (root, release, release-system): move them off this machine,"
        )?;
        writeln!(
            f,
            "                 the server never opens them; 'fleetctl sign' uses them"
        )?;
        write!(f, "Start it:        fleet-server serve --config {dir}/fleet.toml")
    }
}

/// See the module's documentation.
pub async fn init(options: &InitOptions) -> Result<Made, InitError> {
    for folder in [&options.dir, &options.offline_keys] {
        if folder.exists() {
            return Err(InitError::Exists(folder.clone()));
        }
    }
    if resolved(&options.offline_keys)?.starts_with(resolved(&options.dir)?) {
        return Err(InitError::KeysInside {
            offline: options.offline_keys.clone(),
            dir: options.dir.clone(),
        });
    }
    let config = Config {
        data_dir: PathBuf::from("data"),
        host: options.host.clone(),
        listen: Listen {
            api: options.api,
            device_api: options.device_api,
            broker: options.broker,
        },
        public_url: None,
        log: LogFormat::Text,
        stop_deadline_s: 10,
        telemetry: Telemetry {
            bundle_interval_ms: options.bundle_interval_ms,
        },
        training: Training::default(),
    };
    let data = options.dir.join("data");
    files::create_private_dir(&options.dir)?;
    files::create_private_dir(&data.join("keys"))?;
    files::create_private_dir(&data.join("blobs"))?;
    files::create_private_dir(&options.offline_keys)?;

    let now = clock::now_ms();
    let (ca, ca_pem, ca_key_pem) = Ca::create(&options.name, now)?;
    files::create(&data.join("keys/ca.pem"), ca_pem.as_bytes(), Access::Public)?;
    files::create(&data.join("keys/ca.key"), ca_key_pem.as_bytes(), Access::Private)?;
    let director = new_key(&data.join("keys/director.key"))?;
    let keys = OfflineKeys {
        root: new_key(&options.offline_keys.join("root.key"))?,
        release: new_key(&options.offline_keys.join("release.key"))?,
        release_system: new_key(&options.offline_keys.join("release-system.key"))?,
    };
    let fleet = FleetId::new(Uuid::now_v7());
    let root = first_root(fleet, &keys, &director, ca.certificate_der(), now)?;

    let token = new_token()?;
    files::create(
        &options.dir.join("admin.token"),
        format!("{token}\n").as_bytes(),
        Access::Private,
    )?;
    write_database(&data.join("flotilla.db"), &root, &token, &options.name, now).await?;
    // Last: a folder with this file is a whole fleet.
    files::create(
        &options.dir.join("fleet.toml"),
        config.to_toml()?.as_bytes(),
        Access::Public,
    )?;
    Ok(Made {
        dir: options.dir.clone(),
        offline_keys: options.offline_keys.clone(),
        name: options.name.clone(),
    })
}

/// Where a folder that may not be there yet will be: absolute, through every symbolic link on the way, without `..`.
fn resolved(path: &Path) -> Result<PathBuf, InitError> {
    let absolute = std::path::absolute(path).map_err(FileError::at(path))?;
    let mut there = absolute.as_path();
    let mut missing = Vec::new();
    let base = loop {
        if let Ok(base) = there.canonicalize() {
            break base;
        }
        let Some(parent) = there.parent() else {
            break there.to_owned();
        };
        missing.extend(there.components().next_back());
        there = parent;
    };
    let mut whole = base;
    for part in missing.into_iter().rev() {
        match part {
            Component::ParentDir => {
                whole.pop();
            }
            part => whole.push(part),
        }
    }
    Ok(whole)
}

struct OfflineKeys {
    root: KeyPair,
    release: KeyPair,
    release_system: KeyPair,
}

fn first_root(
    fleet: FleetId,
    keys: &OfflineKeys,
    director: &KeyPair,
    anchor: &[u8],
    now: i64,
) -> Result<Vec<u8>, TrustError> {
    let one = |key: &KeyPair| RoleKeys {
        keys: std::iter::once(key.id()).collect(),
        threshold: 1,
    };
    let root = Root {
        header: Header {
            schema: Root::SCHEMA.to_owned(),
            role: Role::Root,
            fleet,
            version: 1,
            issued: now,
            expires: now + ROOT_LIFETIME_MS,
        },
        keys: [&keys.root, director, &keys.release, &keys.release_system]
            .map(KeyPair::public)
            .to_vec(),
        roles: [
            ("root", one(&keys.root)),
            ("director", one(director)),
            ("release/*", one(&keys.release)),
            ("release-system", one(&keys.release_system)),
        ]
        .map(|(name, role)| (name.to_owned(), role))
        .into(),
        tls_anchors: vec![ByteBuf::from(anchor.to_vec())],
    };
    root.check()?;
    sign(&root, &keys.root)
}

async fn write_database(path: &Path, root: &[u8], token: &str, name: &str, now: i64) -> Result<(), InitError> {
    let db = Db::open(path).await?;
    let mut tx = db.begin().await?;
    documents::create_project(&mut tx, &Uuid::now_v7().to_string(), "default", now).await?;
    documents::set_name(&mut tx, name).await?;
    documents::insert(&mut tx, documents::ROOT, 1, root, now).await?;
    tokens::create_api_token(&mut tx, "admin", &tokens::hash_token(token), &[ApiRole::Admin], now).await?;
    let record = audit::record("fleet-server init", "fleet.created", format!("fleet:{name}"), []);
    crate::store::audit::append(&mut tx, &record).await?;
    tx.commit().await.map_err(StoreError::from)?;
    db.close().await;
    Ok(())
}

fn new_key(path: &Path) -> Result<KeyPair, InitError> {
    let seed = zeroize::Zeroizing::new(random::<32>()?);
    let key = KeyPair::from_seed(&seed);
    let pem = zeroize::Zeroizing::new(key.to_pkcs8_pem()?);
    files::create(path, pem.as_bytes(), Access::Private)?;
    Ok(key)
}

/// 256 random bits with a prefix that secret scanners can find.
pub fn new_token() -> Result<String, InitError> {
    Ok(format!("flt_{}", hex::encode(random::<32>()?)))
}

fn random<const N: usize>() -> Result<[u8; N], InitError> {
    let mut bytes = [0; N];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|why| InitError::Random(format!("{why:?}")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(dir: PathBuf, offline_keys: PathBuf) -> InitOptions {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        InitOptions {
            dir,
            name: "fleet".into(),
            offline_keys,
            host: "localhost".into(),
            api: any,
            device_api: any,
            broker: any,
            bundle_interval_ms: 1000,
        }
    }

    #[tokio::test]
    async fn keys_never_lie_inside_the_fleet_however_the_path_is_written() {
        let place = tempfile::tempdir().unwrap();
        let here = place.path();
        std::fs::create_dir(here.join("real")).unwrap();
        std::os::unix::fs::symlink(here.join("real"), here.join("link")).unwrap();
        for (dir, keys) in [
            ("f", "f/keys"),
            ("f", "./f/keys"),
            ("f", "g/../f/keys"),
            ("f/.", "f/deep/keys"),
            ("real/f", "link/f/keys"),
            ("link/f", "real/f/keys"),
            ("f", "f"),
        ] {
            let refused = init(&options(here.join(dir), here.join(keys))).await;
            assert!(
                matches!(refused, Err(InitError::KeysInside { .. })),
                "{dir} {keys}: {refused:?}"
            );
            assert!(!here.join(dir).exists(), "{dir}: nothing is made");
        }
        init(&options(here.join("f"), here.join("f-keys"))).await.unwrap();
    }
}
