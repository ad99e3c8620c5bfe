//! API tokens of people and tools, and claim tokens of devices. Only SHA-256 hashes are stored.

use flotilla_api_types::devices::{ClaimToken, CreateClaimToken};
use flotilla_protocol::ids::{ApiTokenId, ClaimTokenId, Digest};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::clock;
use crate::domain::authz::{Principal, Role};
use crate::store::{Db, StoreError, Tx, json, parsed, statements, to_json};

statements! {
    CREATE_API = "INSERT INTO api_tokens (id, name, hash, roles, created_at, revoked_at) VALUES ($1, $2, $3, $4, $5, NULL)";
    FIND_API = "SELECT id, name, roles FROM api_tokens WHERE hash = $1 AND revoked_at IS NULL";
    IS_GOOD = "SELECT 1 FROM api_tokens WHERE id = $1 AND revoked_at IS NULL";
    ADMINS = "SELECT id, roles FROM api_tokens WHERE revoked_at IS NULL ORDER BY created_at, id LIMIT 100";
    CREATE_CLAIM = "INSERT INTO claim_tokens (id, hash, uses, used, expires_at, revoked_at, tags, created_at)
        VALUES ($1, $2, $3, 0, $4, NULL, $5, $6)";
    LIST_CLAIM = "SELECT id, uses, used, expires_at, revoked_at, tags, created_at FROM claim_tokens WHERE id < $1
        ORDER BY id DESC LIMIT $2";
    GET_CLAIM = "SELECT id, uses, used, expires_at, revoked_at, tags, created_at FROM claim_tokens WHERE id = $1";
    REVOKE_CLAIM = "UPDATE claim_tokens SET revoked_at = COALESCE(revoked_at, $1) WHERE id = $2";
    CLAIM = "UPDATE claim_tokens SET used = used + 1
        WHERE hash = $1 AND used < uses AND expires_at > $2 AND revoked_at IS NULL RETURNING id, tags";
    CLAIM_STATE = "SELECT uses, used, expires_at, revoked_at FROM claim_tokens WHERE hash = $1";
}

/// How a token is stored: tokens are 256 random bits, so that a plain hash is enough.
pub fn hash_token(token: &str) -> String {
    Digest::of(token.as_bytes()).hex()
}

pub async fn create_api_token(
    tx: &mut Tx,
    name: &str,
    hash: &str,
    roles: &[Role],
    now: i64,
) -> Result<ApiTokenId, StoreError> {
    let id = ApiTokenId::new(Uuid::now_v7());
    let roles: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    sqlx::query(CREATE_API)
        .bind(id.to_string())
        .bind(name)
        .bind(hash)
        .bind(to_json("roles", &roles)?)
        .bind(now)
        .execute(&mut **tx)
        .await
        .map_err(|error| StoreError::or_exists(error, || format!("API token '{name}'")))?;
    Ok(id)
}

/// Who a token stands for; `None` for unknown and revoked ones.
pub async fn find_api_token(db: &Db, hash: &str) -> Result<Option<(ApiTokenId, Principal)>, StoreError> {
    let Some(row) = sqlx::query(FIND_API).bind(hash).fetch_optional(db.read()).await? else {
        return Ok(None);
    };
    let roles: Vec<String> = json("roles", row.try_get("roles")?)?;
    let principal = Principal {
        actor: format!("token:{}", row.try_get::<String, _>("name")?),
        roles: roles
            .iter()
            .map(|role| parsed("role", role))
            .collect::<Result<_, _>>()?,
    };
    Ok(Some((parsed("API token id", row.try_get("id")?)?, principal)))
}

/// Is the token there and not revoked?
pub async fn is_good(db: &Db, id: ApiTokenId) -> Result<bool, StoreError> {
    let row = sqlx::query(IS_GOOD)
        .bind(id.to_string())
        .fetch_optional(db.read())
        .await?;
    Ok(row.is_some())
}

/// The oldest token that may do everything: whoever starts the server signs in with it.
pub async fn first_admin(db: &Db) -> Result<Option<ApiTokenId>, StoreError> {
    for row in sqlx::query(ADMINS).fetch_all(db.read()).await? {
        let roles: Vec<String> = json("roles", row.try_get("roles")?)?;
        if roles.iter().any(|role| role == Role::Admin.as_str()) {
            return Ok(Some(parsed("API token id", row.try_get("id")?)?));
        }
    }
    Ok(None)
}

pub async fn create_claim_token(
    tx: &mut Tx,
    hash: &str,
    request: &CreateClaimToken,
    now: i64,
) -> Result<ClaimToken, StoreError> {
    let id = ClaimTokenId::new(Uuid::now_v7());
    let lifetime_ms = i64::try_from(request.lifetime_s.saturating_mul(1000)).unwrap_or(i64::MAX);
    let expires_at = now.saturating_add(lifetime_ms);
    sqlx::query(CREATE_CLAIM)
        .bind(id.to_string())
        .bind(hash)
        .bind(i64::from(request.uses))
        .bind(expires_at)
        .bind(to_json("tags", &request.tags)?)
        .bind(now)
        .execute(&mut **tx)
        .await?;
    Ok(ClaimToken {
        id,
        uses: request.uses,
        used: 0,
        expires_at: clock::rfc3339(expires_at),
        revoked: false,
        tags: request.tags.clone(),
        created_at: clock::rfc3339(now),
    })
}

/// Newest first, below `before`.
pub async fn list_claim_tokens(
    db: &Db,
    before: Option<ClaimTokenId>,
    limit: u32,
) -> Result<Vec<ClaimToken>, StoreError> {
    // No UUID is above 'g'.
    let before = before.map_or_else(|| "g".to_owned(), |id| id.to_string());
    let rows = sqlx::query(LIST_CLAIM)
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(db.read())
        .await?;
    rows.iter().map(claim_token_of).collect()
}

pub async fn get_claim_token(db: &Db, id: ClaimTokenId) -> Result<ClaimToken, StoreError> {
    let row = sqlx::query(GET_CLAIM)
        .bind(id.to_string())
        .fetch_optional(db.read())
        .await?
        .ok_or_else(|| StoreError::not_found("claim token", id))?;
    claim_token_of(&row)
}

fn claim_token_of(row: &SqliteRow) -> Result<ClaimToken, StoreError> {
    let count = |column: &str| -> Result<u32, StoreError> {
        Ok(u32::try_from(row.try_get::<i64, _>(column)?).unwrap_or(u32::MAX))
    };
    Ok(ClaimToken {
        id: parsed("claim token id", row.try_get("id")?)?,
        uses: count("uses")?,
        used: count("used")?,
        expires_at: clock::rfc3339(row.try_get("expires_at")?),
        revoked: row.try_get::<Option<i64>, _>("revoked_at")?.is_some(),
        tags: json("tags", row.try_get("tags")?)?,
        created_at: clock::rfc3339(row.try_get("created_at")?),
    })
}

/// Revoking twice is fine.
pub async fn revoke_claim_token(tx: &mut Tx, id: ClaimTokenId, now: i64) -> Result<(), StoreError> {
    let changed = sqlx::query(REVOKE_CLAIM)
        .bind(now)
        .bind(id.to_string())
        .execute(&mut **tx)
        .await?;
    if changed.rows_affected() == 0 {
        return Err(StoreError::not_found("claim token", id));
    }
    Ok(())
}

/// What a claimed token gives its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedToken {
    pub id: ClaimTokenId,
    pub tags: std::collections::BTreeMap<String, String>,
}

/// Why a claim token gives nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("the claim token is not known")]
    Unknown,
    #[error("the claim token expired at {at}")]
    Expired { at: String },
    #[error("the claim token is used up: it was good for {uses} enrolment(s)")]
    UsedUp { uses: i64 },
    #[error("the claim token is revoked")]
    Revoked,
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// Takes one use of a token, or says why not. The use counts when the transaction commits.
pub async fn claim(tx: &mut Tx, hash: &str, now: i64) -> Result<ClaimedToken, ClaimError> {
    let claimed = sqlx::query(CLAIM)
        .bind(hash)
        .bind(now)
        .fetch_optional(&mut **tx)
        .await
        .map_err(StoreError::from)?;
    if let Some(row) = claimed {
        return Ok(claimed_of(&row)?);
    }
    let state = sqlx::query(CLAIM_STATE)
        .bind(hash)
        .fetch_optional(&mut **tx)
        .await
        .map_err(StoreError::from)?;
    judge(state.as_ref(), now)?;
    // Between the two statements of this transaction nothing changes.
    Err(ClaimError::Unknown)
}

/// Is the token good for an enrolment now? Takes nothing, and needs no turn at writing.
pub async fn check_claim(db: &Db, hash: &str, now: i64) -> Result<(), ClaimError> {
    let state = sqlx::query(CLAIM_STATE)
        .bind(hash)
        .fetch_optional(db.read())
        .await
        .map_err(StoreError::from)?;
    judge(state.as_ref(), now)
}

fn judge(row: Option<&SqliteRow>, now: i64) -> Result<(), ClaimError> {
    let Some(row) = row else {
        return Err(ClaimError::Unknown);
    };
    let number = |column: &str| row.try_get::<i64, _>(column).map_err(StoreError::from);
    if row
        .try_get::<Option<i64>, _>("revoked_at")
        .map_err(StoreError::from)?
        .is_some()
    {
        return Err(ClaimError::Revoked);
    }
    let expires_at = number("expires_at")?;
    if expires_at <= now {
        return Err(ClaimError::Expired {
            at: clock::rfc3339(expires_at),
        });
    }
    let uses = number("uses")?;
    if number("used")? >= uses {
        return Err(ClaimError::UsedUp { uses });
    }
    Ok(())
}

fn claimed_of(row: &SqliteRow) -> Result<ClaimedToken, StoreError> {
    Ok(ClaimedToken {
        id: parsed("claim token id", row.try_get("id")?)?,
        tags: json("tags", row.try_get("tags")?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    async fn db() -> (tempfile::TempDir, Db) {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("test.db")).await.unwrap();
        (dir, db)
    }

    async fn token(db: &Db, hash: &str, uses: u32) -> ClaimToken {
        let request = CreateClaimToken {
            uses,
            lifetime_s: 60,
            tags: [("site".to_owned(), "oslo".to_owned())].into(),
        };
        let mut tx = db.begin().await.unwrap();
        let token = create_claim_token(&mut tx, hash, &request, NOW).await.unwrap();
        tx.commit().await.unwrap();
        token
    }

    async fn try_claim(db: &Db, hash: &str, now: i64) -> Result<ClaimedToken, ClaimError> {
        let mut tx = db.begin().await?;
        let claimed = claim(&mut tx, hash, now).await?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(claimed)
    }

    #[tokio::test]
    async fn of_two_claims_at_once_one_wins() {
        let (_dir, db) = db().await;
        let made = token(&db, "h", 1).await;
        let (a, b) = tokio::join!(try_claim(&db, "h", NOW), try_claim(&db, "h", NOW));
        let (won, lost) = if a.is_ok() { (a, b) } else { (b, a) };
        assert_eq!(won.unwrap().id, made.id);
        assert!(matches!(lost, Err(ClaimError::UsedUp { uses: 1 })), "{lost:?}");
        assert_eq!(list_claim_tokens(&db, None, 10).await.unwrap()[0].used, 1);
    }

    #[tokio::test]
    async fn a_refused_token_says_why() {
        let (_dir, db) = db().await;
        assert!(matches!(try_claim(&db, "none", NOW).await, Err(ClaimError::Unknown)));
        let made = token(&db, "h", 2).await;
        assert_eq!(try_claim(&db, "h", NOW).await.unwrap().tags["site"], "oslo");
        assert!(matches!(
            try_claim(&db, "h", NOW + 60_000).await,
            Err(ClaimError::Expired { .. })
        ));
        let mut tx = db.begin().await.unwrap();
        revoke_claim_token(&mut tx, made.id, NOW).await.unwrap();
        let unknown = revoke_claim_token(&mut tx, ClaimTokenId::new(Uuid::nil()), NOW).await;
        assert!(matches!(unknown, Err(StoreError::NotFound { .. })));
        tx.commit().await.unwrap();
        assert!(matches!(try_claim(&db, "h", NOW).await, Err(ClaimError::Revoked)));
    }

    #[tokio::test]
    async fn a_claim_that_is_not_committed_does_not_count() {
        let (_dir, db) = db().await;
        token(&db, "h", 1).await;
        let mut tx = db.begin().await.unwrap();
        claim(&mut tx, "h", NOW).await.unwrap();
        drop(tx);
        try_claim(&db, "h", NOW).await.unwrap();
    }

    #[tokio::test]
    async fn api_tokens_are_found_by_hash_with_their_roles() {
        let (_dir, db) = db().await;
        let mut tx = db.begin().await.unwrap();
        let hash = hash_token("flt_secret");
        create_api_token(&mut tx, "admin", &hash, &[Role::Admin, Role::Viewer], NOW)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let (id, found) = find_api_token(&db, &hash).await.unwrap().unwrap();
        assert_eq!(first_admin(&db).await.unwrap(), Some(id));
        assert_eq!(
            (found.actor.as_str(), found.roles),
            ("token:admin", vec![Role::Admin, Role::Viewer])
        );
        assert!(find_api_token(&db, &hash_token("flt_other")).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn claim_tokens_come_in_pages() {
        let (_dir, db) = db().await;
        for n in 0..5 {
            token(&db, &format!("h{n}"), 1).await;
        }
        let first = list_claim_tokens(&db, None, 3).await.unwrap();
        let rest = list_claim_tokens(&db, first.last().map(|token| token.id), 3)
            .await
            .unwrap();
        assert_eq!((first.len(), rest.len()), (3, 2));
        assert!(rest.iter().all(|token| first.iter().all(|other| other.id != token.id)));
    }
}
