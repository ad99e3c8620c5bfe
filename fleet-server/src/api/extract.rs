//! Extractors whose rejections are problem details, and who is asking.

mod texts;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::api::error::ApiError;
use crate::domain::authz::Principal;

/// `axum::Json` with our errors. Text that a person would read as something else is refused in every field.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let body = Bytes::from_request(Request::from_parts(parts.clone(), body), state).await?;
        texts::check_json(&body)?;
        let request = Request::from_parts(parts, Body::from(body));
        let axum::Json(value) = axum::Json::from_request(request, state).await?;
        Ok(Self(value))
    }
}

/// Parameters that may be repeated: `state=a&state=b` says the same as `state=a,b`.
const REPEATABLE: [&str; 2] = ["manifest", "state"];

/// `axum::extract::Query` with our errors, and the same rule for its values.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::from_request_parts(parts, state).await?;
        texts::check_query(&pairs)?;
        let axum::extract::Query(value) = match parts.uri.query().and_then(joined) {
            Some(query) => {
                let uri = axum::http::Uri::builder().path_and_query(format!("/?{query}")).build();
                let uri = uri.map_err(|why| ApiError::invalid(why.to_string()))?;
                axum::extract::Query::try_from_uri(&uri)?
            }
            None => axum::extract::Query::from_request_parts(parts, state).await?,
        };
        Ok(Self(value))
    }
}

/// The query with what is repeated put together; `None` where nothing that may be repeated is.
fn joined(query: &str) -> Option<String> {
    let mut pieces: Vec<String> = Vec::new();
    let mut is_repeated = false;
    for piece in query.split('&') {
        let value_of = |name: &str, piece: &str| Some(piece.strip_prefix(name)?.strip_prefix('=')?.to_owned());
        let repeatable = REPEATABLE.iter().find_map(|name| Some((*name, value_of(name, piece)?)));
        if let Some((name, value)) = repeatable
            && let Some(first) = pieces.iter_mut().find(|other| value_of(name, other).is_some())
        {
            first.push_str("%2C");
            first.push_str(&value);
            is_repeated = true;
            continue;
        }
        pieces.push(piece.to_owned());
    }
    is_repeated.then(|| pieces.join("&"))
}

/// `axum::extract::Path` with our errors.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(ApiError))]
pub struct Path<T>(pub T);

impl<T: serde::Serialize> axum::response::IntoResponse for Json<T> {
    fn into_response(self) -> axum::response::Response {
        axum::Json(self.0).into_response()
    }
}

/// Who is asking; put there by the authentication layer.
#[derive(Debug, Clone)]
pub struct Caller(pub Principal);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or(ApiError::Unauthenticated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_repeated_is_put_together() {
        assert_eq!(
            joined("state=a&limit=2&state=b%20c").as_deref(),
            Some("state=a%2Cb%20c&limit=2")
        );
        for alone in [
            "",
            "state=a",
            "limit=1&limit=2&state=a",
            "states=a&state=b",
            "state&state=a",
        ] {
            assert_eq!(joined(alone), None, "{alone}");
        }
    }
}
