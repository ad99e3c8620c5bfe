//! What `GET /api/v1/events` tells: that something changed, and enough to know what to ask again.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Kinds of things that change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    Device,
    Rollout,
    Deployment,
    Run,
    Job,
    Dataset,
    Import,
    Labels,
    Model,
    Drift,
    Token,
    Audit,
    Session,
}

/// The data of an event `change`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChangeEvent {
    pub resource: Resource,
    /// What changed; empty where it is not one thing.
    pub id: String,
    pub at: String,
    /// The resource as its list shows it, where the server had it at hand; otherwise ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub patch: Option<serde_json::Value>,
}

/// The data of the event `hello`, always the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HelloEvent {
    /// The position from which the stream goes on: `<epoch>-<sequence>`.
    pub id: String,
    pub server_version: String,
}

/// The data of an event `reset`: events were missed, ask for everything again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResetEvent {
    /// `epoch`: the server started anew; `gap`: more happened than is kept.
    pub reason: String,
}
