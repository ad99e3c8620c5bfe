//! The model registry: lines, their versions, the manifests as they were packaged, and the signatures over them.

use std::collections::BTreeMap;

use flotilla_api_types::models::{Model, ModelVersion, SignatureState, VersionInUse};
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
    ON_DEVICES = "SELECT semver, COUNT(DISTINCT device) AS n FROM device_slots WHERE line = $1
        AND device NOT IN (SELECT s.device FROM device_summaries s WHERE s.status = 'decommissioned') GROUP BY semver";
    LINES_ON_DEVICES = "SELECT line, COUNT(DISTINCT device) AS n FROM device_slots WHERE line >= $1 AND line <= $2
        AND device NOT IN (SELECT s.device FROM device_summaries s WHERE s.status = 'decommissioned') GROUP BY line";
    IN_USE = "SELECT line, semver, n, versions FROM (SELECT line, semver, COUNT(DISTINCT device) AS n,
        COUNT(*) OVER (PARTITION BY line) AS versions,
        ROW_NUMBER() OVER (PARTITION BY line ORDER BY COUNT(DISTINCT device) DESC, semver) AS place
        FROM device_slots WHERE line >= $1 AND line <= $2
        AND device NOT IN (SELECT s.device FROM device_summaries s WHERE s.status = 'decommissioned')
        GROUP BY line, semver) AS v WHERE place <= $3 ORDER BY line, place";
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
                devices: 0,
                versions_in_use: 0,
                in_use: Vec::new(),
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

/// Versions in use that are told of one line.
const MOST_IN_USE: i64 = 6;

/// Says of lines, which stand in order of their names, on how many devices they are. One question for all of them.
pub async fn count_devices_of_lines(db: &Db, lines: &mut [Model]) -> Result<(), StoreError> {
    let (Some(first), Some(last)) = (lines.first(), lines.last()) else {
        return Ok(());
    };
    let (first, last) = (first.line.to_string(), last.line.to_string());
    let devices = sqlx::query(LINES_ON_DEVICES)
        .bind(&first)
        .bind(&last)
        .fetch_all(db.read())
        .await?;
    let mut counts = BTreeMap::new();
    for row in devices {
        counts.insert(row.try_get::<String, _>("line")?, to_u64(row.try_get("n")?));
    }
    let rows = sqlx::query(IN_USE)
        .bind(&first)
        .bind(&last)
        .bind(MOST_IN_USE)
        .fetch_all(db.read())
        .await?;
    let mut in_use: BTreeMap<String, (u64, Vec<VersionInUse>)> = BTreeMap::new();
    for row in rows {
        let (versions, parts) = in_use.entry(row.try_get("line")?).or_default();
        *versions = to_u64(row.try_get("versions")?);
        parts.push(VersionInUse {
            semver: row.try_get("semver")?,
            devices: to_u64(row.try_get("n")?),
        });
    }
    for model in lines {
        model.devices = counts.remove(model.line.as_str()).unwrap_or(0);
        (model.versions_in_use, model.in_use) = in_use.remove(model.line.as_str()).unwrap_or_default();
    }
    Ok(())
}

/// Says of versions of one line on how many devices they are.
pub async fn count_devices_of_versions(
    db: &Db,
    line: &ModelLine,
    versions: &mut [ModelVersion],
) -> Result<(), StoreError> {
    let rows = sqlx::query(ON_DEVICES).bind(line.as_str()).fetch_all(db.read()).await?;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for row in rows {
        counts.insert(row.try_get("semver")?, to_u64(row.try_get("n")?));
    }
    for version in versions {
        version.devices = Some(counts.get(&version.semver).copied().unwrap_or(0));
    }
    Ok(())
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
        devices: None,
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::store::{device_summaries, devices};
    use crate::testing::{self, NOW, db, id};

    async fn version(db: &Db, line: &str, semver: &str, release_counter: u64) {
        let version = NewVersion {
            id: ModelVersionId::new(Uuid::now_v7()),
            line: ModelLine::new(line).unwrap(),
            semver: semver.into(),
            release_counter,
            payload: format!("{line} {semver}").into_bytes(),
            run: None,
            dataset_version: None,
            components: vec![],
            package_bytes: 1,
            golden_max_diff: 0.0,
            golden_cases: 1,
        };
        let mut tx = db.begin().await.unwrap();
        create(&mut tx, "p", &version, NOW).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn runs(db: &Db, device: &str, slot: &str, line: &str, semver: &str) {
        let mut tx = db.begin().await.unwrap();
        sqlx::query("INSERT INTO device_slots VALUES ($1, $2, $3, $4, $5, 1, 1)")
            .bind(device)
            .bind(slot)
            .bind(line)
            .bind(Digest::of(semver.as_bytes()).to_string())
            .bind(semver)
            .execute(&mut *tx)
            .await
            .unwrap();
        device_summaries::refresh_all(&mut tx, device).await.unwrap();
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn every_version_knows_its_devices_however_many_versions_there_are() {
        let (_dir, db) = db().await;
        for counter in 1..=60_u8 {
            let semver = format!("1.{counter}.0");
            version(&db, "motions", &semver, u64::from(counter)).await;
            let device = format!("press-{counter}");
            testing::enrol(&db, &device, counter, BTreeMap::new()).await.unwrap();
            runs(&db, &device, "main", "motions", &semver).await;
        }
        version(&db, "sounds", "1.0.0", 1).await;
        // On two slots of one device it is still one device.
        runs(&db, "press-1", "second", "motions", "1.60.0").await;
        runs(&db, "press-1", "third", "motions", "1.60.0").await;
        let mut tx = db.begin().await.unwrap();
        devices::decommission(&mut tx, &id("press-59"), NOW).await.unwrap();
        tx.commit().await.unwrap();
        let line = ModelLine::new("motions").unwrap();
        let mut versions = list(&db, &line, ModelFilter::default(), None, 100).await.unwrap();
        count_devices_of_versions(&db, &line, &mut versions).await.unwrap();
        let counts: Vec<(&str, Option<u64>)> = versions
            .iter()
            .map(|version| (version.semver.as_str(), version.devices))
            .collect();
        assert_eq!(
            counts[..3],
            [("1.60.0", Some(2)), ("1.59.0", Some(0)), ("1.58.0", Some(1))]
        );
        assert_eq!(counts.last(), Some(&("1.1.0", Some(1))));
        let mut lines = lines(&db, "p", ModelFilter::default(), "", 100).await.unwrap();
        count_devices_of_lines(&db, &mut lines).await.unwrap();
        let counts: Vec<(u64, u64, usize)> = lines
            .iter()
            .map(|model| (model.devices, model.versions_in_use, model.in_use.len()))
            .collect();
        assert_eq!(counts, [(59, 59, 6), (0, 0, 0)]);
        assert_eq!(
            lines[0].in_use[0],
            VersionInUse {
                semver: "1.60.0".into(),
                devices: 2
            }
        );
    }
}
