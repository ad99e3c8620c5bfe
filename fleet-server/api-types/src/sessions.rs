//! Sign-in links and sessions of the console.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The answer to `POST /api/v1/sign-in-links`: good for one sign-in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignInLink {
    /// Opens the console signed in. The code stands in the fragment, which browsers send to nobody.
    pub url: String,
    pub code: String,
    pub expires_at: String,
}

/// `POST /api/v1/session`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenSession {
    pub code: String,
}

/// `GET /api/v1/session`: who is signed in, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// As audit entries name it.
    pub actor: String,
    /// For people.
    pub name: String,
    pub roles: Vec<String>,
    /// Names of the actions that the roles permit: `read`, `read-audit`, `label`, `build`, `sign`, `operate`, `administer`.
    pub capabilities: Vec<String>,
    /// Goes into the header `X-CSRF-Token` of every request that changes something.
    pub csrf: String,
    /// The session ends then, whatever happens.
    pub expires_at: String,
    /// It ends then unless something is asked before.
    pub idle_expires_at: String,
    pub server_version: String,
}

/// A row of `GET /api/v1/sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionInfo {
    pub id: String,
    pub actor: String,
    pub created_at: String,
    pub last_seen: String,
    pub expires_at: String,
    /// What the browser called itself when it signed in.
    pub user_agent: String,
    /// Is it the one that asks?
    pub current: bool,
}
