//! The model registry: packaging, manifests to sign, signatures.

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flotilla_api_types::common::ProblemItem;
use flotilla_api_types::models::{
    AddSignature, CreateModelVersion, DriftParameters, ImportModelQuery, ManifestDocument, Model, ModelVersion,
    SignatureState,
};
use flotilla_api_types::{CountedPage, Problem};
use flotilla_protocol::ids::{DatasetVersionId, Digest, ModelLine, ModelVersionId, RunId};
use flotilla_protocol::manifest::Manifest;
use flotilla_protocol::trust::{Document as _, Role, Root};
use futures_util::TryStreamExt as _;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::auth::require;
use crate::api::error::{ApiError, STOPPING};
use crate::api::extract::{Caller, Json, Path, Query};
use crate::api::{begin_heavy, page_limit};
use crate::app::{App, Change};
use crate::audit;
use crate::domain::authz::Action;
use crate::packaging::packager::{self, Ask, Origin, PackagerError};
use crate::packaging::signer::{self, SignatureRefused};
use crate::store::models::{self as store, Lineage, ModelFilter, StoredVersion, Whose};
use crate::store::{StoreError, audit as audit_log, documents, rollouts};

/// Longest ONNX file: it is held in memory while it is packaged.
const MAX_ONNX_BYTES: usize = 512 << 20;
/// How long an imported model may be newly installed.
const IMPORT_INSTALL_DAYS: u32 = 180;
/// Manifests that may be asked for at a time.
const MOST_MANIFESTS: usize = 100;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(lines))
        .routes(routes!(create, versions))
        .routes(routes!(import_onnx))
        .routes(routes!(all_versions))
        .routes(routes!(show))
        .routes(routes!(manifest))
        .routes(routes!(sign))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    limit: Option<u32>,
    cursor: Option<String>,
    /// `unsigned`, `signed` or `revoked`; lines that have such a version.
    #[param(value_type = Option<String>)]
    signature: Option<SignatureState>,
    /// Of lines: stands in the name. Of versions: in the number, the manifest's digest, the id or the run. Whatever its case.
    #[serde(default)]
    text: String,
}

impl ListQuery {
    fn filter(&self) -> ModelFilter<'_> {
        ModelFilter {
            signature: self.signature,
            text: self.text.trim(),
        }
    }
}

/// Model lines that match, by name
#[utoipa::path(get, path = "/models", tag = "models", params(ListQuery), security(("token" = [])),
    responses((status = 200, body = CountedPage<Model>), (status = 400, body = Problem)))]
async fn lines(
    caller: Caller,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Json<CountedPage<Model>>, ApiError> {
    require(&caller, Action::Read)?;
    let limit = page_limit(query.limit);
    let after = query.cursor.as_deref().unwrap_or_default();
    let total = store::count_lines(&app.db, &app.fleet.project, query.filter()).await?;
    let mut items = store::lines(&app.db, &app.fleet.project, query.filter(), after, limit).await?;
    store::count_devices_of_lines(&app.db, &mut items).await?;
    let next_cursor = items
        .last()
        .filter(|_| items.len() == limit as usize)
        .map(|last| last.line.to_string());
    Ok(Json(CountedPage {
        items,
        next_cursor,
        total,
    }))
}

/// Package a finished run
///
/// The golden gate runs here: a package whose outputs differ from the trainer's is refused with the first difference.
#[utoipa::path(post, path = "/models/{line}/versions", tag = "models", params(("line" = String, Path)),
    request_body = CreateModelVersion, security(("token" = [])),
    responses((status = 201, body = ModelVersion), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem),
        (status = 503, body = Problem, description = "Enough of them run: Retry-After says when to ask again")))]
async fn create(
    caller: Caller,
    State(app): State<App>,
    Path(line): Path<String>,
    Json(ask): Json<CreateModelVersion>,
) -> Result<(StatusCode, Json<ModelVersion>), ApiError> {
    require(&caller, Action::Build)?;
    let package = Ask {
        line: line.parse()?,
        semver: ask.semver,
        hardware_classes: ask.hardware_classes,
        arch: ask.arch,
        min_ram_bytes: ask.min_ram_bytes,
        p95_budget_us: ask.p95_budget_us,
        install_days: ask.install_days,
        drift: ask.drift,
    };
    let (_turn, stopping) = begin_heavy(&app)?;
    let what = (package, Origin::Run(ask.run));
    let made = Box::pin(packager::package(&app, &caller.0.actor, what, stopping)).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Versions of a line that match, newest first
#[utoipa::path(get, path = "/models/{line}/versions", tag = "models", params(("line" = String, Path), ListQuery),
    security(("token" = [])),
    responses((status = 200, body = CountedPage<ModelVersion>), (status = 400, body = Problem), (status = 404, body = Problem)))]
async fn versions(
    caller: Caller,
    State(app): State<App>,
    Path(line): Path<String>,
    Query(query): Query<ListQuery>,
) -> Result<Json<CountedPage<ModelVersion>>, ApiError> {
    require(&caller, Action::Read)?;
    let line: ModelLine = line.parse()?;
    let limit = page_limit(query.limit);
    let below = match query.cursor.as_deref().map(str::parse) {
        None => None,
        Some(Ok(below)) => Some(below),
        Some(Err(_not_a_number)) => return Err(ApiError::invalid("the cursor is not one that this list gave out")),
    };
    let total = store::count(&app.db, Whose::Line(&line), query.filter()).await?;
    if total == 0 && !store::has_line(&app.db, &line).await? {
        return Err(ApiError::not_found("model line", line));
    }
    let mut items = store::list(&app.db, &line, query.filter(), below, limit).await?;
    store::count_devices_of_versions(&app.db, &line, &mut items).await?;
    let next_cursor = items
        .last()
        .filter(|_| items.len() == limit as usize)
        .map(|last| last.release_counter.to_string());
    Ok(Json(CountedPage {
        items,
        next_cursor,
        total,
    }))
}

/// Package an ONNX file from elsewhere
///
/// What is no ONNX, or uses what the engine does not have, is refused by name. Its golden outputs are the engine's own,
/// which the manifest's provenance says.
#[utoipa::path(post, path = "/models/{line}/imports", tag = "models",
    params(("line" = String, Path), ("semver" = String, Query), ("dataset_version" = String, Query)),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"), security(("token" = [])),
    responses((status = 201, body = ModelVersion), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 413, body = Problem), (status = 422, body = Problem),
        (status = 503, body = Problem, description = "Enough of them run: Retry-After says when to ask again")))]
async fn import_onnx(
    caller: Caller,
    State(app): State<App>,
    Path(line): Path<String>,
    Query(query): Query<ImportModelQuery>,
    body: Body,
) -> Result<(StatusCode, Json<ModelVersion>), ApiError> {
    require(&caller, Action::Build)?;
    let package = Ask {
        line: line.parse()?,
        semver: query.semver,
        hardware_classes: Vec::new(),
        arch: Vec::new(),
        min_ram_bytes: 0,
        p95_budget_us: 0,
        install_days: IMPORT_INSTALL_DAYS,
        drift: DriftParameters::default(),
    };
    // Before the body is read: it stands in memory whole.
    let (_turn, stopping) = begin_heavy(&app)?;
    let origin = Origin::Onnx {
        bytes: read_capped(body).await?,
        dataset_version: query.dataset_version,
    };
    let made = Box::pin(packager::package(&app, &caller.0.actor, (package, origin), stopping)).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

async fn read_capped(body: Body) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    let mut stream = body.into_data_stream();
    while let Some(piece) = stream
        .try_next()
        .await
        .map_err(|why| ApiError::invalid(format!("the body ended early: {why}")))?
    {
        if bytes.len() + piece.len() > MAX_ONNX_BYTES {
            return Err(ApiError::TooLarge(format!(
                "the file is longer than {MAX_ONNX_BYTES} bytes"
            )));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

impl From<PackagerError> for ApiError {
    fn from(error: PackagerError) -> Self {
        match error {
            PackagerError::Store(error) => error.into(),
            PackagerError::Blob(error) => error.into(),
            PackagerError::Samples(error) => error.into(),
            PackagerError::Stopped => Self::Unavailable(STOPPING.to_owned()),
            PackagerError::Exists { .. } => Self::Conflict(error.to_string()),
            PackagerError::Golden(_) => Self::Internal(error.to_string()),
            PackagerError::Package(_)
            | PackagerError::Engine(_)
            | PackagerError::Scoring(_)
            | PackagerError::Tensor(_)
            | PackagerError::NotFinished { .. } => Self::refused(error.to_string()),
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct AllQuery {
    /// Only what was made of this run.
    #[param(value_type = Option<String>)]
    run: Option<RunId>,
    /// Only what was made of this dataset version.
    #[param(value_type = Option<String>)]
    dataset_version: Option<DatasetVersionId>,
    /// Only what devices know by this digest. Several, at most 100: with commas between, or repeated.
    manifest: Option<String>,
    /// `unsigned`, `signed` or `revoked`.
    #[param(value_type = Option<String>)]
    signature: Option<SignatureState>,
    /// Stands in the number, the manifest's digest, the id or the run. Whatever its case.
    #[serde(default)]
    text: String,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// Digests with commas between, each once.
fn manifests(text: &str) -> Result<Vec<Digest>, ApiError> {
    let mut manifests: Vec<Digest> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
    manifests.sort_unstable();
    manifests.dedup();
    if manifests.len() > MOST_MANIFESTS {
        return Err(ApiError::invalid(format!(
            "manifest: at most {MOST_MANIFESTS} may be asked for at a time"
        )));
    }
    Ok(manifests)
}

/// Versions of all lines that match, newest first
///
/// What became of a run or of a dataset version, and what devices mean by a manifest.
#[utoipa::path(get, path = "/model-versions", tag = "models", params(AllQuery), security(("token" = [])),
    responses((status = 200, body = CountedPage<ModelVersion>), (status = 400, body = Problem)))]
async fn all_versions(
    caller: Caller,
    State(app): State<App>,
    Query(query): Query<AllQuery>,
) -> Result<Json<CountedPage<ModelVersion>>, ApiError> {
    require(&caller, Action::Read)?;
    let limit = page_limit(query.limit);
    let below: Option<ModelVersionId> = query.cursor.as_deref().map(str::parse).transpose()?;
    let filter = ModelFilter {
        signature: query.signature,
        text: query.text.trim(),
    };
    let lineage = Lineage {
        run: query.run,
        dataset_version: query.dataset_version,
        manifests: query.manifest.as_deref().map_or(Ok(Vec::new()), manifests)?,
    };
    let project = app.fleet.project.as_str();
    let total = store::count(&app.db, Whose::Project(project, &lineage), filter).await?;
    let items = store::list_all(&app.db, (project, &lineage), filter, below, limit).await?;
    let next_cursor = items
        .last()
        .filter(|_| items.len() == limit as usize)
        .map(|last| last.id.to_string());
    Ok(Json(CountedPage {
        items,
        next_cursor,
        total,
    }))
}

async fn find(app: &App, id: &str) -> Result<StoredVersion, ApiError> {
    Ok(store::get(&app.db, id.parse()?).await?)
}

/// One version
#[utoipa::path(get, path = "/model-versions/{id}", tag = "models", params(("id" = String, Path)),
    security(("token" = [])), responses((status = 200, body = ModelVersion), (status = 404, body = Problem)))]
async fn show(caller: Caller, State(app): State<App>, Path(id): Path<String>) -> Result<Json<ModelVersion>, ApiError> {
    require(&caller, Action::Read)?;
    Ok(Json(find(&app, &id).await?.version))
}

/// What is to be signed, and the signatures so far
#[utoipa::path(get, path = "/model-versions/{id}/manifest", tag = "models", params(("id" = String, Path)),
    security(("token" = [])), responses((status = 200, body = ManifestDocument), (status = 404, body = Problem)))]
async fn manifest(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<ManifestDocument>, ApiError> {
    require(&caller, Action::Read)?;
    let stored = find(&app, &id).await?;
    let internal = |why: &dyn std::fmt::Display| ApiError::Internal(format!("stored manifest: {why}"));
    let manifest = signer::read_manifest(&stored.payload).map_err(|why| internal(&why))?;
    let (_, root) = documents::latest(&app.db, documents::ROOT).await?;
    Ok(Json(ManifestDocument {
        manifest: stored.version.manifest,
        payload: STANDARD.encode(&stored.payload),
        role: Role::Release(stored.version.line).to_string(),
        schema: Manifest::SCHEMA.to_owned(),
        envelope: stored.envelope.map(|envelope| STANDARD.encode(envelope)),
        root: STANDARD.encode(root),
        content: serde_json::to_value(&manifest).map_err(|why| internal(&why))?,
    }))
}

/// Add release signatures
///
/// Every signature must be valid and of a key that the root names for the line. 200: the threshold is reached; 202: kept,
/// more are needed.
#[utoipa::path(post, path = "/model-versions/{id}/signatures", tag = "models", params(("id" = String, Path)),
    request_body = AddSignature, security(("token" = [])),
    responses((status = 200, body = ModelVersion), (status = 202, body = ModelVersion), (status = 404, body = Problem),
        (status = 422, body = Problem)))]
async fn sign(
    caller: Caller,
    State(app): State<App>,
    Path(id): Path<String>,
    Json(ask): Json<AddSignature>,
) -> Result<(StatusCode, Json<ModelVersion>), ApiError> {
    require(&caller, Action::Sign)?;
    let stored = find(&app, &id).await?;
    let offered = STANDARD
        .decode(ask.envelope.trim())
        .map_err(|why| ApiError::invalid(format!("envelope: not base64: {why}")))?;
    let (_, root) = documents::latest(&app.db, documents::ROOT).await?;
    let root = Root::verify_self(&root).map_err(|why| ApiError::Internal(format!("stored root: {why}")))?;
    let version = &stored.version;
    let package = signer::Package {
        line: &version.line,
        payload: &stored.payload,
        fleet: app.fleet.id,
        root: &root,
    };
    let gathered = match signer::gather(package, stored.envelope.as_deref(), &offered) {
        Ok(gathered) => gathered,
        Err(why) => return Err(refuse(&app, &caller, &stored, &why).await?),
    };
    // Devices fetch the envelope as a blob: it must be there before anybody can name it.
    app.blobs.put(gathered.envelope.clone().into()).await?;
    let state = if gathered.is_signed() {
        SignatureState::Signed
    } else {
        SignatureState::Unsigned
    };
    let event = if gathered.is_signed() {
        "model.signed"
    } else {
        "model.signature-added"
    };
    let detail = [
        ("line", version.line.to_string()),
        ("semver", version.semver.clone()),
        ("manifest", version.manifest.to_string()),
        ("signatures", format!("{} of {}", gathered.valid, gathered.needed)),
    ];
    let record = audit::record(&caller.0.actor, event, format!("model-version:{}", version.id), detail);
    let mut tx = app.db.begin().await?;
    if store::envelope(&mut tx, version.id).await? != stored.envelope {
        // Two who sign at once must not lose each other's signature.
        return Err(ApiError::Conflict(
            "another signature arrived at the same time: send yours again".to_owned(),
        ));
    }
    store::set_envelope(&mut tx, version.id, &gathered.envelope, state).await?;
    // Devices ask for the envelope by its digest, and it has another one now.
    rollouts::mark_targeted_stale(&mut tx, version.id).await?;
    audit_log::append(&mut tx, &record).await?;
    tx.commit().await.map_err(StoreError::from)?;
    app.changes.tell(Change::Targets);
    let status = if gathered.is_signed() {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, Json(store::get_version(&app.db, version.id).await?)))
}

/// Records a refused signature and says why.
async fn refuse(
    app: &App,
    caller: &Caller,
    stored: &StoredVersion,
    why: &SignatureRefused,
) -> Result<ApiError, ApiError> {
    let detail = [
        ("attack", why.attack().to_owned()),
        ("why", why.to_string()),
        ("manifest", stored.version.manifest.to_string()),
    ];
    let subject = format!("model-version:{}", stored.version.id);
    let mut tx = app.db.begin().await?;
    audit_log::append(
        &mut tx,
        &audit::record(&caller.0.actor, "signature.refused", subject, detail),
    )
    .await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(ApiError::Refused {
        detail: format!("the signature is refused ({}): {why}", why.attack()),
        errors: vec![ProblemItem {
            place: "envelope".to_owned(),
            message: why.to_string(),
        }],
    })
}

#[cfg(test)]
mod tests;
