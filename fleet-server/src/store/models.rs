//! The model registry: lines, their versions, the manifests as they were packaged, and the signatures over them.

mod versions;

use std::collections::BTreeMap;

use flotilla_api_types::models::{DatasetVersionName, Model, ModelVersion, RunName, SignatureState, VersionInUse};
use flotilla_protocol::desired_state::Source;
use flotilla_protocol::ids::{DatasetVersionId, Digest, ModelLine, ModelVersionId, RunId};
use flotilla_protocol::manifest::ComponentKind;
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::clock;
use crate::store::sql::containing;
use crate::store::{Db, StoreError, Tx, json, parsed, statements, to_i64, to_json, to_u64};

pub use versions::{Lineage, Whose, sample_queries};

statements! {
    CREATE_LINE = "INSERT INTO models (line, project_id, created_at) VALUES ($1, $2, $3) ON CONFLICT (line) DO NOTHING";
    LIST_LINES = "SELECT m.line, m.created_at,
        (SELECT COUNT(*) FROM model_versions v WHERE v.line = m.line) AS versions,
        (SELECT COUNT(*) FROM model_versions v WHERE v.line = m.line AND v.signature = 'unsigned') AS waiting,
        (SELECT v.semver FROM model_versions v WHERE v.line = m.line ORDER BY v.release_counter DESC LIMIT 1) AS latest
        FROM models m WHERE m.project_id = $1 AND LOWER(m.line) LIKE $2 ESCAPE '\\'
        AND ($3 = '' OR EXISTS (SELECT 1 FROM model_versions v WHERE v.line = m.line AND v.signature = $3))
        AND m.line > $4 ORDER BY m.line LIMIT $5";
    COUNT_LINES = "SELECT COUNT(*) FROM models m WHERE m.project_id = $1 AND LOWER(m.line) LIKE $2 ESCAPE '\\'
        AND ($3 = '' OR EXISTS (SELECT 1 FROM model_versions v WHERE v.line = m.line AND v.signature = $3))";
    HAS_LINE = "SELECT COUNT(*) FROM models WHERE line = $1";
    LAST_COUNTER = "SELECT COALESCE(MAX(release_counter), 0) FROM model_versions WHERE line = $1";
    HAS_SEMVER = "SELECT COUNT(*) FROM model_versions WHERE line = $1 AND semver = $2";
    SEMVER_OF = "SELECT semver FROM model_versions WHERE manifest = $1";
    CREATE = "INSERT INTO model_versions (id, line, semver, release_counter, manifest, payload, envelope, signature, run,
        dataset_version, components, package_bytes, golden_max_diff, golden_cases, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, NULL, 'unsigned', $7, $8, $9, $10, $11, $12, $13)";
    GET = "SELECT v.id, v.line, v.semver, v.release_counter, v.manifest, v.signature, v.run, v.dataset_version,
        v.package_bytes, v.golden_max_diff, v.golden_cases, v.created_at, v.payload, v.envelope, v.components,
        e.name AS experiment, r.seed, s.id AS dataset, s.name AS dataset_name, d.number AS dataset_number
        FROM model_versions v LEFT JOIN runs r ON r.id = v.run LEFT JOIN experiments e ON e.id = r.experiment
        LEFT JOIN dataset_versions d ON d.id = v.dataset_version LEFT JOIN datasets s ON s.id = d.dataset
        WHERE v.id = $1";
    GET_BY_MANIFEST = "SELECT v.id, v.line, v.semver, v.release_counter, v.manifest, v.signature, v.run, v.dataset_version,
        v.package_bytes, v.golden_max_diff, v.golden_cases, v.created_at, v.payload, v.envelope, v.components,
        e.name AS experiment, r.seed, s.id AS dataset, s.name AS dataset_name, d.number AS dataset_number
        FROM model_versions v LEFT JOIN runs r ON r.id = v.run LEFT JOIN experiments e ON e.id = r.experiment
        LEFT JOIN dataset_versions d ON d.id = v.dataset_version LEFT JOIN datasets s ON s.id = d.dataset
        WHERE v.manifest = $1";
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
        .bind(containing(&filter.text.to_ascii_lowercase()))
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
        .bind(containing(&filter.text.to_ascii_lowercase()))
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
    stored_of(&row)
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
    row.as_ref().map(stored_of).transpose()
}

/// Newest first, below a release counter.
pub async fn list(
    db: &Db,
    line: &ModelLine,
    filter: ModelFilter<'_>,
    below: Option<u64>,
    limit: u32,
) -> Result<Vec<ModelVersion>, StoreError> {
    let rows = versions::of_line(filter, line, below, limit).fetch_all(db).await?;
    rows.iter().map(version_of).collect()
}

/// Of all lines of a project, newest first, below a version.
pub async fn list_all(
    db: &Db,
    (project, lineage): (&str, &Lineage),
    filter: ModelFilter<'_>,
    below: Option<ModelVersionId>,
    limit: u32,
) -> Result<Vec<ModelVersion>, StoreError> {
    let rows = versions::of_all(filter, (project, lineage), below, limit)
        .fetch_all(db)
        .await?;
    rows.iter().map(version_of).collect()
}

/// How many versions match, on all pages.
pub async fn count(db: &Db, whose: Whose<'_>, filter: ModelFilter<'_>) -> Result<u64, StoreError> {
    versions::how_many(filter, whose).count(db).await
}

fn version_of(row: &SqliteRow) -> Result<ModelVersion, StoreError> {
    let run: Option<&str> = row.try_get("run")?;
    let dataset_version: Option<&str> = row.try_get("dataset_version")?;
    let golden_cases: i64 = row.try_get("golden_cases")?;
    Ok(ModelVersion {
        id: parsed("model version id", row.try_get("id")?)?,
        line: parsed("model line", row.try_get("line")?)?,
        semver: row.try_get("semver")?,
        release_counter: to_u64(row.try_get("release_counter")?),
        manifest: parsed("manifest digest", row.try_get("manifest")?)?,
        signature: signature_of(row.try_get("signature")?)?,
        run: run.map(|text| parsed("run id", text)).transpose()?,
        run_name: run_name_of(row)?,
        dataset_version: dataset_version
            .map(|text| parsed("dataset version id", text))
            .transpose()?,
        dataset_version_name: dataset_version_name_of(row)?,
        package_bytes: to_u64(row.try_get("package_bytes")?),
        golden_max_diff: row.try_get("golden_max_diff")?,
        golden_cases: u32::try_from(golden_cases).map_err(|why| StoreError::corrupt("golden cases", why))?,
        created_at: clock::rfc3339(row.try_get("created_at")?),
        devices: None,
    })
}

fn run_name_of(row: &SqliteRow) -> Result<Option<RunName>, StoreError> {
    let experiment: Option<String> = row.try_get("experiment")?;
    let seed: Option<&str> = row.try_get("seed")?;
    let Some((experiment, seed)) = experiment.zip(seed) else {
        return Ok(None);
    };
    let seed = parsed("seed", seed)?;
    Ok(Some(RunName { experiment, seed }))
}

fn dataset_version_name_of(row: &SqliteRow) -> Result<Option<DatasetVersionName>, StoreError> {
    let dataset: Option<&str> = row.try_get("dataset")?;
    let name: Option<String> = row.try_get("dataset_name")?;
    let number: Option<i64> = row.try_get("dataset_number")?;
    let Some(((dataset, name), number)) = dataset.zip(name).zip(number) else {
        return Ok(None);
    };
    Ok(Some(DatasetVersionName {
        dataset: parsed("dataset id", dataset)?,
        name,
        number: to_u64(number),
    }))
}

/// Of a row that has the bytes too.
fn stored_of(row: &SqliteRow) -> Result<StoredVersion, StoreError> {
    Ok(StoredVersion {
        version: version_of(row)?,
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
    use flotilla_protocol::ids::{DatasetId, JobId};
    use serde_json::{from_value, json};
    use uuid::Uuid;

    use super::*;
    use crate::store::{datasets, device_summaries, devices, runs};
    use crate::testing::{self, NOW, db, id};

    fn new(line: &str, semver: &str, release_counter: u64) -> NewVersion {
        NewVersion {
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
        }
    }

    async fn register(db: &Db, version: &NewVersion) {
        let mut tx = db.begin().await.unwrap();
        create(&mut tx, "p", version, NOW).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn version(db: &Db, line: &str, semver: &str, release_counter: u64) {
        register(db, &new(line, semver, release_counter)).await;
    }

    async fn on_device(db: &Db, device: &str, slot: &str, line: &str, semver: &str) {
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
            on_device(&db, &device, "main", "motions", &semver).await;
        }
        version(&db, "sounds", "1.0.0", 1).await;
        // On two slots of one device it is still one device.
        on_device(&db, "press-1", "second", "motions", "1.60.0").await;
        on_device(&db, "press-1", "third", "motions", "1.60.0").await;
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

    const RUN: RunId = RunId::new(Uuid::from_u128(1));
    const DATASET: DatasetId = DatasetId::new(Uuid::from_u128(2));
    const FROZEN: DatasetVersionId = DatasetVersionId::new(Uuid::from_u128(3));

    /// A run called `spring`, seed 7, on the first version of the dataset `presses`.
    async fn trained(db: &Db) {
        let spec = json!({"name": "presses", "labels": ["low", "high"], "shape": {"kind": "row"},
            "split": {"kind": "all", "split": "train"}});
        let frozen = json!({"id": FROZEN, "dataset": DATASET, "number": 0, "digest": Digest::of(b"d"), "train": 1,
            "holdout": 0, "hand_labels": 1, "model_labels": 0, "left_out": 0, "classes": {}, "slices": {}, "note": "",
            "created_at": ""});
        let trainer = json!({"kind": "mlp", "hidden": [8], "learning_rate": 0.01, "weight_decay": 0.0, "epochs": 2,
            "batch_size": 16});
        let run = json!({"experiment": "spring", "dataset_version": FROZEN, "trainer": trainer, "seed": 7});
        let (spec, frozen) = (from_value(spec).unwrap(), from_value(frozen).unwrap());
        let run = from_value(run).unwrap();
        let mut tx = db.begin().await.unwrap();
        datasets::create(&mut tx, DATASET, "p", &spec, NOW).await.unwrap();
        datasets::create_version(&mut tx, frozen, NOW).await.unwrap();
        runs::create(&mut tx, "p", RUN, JobId::new(Uuid::nil()), &run, NOW)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn versions_of_all_lines_are_found_by_what_they_were_made_of_and_say_it_by_name() {
        let (_dir, db) = db().await;
        trained(&db).await;
        for (order, line, run) in [
            (11, "motions", Some(RUN)),
            (12, "sounds", Some(RUN)),
            (13, "sounds", None),
        ] {
            let version = NewVersion {
                id: ModelVersionId::new(Uuid::from_u128(order)),
                run,
                dataset_version: run.map(|_| FROZEN),
                ..new(line, &format!("1.{order}.0"), u64::try_from(order).unwrap())
            };
            register(&db, &version).await;
        }
        let found = async |lineage: &Lineage| {
            let versions = list_all(&db, ("p", lineage), ModelFilter::default(), None, 10).await;
            let versions: Vec<String> = versions.unwrap().into_iter().map(|one| one.semver).collect();
            let total = count(&db, Whose::Project("p", lineage), ModelFilter::default()).await;
            assert_eq!(total.unwrap(), versions.len() as u64);
            versions
        };
        assert_eq!(found(&Lineage::default()).await, ["1.13.0", "1.12.0", "1.11.0"]);
        let of_run = Lineage {
            run: Some(RUN),
            ..Lineage::default()
        };
        assert_eq!(found(&of_run).await, ["1.12.0", "1.11.0"]);
        let of_data = Lineage {
            dataset_version: Some(FROZEN),
            ..Lineage::default()
        };
        assert_eq!(found(&of_data).await, ["1.12.0", "1.11.0"]);
        let known_by = Lineage {
            manifests: [&b"sounds 1.13.0"[..], b"motions 1.11.0", b"nothing"]
                .map(Digest::of)
                .to_vec(),
            ..Lineage::default()
        };
        assert_eq!(found(&known_by).await, ["1.13.0", "1.11.0"]);

        let all = ("p", &Lineage::default());
        let first = list_all(&db, all, ModelFilter::default(), None, 2).await.unwrap();
        assert_eq!((&first[0].run_name, &first[0].dataset_version_name), (&None, &None));
        let spring = RunName {
            experiment: "spring".into(),
            seed: 7,
        };
        let presses = DatasetVersionName {
            dataset: DATASET,
            name: "presses".into(),
            number: 1,
        };
        assert_eq!(first[1].run_name, Some(spring));
        assert_eq!(first[1].dataset_version_name, Some(presses));
        assert_eq!(get_version(&db, first[1].id).await.unwrap(), first[1]);
        let rest = list_all(&db, all, ModelFilter::default(), Some(first[1].id), 2).await;
        assert_eq!(rest.unwrap()[0].semver, "1.11.0");
        let others = list_all(&db, ("q", &Lineage::default()), ModelFilter::default(), None, 2).await;
        assert_eq!(others.unwrap(), [], "of another project");
    }
}
