//! Datasets, their samples, and the versions frozen from them.
//!
//! `samples` is a view of what is published; what imports under way have staged stands in `stored_samples` too.
//! Hand labels, guesses and labeling functions stand in `labels`; the contents of a version stand in a blob.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_api_types::datasets::{CreateDataset, DatasetVersion, LabelSource, Sample, SampleLabel, Split};
use flotilla_protocol::features::FeatureSpec;
use flotilla_protocol::ids::{DatasetId, DatasetVersionId, DeviceId, Digest, ImportId, ModelLine};
use flotilla_protocol::messages;
use futures_util::TryStreamExt as _;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use tokio::sync::mpsc;

use crate::clock;
use crate::domain::dataset::sample_digest;
use crate::store::device_summaries::{PLACES, bind_ids};
use crate::store::{Db, StoreError, Tx, json, models, parsed, statements, to_i64, to_json, to_u64};

statements! {
    CREATE = "INSERT INTO datasets (id, project_id, name, spec, features, harvest_line, created_at)
        VALUES ($1, $2, $3, $4, NULL, $5, $6)";
    GET = "SELECT id, name, spec, features, created_at FROM datasets WHERE project_id = $1 AND (id = $2 OR name = $2)";
    LIST = "SELECT id, name, spec, features, created_at FROM datasets WHERE project_id = $1 AND id > $2
        AND ($4 = '' OR harvest_line = $4) ORDER BY id LIMIT $3";
    HARVESTING = "SELECT id, name, spec, features, created_at FROM datasets WHERE harvest_line = $1 ORDER BY id";
    FEATURES = "SELECT features FROM datasets WHERE id = $1";
    SET_FEATURES = "UPDATE datasets SET features = $2 WHERE id = $1 AND features IS NULL";
    // Counted by import first: the view would look up the import of every sample.
    SLICES = "SELECT c.slice, CAST(SUM(c.n) AS BIGINT) AS samples FROM (SELECT s.slice, s.import_id, COUNT(*) AS n
        FROM stored_samples s WHERE s.dataset = $1 GROUP BY s.slice, s.import_id) AS c
        WHERE NOT EXISTS (SELECT 1 FROM imports i WHERE i.id = c.import_id AND i.state <> 'finished') GROUP BY c.slice";
    SLICES_OF_LIST = "SELECT c.dataset, c.slice, CAST(SUM(c.n) AS BIGINT) AS samples FROM
        (SELECT s.dataset, s.slice, s.import_id, COUNT(*) AS n FROM stored_samples s WHERE s.dataset IN
        (SELECT d.id FROM datasets d WHERE d.project_id = $1 AND d.id > $2 AND ($4 = '' OR d.harvest_line = $4)
        ORDER BY d.id LIMIT $3) GROUP BY s.dataset, s.slice, s.import_id) AS c
        WHERE NOT EXISTS (SELECT 1 FROM imports i WHERE i.id = c.import_id AND i.state <> 'finished')
        GROUP BY c.dataset, c.slice";
    HAND_LABELS = "SELECT COUNT(*) FROM annotations WHERE dataset = $1";
    HAND_LABELS_OF_LIST = "SELECT a.dataset, COUNT(*) AS n FROM annotations a WHERE a.dataset IN
        (SELECT d.id FROM datasets d WHERE d.project_id = $1 AND d.id > $2 AND ($4 = '' OR d.harvest_line = $4)
        ORDER BY d.id LIMIT $3) GROUP BY a.dataset";
    PRESENT = "SELECT digest FROM samples WHERE dataset = $1
        AND digest IN ($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)";
    NEXT_ORDINAL = "SELECT COALESCE(MAX(ordinal) + 1, 0) FROM stored_samples WHERE dataset = $1";
    INSERT_SAMPLE = "INSERT INTO stored_samples
        (dataset, digest, ordinal, sample_key, slice, split, device, predicted, raw, created_at, import_id)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (dataset, digest) DO UPDATE SET
        ordinal = excluded.ordinal, sample_key = excluded.sample_key, slice = excluded.slice, split = excluded.split,
        device = excluded.device, predicted = excluded.predicted, created_at = excluded.created_at,
        import_id = excluded.import_id
        WHERE stored_samples.import_id <> COALESCE(excluded.import_id, '') AND EXISTS
        (SELECT 1 FROM imports i WHERE i.id = stored_samples.import_id AND i.state <> 'finished')";
    SAMPLES = "SELECT s.ordinal, s.digest, s.sample_key, s.slice, s.split, s.predicted, s.created_at,
        CASE WHEN $6 = 'values' THEN s.raw END AS raw, a.label AS hand, g.label AS guess, g.confidence
        FROM samples s
        LEFT JOIN annotations a ON a.dataset = s.dataset AND a.digest = s.digest
        LEFT JOIN guesses g ON g.dataset = s.dataset AND g.digest = s.digest
        WHERE s.dataset = $1 AND s.ordinal > $2 AND ($3 = '' OR s.slice = $3) AND ($4 = '' OR s.split = $4)
        AND ($5 = '' OR ($5 = 'true') = (a.digest IS NOT NULL)) AND ($8 = '' OR s.device = $8)
        ORDER BY s.ordinal LIMIT $7";
    SAMPLE = "SELECT s.ordinal, s.digest, s.sample_key, s.slice, s.split, s.predicted, s.created_at,
        CASE WHEN $3 = 'values' THEN s.raw END AS raw, a.label AS hand, g.label AS guess, g.confidence
        FROM samples s
        LEFT JOIN annotations a ON a.dataset = s.dataset AND a.digest = s.digest
        LEFT JOIN guesses g ON g.dataset = s.dataset AND g.digest = s.digest
        WHERE s.dataset = $1 AND s.digest = $2";
    LABELLED = "SELECT s.digest, s.slice, s.split, a.label AS hand, g.label AS guess, g.confidence
        FROM samples s
        LEFT JOIN annotations a ON a.dataset = s.dataset AND a.digest = s.digest
        LEFT JOIN guesses g ON g.dataset = s.dataset AND g.digest = s.digest
        WHERE s.dataset = $1 ORDER BY s.ordinal";
    RAW = "SELECT digest, raw FROM samples WHERE dataset = $1 ORDER BY ordinal";
    FIRST_RAW = "SELECT raw FROM samples WHERE dataset = $1 ORDER BY ordinal LIMIT $2";
    NEXT_VERSION = "SELECT COALESCE(MAX(number), 0) + 1 FROM dataset_versions WHERE dataset = $1";
    CREATE_VERSION = "INSERT INTO dataset_versions (id, dataset, number, digest, summary, created_at)
        VALUES ($1, $2, $3, $4, $5, $6)";
    GET_VERSION = "SELECT summary FROM dataset_versions WHERE id = $1";
    LIST_VERSIONS = "SELECT summary FROM dataset_versions WHERE dataset = $1 AND number < $2
        ORDER BY number DESC LIMIT $3";
}

/// A dataset's row.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredDataset {
    pub id: DatasetId,
    pub spec: CreateDataset,
    /// Fixed by the first import.
    pub features: Option<FeatureSpec>,
    pub created_at: i64,
}

/// How many samples a dataset has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SampleCounts {
    pub slices: BTreeMap<String, u64>,
    /// Samples with a hand label.
    pub hand_labels: u64,
}

/// A sample about to be kept.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSample {
    pub digest: Digest,
    pub key: String,
    pub split: Split,
    pub values: Vec<f32>,
    /// Set for harvested samples: who sent it, and what its model said.
    pub harvested: Option<(DeviceId, String)>,
}

/// A sample with everything that is known of its class.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledSample {
    pub digest: Digest,
    pub slice: String,
    pub split: Split,
    pub hand: Option<String>,
    /// Best guess of the label model, with its confidence in [0, 1].
    pub guess: Option<(String, f64)>,
}

/// What a list of samples is narrowed to.
#[derive(Debug, Clone, Default)]
pub struct SampleFilter<'a> {
    pub slice: Option<&'a str>,
    pub split: Option<Split>,
    /// Harvested by it.
    pub device: Option<&'a DeviceId>,
    /// By hand.
    pub labelled: Option<bool>,
    pub values: bool,
}

impl SampleFilter<'_> {
    pub(crate) fn split_text(&self) -> &'static str {
        self.split.map_or("", Split::as_str)
    }

    pub(crate) fn device_text(&self) -> &str {
        self.device.map_or("", DeviceId::as_str)
    }

    pub(crate) fn values_text(&self) -> &'static str {
        if self.values { "values" } else { "" }
    }
}

pub async fn create(
    tx: &mut Tx,
    id: DatasetId,
    project: &str,
    spec: &CreateDataset,
    now: i64,
) -> Result<(), StoreError> {
    sqlx::query(CREATE)
        .bind(id.to_string())
        .bind(project)
        .bind(&spec.name)
        .bind(to_json("dataset", spec)?)
        .bind(spec.harvest_line.as_ref().map(ModelLine::as_str))
        .bind(now)
        .execute(&mut **tx)
        .await
        .map_err(|error| StoreError::or_exists(error, || format!("dataset '{}'", spec.name)))?;
    Ok(())
}

/// By id or by name.
pub async fn get(db: &Db, project: &str, id_or_name: &str) -> Result<StoredDataset, StoreError> {
    let row = sqlx::query(GET)
        .bind(project)
        .bind(id_or_name)
        .fetch_optional(db.read())
        .await?
        .ok_or_else(|| StoreError::not_found("dataset", id_or_name))?;
    dataset_of(&row)
}

/// A page of datasets.
#[derive(Debug, Clone, Copy)]
pub struct DatasetPage<'a> {
    pub project: &'a str,
    /// Those alone that gather what devices running it harvest.
    pub harvest_line: Option<&'a ModelLine>,
    /// An id; empty: from the first.
    pub after: &'a str,
    pub limit: u32,
}

impl DatasetPage<'_> {
    /// Of a statement that asks for the page, or for something of all that is on it.
    async fn rows(&self, db: &Db, statement: &'static str) -> Result<Vec<SqliteRow>, StoreError> {
        Ok(sqlx::query(statement)
            .bind(self.project)
            .bind(self.after)
            .bind(i64::from(self.limit))
            .bind(self.harvest_line.map_or("", ModelLine::as_str))
            .fetch_all(db.read())
            .await?)
    }
}

/// In order of creation.
pub async fn list(db: &Db, page: DatasetPage<'_>) -> Result<Vec<StoredDataset>, StoreError> {
    let rows = page.rows(db, LIST).await?;
    rows.iter().map(dataset_of).collect()
}

fn dataset_of(row: &SqliteRow) -> Result<StoredDataset, StoreError> {
    let features: Option<&str> = row.try_get("features")?;
    Ok(StoredDataset {
        id: parsed("dataset id", row.try_get("id")?)?,
        spec: json("dataset", row.try_get("spec")?)?,
        features: features.map(|text| json("features", text)).transpose()?,
        created_at: row.try_get("created_at")?,
    })
}

pub async fn counts(db: &Db, dataset: DatasetId) -> Result<SampleCounts, StoreError> {
    let rows = sqlx::query(SLICES)
        .bind(dataset.to_string())
        .fetch_all(db.read())
        .await?;
    let slices = rows
        .iter()
        .map(|row| Ok((row.try_get("slice")?, to_u64(row.try_get("samples")?))))
        .collect::<Result<_, StoreError>>()?;
    let labels: i64 = sqlx::query_scalar(HAND_LABELS)
        .bind(dataset.to_string())
        .fetch_one(db.read())
        .await?;
    Ok(SampleCounts {
        slices,
        hand_labels: to_u64(labels),
    })
}

/// Of every dataset that [`list`] gives and that has samples.
pub async fn counts_of_list(db: &Db, page: DatasetPage<'_>) -> Result<BTreeMap<DatasetId, SampleCounts>, StoreError> {
    let mut counts: BTreeMap<DatasetId, SampleCounts> = BTreeMap::new();
    for row in &page.rows(db, SLICES_OF_LIST).await? {
        let dataset = parsed("dataset id", row.try_get("dataset")?)?;
        let samples = to_u64(row.try_get("samples")?);
        counts
            .entry(dataset)
            .or_default()
            .slices
            .insert(row.try_get("slice")?, samples);
    }
    for row in &page.rows(db, HAND_LABELS_OF_LIST).await? {
        let dataset = parsed("dataset id", row.try_get("dataset")?)?;
        counts.entry(dataset).or_default().hand_labels = to_u64(row.try_get("n")?);
    }
    Ok(counts)
}

/// The features that the first import fixes; later ones must be the same. Gives what is in force.
pub async fn fix_features(tx: &mut Tx, dataset: DatasetId, found: &FeatureSpec) -> Result<FeatureSpec, StoreError> {
    let stored: Option<Option<String>> = sqlx::query_scalar(FEATURES)
        .bind(dataset.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    match stored {
        None => Err(StoreError::not_found("dataset", dataset)),
        Some(Some(text)) => json("features", &text),
        Some(None) => {
            sqlx::query(SET_FEATURES)
                .bind(dataset.to_string())
                .bind(to_json("features", found)?)
                .execute(&mut **tx)
                .await?;
            Ok(found.clone())
        }
    }
}

/// Where samples come from, and what they form together.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    pub slice: &'a str,
    /// Staged until this import is finished; `None`: published at once.
    pub import: Option<ImportId>,
}

/// Adds samples at the dataset's end; what is there already (same content) is left as it is, but what an unfinished import
/// staged is taken over: that import may come to nothing. Gives how many are new, for each split.
pub async fn insert_samples(
    tx: &mut Tx,
    dataset: DatasetId,
    origin: Origin<'_>,
    samples: &[NewSample],
    now: i64,
) -> Result<BTreeMap<Split, u64>, StoreError> {
    let mut ordinal: i64 = sqlx::query_scalar(NEXT_ORDINAL)
        .bind(dataset.to_string())
        .fetch_one(&mut **tx)
        .await?;
    let mut new = BTreeMap::new();
    for sample in samples {
        let raw: Vec<u8> = sample.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let harvested = sample.harvested.as_ref();
        let inserted = sqlx::query(INSERT_SAMPLE)
            .bind(dataset.to_string())
            .bind(sample.digest.to_string())
            .bind(ordinal)
            .bind(&sample.key)
            .bind(origin.slice)
            .bind(sample.split.as_str())
            .bind(harvested.map(|(device, _)| device.as_str()))
            .bind(harvested.map(|(_, predicted)| predicted.as_str()))
            .bind(raw)
            .bind(now)
            .bind(origin.import.map(|import| import.to_string()))
            .execute(&mut **tx)
            .await?
            .rows_affected();
        if inserted > 0 {
            ordinal += 1;
            *new.entry(sample.split).or_insert(0) += 1;
        }
    }
    Ok(new)
}

/// What became of harvested samples. Those that every dataset has, or that fit none, are neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Harvested {
    /// Added, to one dataset or to several.
    pub new: u64,
    /// New too, and more than there was room for.
    pub beyond: u64,
}

/// Adds harvested samples of one package to every dataset that gathers its line, as training samples of a slice named for the
/// package; no more than `room` of them. Samples that do not fit a dataset's features are left out and logged.
pub async fn insert_harvested(
    tx: &mut Tx,
    device: &DeviceId,
    samples: &[&messages::Sample],
    room: u64,
    now: i64,
) -> Result<Harvested, StoreError> {
    let Some(first) = samples.first() else {
        return Ok(Harvested::default());
    };
    let rows = sqlx::query(HARVESTING)
        .bind(first.line.as_str())
        .fetch_all(&mut **tx)
        .await?;
    let mut lacking = Vec::with_capacity(rows.len());
    for row in &rows {
        let dataset = dataset_of(row)?;
        let lacks = lacking_in(tx, &dataset, device, samples).await?;
        lacking.push((dataset.id, lacks));
    }
    let new: BTreeSet<usize> = lacking.iter().flat_map(|(_, lacks)| lacks.keys().copied()).collect();
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    // From this place on the batch goes beyond.
    let end = new.iter().nth(room).copied().unwrap_or(usize::MAX);
    let semver = models::semver_of(tx, &first.manifest).await?;
    let slice = format!("harvest/{}", semver.unwrap_or_else(|| first.manifest.short()));
    let origin = Origin {
        slice: &slice,
        import: None,
    };
    for (dataset, lacks) in lacking {
        let kept: Vec<NewSample> = lacks
            .into_iter()
            .filter(|(place, _)| *place < end)
            .map(|(_, sample)| sample)
            .collect();
        if !kept.is_empty() {
            insert_samples(tx, dataset, origin, &kept, now).await?;
        }
    }
    let taken = new.range(..end).count();
    Ok(Harvested {
        new: taken as u64,
        beyond: (new.len() - taken) as u64,
    })
}

/// Of harvested samples those that a dataset can take and does not have, each once, by their places in the batch.
async fn lacking_in(
    tx: &mut Tx,
    dataset: &StoredDataset,
    device: &DeviceId,
    samples: &[&messages::Sample],
) -> Result<BTreeMap<usize, NewSample>, StoreError> {
    let mut places: BTreeMap<Digest, usize> = BTreeMap::new();
    let mut lacking: BTreeMap<usize, NewSample> = BTreeMap::new();
    let mut unfit = 0u32;
    for (place, sample) in samples.iter().enumerate() {
        let Some((features, values)) = fitting(dataset, sample) else {
            unfit += 1;
            continue;
        };
        let digest = sample_digest(features, &values).map_err(|why| StoreError::corrupt("sample", why))?;
        if *places.entry(digest).or_insert(place) != place {
            continue;
        }
        let kept = NewSample {
            digest,
            key: format!("device={device}/at={}", clock::rfc3339(sample.captured_at)),
            split: Split::Train,
            values,
            harvested: Some((device.clone(), sample.predicted.clone())),
        };
        lacking.insert(place, kept);
    }
    if unfit > 0 {
        tracing::warn!(%device, dataset = %dataset.spec.name, unfit, "harvested samples do not fit the dataset's features");
    }
    let digests: Vec<Digest> = places.keys().copied().collect();
    for chunk in digests.chunks(PLACES) {
        let names: Vec<String> = chunk.iter().map(Digest::to_string).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let query = sqlx::query(PRESENT).bind(dataset.id.to_string());
        for row in &bind_ids(query, &names).fetch_all(&mut **tx).await? {
            let digest: Digest = parsed("sample digest", row.try_get("digest")?)?;
            if let Some(place) = places.get(&digest) {
                lacking.remove(place);
            }
        }
    }
    Ok(lacking)
}

/// The dataset's features and the sample's values, if these are what the features are computed from.
fn fitting<'a>(dataset: &'a StoredDataset, sample: &messages::Sample) -> Option<(&'a FeatureSpec, Vec<f32>)> {
    let features = dataset.features.as_ref()?;
    let values = sample.input.to_f32().ok()?;
    let finite = values.iter().all(|value| value.is_finite());
    (finite && values.len() == features.sample_len()).then_some((features, values))
}

/// A page in the dataset's order, after an ordinal; each with its ordinal.
pub async fn samples(
    db: &Db,
    dataset: DatasetId,
    after: i64,
    filter: &SampleFilter<'_>,
    limit: u32,
) -> Result<Vec<(i64, Sample)>, StoreError> {
    let rows = sqlx::query(SAMPLES)
        .bind(dataset.to_string())
        .bind(after)
        .bind(filter.slice.unwrap_or_default())
        .bind(filter.split_text())
        .bind(match filter.labelled {
            None => "",
            Some(true) => "true",
            Some(false) => "false",
        })
        .bind(filter.values_text())
        .bind(i64::from(limit))
        .bind(filter.device_text())
        .fetch_all(db.read())
        .await?;
    rows.iter()
        .map(|row| Ok((row.try_get("ordinal")?, sample_of(row)?)))
        .collect()
}

pub async fn sample(db: &Db, dataset: DatasetId, digest: &Digest, values: bool) -> Result<Sample, StoreError> {
    let row = sqlx::query(SAMPLE)
        .bind(dataset.to_string())
        .bind(digest.to_string())
        .bind(if values { "values" } else { "" })
        .fetch_optional(db.read())
        .await?
        .ok_or_else(|| StoreError::not_found("sample", digest))?;
    sample_of(&row)
}

pub(crate) fn sample_of(row: &SqliteRow) -> Result<Sample, StoreError> {
    let raw: Option<Vec<u8>> = row.try_get("raw")?;
    let hand: Option<String> = row.try_get("hand")?;
    Ok(Sample {
        digest: parsed("sample digest", row.try_get("digest")?)?,
        key: row.try_get("sample_key")?,
        slice: row.try_get("slice")?,
        split: split_of(row)?,
        label: hand.map(|label| SampleLabel {
            label,
            source: LabelSource::Hand,
            confidence: 1.0,
        }),
        guess: guess_of(row)?.map(|(label, confidence)| SampleLabel {
            label,
            source: LabelSource::Model,
            confidence,
        }),
        predicted: row.try_get("predicted")?,
        created_at: clock::rfc3339(row.try_get("created_at")?),
        values: raw.map(|raw| floats(&raw)),
    })
}

fn split_of(row: &SqliteRow) -> Result<Split, StoreError> {
    let text: &str = row.try_get("split")?;
    Split::parse(text).ok_or_else(|| StoreError::corrupt("split", text))
}

fn guess_of(row: &SqliteRow) -> Result<Option<(String, f64)>, StoreError> {
    let label: Option<String> = row.try_get("guess")?;
    let confidence: Option<f64> = row.try_get("confidence")?;
    Ok(label.zip(confidence))
}

fn floats(raw: &[u8]) -> Vec<f32> {
    let (chunks, _) = raw.as_chunks::<4>();
    chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Every sample of a dataset with what is known of its class, in the dataset's order: one consistent reading. `slices`: of
/// these alone.
pub async fn labelled(
    db: &Db,
    dataset: DatasetId,
    slices: Option<&[String]>,
) -> Result<Vec<LabelledSample>, StoreError> {
    let mut rows = sqlx::query(LABELLED).bind(dataset.to_string()).fetch(db.read());
    let mut samples = Vec::new();
    while let Some(row) = rows.try_next().await? {
        let slice: String = row.try_get("slice")?;
        if slices.is_some_and(|slices| !slices.contains(&slice)) {
            continue;
        }
        samples.push(LabelledSample {
            digest: parsed("sample digest", row.try_get("digest")?)?,
            slice,
            split: split_of(&row)?,
            hand: row.try_get("hand")?,
            guess: guess_of(&row)?,
        });
    }
    Ok(samples)
}

/// Samples with their raw values.
pub type RawBatch = Vec<(Digest, Vec<f32>)>;

/// Sends the raw values of every sample of a dataset, in order and in batches. Waits while the queue is full; ends when the
/// receiver is gone.
pub async fn send_raw(
    db: &Db,
    dataset: DatasetId,
    batch_size: usize,
    queue: mpsc::Sender<RawBatch>,
) -> Result<(), StoreError> {
    let mut rows = sqlx::query(RAW).bind(dataset.to_string()).fetch(db.read());
    let mut batch = Vec::with_capacity(batch_size);
    while let Some(row) = rows.try_next().await? {
        let raw: &[u8] = row.try_get("raw")?;
        batch.push((parsed("sample digest", row.try_get("digest")?)?, floats(raw)));
        if batch.len() == batch_size && queue.send(std::mem::take(&mut batch)).await.is_err() {
            return Ok(());
        }
    }
    if !batch.is_empty() {
        // An error means that the receiver has seen enough.
        drop(queue.send(batch).await);
    }
    Ok(())
}

/// Raw values of the first samples.
pub async fn first_raw(db: &Db, dataset: DatasetId, count: u32) -> Result<Vec<Vec<f32>>, StoreError> {
    let rows: Vec<Vec<u8>> = sqlx::query_scalar(FIRST_RAW)
        .bind(dataset.to_string())
        .bind(i64::from(count))
        .fetch_all(db.read())
        .await?;
    Ok(rows.iter().map(|raw| floats(raw)).collect())
}

/// Adds a version; `version.number` is set here.
pub async fn create_version(tx: &mut Tx, mut version: DatasetVersion, now: i64) -> Result<DatasetVersion, StoreError> {
    let dataset = version.dataset.to_string();
    let number: i64 = sqlx::query_scalar(NEXT_VERSION)
        .bind(&dataset)
        .fetch_one(&mut **tx)
        .await?;
    version.number = to_u64(number);
    version.created_at = clock::rfc3339(now);
    sqlx::query(CREATE_VERSION)
        .bind(version.id.to_string())
        .bind(&dataset)
        .bind(number)
        .bind(version.digest.to_string())
        .bind(to_json("dataset version", &version)?)
        .bind(now)
        .execute(&mut **tx)
        .await
        .map_err(|error| StoreError::or_exists(error, || format!("dataset version {number}")))?;
    Ok(version)
}

pub async fn get_version(db: &Db, id: DatasetVersionId) -> Result<DatasetVersion, StoreError> {
    let summary: String = sqlx::query_scalar(GET_VERSION)
        .bind(id.to_string())
        .fetch_optional(db.read())
        .await?
        .ok_or_else(|| StoreError::not_found("dataset version", id))?;
    json("dataset version", &summary)
}

/// Newest first, below a number.
pub async fn list_versions(
    db: &Db,
    dataset: DatasetId,
    below: Option<u64>,
    limit: u32,
) -> Result<Vec<DatasetVersion>, StoreError> {
    let rows: Vec<String> = sqlx::query_scalar(LIST_VERSIONS)
        .bind(dataset.to_string())
        .bind(below.map_or(i64::MAX, to_i64))
        .bind(i64::from(limit))
        .fetch_all(db.read())
        .await?;
    rows.iter().map(|summary| json("dataset version", summary)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::db;

    #[tokio::test]
    async fn samples_and_labels_are_counted_without_reading_their_rows() {
        let (_dir, db) = db().await;
        for (sql, index) in [
            (SLICES, "COVERING INDEX stored_samples_slice (dataset=?)"),
            (SLICES_OF_LIST, "COVERING INDEX stored_samples_slice (dataset=?)"),
            (
                HAND_LABELS_OF_LIST,
                "COVERING INDEX sqlite_autoindex_annotations_1 (dataset=?)",
            ),
        ] {
            let rows = sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")))
                .fetch_all(db.read())
                .await
                .unwrap();
            let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
            let plan = plan.join("; ");
            assert!(plan.contains(index), "{sql}: {plan}");
        }
    }
}
