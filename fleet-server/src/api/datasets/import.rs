//! One import: the body is spooled to a nameless file while it is hashed, parsed on a thread of its own, and staged in
//! batches, each a short transaction; one more publishes it all. Memory holds a window and a few batches, and nobody else
//! waits for the database longer than for one batch, however long the file is.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Seek as _};
use std::path::Path;

use axum::body::Body;
use flotilla_api_types::common::ProblemItem;
use flotilla_api_types::datasets::{CreateDataset, ImportReport, ImportState, SampleShape, Split, SplitRule};
use flotilla_protocol::features::FeatureSpec;
use flotilla_protocol::ids::{Digest, Hasher, ImportId};
use futures_util::TryStreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};
use uuid::Uuid;

use crate::api::error::ApiError;
use crate::app::{App, Change};
use crate::domain::dataset::{self as domain, Group, ImportError, ImportSpec, Layout, SampleReader, sample_digest};
use crate::store::datasets::{self as store, NewSample, Origin, StoredDataset};
use crate::store::imports::{self, NewImport, Place};
use crate::store::{StoreError, audit as audit_log};
use crate::{audit, clock};

/// Longest file: it stands on the server's disk while it is read.
const MAX_BYTES: u64 = 2 << 30;
/// Samples handed over, and staged in one transaction, at a time.
const BATCH: usize = 256;
/// While the body arrives, its progress is written so often.
const TELL_EVERY: Duration = Duration::from_millis(500);
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
    let everything_in = |split| {
        let everything = domain::SplitRule::Hash {
            holdout_share: 0.0,
            column: None,
        };
        (Some(split), everything)
    };
    let (all, rule) = match (split, &dataset.split) {
        (Some(split), _) => everything_in(split),
        (None, SplitRule::All { split }) => everything_in(*split),
        (None, SplitRule::Hash { holdout, column }) => (
            None,
            domain::SplitRule::Hash {
                holdout_share: *holdout,
                column: column.as_ref().map(|column| of_case(&layout, column)).transpose()?,
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
                .map_or(Ok(Group::Row), |column| group_by(&mut layout, column))?;
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

/// A column that a split may look at: any for rows, one of the case for a series.
fn of_case(layout: &Layout, column: &str) -> Result<String, ImportError> {
    match layout {
        Layout::Series { case_columns, .. } if !case_columns.iter().any(|name| name == column) => {
            Err(ImportError::Split(format!(
                "'{column}' is none of the case columns ({}): a case never straddles splits",
                case_columns.join(", ")
            )))
        }
        Layout::Series { .. } | Layout::Row { .. } => Ok(column.to_owned()),
    }
}

/// Rows are divided by any column. For a series, the reader divides by the last column of the case: the one asked for is
/// put there.
fn group_by(layout: &mut Layout, column: &str) -> Result<Group, ImportError> {
    let column = of_case(layout, column)?;
    let Layout::Series { case_columns, .. } = layout else {
        return Ok(Group::Column(column));
    };
    let place = case_columns.iter().position(|name| *name == column).unwrap_or(0);
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

async fn spool(app: &App, id: ImportId, body: Body) -> Result<Spooled, ApiError> {
    let broken = |why: std::io::Error| ApiError::Internal(format!("spooling an import: {why}"));
    let mut file = tokio::fs::File::from_std(scratch_file(&app.upload_dir).map_err(broken)?);
    let mut hasher = Hasher::default();
    let mut stream = body.into_data_stream();
    let mut told = Instant::now();
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
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            going_on(imports::received(&app.db, id, hasher.length(), clock::now_ms()).await?)?;
            app.import_moved(id);
        }
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

fn going_on(yes: bool) -> Result<(), ApiError> {
    if yes { Ok(()) } else { Err(cancelled()) }
}

fn cancelled() -> ApiError {
    ApiError::Conflict("the import was cancelled: nothing was imported".to_owned())
}

type Reader = SampleReader<BufReader<File>>;

/// What is handed over at a time.
struct Batch {
    samples: Vec<NewSample>,
    place: Place,
}

/// What the parser saw, beside the samples it sent.
struct Parsed {
    rows: u64,
    excluded: u64,
    kept: u64,
}

/// What to import, and where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order<'a> {
    pub(super) id: ImportId,
    pub(super) actor: &'a str,
    pub(super) dataset: &'a StoredDataset,
    pub(super) slice: &'a str,
    /// Overrides the dataset's rule.
    pub(super) split: Option<Split>,
    /// Where the client says how long the body is.
    pub(super) length: Option<u64>,
}

/// Imports a body into a slice. Dropping the future ends the import as a cancelled one; what it staged is removed.
pub(super) async fn run(app: &App, order: Order<'_>, body: Body) -> Result<ImportReport, ApiError> {
    let plan = plan(&order.dataset.spec, order.split).map_err(|why| refused(&why))?;
    let id = order.id;
    // Before the row is there, so that the reconciler never takes it for one that nobody runs.
    let mut running = app
        .imports
        .begin(id)
        .ok_or_else(|| ApiError::Conflict(format!("import '{id}' is running")))?;
    let new = NewImport {
        id,
        dataset: order.dataset.id,
        slice: order.slice,
        actor: order.actor,
        bytes_total: order.length,
    };
    imports::begin(&app.db, &new, clock::now_ms()).await?;
    app.import_moved(id);
    let outcome = tokio::select! {
        biased;
        () = running.cancelled() => Err(cancelled()),
        outcome = take(app, order, plan, body) => outcome,
    };
    if let Err(error) = &outcome {
        let mut tx = app.db.begin().await?;
        let why = error.to_string();
        imports::end(&mut tx, id, ImportState::Failed, &why, clock::now_ms()).await?;
        tx.commit().await.map_err(StoreError::from)?;
    }
    app.import_moved(id);
    outcome
}

async fn take(app: &App, order: Order<'_>, plan: Plan, body: Body) -> Result<ImportReport, ApiError> {
    let spooled = spool(app, order.id, body).await?;
    let (bytes, file) = (spooled.bytes, spooled.digest);
    going_on(imports::reading(&app.db, order.id, bytes, clock::now_ms()).await?)?;
    app.import_moved(order.id);
    let all = plan.all;
    let reader = blocking(move || Reader::new(BufReader::new(spooled.file), &plan.spec)).await?;
    let reader = reader.map_err(|why| refused(&why))?;
    let features = reader.feature_spec().clone();
    if let Some(fixed) = &order.dataset.features
        && *fixed != features
    {
        return Err(other_features(fixed, &features));
    }
    let (sender, mut batches) = mpsc::channel(QUEUE);
    let parser = tokio::task::spawn_blocking(move || parse(reader, all, &sender));
    while let Some(batch) = batches.recv().await {
        stage(app, &order, &batch).await?;
        app.import_moved(order.id);
    }
    let parsed = parser
        .await
        .map_err(|why| ApiError::Internal(why.to_string()))?
        .map_err(|why| refused(&why))?;
    if parsed.kept + parsed.excluded == 0 {
        return Err(ApiError::refused(format!(
            "no sample came of {} lines: every case is shorter than one window",
            parsed.rows
        )));
    }
    publish(app, &order, &features, parsed, (bytes, file)).await
}

/// One short transaction: samples that nobody sees yet, and how far the import is.
async fn stage(app: &App, order: &Order<'_>, batch: &Batch) -> Result<(), ApiError> {
    let now = clock::now_ms();
    let origin = Origin {
        slice: order.slice,
        import: Some(order.id),
    };
    let mut tx = app.db.begin().await?;
    let new = store::insert_samples(&mut tx, order.dataset.id, origin, &batch.samples, now).await?;
    let staged = new.values().sum();
    going_on(imports::read(&mut tx, order.id, batch.place, staged, now).await?)?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(())
}

/// The last transaction: from here on everybody sees all of it.
async fn publish(
    app: &App,
    order: &Order<'_>,
    features: &FeatureSpec,
    parsed: Parsed,
    (bytes, file): (u64, Digest),
) -> Result<ImportReport, ApiError> {
    let mut tx = app.db.begin().await?;
    let fixed = store::fix_features(&mut tx, order.dataset.id, features).await?;
    if fixed != *features {
        return Err(other_features(&fixed, features));
    }
    let staged = imports::staged(&mut tx, order.id).await?;
    let samples = staged.values().sum();
    let count = |split| staged.get(&split).copied().unwrap_or(0);
    let report = ImportReport {
        import: order.id,
        slice: order.slice.to_owned(),
        rows: parsed.rows,
        samples,
        duplicates: parsed.kept.saturating_sub(samples),
        train: count(Split::Train),
        holdout: count(Split::Holdout),
        excluded: parsed.excluded,
        bytes,
        file,
    };
    going_on(imports::finish(&mut tx, order.id, &report, clock::now_ms()).await?)?;
    let detail = [
        ("slice", report.slice.clone()),
        ("file", file.to_string()),
        ("samples", report.samples.to_string()),
        ("duplicates", report.duplicates.to_string()),
    ];
    let subject = format!("dataset:{}", order.dataset.id);
    let record = audit::record(order.actor, "dataset.imported", subject, detail);
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
fn parse(mut reader: Reader, all: Option<Split>, queue: &mpsc::Sender<Batch>) -> Result<Parsed, ImportError> {
    let features = reader.feature_spec().clone();
    let (mut kept, mut excluded, mut passed) = (0, 0, 0);
    let mut samples = Vec::with_capacity(BATCH);
    while let Some(sample) = reader.next() {
        let sample = sample?;
        passed += 1;
        let split = match (all, sample.split) {
            (Some(split), _) => Some(split),
            (None, domain::Split::Train) => Some(Split::Train),
            (None, domain::Split::Holdout) => Some(Split::Holdout),
            (None, domain::Split::Excluded) => None,
        };
        if let Some(split) = split {
            let digest = sample_digest(&features, &sample.values).map_err(|why| ImportError::Csv {
                line: 0,
                why: why.to_string(),
            })?;
            kept += 1;
            samples.push(NewSample {
                digest,
                key: sample.key,
                split,
                values: sample.values,
                harvested: None,
            });
        } else {
            excluded += 1;
        }
        // Excluded samples count: a file of nothing else makes progress too, and can be cancelled.
        if passed == BATCH {
            passed = 0;
            let batch = Batch {
                samples: std::mem::take(&mut samples),
                place: place(&reader),
            };
            if queue.blocking_send(batch).is_err() {
                break;
            }
        }
    }
    if passed > 0 {
        let place = place(&reader);
        // An error means that the import was given up: nobody waits for the rest.
        drop(queue.blocking_send(Batch { samples, place }));
    }
    Ok(Parsed {
        rows: reader.counts().lines,
        excluded,
        kept,
    })
}

fn place(reader: &Reader) -> Place {
    Place {
        bytes: reader.position(),
        lines: reader.counts().lines,
    }
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
        | ImportError::NoGroup { line, column }
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
