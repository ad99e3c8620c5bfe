//! Claim tokens: made, listed, revoked. The secret is shown once, inside the factory bundle.

use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flotilla_api_types::devices::{ClaimToken, CreateClaimToken, CreatedClaimToken};
use flotilla_api_types::{Page, Problem};
use flotilla_protocol::enroll::FactoryBundle;
use flotilla_protocol::ids::ClaimTokenId;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::auth::require;
use crate::api::error::ApiError;
use crate::api::extract::{Caller, Json, Path, Query};
use crate::api::page_limit;
use crate::app::App;
use crate::domain::authz::Action;
use crate::store::{StoreError, documents, tokens};
use crate::{audit, clock, init, store};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(show, revoke))
}

/// A year: a token that lives longer belongs into a factory's own process.
const MAX_LIFETIME_S: u64 = 366 * 24 * 3600;

/// Make a claim token; the answer is the only place where its secret stands
#[utoipa::path(post, path = "/claim-tokens", tag = "devices", request_body = CreateClaimToken, security(("token" = [])),
    responses((status = 201, body = CreatedClaimToken), (status = 422, body = Problem)))]
async fn create(
    caller: Caller,
    State(app): State<App>,
    Json(wanted): Json<CreateClaimToken>,
) -> Result<(StatusCode, Json<CreatedClaimToken>), ApiError> {
    require(&caller, Action::Operate)?;
    if wanted.uses == 0 || wanted.lifetime_s == 0 || wanted.lifetime_s > MAX_LIFETIME_S {
        return Err(ApiError::refused(format!(
            "uses must be at least 1 and lifetime_s between 1 and {MAX_LIFETIME_S}"
        )));
    }
    let (_, root) = documents::latest(&app.db, documents::ROOT).await?;
    let secret = init::new_token().map_err(|why| ApiError::Internal(why.to_string()))?;
    let detail = [
        ("uses", wanted.uses.to_string()),
        ("lifetime_s", wanted.lifetime_s.to_string()),
    ];
    let mut tx = app.db.begin().await?;
    let hash = tokens::hash_token(&secret);
    let token = tokens::create_claim_token(&mut tx, &hash, &wanted, clock::now_ms()).await?;
    let record = audit::record(
        &caller.0.actor,
        "claim-token.created",
        format!("claim-token:{}", token.id),
        detail,
    );
    store::audit::append(&mut tx, &record).await?;
    tx.commit().await.map_err(StoreError::from)?;
    let factory_bundle = FactoryBundle {
        fleet: app.fleet.id,
        device_api: app.fleet.device_api_url.clone(),
        ca_pem: app.fleet.ca_pem.clone(),
        root: STANDARD.encode(root),
        claim_token: secret,
    };
    Ok((StatusCode::CREATED, Json(CreatedClaimToken { token, factory_bundle })))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PageQuery {
    limit: Option<u32>,
    cursor: Option<String>,
}

/// Claim tokens, newest first; never their secrets
#[utoipa::path(get, path = "/claim-tokens", tag = "devices", params(PageQuery), security(("token" = [])),
    responses((status = 200, body = Page<ClaimToken>)))]
async fn list(
    caller: Caller,
    State(app): State<App>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<ClaimToken>>, ApiError> {
    require(&caller, Action::Operate)?;
    let limit = page_limit(query.limit);
    let before = query.cursor.as_deref().map(str::parse).transpose()?;
    let items = tokens::list_claim_tokens(&app.db, before, limit).await?;
    let next_cursor = items
        .last()
        .filter(|_| items.len() == limit as usize)
        .map(|last| last.id.to_string());
    Ok(Json(Page { items, next_cursor }))
}

/// One claim token; never its secret
#[utoipa::path(get, path = "/claim-tokens/{id}", tag = "devices", params(("id" = String, Path)),
    security(("token" = [])), responses((status = 200, body = ClaimToken), (status = 404, body = Problem)))]
async fn show(caller: Caller, State(app): State<App>, Path(id): Path<String>) -> Result<Json<ClaimToken>, ApiError> {
    require(&caller, Action::Operate)?;
    Ok(Json(tokens::get_claim_token(&app.db, id.parse()?).await?))
}

/// Revoke a claim token; devices that enrolled with it stay
#[utoipa::path(delete, path = "/claim-tokens/{id}", tag = "devices", params(("id" = String, Path)),
    security(("token" = [])), responses((status = 204), (status = 404, body = Problem)))]
async fn revoke(caller: Caller, State(app): State<App>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    require(&caller, Action::Operate)?;
    let id: ClaimTokenId = id.parse()?;
    let mut tx = app.db.begin().await?;
    tokens::revoke_claim_token(&mut tx, id, clock::now_ms()).await?;
    let record = audit::record(&caller.0.actor, "claim-token.revoked", format!("claim-token:{id}"), []);
    store::audit::append(&mut tx, &record).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Method;
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::api::datasets::testing::TestServer;
    use crate::domain::authz::Role;

    #[tokio::test]
    async fn one_token_is_shown_without_its_secret_and_to_those_who_may_make_them() {
        let server = TestServer::new().await;
        let made: Value = server
            .post(
                "/claim-tokens",
                &json!({"uses": 3, "lifetime_s": 60, "tags": {"site": "oslo"}}),
            )
            .await;
        let id = made["id"].as_str().unwrap();
        let show = async |role, id: &str| {
            let path = format!("/claim-tokens/{id}");
            server.send(role, Method::GET, &path, "", Body::empty()).await
        };
        let (status, token) = show(Role::Operator, id).await;
        assert_eq!(
            (status, &token["uses"], &token["tags"]["site"]),
            (StatusCode::OK, &json!(3), &json!("oslo"))
        );
        assert_eq!(token.get("factory_bundle"), None);
        assert_eq!(show(Role::Viewer, id).await.0, StatusCode::FORBIDDEN);
        assert_eq!(
            show(Role::Operator, &Uuid::now_v7().to_string()).await.0,
            StatusCode::NOT_FOUND
        );
        assert_eq!(show(Role::Operator, "nonsense").await.0, StatusCode::BAD_REQUEST);
    }
}
