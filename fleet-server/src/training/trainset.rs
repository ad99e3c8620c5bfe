//! From a dataset's samples to a frozen version, and from a version back to rows of numbers.
//!
//! Freezing is pure; raw values are streamed from the database to a thread of their own, a batch at a time.

use std::collections::{BTreeMap, HashMap};

use flotilla_api_types::datasets::{CreateDatasetVersion, DatasetVersion, Split};
use flotilla_protocol::features::FeatureError;
use flotilla_protocol::ids::{DatasetId, DatasetVersionId, Digest};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::app::App;
use crate::blobs::BlobError;
use crate::domain::dataset::{
    self as domain, DatasetVersionDoc, FrozenLabel, FrozenSample, LabelSource, VERSION_SCHEMA, VersionError,
};
use crate::store::datasets::{LabelledSample, RawBatch, StoredDataset};
use crate::store::{Db, StoreError, datasets};
use crate::work::JobError;

/// Samples read from the database at a time, and batches that may wait for their reader; then the database waits.
const BATCH: usize = 256;
const QUEUE: usize = 4;

/// Why a version cannot be frozen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FreezeError {
    #[error("dataset '{0}' has no samples: import some first")]
    Empty(String),
    #[error("dataset '{dataset}' has no slice '{slice}'")]
    UnknownSlice { dataset: String, slice: String },
    #[error("min_confidence {0} is not in [0, 1]")]
    Confidence(f64),
    #[error(
        "the training split has no label: label samples by hand, or write labeling functions and fit the label model"
    )]
    NoClass,
    #[error("the training split has one class: all {count} labels say '{label}'; at least two classes are needed")]
    OneClass { label: String, count: u64 },
    #[error("stopped")]
    Stopped,
    #[error(transparent)]
    Version(#[from] VersionError),
}

/// A version about to be kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Frozen {
    pub document: DatasetVersionDoc,
    /// Id, number, digest and time are not set yet.
    pub summary: DatasetVersion,
}

/// Bytes that freezing takes for so many samples of each slice: what is known of each, and the frozen one twice, because the
/// version is written while it is there.
pub fn freezing_bytes<'a>(labels: &[String], slices: impl IntoIterator<Item = (&'a String, u64)>) -> u64 {
    let label = labels.iter().map(String::len).max().unwrap_or(0);
    let sample = size_of::<LabelledSample>() + 2 * size_of::<FrozenSample>() + 2 * label;
    let bytes = slices
        .into_iter()
        .map(|(slice, samples)| samples.saturating_mul((sample + slice.len()) as u64));
    bytes.fold(0, u64::saturating_add)
}

/// Takes every sample with a usable label: a hand label, or in the training split a guess that is sure enough. Sorted by
/// digest, so that the same content has the same digest, in whatever order it was imported.
pub fn freeze(
    dataset: &StoredDataset,
    samples: &[LabelledSample],
    ask: &CreateDatasetVersion,
    stopping: &dyn Fn() -> bool,
) -> Result<Frozen, FreezeError> {
    let spec = &dataset.spec;
    let Some(features) = &dataset.features else {
        return Err(FreezeError::Empty(spec.name.clone()));
    };
    if !(0.0..=1.0).contains(&ask.min_confidence) {
        return Err(FreezeError::Confidence(ask.min_confidence));
    }
    if let Some(slice) = ask
        .slices
        .iter()
        .flatten()
        .find(|slice| samples.iter().all(|s| s.slice != **slice))
    {
        return Err(FreezeError::UnknownSlice {
            dataset: spec.name.clone(),
            slice: slice.clone(),
        });
    }
    let mut document = DatasetVersionDoc {
        schema: VERSION_SCHEMA.to_owned(),
        labels: spec.labels.clone(),
        features: features.clone(),
        origins: Vec::new(),
        samples: Vec::new(),
    };
    let mut summary = DatasetVersion {
        id: DatasetVersionId::new(Uuid::nil()),
        dataset: dataset.id,
        number: 0,
        digest: Digest([0; 32]),
        train: 0,
        holdout: 0,
        hand_labels: 0,
        model_labels: 0,
        left_out: 0,
        classes: BTreeMap::new(),
        slices: BTreeMap::new(),
        note: ask.note.clone(),
        created_at: String::new(),
    };
    let mut trained: BTreeMap<&str, u64> = BTreeMap::new();
    let wanted = |slice: &String| ask.slices.as_ref().is_none_or(|slices| slices.contains(slice));
    for sample in samples.iter().filter(|sample| wanted(&sample.slice)) {
        if stopping() {
            return Err(FreezeError::Stopped);
        }
        let Some((name, label)) = usable(sample, &spec.labels, ask.min_confidence) else {
            summary.left_out += 1;
            continue;
        };
        match label.source {
            LabelSource::Hand => summary.hand_labels += 1,
            LabelSource::Model => summary.model_labels += 1,
        }
        match sample.split {
            Split::Train => {
                summary.train += 1;
                *trained.entry(name).or_insert(0) += 1;
            }
            Split::Holdout => summary.holdout += 1,
        }
        *summary.classes.entry(name.to_owned()).or_insert(0) += 1;
        *summary.slices.entry(sample.slice.clone()).or_insert(0) += 1;
        let frozen = frozen_sample(sample, label, &mut document.origins);
        document.samples.push(frozen);
    }
    match (trained.len(), trained.first_key_value()) {
        // Held-out samples alone are a measure: a version to evaluate on, which no run can be trained on.
        (0, _) | (_, None) if summary.holdout > 0 => {}
        (0, _) | (_, None) => return Err(FreezeError::NoClass),
        (1, Some((label, count))) => {
            return Err(FreezeError::OneClass {
                label: (*label).to_owned(),
                count: *count,
            });
        }
        _ => {}
    }
    document.samples.sort_by_key(|sample| sample.digest);
    Ok(Frozen { document, summary })
}

fn frozen_sample(sample: &LabelledSample, label: FrozenLabel, origins: &mut Vec<String>) -> FrozenSample {
    let origin = origins
        .iter()
        .position(|origin| *origin == sample.slice)
        .unwrap_or_else(|| {
            origins.push(sample.slice.clone());
            origins.len() - 1
        });
    FrozenSample {
        digest: sample.digest,
        split: match sample.split {
            Split::Train => domain::Split::Train,
            Split::Holdout => domain::Split::Holdout,
        },
        label: Some(label),
        origin: u32::try_from(origin).unwrap_or(u32::MAX),
    }
}

/// The label that counts, with its name.
fn usable<'a>(sample: &'a LabelledSample, labels: &[String], min_confidence: f64) -> Option<(&'a str, FrozenLabel)> {
    let index = |name: &str| {
        labels
            .iter()
            .position(|label| label == name)
            .and_then(|index| u32::try_from(index).ok())
    };
    if let Some(hand) = &sample.hand {
        return Some((
            hand,
            FrozenLabel {
                index: index(hand)?,
                source: LabelSource::Hand,
                confidence: 1.0,
            },
        ));
    }
    let (guess, confidence) = sample.guess.as_ref()?;
    if sample.split == Split::Holdout || *confidence < min_confidence {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "a confidence in [0, 1], kept in FP32")]
    let confidence = *confidence as f32;
    Some((
        guess,
        FrozenLabel {
            index: index(guess)?,
            source: LabelSource::Model,
            confidence,
        },
    ))
}

/// Why a version's samples cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TrainsetError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Version(#[from] VersionError),
    #[error("sample {digest}: {source}")]
    Sample { digest: Digest, source: FeatureError },
    #[error("{0} of the version's samples are no longer in the dataset")]
    Missing(usize),
    #[error(
        "the dataset version's samples take {needed} bytes of memory to work on, and the server's setting \
         training.max_dataset_bytes allows {bound}: freeze a smaller version, or raise the setting"
    )]
    TooLarge { needed: u64, bound: u64 },
    #[error("the work on the samples broke off: {0}")]
    Broken(String),
}

impl From<TrainsetError> for JobError {
    fn from(error: TrainsetError) -> Self {
        match error {
            TrainsetError::Store(error) => error.into(),
            TrainsetError::Blob(error) => error.into(),
            error => Self::Failed(error.to_string()),
        }
    }
}

/// A version and its frozen document.
pub async fn load_version(
    app: &App,
    id: DatasetVersionId,
) -> Result<(DatasetVersion, DatasetVersionDoc), TrainsetError> {
    let version = datasets::get_version(&app.db, id).await?;
    let bytes = app.blobs.get(&version.digest).await?;
    let document = tokio::task::spawn_blocking(move || DatasetVersionDoc::decode(&bytes))
        .await
        .map_err(|why| TrainsetError::Broken(why.to_string()))??;
    Ok((version, document))
}

/// Bytes that [`collect`] takes for the samples of a split; `None`: of both.
pub fn raw_bytes(document: &DatasetVersionDoc, split: Option<domain::Split>) -> u64 {
    held_bytes(document, split, document.features.sample_len())
}

/// Bytes that the features of the training split take.
pub fn feature_bytes(document: &DatasetVersionDoc) -> u64 {
    held_bytes(document, Some(domain::Split::Train), document.features.feature_count())
}

fn held_bytes(document: &DatasetVersionDoc, split: Option<domain::Split>, values: usize) -> u64 {
    let samples = document.samples.iter().filter(|sample| of_split(sample, split)).count();
    let row = (values as u64).saturating_mul(size_of::<f32>() as u64);
    row.saturating_mul(samples as u64)
}

fn of_split(sample: &FrozenSample, split: Option<domain::Split>) -> bool {
    split.is_none_or(|split| sample.split == split) && sample.label.is_some()
}

/// Refuses what would take more memory than the configuration allows, before any of it is read.
pub fn check_bytes(needed: u64, bound: u64) -> Result<(), TrainsetError> {
    if needed > bound {
        return Err(TrainsetError::TooLarge { needed, bound });
    }
    Ok(())
}

/// Raw samples as they come from the database. To be read on a thread that may block.
#[derive(Debug)]
pub struct RawSamples {
    queue: mpsc::Receiver<RawBatch>,
    batch: std::vec::IntoIter<(Digest, Vec<f32>)>,
}

impl Iterator for RawSamples {
    type Item = (Digest, Vec<f32>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(sample) = self.batch.next() {
                return Some(sample);
            }
            self.batch = self.queue.blocking_recv()?.into_iter();
        }
    }
}

/// Lets `work` read all raw samples of a dataset on a thread of its own, in the dataset's order.
pub async fn with_raw<T, E>(
    db: &Db,
    dataset: DatasetId,
    work: impl FnOnce(RawSamples) -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<TrainsetError> + Send + 'static,
{
    let (sender, queue) = mpsc::channel(QUEUE);
    let samples = RawSamples {
        queue,
        batch: Vec::new().into_iter(),
    };
    let worker = tokio::task::spawn_blocking(move || work(samples));
    let sent = datasets::send_raw(db, dataset, BATCH, sender).await;
    let result = worker.await.map_err(|why| TrainsetError::Broken(why.to_string()))?;
    // If the database broke off, the worker saw too little: what it says is no news.
    sent.map_err(TrainsetError::from)?;
    result
}

/// One labelled sample of a version, with its raw values.
#[derive(Debug, Clone, PartialEq)]
pub struct Labelled {
    pub split: domain::Split,
    /// Index into the version's labels.
    pub label: usize,
    /// Index into the version's origins.
    pub origin: usize,
    pub raw: Vec<f32>,
}

/// The labelled samples of a version in the version's order, which does not depend on the order of imports.
pub fn collect(
    document: &DatasetVersionDoc,
    raw: impl Iterator<Item = (Digest, Vec<f32>)>,
    split: Option<domain::Split>,
) -> Result<Vec<Labelled>, TrainsetError> {
    let places: HashMap<Digest, usize> = document
        .samples
        .iter()
        .enumerate()
        .filter(|(_, sample)| of_split(sample, split))
        .map(|(place, sample)| (sample.digest, place))
        .collect();
    let mut found = BTreeMap::new();
    for (digest, values) in raw {
        let Some(place) = places.get(&digest) else { continue };
        let Some(sample) = document.samples.get(*place) else {
            continue;
        };
        let Some(label) = sample.label else { continue };
        let labelled = Labelled {
            split: sample.split,
            label: label.index as usize,
            origin: sample.origin as usize,
            raw: values,
        };
        found.insert(*place, labelled);
    }
    if found.len() < places.len() {
        return Err(TrainsetError::Missing(places.len() - found.len()));
    }
    Ok(found.into_values().collect())
}
