//! Drift: what devices judged, and the histograms behind it.

use std::ops::Range;
use std::time::Duration;

use axum::extract::State;
use flotilla_api_types::drift::{ClassShare, DeviceDrift, DriftFeatures, DriftPackage, DriftPoint};
use flotilla_api_types::{CountedPage, Page, Problem};
use flotilla_protocol::codec::{self, MAX_COMPONENT_BYTES, MAX_DOCUMENT_BYTES};
use flotilla_protocol::ids::{DeviceId, Digest, ModelLine};
use flotilla_protocol::manifest::{ComponentKind, Manifest};
use flotilla_protocol::sketch::SketchSet;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::auth::require;
use crate::api::error::ApiError;
use crate::api::extract::{Caller, Json, Path, Query};
use crate::api::page_limit;
use crate::app::{App, Change, MAX_WAIT};
use crate::clock;
use crate::domain::authz::Action;
use crate::domain::drift::{Reference, Series, Total, severity};
use crate::domain::drift_filter::{Condition, DriftFilter};
use crate::domain::filter::Match;
use crate::store;
use crate::store::drift::{DriftCursor, DriftQuery, DriftSort};
use crate::store::models::ModelFilter;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(features))
        .routes(routes!(classes))
        .routes(routes!(series))
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Order {
    #[default]
    Device,
    Severity,
}

impl Order {
    fn sort(self) -> DriftSort {
        match self {
            Self::Device => DriftSort::default(),
            Self::Severity => DriftSort::WORST,
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// `drifted:yes line:motions -version:2.0.0 severity:>0.5 free text`. Keys: `line`, `version`, `model` (line, version or
    /// `line@version`), `device`, `manifest`, `slice`, `drifted` (yes, no), `severity` (share of drifted features), `alarms`. `-`
    /// negates, `*` at the end means "begins with", double quotes keep blanks together.
    filter: Option<String>,
    /// `device`, `severity`, `line`, `at`; `-` in front: largest first.
    sort: Option<String>,
    /// Matches to skip, for a scrollbar; without `cursor`.
    offset: Option<u64>,
    line: Option<String>,
    device: Option<String>,
    /// Only those that drifted, or only those that did not.
    drifted: Option<bool>,
    /// Where there is no `sort`: `device`, or `severity`, the largest share of drifted features first.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    order: Order,
    limit: Option<u32>,
    /// Of the same order.
    cursor: Option<String>,
    /// Wait so long at most for news of drift before answering.
    #[serde(default)]
    wait_ms: u64,
}

impl ListQuery {
    /// What has a parameter of its own is one more condition.
    fn filter(&self) -> Result<DriftFilter, ApiError> {
        let mut filter = DriftFilter::parse(self.filter.as_deref().unwrap_or_default())?;
        if let Some(line) = &self.line {
            let line: ModelLine = line.parse()?;
            filter.require(Condition::Line(Match::Exactly(line.to_string())));
        }
        if let Some(device) = &self.device {
            let device: DeviceId = device.parse()?;
            filter.require(Condition::Device(Match::Exactly(device.to_string())));
        }
        if let Some(drifted) = self.drifted {
            filter.require(Condition::Drifted(drifted));
        }
        Ok(filter)
    }

    fn asked(&self) -> Result<DriftQuery, ApiError> {
        let sort = self
            .sort
            .as_deref()
            .map_or(Ok(self.order.sort()), str::parse)
            .map_err(|why| ApiError::refused(format!("sort: {why}")))?;
        let after = match self.cursor.as_deref() {
            None => None,
            Some(text) => Some(
                DriftCursor::decode(text, sort)
                    .ok_or_else(|| ApiError::invalid("the cursor is not one that this list gave out in this order"))?,
            ),
        };
        Ok(DriftQuery {
            filter: self.filter()?,
            sort,
            after,
            offset: self.offset.unwrap_or(0),
            limit: page_limit(self.limit),
        })
    }
}

/// The last judgements of devices and packages that match, in any order
#[utoipa::path(get, path = "/drift", tag = "drift", params(ListQuery), security(("token" = [])),
    responses((status = 200, body = CountedPage<DeviceDrift>), (status = 400, body = Problem),
        (status = 422, body = Problem, description = "The filter or the order says nothing")))]
async fn list(
    caller: Caller,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Json<CountedPage<DeviceDrift>>, ApiError> {
    require(&caller, Action::Read)?;
    let asked = query.asked()?;
    if query.wait_ms > 0 {
        let mut news = app.changes.listen();
        let wait = Duration::from_millis(query.wait_ms).min(MAX_WAIT);
        // Nothing new within the time is an answer too.
        let changed = tokio::time::timeout(wait, news.wait_for(|change| *change == Change::Drift)).await;
        drop(changed);
    }
    let total = store::drift::count(&app.db, &asked).await?;
    let (items, next) = store::drift::list(&app.db, &asked).await?;
    Ok(Json(CountedPage {
        items,
        next_cursor: next.map(|cursor| cursor.encode()),
        total,
    }))
}

/// The path's `{device}` that stands for all of them.
const EVERY_DEVICE: &str = "*";
const HOUR_MS: i64 = 3_600_000;
/// Longest time that can be asked for, hours: a month with daylight to spare. A series has at most so many points.
const MAX_HOURS: i64 = 32 * 24;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct TimeQuery {
    /// RFC 3339; a day before `to` if absent. Whole hours count.
    from: Option<String>,
    /// RFC 3339; now if absent. At most 32 days after `from`.
    to: Option<String>,
}

impl TimeQuery {
    /// Hours since 1970.
    fn hours(&self) -> Result<Range<i64>, ApiError> {
        let time = |name: &str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => clock::from_rfc3339(text).map(Some).ok_or_else(|| {
                ApiError::invalid(format!(
                    "{name}: an RFC 3339 time such as 2026-11-23T02:00:00Z is needed"
                ))
            }),
        };
        let to = time("to", &self.to)?.unwrap_or_else(|| clock::now_ms() + 1);
        let from = time("from", &self.from)?.unwrap_or(to - 24 * HOUR_MS);
        let hours = from.div_euclid(HOUR_MS)..-(-to).div_euclid(HOUR_MS);
        if hours.is_empty() || hours.end - hours.start > MAX_HOURS + 1 {
            return Err(ApiError::invalid(format!(
                "from and to: 'from' comes before 'to', at most {} days",
                MAX_HOURS / 24
            )));
        }
        Ok(hours)
    }
}

/// What sketches are asked for, and the reference that they are read by.
struct Asked {
    /// `None`: every device.
    device: Option<DeviceId>,
    package: DriftPackage,
    hours: Range<i64>,
    reference: Reference,
}

impl Asked {
    async fn read(app: &App, (device, manifest): &(String, String), time: &TimeQuery) -> Result<Self, ApiError> {
        let device = (device != EVERY_DEVICE).then(|| device.parse()).transpose()?;
        let hours = time.hours()?;
        let manifest = manifest_of(app, manifest).await?;
        let (package, reference) = reference(app, &manifest).await?;
        Ok(Self {
            device,
            package,
            hours,
            reference,
        })
    }

    async fn each(&self, app: &App, take: impl FnMut(i64, SketchSet) + Send) -> Result<(), ApiError> {
        let hours = self.hours.clone();
        Ok(store::sketches::each(&app.db, self.device.as_ref(), &self.package.manifest, hours, take).await?)
    }

    async fn total(&self, app: &App) -> Result<Total<'_>, ApiError> {
        let mut total = Total::new(&self.reference);
        self.each(app, |_, sketch| total.add(&sketch)).await?;
        if total.left_out > 0 {
            let left_out = total.left_out;
            tracing::warn!(manifest = %self.package.manifest, left_out, "sketches of other bins than the package's are left out");
        }
        if total.sum.count == 0 {
            let device = self.device.as_ref().map_or(EVERY_DEVICE, DeviceId::as_str);
            return Err(ApiError::not_found(
                "sketch of",
                format!("{device} under {} in that time", self.package.manifest),
            ));
        }
        Ok(total)
    }
}

/// By digest, or by model line: its newest version.
async fn manifest_of(app: &App, text: &str) -> Result<Digest, ApiError> {
    if text.contains(':') {
        return Ok(text.parse()?);
    }
    let line: ModelLine = text.parse()?;
    let newest = store::models::list(&app.db, &line, ModelFilter::default(), None, 1)
        .await?
        .pop();
    let newest = newest.ok_or_else(|| ApiError::not_found("version of model line", &line))?;
    Ok(newest.manifest)
}

const fn whole<T>(items: Vec<T>) -> Page<T> {
    Page {
        items,
        next_cursor: None,
    }
}

/// Every feature's histogram beside its reference, furthest first
#[utoipa::path(get, path = "/drift/{device}/{manifest}/features", tag = "drift",
    params(("device" = String, Path, description = "`*`: every device"),
        ("manifest" = String, Path, description = "Digest, or a model line: its newest version"), TimeQuery),
    security(("token" = [])), responses((status = 200, body = DriftFeatures), (status = 404, body = Problem)))]
async fn features(
    caller: Caller,
    State(app): State<App>,
    Path(path): Path<(String, String)>,
    Query(time): Query<TimeQuery>,
) -> Result<Json<DriftFeatures>, ApiError> {
    require(&caller, Action::Read)?;
    let asked = Asked::read(&app, &path, &time).await?;
    let items = asked.total(&app).await?.histograms();
    Ok(Json(DriftFeatures {
        package: asked.package,
        items,
    }))
}

/// Predicted classes beside those of the reference
#[utoipa::path(get, path = "/drift/{device}/{manifest}/classes", tag = "drift",
    params(("device" = String, Path, description = "`*`: every device"),
        ("manifest" = String, Path, description = "Digest, or a model line: its newest version"), TimeQuery),
    security(("token" = [])), responses((status = 200, body = Page<ClassShare>), (status = 404, body = Problem)))]
async fn classes(
    caller: Caller,
    State(app): State<App>,
    Path(path): Path<(String, String)>,
    Query(time): Query<TimeQuery>,
) -> Result<Json<Page<ClassShare>>, ApiError> {
    require(&caller, Action::Read)?;
    let asked = Asked::read(&app, &path, &time).await?;
    let total = asked.total(&app).await?;
    Ok(Json(whole(total.classes())))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct FeatureQuery {
    /// Its own statistic too, hour by hour.
    feature: Option<String>,
}

/// The statistic hour by hour, oldest first; hours without observations are left out
#[utoipa::path(get, path = "/drift/{device}/{manifest}/series", tag = "drift",
    params(("device" = String, Path, description = "`*`: every device"),
        ("manifest" = String, Path, description = "Digest, or a model line: its newest version"), TimeQuery, FeatureQuery),
    security(("token" = [])), responses((status = 200, body = Page<DriftPoint>), (status = 404, body = Problem)))]
async fn series(
    caller: Caller,
    State(app): State<App>,
    Path(path): Path<(String, String)>,
    Query(time): Query<TimeQuery>,
    Query(query): Query<FeatureQuery>,
) -> Result<Json<Page<DriftPoint>>, ApiError> {
    require(&caller, Action::Read)?;
    let asked = Asked::read(&app, &path, &time).await?;
    let feature = query.feature.map(|name| {
        let place = asked.reference.profile.features.iter().position(|f| f.name == name);
        place.ok_or_else(|| ApiError::not_found("feature", name))
    });
    let mut series = Series::new(&asked.reference, feature.transpose()?);
    asked.each(&app, |hour, sketch| series.add(hour, &sketch)).await?;
    let items = series.finish().into_iter().map(|point| DriftPoint {
        at: clock::rfc3339(point.hour * HOUR_MS),
        count: point.count,
        share: point.status.as_ref().map(|status| status.share),
        drifted: point.status.as_ref().map(|status| status.drifted),
        nearest_slice: point.slice,
        feature: point.feature.map(severity),
    });
    Ok(Json(whole(items.collect())))
}

/// The package that a digest names, and what its sketches are read by.
async fn reference(app: &App, digest: &Digest) -> Result<(DriftPackage, Reference), ApiError> {
    let stored = store::models::get_by_manifest(&app.db, digest)
        .await?
        .ok_or_else(|| ApiError::not_found("model version with manifest", digest))?;
    let manifest: Manifest = codec::from_slice(&stored.payload, MAX_DOCUMENT_BYTES)
        .map_err(|why| ApiError::Internal(format!("stored manifest: {why}")))?;
    let component = manifest
        .component(ComponentKind::Reference)
        .ok_or_else(|| ApiError::not_found("drift reference in", manifest.name.clone()))?;
    let bytes = app.blobs.get(&component.blob.sha256).await?;
    let profile = codec::from_slice(&bytes, MAX_COMPONENT_BYTES).map_err(|why| ApiError::Internal(why.to_string()))?;
    let package = DriftPackage {
        version: stored.version.id,
        line: stored.version.line,
        semver: stored.version.semver,
        manifest: *digest,
    };
    let reference = Reference {
        digest: component.blob.sha256,
        profile,
    };
    Ok((package, reference))
}
