//! One table from error to HTTP status: RFC 9457 problem details.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flotilla_api_types::common::{Problem, ProblemItem};

use crate::blobs::BlobError;
use crate::domain::filter::FilterError;
use crate::store::StoreError;

/// When it may be worth coming back.
const UNAVAILABLE_S: u64 = 5;

/// What is answered to requests that the stop of the server cuts short.
pub(super) const STOPPING: &str = "the server is stopping: nothing was changed, try again when it is back";

/// What a handler answers when it cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// 400: the request itself is wrong.
    #[error("{detail}")]
    Invalid { detail: String, errors: Vec<ProblemItem> },
    #[error("an API token is needed: send 'Authorization: Bearer <token>'")]
    Unauthenticated,
    #[error("the API token is none of this server's, or not any more")]
    UnknownToken,
    /// The cookie's session is over, or never was.
    #[error("the session has ended: sign in again with a new link ('fleetctl console')")]
    SessionExpired,
    #[error("you may not {0}")]
    Forbidden(String),
    /// The cookie came without the header that only our own pages can send.
    #[error("a request that changes something under a session carries the header X-CSRF-Token")]
    Csrf,
    /// 401: the sign-in link is of no use.
    #[error("{0}")]
    LinkRefused(String),
    /// 429
    #[error("too many attempts; try again in {retry_after_s} s")]
    TooMany { retry_after_s: u64 },
    #[error("no {kind} '{id}'")]
    NotFound { kind: &'static str, id: String },
    /// 409: it would be fine in another state.
    #[error("{0}")]
    Conflict(String),
    /// 409: the same request is running; its answer is there in a moment.
    #[error("{0}")]
    UnderWay(String),
    /// 413
    #[error("{0}")]
    TooLarge(String),
    /// 422: understood, and refused for its content.
    #[error("{detail}")]
    Refused { detail: String, errors: Vec<ProblemItem> },
    /// 503
    #[error("{0}")]
    Unavailable(String),
    /// 500: ours. The detail goes to the log, not to the client.
    #[error("{0}")]
    Internal(String),
}

impl ApiError {
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::Invalid {
            detail: detail.into(),
            errors: Vec::new(),
        }
    }

    pub fn refused(detail: impl Into<String>) -> Self {
        Self::Refused {
            detail: detail.into(),
            errors: Vec::new(),
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "ids are small, and the calls read better")]
    pub fn not_found(kind: &'static str, id: impl ToString) -> Self {
        Self::NotFound {
            kind,
            id: id.to_string(),
        }
    }

    fn parts(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Invalid { .. } => (StatusCode::BAD_REQUEST, "invalid-request", "The request is not valid"),
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated", "Authentication is needed"),
            Self::UnknownToken => (StatusCode::UNAUTHORIZED, "unknown-token", "The token is refused"),
            Self::SessionExpired => (StatusCode::UNAUTHORIZED, "session-expired", "The session has ended"),
            Self::LinkRefused(_) => (
                StatusCode::UNAUTHORIZED,
                "link-refused",
                "The sign-in link is of no use",
            ),
            Self::Csrf => (StatusCode::FORBIDDEN, "csrf", "The request may come from elsewhere"),
            Self::TooMany { .. } => (StatusCode::TOO_MANY_REQUESTS, "too-many-attempts", "Too many attempts"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden", "Not permitted"),
            Self::NotFound { .. } => (StatusCode::NOT_FOUND, "not-found", "Not found"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict", "Not possible in the present state"),
            Self::UnderWay(_) => (StatusCode::CONFLICT, "under-way", "The same request is under way"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large"),
            Self::Refused { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "refused", "The content is refused"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available now"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code, title) = self.parts();
        let retry_after = match &self {
            Self::TooMany { retry_after_s } => Some(*retry_after_s),
            Self::UnderWay(_) => Some(1),
            Self::Unavailable(_) => Some(UNAVAILABLE_S),
            _ => None,
        };
        let detail = if let Self::Internal(why) = &self {
            tracing::error!(%why, "internal error");
            "The server's log says more.".to_owned()
        } else {
            self.to_string()
        };
        let errors = match self {
            Self::Invalid { errors, .. } | Self::Refused { errors, .. } => errors,
            _ => Vec::new(),
        };
        let problem = Problem {
            kind: format!("urn:flotilla:problem:{code}"),
            code: code.to_owned(),
            title: title.to_owned(),
            status: status.as_u16(),
            detail,
            instance: None,
            errors,
        };
        let mut response = (status, Json(problem)).into_response();
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { kind, id } => Self::NotFound { kind, id },
            StoreError::Exists(_) | StoreError::Conflict(_) => Self::Conflict(error.to_string()),
            StoreError::Sql(sqlx::Error::PoolTimedOut) => {
                Self::Unavailable("the database is busy: nothing was changed, try again".to_owned())
            }
            StoreError::Sql(sqlx::Error::PoolClosed) => Self::Unavailable(STOPPING.to_owned()),
            StoreError::Sql(_) | StoreError::Migrate(_) | StoreError::Corrupt { .. } | StoreError::File { .. } => {
                Self::Internal(error.to_string())
            }
        }
    }
}

/// What somebody typed to filter a list says nothing.
impl From<FilterError> for ApiError {
    fn from(error: FilterError) -> Self {
        Self::Refused {
            detail: format!("filter: {error}"),
            errors: vec![ProblemItem {
                place: format!("filter, column {}", error.column),
                message: error.why,
            }],
        }
    }
}

impl From<BlobError> for ApiError {
    fn from(error: BlobError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<axum::extract::rejection::JsonRejection> for ApiError {
    fn from(rejection: axum::extract::rejection::JsonRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge(rejection.body_text()),
            _ => Self::invalid(rejection.body_text()),
        }
    }
}

impl From<axum::extract::rejection::QueryRejection> for ApiError {
    fn from(rejection: axum::extract::rejection::QueryRejection) -> Self {
        Self::invalid(rejection.body_text())
    }
}

impl From<axum::extract::rejection::PathRejection> for ApiError {
    fn from(rejection: axum::extract::rejection::PathRejection) -> Self {
        Self::invalid(rejection.body_text())
    }
}

impl From<axum::extract::rejection::BytesRejection> for ApiError {
    fn from(rejection: axum::extract::rejection::BytesRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge(rejection.body_text()),
            _ => Self::invalid(rejection.body_text()),
        }
    }
}

impl From<flotilla_protocol::text::Deceptive> for ApiError {
    fn from(deceptive: flotilla_protocol::text::Deceptive) -> Self {
        Self::refused(deceptive.to_string())
    }
}

impl From<flotilla_protocol::ids::IdError> for ApiError {
    fn from(error: flotilla_protocol::ids::IdError) -> Self {
        Self::invalid(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_database_is_no_fault_of_ours_and_says_when_to_come_back() {
        for error in [sqlx::Error::PoolTimedOut, sqlx::Error::PoolClosed] {
            let response = ApiError::from(StoreError::from(error)).into_response();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()[header::RETRY_AFTER], "5");
        }
        let response = ApiError::from(StoreError::from(sqlx::Error::RowNotFound)).into_response();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!response.headers().contains_key(header::RETRY_AFTER));
    }
}
