//! The model registry: lines, their versions, the manifests as they were packaged, and the signatures over them.

use flotilla_api_types::models::{Model, ModelVersion, SignatureState};
use flotilla_protocol::desired_state::Source;
use flotilla_protocol::ids::{DatasetVersionId, Digest, ModelLine, ModelVersionId, RunId};
use flotilla_protocol::manifest::ComponentKind;
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::clock;
use crate::store::sql::containing;
use crate::store::{Db, StoreError, Tx, json, parsed, statements, to_i64, to_json, to_u64};

statements! {
    CREATE_LINE = "INSERT INTO models (line, project_id, created_at) VALUES ($1, $2, $3) ON CONFLICT (line) DO NOTHING";
    LIST_LINES = "SELECT m.line, m.created_at,
        (SELECT COUNT(*) FROM model_versions v WHERE v.line = m.line) AS versions,
        (SELECT COUNT(*) FROM model_versions v WHERE v.line = m.line AND v.signature = 'unsigned') AS waiting,
        (SELECT v.semver FROM model_versions v WHERE v.line = m.line ORDER BY v.release_counter DESC LIMIT 1) AS latest
        FROM models m WHERE m.project_id = $1 AND LOWER(m.line) LIKE LOWER($2) ESCAPE '\\'
        AND ($3 = '' OR EXISTS (SELECT 1 FROM model_versions v WHERE v.line = m.line AND v.signature = $3))
        AND m.line > $4 ORDER BY m.line LIMIT $5";
    COUNT_LINES = "SELECT COUNT(*) FROM models m WHERE m.project_id = $1 AND LOWER(m.line) LIKE LOWER($2) ESCAPE '\\'
        AND ($3 = '' OR EXISTS (SELECT 1 FROM model_versions v WHERE v.line = m.line AND v.signature = $3))";
    HAS_LINE = "SELECT COUNT(*) FROM models WHERE line = $1";
    LAST_COUNTER = "SELECT COALESCE(MAX(release_counter), 0) FROM model_versions WHERE line = $1";
    HAS_SEMVER = "SELECT COUNT(*) FROM model_versions WHERE line = $1 AND semver = $2";
    SEMVER_OF = "SELECT semver FROM model_versions WHERE manifest = $1";
    CREATE = "INSERT INTO model_versions (id, line, semver, release_counter, manifest, payload, envelope, signature, run,
        dataset_version, components, package_bytes, golden_max_diff, golden_cases, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, NULL, 'unsigned', $7, $8, $9, $10, $11, $12, $13)";
    GET = "SELECT id, line, semver, release_counter, manifest, payload, envelope, signature, run, dataset_version,
        components, package_bytes, golden_max_diff, golden_cases, created_at FROM model_versions WHERE id = $1";
    GET_BY_MANIFEST = "SELECT id, line, semver, release_counter, manifest, payload, envelope, signature, run,
        dataset_version, components, package_bytes, golden_max_diff, golden_cases, created_at FROM model_versions
        WHERE manifest = $1";
    LIST = "SELECT id, line, semver, release_counter, manifest, payload, envelope, signature, run, dataset_version,
        components, package_bytes, golden_max_diff, golden_cases, created_at FROM model_versions
        WHERE line = $1 AND ($2 = '' OR signature = $2)
        AND LOWER(semver || ' ' || manifest || ' ' || id || ' ' || COALESCE(run, '')) LIKE LOWER($3) ESCAPE '\\'
        AND release_counter < $4 ORDER BY release_counter DESC LIMIT $5";
    COUNT = "SELECT COUNT(*) FROM model_versions WHERE line = $1 AND ($2 = '' OR signature = $2)
        AND LOWER(semver || ' ' || manifest || ' ' || id || ' ' || COALESCE(run, '')) LIKE LOWER($3) ESCAPE '\\'";
    ENVELOPE = "SELECT envelope FROM model_versions WHERE id = $1";
    SET_ENVELOPE = "UPDATE model_versions SET envelope = $2, signature = $3 WHERE id = $1 AND signature <> 'revoked'";
}

/// A component and the ways to send it, best first: what the director puts into desired states.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredComponent {
    pub kind: ComponentKind,
    /// Of the decoded plaintext, as in the manifest.
    pub digest: Digest,
    pub sources: Vec<Source>,
}

/// A version with what is needed to sign it and to send it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredVersion {
    pub version: ModelVersion,
    /// The manifest's bytes: what is signed.
    pub payload: Vec<u8>,
    /// With the signatures so far; `None` while there is none.
    pub envelope: Option<Vec<u8>>,
    /// In the manifest's order.
    pub components: Vec<StoredComponent>,
}

/// A version about to be registered.
#[derive(Debug, Clone, PartialEq)]
pub struct NewVersion {
    pub id: ModelVersionId,
    pub line: ModelLine,
    pub semver: String,
    pub release_counter: u64,
    pub payload: Vec<u8>,
    pub run: Option<RunId>,
    pub dataset_version: Option<DatasetVersionId>,
    pub components: Vec<StoredComponent>,
    pub package_bytes: u64,
    pub golden_max_diff: f64,
    pub golden_cases: u32,
}

const fn signature_text(state: SignatureState) -> &'static str {
    match state {
        SignatureState::Unsigned => "unsigned",
        SignatureState::Signed => "signed",
        SignatureState::Revoked => "revoked",
    }
}

fn signature_of(text: &str) -> Result<SignatureState, StoreError> {
    [
        SignatureState::Unsigned,
        SignatureState::Signed,
        SignatureState::Revoked,
    ]
    .into_iter()
    .find(|state| signature_text(*state) == text)
    .ok_or_else(|| StoreError::corrupt("signature state", text))
}

/// What lists of lines and versions are narrowed to.
#[derive(Debug, Clone, Copy, Default)]
pub struct ModelFilter<'a> {
    /// Of a version; a line matches if one of its versions does.
    pub signature: Option<SignatureState>,
    /// Stands in a line's name; in a version's number, digest, id or run. Whatever its case; empty narrows nothing.
    pub text: &'a str,
}

impl ModelFilter<'_> {
    fn signature_text(&self) -> &'static str {
        self.signature.map_or("", signature_text)
    }
}

/// In order of their names, after a line.
pub async fn lines(
    db: &Db,
    project: &str,
    filter: ModelFilter<'_>,
    after: &str,
    limit: u32,
) -> Result<Vec<Model>, StoreError> {
    let rows = sqlx::query(LIST_LINES)
        .bind(project)
        .bind(containing(filter.text))
        .bind(filter.signature_text())
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(db.read())
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Model {
                line: parsed("model line", row.try_get("line")?)?,
                versions: to_u64(row.try_get("versions")?),
                unsigned: to_u64(row.try_get("waiting")?),
                latest: row.try_get("latest")?,
                created_at: clock::rfc3339(row.try_get("created_at")?),
            })
        })
        .collect()
}

/// How many lines match, on all pages.
pub async fn count_lines(db: &Db, project: &str, filter: ModelFilter<'_>) -> Result<u64, StoreError> {
    let count: i64 = sqlx::query_scalar(COUNT_LINES)
        .bind(project)
        .bind(containing(filter.text))
        .bind(filter.signature_text())
        .fetch_one(db.read())
        .await?;
    Ok(to_u64(count))
}

pub async fn has_line(db: &Db, line: &ModelLine) -> Result<bool, StoreError> {
    let count: i64 = sqlx::query_scalar(HAS_LINE)
        .bind(line.as_str())
        .fetch_one(db.read())
        .await?;
    Ok(count > 0)
}

/// The line's highest release counter; 0 where there is no version.
pub async fn last_counter(db: &Db, line: &ModelLine) -> Result<u64, StoreError> {
    let last: i64 = sqlx::query_scalar(LAST_COUNTER)
        .bind(line.as_str())
        .fetch_one(db.read())
        .await?;
    Ok(to_u64(last))
}

pub async fn has_semver(db: &Db, line: &ModelLine, semver: &str) -> Result<bool, StoreError> {
    let count: i64 = sqlx::query_scalar(HAS_SEMVER)
        .bind(line.as_str())
        .bind(semver)
        .fetch_one(db.read())
        .await?;
    Ok(count > 0)
}

/// Registers a version, and its line if it is the first. Another version with its semver or counter is a conflict.
pub async fn create(tx: &mut Tx, project: &str, new: &NewVersion, now: i64) -> Result<(), StoreError> {
    sqlx::query(CREATE_LINE)
        .bind(new.line.as_str())
        .bind(project)
        .bind(now)
        .execute(&mut **tx)
        .await?;
    sqlx::query(CREATE)
        .bind(new.id.to_string())
        .bind(new.line.as_str())
        .bind(&new.semver)
        .bind(to_i64(new.release_counter))
        .bind(Digest::of(&new.payload).to_string())
        .bind(&new.payload)
        .bind(new.run.map(|run| run.to_string()))
        .bind(new.dataset_version.map(|version| version.to_string()))
        .bind(to_json("components", &new.components)?)
        .bind(to_i64(new.package_bytes))
        .bind(new.golden_max_diff)
        .bind(i64::from(new.golden_cases))
        .bind(now)
        .execute(&mut **tx)
        .await
        .map_err(|error| {
            StoreError::or_exists(error, || {
                format!(
                    "version {} (release counter {}) of '{}'",
                    new.semver, new.release_counter, new.line
                )
            })
        })?;
    Ok(())
}

pub async fn get(db: &Db, id: ModelVersionId) -> Result<StoredVersion, StoreError> {
    let row = sqlx::query(GET)
        .bind(id.to_string())
        .fetch_optional(db.read())
        .await?
        .ok_or_else(|| StoreError::not_found("model version", id))?;
    version_of(&row)
}

/// A version without its bytes.
pub async fn get_version(db: &Db, id: ModelVersionId) -> Result<ModelVersion, StoreError> {
    Ok(get(db, id).await?.version)
}

/// The version that devices know by this manifest.
pub async fn get_by_manifest(db: &Db, manifest: &Digest) -> Result<Option<StoredVersion>, StoreError> {
    let row = sqlx::query(GET_BY_MANIFEST)
        .bind(manifest.to_string())
        .fetch_optional(db.read())
        .await?;
    row.as_ref().map(version_of).transpose()
}

/// Newest first, below a release counter.
pub async fn list(
    db: &Db,
    line: &ModelLine,
    filter: ModelFilter<'_>,
    below: Option<u64>,
    limit: u32,
) -> Result<Vec<ModelVersion>, StoreError> {
    let rows = sqlx::query(LIST)
        .bind(line.as_str())
        .bind(filter.signature_text())
        .bind(containing(filter.text))
        .bind(below.map_or(i64::MAX, to_i64))
        .bind(i64::from(limit))
        .fetch_all(db.read())
        .await?;
    rows.iter().map(|row| Ok(version_of(row)?.version)).collect()
}

/// How many versions of a line match, on all pages.
pub async fn count(db: &Db, line: &ModelLine, filter: ModelFilter<'_>) -> Result<u64, StoreError> {
    let count: i64 = sqlx::query_scalar(COUNT)
        .bind(line.as_str())
        .bind(filter.signature_text())
        .bind(containing(filter.text))
        .fetch_one(db.read())
        .await?;
    Ok(to_u64(count))
}

fn version_of(row: &SqliteRow) -> Result<StoredVersion, StoreError> {
    let run: Option<&str> = row.try_get("run")?;
    let dataset_version: Option<&str> = row.try_get("dataset_version")?;
    let golden_cases: i64 = row.try_get("golden_cases")?;
    let version = ModelVersion {
        id: parsed("model version id", row.try_get("id")?)?,
        line: parsed("model line", row.try_get("line")?)?,
        semver: row.try_get("semver")?,
        release_counter: to_u64(row.try_get("release_counter")?),
        manifest: parsed("manifest digest", row.try_get("manifest")?)?,
        signature: signature_of(row.try_get("signature")?)?,
        run: run.map(|text| parsed("run id", text)).transpose()?,
        dataset_version: dataset_version
            .map(|text| parsed("dataset version id", text))
            .transpose()?,
        package_bytes: to_u64(row.try_get("package_bytes")?),
        golden_max_diff: row.try_get("golden_max_diff")?,
        golden_cases: u32::try_from(golden_cases).map_err(|why| StoreError::corrupt("golden cases", why))?,
        created_at: clock::rfc3339(row.try_get("created_at")?),
    };
    Ok(StoredVersion {
        version,
        payload: row.try_get("payload")?,
        envelope: row.try_get("envelope")?,
        components: json("components", row.try_get("components")?)?,
    })
}

/// The semver of a package, for the names of harvest slices.
pub(crate) async fn semver_of(tx: &mut Tx, manifest: &Digest) -> Result<Option<String>, StoreError> {
    Ok(sqlx::query_scalar(SEMVER_OF)
        .bind(manifest.to_string())
        .fetch_optional(&mut **tx)
        .await?)
}

/// The envelope as it stands inside this transaction, so that two who add signatures at once do not lose one.
pub async fn envelope(tx: &mut Tx, id: ModelVersionId) -> Result<Option<Vec<u8>>, StoreError> {
    sqlx::query_scalar(ENVELOPE)
        .bind(id.to_string())
        .fetch_optional(&mut **tx)
        .await?
        .ok_or_else(|| StoreError::not_found("model version", id))
}

pub async fn set_envelope(
    tx: &mut Tx,
    id: ModelVersionId,
    envelope: &[u8],
    state: SignatureState,
) -> Result<(), StoreError> {
    let changed = sqlx::query(SET_ENVELOPE)
        .bind(id.to_string())
        .bind(envelope)
        .bind(signature_text(state))
        .execute(&mut **tx)
        .await?
        .rows_affected();
    if changed == 0 {
        return Err(StoreError::Conflict(format!("model version {id} is revoked")));
    }
    Ok(())
}
