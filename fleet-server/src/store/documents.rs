//! Signed documents of the fleet: roots and heads, as envelopes; and what a head has to say of packages.

use flotilla_protocol::ids::{Digest, ModelLine};
use sqlx::Row as _;

use crate::store::{Db, StoreError, Tx, parsed, statements, to_i64, to_u64};

statements! {
    INSERT = "INSERT INTO documents (kind, version, envelope, created_at) VALUES ($1, $2, $3, $4)";
    LATEST = "SELECT version, envelope FROM documents WHERE kind = $1 ORDER BY version DESC LIMIT 1";
    AFTER = "SELECT envelope FROM documents WHERE kind = $1 AND version > $2 ORDER BY version LIMIT 64";
    PRUNE = "DELETE FROM documents WHERE kind = $1 AND version < $2";
    REVOKED = "SELECT manifest, line, release_counter FROM model_versions WHERE signature = 'revoked' ORDER BY manifest";
    CREATE_PROJECT = "INSERT INTO projects (id, name, created_at) VALUES ($1, $2, $3)";
    SET_NAME = "UPDATE fleet SET name = $1";
    INSERT_NAME = "INSERT INTO fleet (name) VALUES ($1)";
    NAME = "SELECT name FROM fleet LIMIT 1";
    DEFAULT_PROJECT = "SELECT id FROM projects ORDER BY created_at, id LIMIT 1";
}

pub const ROOT: &str = "root";
pub const HEAD: &str = "head";

pub async fn insert(tx: &mut Tx, kind: &str, version: u64, envelope: &[u8], now: i64) -> Result<(), StoreError> {
    sqlx::query(INSERT)
        .bind(kind)
        .bind(to_i64(version))
        .bind(envelope)
        .bind(now)
        .execute(&mut **tx)
        .await
        .map_err(|error| StoreError::or_exists(error, || format!("{kind} version {version}")))?;
    Ok(())
}

/// The newest document of a kind.
pub async fn latest(db: &Db, kind: &'static str) -> Result<(u64, Vec<u8>), StoreError> {
    let row = sqlx::query(LATEST)
        .bind(kind)
        .fetch_optional(db.read())
        .await?
        .ok_or_else(|| StoreError::not_found("document", kind))?;
    Ok((to_u64(row.try_get("version")?), row.try_get("envelope")?))
}

/// Documents after a version, in order; at most 64 at a time.
pub async fn after(db: &Db, kind: &str, version: u64) -> Result<Vec<Vec<u8>>, StoreError> {
    Ok(sqlx::query_scalar(AFTER)
        .bind(kind)
        .bind(to_i64(version))
        .fetch_all(db.read())
        .await?)
}

/// Forgets what a newer document replaces (heads; roots are kept for ever).
pub async fn prune(tx: &mut Tx, kind: &str, below: u64) -> Result<(), StoreError> {
    sqlx::query(PRUNE)
        .bind(kind)
        .bind(to_i64(below))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// A package that no device may install any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedManifest {
    pub manifest: Digest,
    pub line: ModelLine,
    pub release_counter: u64,
}

/// All of them, in order of digest.
pub async fn revoked_manifests(db: &Db) -> Result<Vec<RevokedManifest>, StoreError> {
    let rows = sqlx::query(REVOKED).fetch_all(db.read()).await?;
    rows.iter()
        .map(|row| {
            Ok(RevokedManifest {
                manifest: parsed("manifest digest", row.try_get("manifest")?)?,
                line: parsed("model line", row.try_get("line")?)?,
                release_counter: to_u64(row.try_get("release_counter")?),
            })
        })
        .collect()
}

pub async fn create_project(tx: &mut Tx, id: &str, name: &str, now: i64) -> Result<(), StoreError> {
    sqlx::query(CREATE_PROJECT)
        .bind(id)
        .bind(name)
        .bind(now)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The project that everything belongs to while there is one.
pub async fn default_project(db: &Db) -> Result<String, StoreError> {
    sqlx::query_scalar(DEFAULT_PROJECT)
        .fetch_optional(db.read())
        .await?
        .ok_or_else(|| StoreError::not_found("project", "default"))
}

/// The fleet's name, for people.
pub async fn name(db: &Db) -> Result<String, StoreError> {
    sqlx::query_scalar(NAME)
        .fetch_optional(db.read())
        .await?
        .ok_or_else(|| StoreError::not_found("fleet", "name"))
}

pub async fn set_name(tx: &mut Tx, name: &str) -> Result<(), StoreError> {
    if sqlx::query(SET_NAME)
        .bind(name)
        .execute(&mut **tx)
        .await?
        .rows_affected()
        == 0
    {
        sqlx::query(INSERT_NAME).bind(name).execute(&mut **tx).await?;
    }
    Ok(())
}
