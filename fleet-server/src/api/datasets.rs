//! Datasets: making, importing into, browsing, freezing versions.

mod import;
mod imports;
#[cfg(test)]
pub(in crate::api) mod testing;
#[cfg(test)]
mod tests;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use flotilla_api_types::common::ProblemItem;
use flotilla_api_types::datasets::{
    CreateDataset, CreateDatasetVersion, Dataset, DatasetVersion, ImportReport, Sample, Split,
};
use flotilla_api_types::{Page, Problem};
use flotilla_protocol::ids::{DatasetId, DatasetVersionId, DeviceId, Digest, ImportId, ModelLine};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::require;
use crate::api::error::{ApiError, STOPPING};
use crate::api::extract::{Caller, Json, Path, Query};
use crate::api::{begin_heavy, page_limit};
use crate::app::App;
use crate::domain::authz::Action;
use crate::store::datasets::{self as store, DatasetPage, SampleCounts, SampleFilter, StoredDataset};
use crate::store::{StoreError, audit as audit_log};
use crate::training::trainset::{FreezeError, check_bytes, freeze, freezing_bytes};
use crate::{audit, clock};

/// Most classes of a dataset.
const MAX_LABELS: usize = 1024;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(show))
        .routes(routes!(import_samples, imports::list))
        .routes(routes!(imports::show, imports::cancel))
        .routes(routes!(samples))
        .routes(routes!(sample))
        .routes(routes!(create_version, versions))
        .routes(routes!(show_version))
}

/// The dataset of a path: by id or name.
pub(super) async fn find(app: &App, id_or_name: &str) -> Result<StoredDataset, ApiError> {
    Ok(store::get(&app.db, &app.fleet.project, id_or_name).await?)
}

async fn body_of(app: &App, stored: StoredDataset) -> Result<Dataset, ApiError> {
    let counts = store::counts(&app.db, stored.id).await?;
    Ok(body(stored, counts))
}

fn body(stored: StoredDataset, counts: SampleCounts) -> Dataset {
    let features = stored
        .features
        .or_else(|| import::declared_features(&stored.spec.shape));
    Dataset {
        id: stored.id,
        name: stored.spec.name,
        labels: stored.spec.labels,
        shape: stored.spec.shape,
        split: stored.spec.split,
        drop_columns: stored.spec.drop_columns,
        harvest_line: stored.spec.harvest_line,
        feature_names: features.map(|features| features.feature_names()).unwrap_or_default(),
        samples: counts.slices.values().sum(),
        slices: counts.slices,
        hand_labels: counts.hand_labels,
        created_at: clock::rfc3339(stored.created_at),
    }
}

/// Make a dataset
#[utoipa::path(post, path = "/datasets", tag = "datasets", request_body = CreateDataset, security(("token" = [])),
    responses((status = 201, body = Dataset), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn create(
    caller: Caller,
    State(app): State<App>,
    Json(spec): Json<CreateDataset>,
) -> Result<(StatusCode, Json<Dataset>), ApiError> {
    require(&caller, Action::Build)?;
    check(&spec)?;
    let id = DatasetId::new(Uuid::now_v7());
    let now = clock::now_ms();
    let detail = [("name", spec.name.clone()), ("labels", spec.labels.join(", "))];
    let mut tx = app.db.begin().await?;
    store::create(&mut tx, id, &app.fleet.project, &spec, now).await?;
    let record = audit::record(&caller.0.actor, "dataset.created", format!("dataset:{id}"), detail);
    audit_log::append(&mut tx, &record).await?;
    tx.commit().await.map_err(StoreError::from)?;
    let stored = StoredDataset {
        id,
        spec,
        features: None,
        created_at: now,
    };
    Ok((StatusCode::CREATED, Json(body_of(&app, stored).await?)))
}

/// Everything that is wrong with a new dataset, place by place.
fn check(spec: &CreateDataset) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    let mut wrong = |place: &str, message: String| {
        errors.push(ProblemItem {
            place: place.to_owned(),
            message,
        });
    };
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if spec.name.is_empty() || spec.name.len() > 64 || !spec.name.bytes().all(letters) {
        wrong("name", "1 to 64 of a-z, 0-9 and '-' are needed".to_owned());
    } else if Uuid::parse_str(&spec.name).is_ok() {
        wrong("name", "a UUID would be taken for a dataset's id".to_owned());
    }
    if spec.labels.len() < 2 || spec.labels.len() > MAX_LABELS {
        wrong(
            "labels",
            format!("2 to {MAX_LABELS} classes are needed, {} are given", spec.labels.len()),
        );
    }
    for (index, label) in spec.labels.iter().enumerate() {
        let place = format!("labels[{index}]");
        if label.trim().is_empty() || label.trim() != label || label.chars().count() > 100 {
            wrong(
                &place,
                "a label has 1 to 100 characters and no space around them".to_owned(),
            );
        } else if spec.labels.iter().take(index).any(|before| before == label) {
            wrong(&place, format!("'{label}' stands twice"));
        }
    }
    if let Err(why) = import::plan(spec, None) {
        wrong("shape", why.to_string());
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::Refused {
        detail: "the dataset cannot be made".to_owned(),
        errors,
    })
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PageQuery {
    limit: Option<u32>,
    cursor: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only datasets that gather what devices running this model line harvest.
    #[param(value_type = Option<String>)]
    harvest_line: Option<ModelLine>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// Datasets that match, in order of creation
#[utoipa::path(get, path = "/datasets", tag = "datasets", params(ListQuery), security(("token" = [])),
    responses((status = 200, body = Page<Dataset>), (status = 400, body = Problem)))]
async fn list(
    caller: Caller,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Dataset>>, ApiError> {
    require(&caller, Action::Read)?;
    let limit = page_limit(query.limit);
    let page = DatasetPage {
        project: &app.fleet.project,
        harvest_line: query.harvest_line.as_ref(),
        after: query.cursor.as_deref().unwrap_or_default(),
        limit,
    };
    let found = store::list(&app.db, page).await?;
    let mut counts = store::counts_of_list(&app.db, page).await?;
    let items: Vec<Dataset> = found
        .into_iter()
        .map(|stored| {
            let counts = counts.remove(&stored.id).unwrap_or_default();
            body(stored, counts)
        })
        .collect();
    let next_cursor = items
        .last()
        .filter(|_| items.len() == limit as usize)
        .map(|last| last.id.to_string());
    Ok(Json(Page { items, next_cursor }))
}

/// One dataset
#[utoipa::path(get, path = "/datasets/{id}", tag = "datasets", params(("id" = String, Path, description = "Id or name")),
    security(("token" = [])), responses((status = 200, body = Dataset), (status = 404, body = Problem)))]
async fn show(caller: Caller, State(app): State<App>, Path(id): Path<String>) -> Result<Json<Dataset>, ApiError> {
    require(&caller, Action::Read)?;
    let stored = find(&app, &id).await?;
    Ok(Json(body_of(&app, stored).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ImportQuery {
    /// What the file's samples are called together; `import` if absent.
    slice: Option<String>,
    /// Everything into this split, whatever the dataset's rule says.
    #[param(value_type = Option<String>)]
    split: Option<Split>,
    /// What this import shall be called, a UUID: so that its progress can be read, and it can be cancelled, while the file
    /// is being sent.
    #[param(value_type = Option<String>)]
    import: Option<Uuid>,
}

/// Import a CSV file: all of it, or an error and nothing of it
///
/// Answers when the file is in. One import per dataset at a time. Closing the connection cancels it.
#[utoipa::path(post, path = "/datasets/{id}/imports", tag = "datasets",
    params(("id" = String, Path, description = "Id or name"), ImportQuery),
    request_body(content = String, content_type = "text/csv"), security(("token" = [])),
    responses((status = 201, body = ImportReport), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "Cancelled, or another one is running"), (status = 413, body = Problem),
        (status = 422, body = Problem, description = "Names the line and column")))]
async fn import_samples(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<ImportQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<ImportReport>), ApiError> {
    require(&caller, Action::Build)?;
    let dataset = find(&app, &id).await?;
    let slice = query.slice.unwrap_or_else(|| "import".to_owned());
    let letters = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if slice.is_empty() || slice.len() > 100 || !slice.chars().all(letters) {
        return Err(ApiError::invalid(
            "slice: 1 to 100 of a-z, A-Z, 0-9, '-', '_', '.' and '/' are needed",
        ));
    }
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let order = import::Order {
        id: ImportId::new(query.import.unwrap_or_else(Uuid::now_v7)),
        actor: &caller.0.actor,
        dataset: &dataset,
        slice: &slice,
        split: query.split,
        length,
    };
    let report = import::run(&app, order, body).await?;
    Ok((StatusCode::CREATED, Json(report)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct SamplesQuery {
    slice: Option<String>,
    #[param(value_type = Option<String>)]
    split: Option<Split>,
    /// Only what this device sent.
    device: Option<String>,
    /// By hand.
    labelled: Option<bool>,
    /// Raw values too.
    #[serde(default)]
    values: bool,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// Samples, in the dataset's order
#[utoipa::path(get, path = "/datasets/{id}/samples", tag = "datasets",
    params(("id" = String, Path, description = "Id or name"), SamplesQuery), security(("token" = [])),
    responses((status = 200, body = Page<Sample>), (status = 404, body = Problem)))]
async fn samples(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<SamplesQuery>,
) -> Result<Json<Page<Sample>>, ApiError> {
    require(&caller, Action::Read)?;
    let dataset = find(&app, &id).await?;
    let limit = page_limit(query.limit);
    let after: i64 = query.cursor.as_deref().map_or(Ok(-1), number)?;
    let device: Option<DeviceId> = query.device.as_deref().map(str::parse).transpose()?;
    let filter = SampleFilter {
        slice: query.slice.as_deref(),
        split: query.split,
        device: device.as_ref(),
        labelled: query.labelled,
        values: query.values,
    };
    let found = store::samples(&app.db, dataset.id, after, &filter, limit).await?;
    let next_cursor = found
        .last()
        .filter(|_| found.len() == limit as usize)
        .map(|(ordinal, _)| ordinal.to_string());
    let items = found.into_iter().map(|(_, sample)| sample).collect();
    Ok(Json(Page { items, next_cursor }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct SampleQuery {
    /// Raw values too.
    #[serde(default)]
    values: bool,
}

/// One sample
#[utoipa::path(get, path = "/datasets/{id}/samples/{digest}", tag = "datasets",
    params(("id" = String, Path, description = "Id or name"), ("digest" = String, Path), SampleQuery),
    security(("token" = [])), responses((status = 200, body = Sample), (status = 404, body = Problem)))]
async fn sample(
    caller: Caller,
    State(app): State<App>,
    Path((id, digest)): Path<(String, String)>,
    Query(query): Query<SampleQuery>,
) -> Result<Json<Sample>, ApiError> {
    require(&caller, Action::Read)?;
    let dataset = find(&app, &id).await?;
    let digest: Digest = digest.parse()?;
    Ok(Json(store::sample(&app.db, dataset.id, &digest, query.values).await?))
}

fn number<T: std::str::FromStr>(cursor: &str) -> Result<T, ApiError> {
    cursor
        .parse()
        .map_err(|_not_a_number| ApiError::invalid("the cursor is not one that this list gave out"))
}

/// Freeze a version
///
/// It takes hand labels, and guesses of the label model that are sure enough. In the holdout split hand labels alone count.
#[utoipa::path(post, path = "/datasets/{id}/versions", tag = "datasets",
    params(("id" = String, Path, description = "Id or name")), request_body = CreateDatasetVersion,
    security(("token" = [])),
    responses((status = 201, body = DatasetVersion), (status = 404, body = Problem), (status = 422, body = Problem),
        (status = 503, body = Problem, description = "Enough of them run: Retry-After says when to ask again")))]
async fn create_version(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Json(ask): Json<CreateDatasetVersion>,
) -> Result<(StatusCode, Json<DatasetVersion>), ApiError> {
    require(&caller, Action::Build)?;
    let dataset = find(&app, &id).await?;
    let (_turn, stopping) = begin_heavy(&app)?;
    let slices = store::counts(&app.db, dataset.id).await?.slices;
    let wanted = |slice: &String| ask.slices.as_ref().is_none_or(|slices| slices.contains(slice));
    let counted = slices.iter().filter(|(slice, _)| wanted(slice));
    let needed = freezing_bytes(&dataset.spec.labels, counted.map(|(slice, samples)| (slice, *samples)));
    check_bytes(needed, app.heavy.dataset_bytes())?;
    let samples = store::labelled(&app.db, dataset.id, ask.slices.as_deref()).await?;
    let frozen = tokio::task::spawn_blocking(move || {
        let mut frozen = freeze(&dataset, &samples, &ask, &|| stopping.is_stopping())?;
        let (bytes, digest) = frozen.document.encode()?;
        frozen.summary.digest = digest;
        Ok::<_, FreezeError>((frozen.summary, bytes))
    });
    let (mut summary, bytes) = frozen.await.map_err(|why| ApiError::Internal(why.to_string()))??;
    app.blobs.put(bytes.into()).await?;
    summary.id = DatasetVersionId::new(Uuid::now_v7());
    let mut tx = app.db.begin().await?;
    let version = store::create_version(&mut tx, summary, clock::now_ms()).await?;
    let detail = [
        ("dataset", version.dataset.to_string()),
        ("number", version.number.to_string()),
        ("digest", version.digest.to_string()),
    ];
    let subject = format!("dataset-version:{}", version.id);
    audit_log::append(
        &mut tx,
        &audit::record(&caller.0.actor, "dataset.frozen", subject, detail),
    )
    .await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok((StatusCode::CREATED, Json(version)))
}

impl From<FreezeError> for ApiError {
    fn from(error: FreezeError) -> Self {
        match error {
            FreezeError::Stopped => Self::Unavailable(STOPPING.to_owned()),
            error => Self::refused(error.to_string()),
        }
    }
}

/// Versions of a dataset, newest first
#[utoipa::path(get, path = "/datasets/{id}/versions", tag = "datasets",
    params(("id" = String, Path, description = "Id or name"), PageQuery), security(("token" = [])),
    responses((status = 200, body = Page<DatasetVersion>), (status = 404, body = Problem)))]
async fn versions(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<DatasetVersion>>, ApiError> {
    require(&caller, Action::Read)?;
    let dataset = find(&app, &id).await?;
    let limit = page_limit(query.limit);
    let below = query.cursor.as_deref().map(number).transpose()?;
    let items = store::list_versions(&app.db, dataset.id, below, limit).await?;
    let next_cursor = items
        .last()
        .filter(|_| items.len() == limit as usize)
        .map(|last| last.number.to_string());
    Ok(Json(Page { items, next_cursor }))
}

/// One version
#[utoipa::path(get, path = "/dataset-versions/{id}", tag = "datasets", params(("id" = String, Path)),
    security(("token" = [])), responses((status = 200, body = DatasetVersion), (status = 404, body = Problem)))]
async fn show_version(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<DatasetVersion>, ApiError> {
    require(&caller, Action::Read)?;
    Ok(Json(store::get_version(&app.db, id.parse()?).await?))
}
