//! One import: the body is spooled to a nameless file while it is hashed, parsed on a thread of its own, and stored in one
//! transaction. Memory holds a window and a few batches, however long the file is.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Seek as _};
use std::path::Path;

use axum::body::Body;
use flotilla_api_types::common::ProblemItem;
use flotilla_api_types::datasets::{CreateDataset, ImportReport, SampleShape, Split, SplitRule};
use flotilla_protocol::features::FeatureSpec;
use flotilla_protocol::ids::{Digest, Hasher};
use futures_util::TryStreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::api::error::ApiError;
use crate::app::{App, Change};
use crate::domain::dataset::{self as domain, Group, ImportError, ImportSpec, Layout, SampleReader, sample_digest};
use crate::store::datasets::{self as store, NewSample, StoredDataset};
use crate::store::{StoreError, audit as audit_log};
use crate::{audit, clock};

/// Longest file: it stands on the server's disk while it is read.
const MAX_BYTES: u64 = 2 << 30;
/// Samples handed over at a time.
const BATCH: usize = 256;
/// Batches that may wait for the database; then the parser waits.
const QUEUE: usize = 4;
/// Most residues of a split rule.
const MAX_MODULUS: u64 = 10_000;

/// How a dataset's files are read, and the split that everything goes to, if it is one.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    spec: ImportSpec,
    all: Option<Split>,
}

/// The features of a series are known before the first import.
pub(super) fn declared_features(shape: &SampleShape) -> Option<FeatureSpec> {
    match shape {
        SampleShape::Row { .. } => None,
        SampleShape::Series {
            channels,
            window,
            hop,
            rate_hz,
            statistics,
            ..
        } => Some(FeatureSpec::Window {
            channels: channels.clone(),
            length: *window,
            hop: *hop,
            rate_hz: *rate_hz,
            statistics: statistics.clone(),
        }),
    }
}

/// From the dataset's description to the reader's. `split`: overrides the dataset's rule.
pub(super) fn plan(dataset: &CreateDataset, split: Option<Split>) -> Result<Plan, ImportError> {
    let mut layout = layout_of(&dataset.shape);
    let everything_in = |split| (Some(split), domain::SplitRule::Hash { holdout_share: 0.0 });
    let (all, rule) = match (split, &dataset.split) {
        (Some(split), _) => everything_in(split),
        (None, SplitRule::All { split }) => everything_in(*split),
        (None, SplitRule::Hash { holdout }) => (
            None,
            domain::SplitRule::Hash {
                holdout_share: *holdout,
            },
        ),
        (
            None,
            SplitRule::Modulo {
                column,
                modulus,
                train,
                holdout,
            },
        ) => {
            let group = column
                .as_ref()
                .map_or(Ok(Group::Row), |column| by_case(&mut layout, column))?;
            (None, modulo(group, *modulus, train, holdout)?)
        }
    };
    rule.check()?;
    if let Some(features) = declared_features(&dataset.shape) {
        features.check()?;
        let dropped = |name: &&String| dataset.drop_columns.contains(name);
        if let Some(name) = features.raw_names().iter().find(dropped) {
            return Err(ImportError::Split(format!(
                "column '{name}' is both a channel and dropped"
            )));
        }
    }
    Ok(Plan {
        spec: ImportSpec {
            layout,
            drop_columns: dataset.drop_columns.clone(),
            label_column: None,
            split: rule,
        },
        all,
    })
}

fn layout_of(shape: &SampleShape) -> Layout {
    match shape {
        SampleShape::Row { columns } => Layout::Row {
            columns: (!columns.is_empty()).then(|| columns.clone()),
        },
        SampleShape::Series {
            case_columns,
            order_column,
            channels,
            window,
            hop,
            rate_hz,
            statistics,
        } => Layout::Series {
            case_columns: case_columns.clone(),
            order_column: order_column.clone(),
            channels: channels.clone(),
            length: *window,
            hop: *hop,
            rate_hz: *rate_hz,
            statistics: statistics.clone(),
        },
    }
}

/// The reader divides by the last column of the case: the one asked for is put there.
fn by_case(layout: &mut Layout, column: &String) -> Result<Group, ImportError> {
    let Layout::Series { case_columns, .. } = layout else {
        return Err(ImportError::Split(
            "rows are divided by their number: leave the split's 'column' out".to_owned(),
        ));
    };
    let Some(place) = case_columns.iter().position(|name| name == column) else {
        return Err(ImportError::Split(format!(
            "'{column}' is none of the case columns ({}): a case never straddles splits",
            case_columns.join(", ")
        )));
    };
    let last = case_columns.len() - 1;
    case_columns.swap(place, last);
    Ok(Group::Case)
}

fn modulo(group: Group, modulus: u64, train: &[u64], holdout: &[u64]) -> Result<domain::SplitRule, ImportError> {
    let refuse = |why: String| Err(ImportError::Split(why));
    if modulus == 0 || modulus > MAX_MODULUS {
        return refuse(format!("modulus {modulus} is not between 1 and {MAX_MODULUS}"));
    }
    if let Some(residue) = train.iter().find(|residue| **residue >= modulus) {
        return refuse(format!("residue {residue} never occurs modulo {modulus}"));
    }
    if let Some(both) = train.iter().find(|residue| holdout.contains(residue)) {
        return refuse(format!("residue {both} is in both splits"));
    }
    Ok(domain::SplitRule::Modulo {
        group,
        modulus,
        holdout: holdout.to_vec(),
        exclude: (0..modulus)
            .filter(|residue| !train.contains(residue) && !holdout.contains(residue))
            .collect(),
    })
}

/// A body on its way in.
struct Spooled {
    file: File,
    bytes: u64,
    digest: Digest,
}

/// A file without a name: gone when it is closed, however the server ends.
fn scratch_file(folder: &Path) -> std::io::Result<File> {
    let path = folder.join(Uuid::now_v7().to_string());
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

async fn spool(app: &App, body: Body) -> Result<Spooled, ApiError> {
    let broken = |why: std::io::Error| ApiError::Internal(format!("spooling an import: {why}"));
    let mut file = tokio::fs::File::from_std(scratch_file(&app.upload_dir).map_err(broken)?);
    let mut hasher = Hasher::default();
    let mut stream = body.into_data_stream();
    while let Some(piece) = stream
        .try_next()
        .await
        .map_err(|why| ApiError::invalid(format!("the body ended early: {why}")))?
    {
        hasher.update(&piece);
        if hasher.length() > MAX_BYTES {
            return Err(ApiError::TooLarge(format!(
                "the file is longer than {MAX_BYTES} bytes: import it in parts"
            )));
        }
        file.write_all(&piece).await.map_err(broken)?;
    }
    file.flush().await.map_err(broken)?;
    let mut file = file.into_std().await;
    file.rewind().map_err(broken)?;
    Ok(Spooled {
        file,
        bytes: hasher.length(),
        digest: hasher.finish(),
    })
}

type Reader = SampleReader<BufReader<File>>;

/// What the parser saw, beside the samples it sent.
struct Parsed {
    rows: u64,
    excluded: u64,
    kept: u64,
}

/// Imports a body into a slice.
pub(super) async fn run(
    app: &App,
    actor: &str,
    dataset: &StoredDataset,
    slice: &str,
    split: Option<Split>,
    body: Body,
) -> Result<ImportReport, ApiError> {
    let plan = plan(&dataset.spec, split).map_err(|why| refused(&why))?;
    let spooled = spool(app, body).await?;
    let (bytes, file) = (spooled.bytes, spooled.digest);
    let all = plan.all;
    let reader = blocking(move || Reader::new(BufReader::new(spooled.file), &plan.spec)).await?;
    let reader = reader.map_err(|why| refused(&why))?;
    let features = reader.feature_spec().clone();

    let (sender, mut batches) = mpsc::channel(QUEUE);
    let parser = tokio::task::spawn_blocking(move || parse(reader, all, &sender));
    let now = clock::now_ms();
    let mut tx = app.db.begin().await?;
    let fixed = store::fix_features(&mut tx, dataset.id, &features).await?;
    if fixed != features {
        return Err(other_features(&fixed, &features));
    }
    let mut report = ImportReport {
        slice: slice.to_owned(),
        rows: 0,
        samples: 0,
        duplicates: 0,
        train: 0,
        holdout: 0,
        excluded: 0,
        bytes,
        file,
    };
    while let Some(batch) = batches.recv().await {
        let new = store::insert_samples(&mut tx, dataset.id, slice, &batch, now).await?;
        report.train += new.get(&Split::Train).copied().unwrap_or(0);
        report.holdout += new.get(&Split::Holdout).copied().unwrap_or(0);
    }
    // An error drops the transaction: nothing of the file stays.
    let parsed = parser
        .await
        .map_err(|why| ApiError::Internal(why.to_string()))?
        .map_err(|why| refused(&why))?;
    report.rows = parsed.rows;
    report.excluded = parsed.excluded;
    report.samples = report.train + report.holdout;
    report.duplicates = parsed.kept.saturating_sub(report.samples);
    if parsed.kept + parsed.excluded == 0 {
        return Err(ApiError::refused(format!(
            "no sample came of {} lines: every case is shorter than one window",
            parsed.rows
        )));
    }
    let detail = [
        ("slice", slice.to_owned()),
        ("file", file.to_string()),
        ("samples", report.samples.to_string()),
        ("duplicates", report.duplicates.to_string()),
    ];
    let record = audit::record(actor, "dataset.imported", format!("dataset:{}", dataset.id), detail);
    audit_log::append(&mut tx, &record).await?;
    tx.commit().await.map_err(StoreError::from)?;
    app.changes.tell(Change::Samples);
    Ok(report)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|why| ApiError::Internal(why.to_string()))
}

/// Reads to the end, or to the first error. Waits while the queue is full.
fn parse(mut reader: Reader, all: Option<Split>, queue: &mpsc::Sender<Vec<NewSample>>) -> Result<Parsed, ImportError> {
    let features = reader.feature_spec().clone();
    let (mut kept, mut excluded) = (0, 0);
    let mut batch = Vec::with_capacity(BATCH);
    for sample in reader.by_ref() {
        let sample = sample?;
        let split = match (all, sample.split) {
            (Some(split), _) => split,
            (None, domain::Split::Train) => Split::Train,
            (None, domain::Split::Holdout) => Split::Holdout,
            (None, domain::Split::Excluded) => {
                excluded += 1;
                continue;
            }
        };
        let digest = sample_digest(&features, &sample.values).map_err(|why| ImportError::Csv {
            line: 0,
            why: why.to_string(),
        })?;
        kept += 1;
        batch.push(NewSample {
            digest,
            key: sample.key,
            split,
            values: sample.values,
            harvested: None,
        });
        if batch.len() == BATCH && queue.blocking_send(std::mem::take(&mut batch)).is_err() {
            break;
        }
    }
    if !batch.is_empty() {
        // An error means that the import was given up: nobody waits for the rest.
        drop(queue.blocking_send(batch));
    }
    Ok(Parsed {
        rows: reader.counts().lines,
        excluded,
        kept,
    })
}

fn other_features(fixed: &FeatureSpec, found: &FeatureSpec) -> ApiError {
    ApiError::Refused {
        detail: "the file's columns are not those of the dataset's first import".to_owned(),
        errors: vec![ProblemItem {
            place: "line 1".to_owned(),
            message: format!(
                "the dataset has {}; the file gives {}",
                fixed.raw_names().join(", "),
                found.raw_names().join(", ")
            ),
        }],
    }
}

/// The reader's error with its place in the file.
fn refused(error: &ImportError) -> ApiError {
    let place = match error {
        ImportError::NotANumber { line, column, .. }
        | ImportError::NotFinite { line, column, .. }
        | ImportError::Group { line, column, .. }
        | ImportError::OutOfOrder { line, column, .. } => format!("line {line}, column {column}"),
        ImportError::ColumnCount { line, .. }
        | ImportError::DuplicateCase { line, .. }
        | ImportError::MixedLabels { line, .. }
        | ImportError::Csv { line, .. } => format!("line {line}"),
        ImportError::MissingColumn { column, .. } | ImportError::DuplicateColumn(column) => {
            format!("line 1, column {column}")
        }
        ImportError::Empty | ImportError::NoData => "line 1".to_owned(),
        ImportError::Split(_) => "split".to_owned(),
        ImportError::Features(_) => "shape".to_owned(),
    };
    ApiError::Refused {
        detail: format!("nothing was imported: {error}"),
        errors: vec![ProblemItem {
            place,
            message: error.to_string(),
        }],
    }
}
