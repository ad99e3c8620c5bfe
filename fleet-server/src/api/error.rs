//! One table from error to HTTP status: RFC 9457 problem details.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flotilla_api_types::common::{Problem, ProblemItem};

use crate::blobs::BlobError;
use crate::store::StoreError;

/// What a handler answers when it cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// 400: the request itself is wrong.
    #[error("{detail}")]
    Invalid { detail: String, errors: Vec<ProblemItem> },
    #[error("an API token is needed: send 'Authorization: Bearer <token>'")]
    Unauthenticated,
    #[error("this token may not {0}")]
    Forbidden(String),
    #[error("no {kind} '{id}'")]
    NotFound { kind: &'static str, id: String },
    /// 409: it would be fine in another state.
    #[error("{0}")]
    Conflict(String),
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
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden", "Not permitted"),
            Self::NotFound { .. } => (StatusCode::NOT_FOUND, "not-found", "Not found"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict", "Not possible in the present state"),
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
            StoreError::Sql(_) | StoreError::Migrate(_) | StoreError::Corrupt { .. } | StoreError::File { .. } => {
                Self::Internal(error.to_string())
            }
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

impl From<flotilla_protocol::ids::IdError> for ApiError {
    fn from(error: flotilla_protocol::ids::IdError) -> Self {
        Self::invalid(error.to_string())
    }
}
