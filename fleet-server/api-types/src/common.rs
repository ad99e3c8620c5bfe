//! Problems, pages, jobs, and the trust documents that anybody may read.

use flotilla_protocol::ids::{FleetId, JobId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// RFC 9457 problem details: what went wrong, where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:flotilla:problem:<code>`
    #[serde(rename = "type")]
    pub kind: String,
    /// The last part of `type`, for programs: `session-expired`, `conflict`, …
    #[serde(default)]
    pub code: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
    /// The path that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Places in the input, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ProblemItem>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemItem {
    /// A field, a line, a column.
    pub place: String,
    pub message: String,
}

/// One page of a list, in the list's order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Give it back as `cursor` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// One page of a list that is counted: the same, and how many match what was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CountedPage<T> {
    pub items: Vec<T>,
    /// Give it back as `cursor` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// What matches, on all pages.
    pub total: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl JobState {
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// Long work. `GET /api/v1/jobs/{id}?wait_ms=` answers when its state or progress changes; `POST /api/v1/jobs/{id}/cancel` stops
/// it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    #[schema(value_type = String, format = "uuid")]
    pub id: JobId,
    /// `train`, `label-model`, `bulk-devices`
    pub kind: String,
    /// The id of what it works on.
    pub subject: String,
    pub state: JobState,
    /// In [0, 1].
    pub progress: f64,
    /// What it is doing, for people; of one that was cancelled: how far it came.
    pub message: String,
    /// Somebody asked for it to be cancelled: while it runs, it is about to stop.
    #[serde(default)]
    pub cancel_requested: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub created_at: String,
    pub updated_at: String,
}

/// `GET /api/v1/trust`: the fleet's public trust documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrustDocuments {
    #[schema(value_type = String, format = "uuid")]
    pub fleet: FleetId,
    pub fleet_name: String,
    /// Envelope of the current root, base64.
    pub root: String,
    pub root_version: u64,
    /// Envelope of the current head, base64.
    pub head: String,
    /// The fleet CA's certificate, PEM.
    pub ca_pem: String,
    pub broker: String,
    pub device_api: String,
}

/// `GET /api/v1/me`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Me {
    pub actor: String,
    pub roles: Vec<String>,
    pub server_version: String,
}
