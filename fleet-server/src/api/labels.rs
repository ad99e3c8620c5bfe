//! Labels: the queue of what to look at, hand labels, labeling functions, the label model.

use axum::extract::State;
use axum::http::StatusCode;
use flotilla_api_types::Page;
use flotilla_api_types::Problem;
use flotilla_api_types::common::ProblemItem;
use flotilla_api_types::datasets::{
    AnnotationReport, CreateAnnotations, CreateLabelingFunction, FitLabelModel, LabelModel, LabelingFunction,
    LabelingFunctionConflicts, Sample, Split, StartedJob,
};
use flotilla_protocol::ids::{DeviceId, Digest, JobId, LabelingFunctionId};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::require;
use crate::api::datasets::find;
use crate::api::error::ApiError;
use crate::api::extract::{Caller, Json, Path, Query};
use crate::api::page_limit;
use crate::app::{App, Change};
use crate::domain::authz::Action;
use crate::domain::labeling::{self, LabelingSet};
use crate::store::datasets::{SampleFilter, StoredDataset};
use crate::store::jobs::JobKind;
use crate::store::labels::{self as store, Annotated, QueueCursor, QueueOrder, Removed};
use crate::store::{StoreError, audit as audit_log, to_json};
use crate::{audit, clock};

/// Samples that a new labeling function is tried on.
const TRIAL_SAMPLES: u32 = 64;
/// Unknown samples that are named one by one.
const NAMED: usize = 20;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(queue))
        .routes(routes!(annotate))
        .routes(routes!(remove_annotation))
        .routes(routes!(create_function, functions))
        .routes(routes!(delete_function))
        .routes(routes!(conflicts))
        .routes(routes!(fit, label_model))
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Order {
    #[default]
    Uncertainty,
    Newest,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct QueueQuery {
    /// `uncertainty` (no guess first, then the least sure) or `newest`.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    order: Order,
    slice: Option<String>,
    #[param(value_type = Option<String>)]
    split: Option<Split>,
    /// Only what this device sent.
    device: Option<String>,
    /// Raw values too.
    #[serde(default)]
    values: bool,
    limit: Option<u32>,
    /// Where the last page ended, in the same order: what was passed over does not come again.
    cursor: Option<String>,
}

/// Samples without a hand label, the most useful first
///
/// Labeling takes samples off the queue. Without `cursor` it begins anew, with those that were skipped; with it, it goes on
/// behind them.
#[utoipa::path(get, path = "/datasets/{id}/queue", tag = "labels",
    params(("id" = String, Path, description = "Id or name"), QueueQuery), security(("token" = [])),
    responses((status = 200, body = Page<Sample>), (status = 400, body = Problem), (status = 404, body = Problem)))]
async fn queue(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<QueueQuery>,
) -> Result<Json<Page<Sample>>, ApiError> {
    require(&caller, Action::Read)?;
    let dataset = find(&app, &id).await?;
    let order = match query.order {
        Order::Uncertainty => QueueOrder::Uncertainty,
        Order::Newest => QueueOrder::Newest,
    };
    let device: Option<DeviceId> = query.device.as_deref().map(str::parse).transpose()?;
    let filter = SampleFilter {
        slice: query.slice.as_deref(),
        split: query.split,
        device: device.as_ref(),
        labelled: None,
        values: query.values,
    };
    let after = match query.cursor.as_deref() {
        None => None,
        Some(text) => Some(
            QueueCursor::decode(text, order)
                .ok_or_else(|| ApiError::invalid("the cursor is not one that this queue gave out in this order"))?,
        ),
    };
    let limit = page_limit(query.limit);
    let (items, next) = store::queue(&app.db, dataset.id, order, &filter, after, limit).await?;
    Ok(Json(Page {
        items,
        next_cursor: next.map(|cursor| cursor.encode()),
    }))
}

/// Label samples by hand: all of them, or none
#[utoipa::path(post, path = "/datasets/{id}/annotations", tag = "labels",
    params(("id" = String, Path, description = "Id or name")), request_body = CreateAnnotations,
    security(("token" = [])),
    responses((status = 200, body = AnnotationReport), (status = 404, body = Problem),
        (status = 422, body = Problem, description = "Names what is unknown")))]
async fn annotate(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Json(ask): Json<CreateAnnotations>,
) -> Result<Json<AnnotationReport>, ApiError> {
    require(&caller, Action::Label)?;
    let dataset = find(&app, &id).await?;
    let actor = &caller.0.actor;
    let unknown_labels: Vec<ProblemItem> = ask
        .annotations
        .iter()
        .enumerate()
        .filter(|(_, annotation)| !dataset.spec.labels.contains(&annotation.label))
        .take(NAMED)
        .map(|(index, annotation)| ProblemItem {
            place: format!("annotations[{index}].label"),
            message: format!("'{}' is none of {}", annotation.label, dataset.spec.labels.join(", ")),
        })
        .collect();
    if !unknown_labels.is_empty() {
        return Err(ApiError::Refused {
            detail: "nothing was labelled: unknown labels".to_owned(),
            errors: unknown_labels,
        });
    }
    let mut tx = app.db.begin().await?;
    let report = match store::annotate(&mut tx, dataset.id, &ask.annotations, actor, clock::now_ms()).await? {
        Annotated::Done(report) => report,
        Annotated::Unknown(samples) => {
            return Err(ApiError::Refused {
                detail: format!("nothing was labelled: {} unknown sample(s)", samples.len()),
                errors: samples
                    .iter()
                    .take(NAMED)
                    .map(|sample| ProblemItem {
                        place: "annotations".to_owned(),
                        message: format!("dataset '{}' has no sample {sample}", dataset.spec.name),
                    })
                    .collect(),
            });
        }
    };
    let detail = [
        ("new", report.new.to_string()),
        ("changed", report.changed.to_string()),
        ("unchanged", report.unchanged.to_string()),
    ];
    let record = audit::record(actor, "dataset.annotated", format!("dataset:{}", dataset.id), detail);
    audit_log::append(&mut tx, &record).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(Json(report))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct RemoveQuery {
    /// Only if the label is still this one: somebody else may have set another meanwhile.
    label: Option<String>,
}

/// Take a sample's hand label back
///
/// The sample is in the queue again. What label it had before its last one is not known.
#[utoipa::path(delete, path = "/datasets/{id}/annotations/{sample}", tag = "labels",
    params(("id" = String, Path, description = "Id or name"), ("sample" = String, Path, description = "Digest"), RemoveQuery),
    security(("token" = [])),
    responses((status = 204, description = "taken back"),
        (status = 404, body = Problem, description = "No such sample, or it has no hand label"),
        (status = 409, body = Problem, description = "It has another label by now")))]
async fn remove_annotation(
    caller: Caller,
    State(app): State<App>,
    Path((id, sample)): Path<(String, String)>,
    Query(query): Query<RemoveQuery>,
) -> Result<StatusCode, ApiError> {
    require(&caller, Action::Label)?;
    let dataset = find(&app, &id).await?;
    let sample: Digest = sample.parse()?;
    let mut tx = app.db.begin().await?;
    let detail = match store::remove_annotation(&mut tx, dataset.id, &sample, query.label.as_deref()).await? {
        Removed::Done { label, actor } => [("sample", sample.to_string()), ("label", label), ("labelled_by", actor)],
        Removed::Other(label) => {
            return Err(ApiError::Conflict(format!(
                "sample {sample} is labelled '{label}' by now: look again"
            )));
        }
        Removed::NoLabel => return Err(ApiError::not_found("hand label of sample", sample)),
        Removed::NoSample => return Err(ApiError::not_found("sample", sample)),
    };
    let actor = &caller.0.actor;
    let subject = format!("dataset:{}", dataset.id);
    let record = audit::record(actor, "dataset.annotation-removed", subject, detail);
    audit_log::append(&mut tx, &record).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Add a labeling function
///
/// It is compiled against the dataset's features and tried on samples before it is kept.
#[utoipa::path(post, path = "/datasets/{id}/labeling-functions", tag = "labels",
    params(("id" = String, Path, description = "Id or name")), request_body = CreateLabelingFunction,
    security(("token" = [])),
    responses((status = 201, body = LabelingFunction), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem)))]
async fn create_function(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Json(ask): Json<CreateLabelingFunction>,
) -> Result<(StatusCode, Json<LabelingFunction>), ApiError> {
    require(&caller, Action::Build)?;
    let dataset = find(&app, &id).await?;
    if ask.name.trim().is_empty() || ask.name.chars().count() > 100 {
        return Err(ApiError::invalid("name: 1 to 100 characters are needed"));
    }
    let function = LabelingFunction {
        id: LabelingFunctionId::new(Uuid::now_v7()),
        name: ask.name,
        when: ask.when,
        label: ask.label,
        statistics: None,
    };
    let samples = crate::store::datasets::first_raw(&app.db, dataset.id, TRIAL_SAMPLES).await?;
    let dataset_id = dataset.id;
    let tried = function.clone();
    tokio::task::spawn_blocking(move || try_function(&dataset, &tried, &samples))
        .await
        .map_err(|why| ApiError::Internal(why.to_string()))??;
    if store::functions(&app.db, dataset_id).await?.len() >= labeling::MAX_FUNCTIONS {
        let most = labeling::MAX_FUNCTIONS;
        return Err(ApiError::Conflict(format!(
            "the dataset has {most} labeling functions, which is the most"
        )));
    }
    let detail = [
        ("name", function.name.clone()),
        ("when", function.when.clone()),
        ("label", function.label.clone()),
    ];
    let mut tx = app.db.begin().await?;
    store::create_function(&mut tx, dataset_id, &function, clock::now_ms()).await?;
    let subject = format!("dataset:{dataset_id}");
    audit_log::append(
        &mut tx,
        &audit::record(&caller.0.actor, "labeling-function.created", subject, detail),
    )
    .await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok((StatusCode::CREATED, Json(function)))
}

/// Compiles the function and lets it vote; one that fails on every sample is refused.
fn try_function(dataset: &StoredDataset, function: &LabelingFunction, samples: &[Vec<f32>]) -> Result<(), ApiError> {
    let Some(features) = &dataset.features else {
        return Err(ApiError::Conflict(format!(
            "dataset '{}' has no samples yet, so its features are not known: import some first",
            dataset.spec.name
        )));
    };
    let refuse = |message: String| ApiError::Refused {
        detail: format!("labeling function '{}' is refused: {message}", function.name),
        errors: vec![ProblemItem {
            place: "when".to_owned(),
            message,
        }],
    };
    let domain = labeling::LabelingFunction {
        name: function.name.clone(),
        when: function.when.clone(),
        label: function.label.clone(),
    };
    let set = LabelingSet::compile(&[domain], &features.feature_names(), &dataset.spec.labels)
        .map_err(|why| refuse(why.to_string()))?;
    let rows = samples
        .iter()
        .map(|raw| features.compute(raw))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|why| refuse(why.to_string()))?;
    let matrix = set
        .apply(rows.iter().map(Vec::as_slice))
        .map_err(|why| refuse(why.to_string()))?;
    match matrix.errors() {
        [errors] if errors.count > 0 && errors.count == rows.len() as u64 => {
            Err(refuse(errors.first.clone().unwrap_or_default()))
        }
        _ => Ok(()),
    }
}

/// Labeling functions, in order of creation, and how they do
#[utoipa::path(get, path = "/datasets/{id}/labeling-functions", tag = "labels",
    params(("id" = String, Path, description = "Id or name")), security(("token" = [])),
    responses((status = 200, body = Page<LabelingFunction>), (status = 404, body = Problem)))]
async fn functions(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Page<LabelingFunction>>, ApiError> {
    require(&caller, Action::Read)?;
    let dataset = find(&app, &id).await?;
    Ok(Json(Page {
        items: store::functions(&app.db, dataset.id).await?,
        next_cursor: None,
    }))
}

/// Remove a labeling function, by id or name
#[utoipa::path(delete, path = "/datasets/{id}/labeling-functions/{lf}", tag = "labels",
    params(("id" = String, Path, description = "Id or name"), ("lf" = String, Path, description = "Id or name")),
    security(("token" = [])), responses((status = 204), (status = 404, body = Problem)))]
async fn delete_function(
    caller: Caller,
    State(app): State<App>,
    Path((id, function)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    require(&caller, Action::Build)?;
    let dataset = find(&app, &id).await?;
    let mut tx = app.db.begin().await?;
    store::delete_function(&mut tx, dataset.id, &function).await?;
    let subject = format!("dataset:{}", dataset.id);
    let detail = [("function", function)];
    audit_log::append(
        &mut tx,
        &audit::record(&caller.0.actor, "labeling-function.deleted", subject, detail),
    )
    .await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(StatusCode::NO_CONTENT)
}

/// How often labeling functions vote together and against each other, on the samples of the last label model
#[utoipa::path(get, path = "/datasets/{id}/labeling-function-conflicts", tag = "labels",
    params(("id" = String, Path, description = "Id or name")), security(("token" = [])),
    responses((status = 200, body = LabelingFunctionConflicts),
        (status = 404, body = Problem, description = "No label model was fitted yet")))]
async fn conflicts(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<LabelingFunctionConflicts>, ApiError> {
    require(&caller, Action::Read)?;
    let dataset = find(&app, &id).await?;
    let conflicts = store::conflicts(&app.db, dataset.id).await?;
    conflicts
        .map(Json)
        .ok_or_else(|| ApiError::not_found("conflicts (fit a label model first) of dataset", dataset.spec.name))
}

/// Apply all labeling functions to the training split and settle their votes
#[utoipa::path(post, path = "/datasets/{id}/label-model", tag = "labels",
    params(("id" = String, Path, description = "Id or name")), request_body = FitLabelModel, security(("token" = [])),
    responses((status = 202, body = StartedJob), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn fit(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Json(ask): Json<FitLabelModel>,
) -> Result<(StatusCode, Json<StartedJob>), ApiError> {
    require(&caller, Action::Build)?;
    let dataset = find(&app, &id).await?;
    if store::functions(&app.db, dataset.id).await?.is_empty() {
        return Err(ApiError::refused(format!(
            "dataset '{}' has no labeling functions",
            dataset.spec.name
        )));
    }
    let slices = crate::store::datasets::counts(&app.db, dataset.id).await?.slices;
    if let Some(unknown) = ask.slices.iter().flatten().find(|slice| !slices.contains_key(*slice)) {
        return Err(ApiError::refused(format!(
            "dataset '{}' has no slice '{unknown}'",
            dataset.spec.name
        )));
    }
    let job = JobId::new(Uuid::now_v7());
    let mut tx = app.db.begin().await?;
    let (subject, payload) = (dataset.id.to_string(), to_json("job", &ask)?);
    crate::store::jobs::enqueue(&mut tx, job, JobKind::LabelModel, &subject, &payload, clock::now_ms()).await?;
    let detail = [("job", job.to_string())];
    let record = audit::record(
        &caller.0.actor,
        "label-model.requested",
        format!("dataset:{subject}"),
        detail,
    );
    audit_log::append(&mut tx, &record).await?;
    tx.commit().await.map_err(StoreError::from)?;
    app.changes.tell(Change::Job(job));
    Ok((StatusCode::ACCEPTED, Json(StartedJob { job })))
}

/// The last label model
#[utoipa::path(get, path = "/datasets/{id}/label-model", tag = "labels",
    params(("id" = String, Path, description = "Id or name")), security(("token" = [])),
    responses((status = 200, body = LabelModel), (status = 404, body = Problem)))]
async fn label_model(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<LabelModel>, ApiError> {
    require(&caller, Action::Read)?;
    let dataset = find(&app, &id).await?;
    let model = store::label_model(&app.db, dataset.id).await?;
    model
        .map(Json)
        .ok_or_else(|| ApiError::not_found("label model of dataset", dataset.spec.name))
}
