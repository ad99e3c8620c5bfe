//! First answers to creations, by `Idempotency-Key`.

use flotilla_protocol::ids::Digest;
use sqlx::Row as _;

use crate::store::{Db, StoreError, Tx, parsed, statements};

statements! {
    FIND = "SELECT request, status, body FROM idempotency_keys WHERE actor = $1 AND idempotency_key = $2 AND created_at > $3";
    KEEP = "INSERT INTO idempotency_keys (actor, idempotency_key, request, status, body, created_at)
        VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (actor, idempotency_key) DO NOTHING";
    FORGET = "DELETE FROM idempotency_keys WHERE created_at < $1";
}

/// A day.
const LIFETIME_MS: i64 = 24 * 3600 * 1000;

/// What was answered the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredResponse {
    /// Digest of path and body.
    pub request: Digest,
    pub status: u16,
    pub body: Vec<u8>,
}

pub async fn find(db: &Db, actor: &str, key: &str, now: i64) -> Result<Option<StoredResponse>, StoreError> {
    let row = sqlx::query(FIND)
        .bind(actor)
        .bind(key)
        .bind(now - LIFETIME_MS)
        .fetch_optional(db.read())
        .await?;
    row.map(|row| {
        Ok(StoredResponse {
            request: parsed("request digest", row.try_get("request")?)?,
            status: u16::try_from(row.try_get::<i64, _>("status")?).unwrap_or(200),
            body: row.try_get("body")?,
        })
    })
    .transpose()
}

/// Keeps an answer, and forgets those of more than a day ago.
pub async fn keep(tx: &mut Tx, actor: &str, key: &str, answer: &StoredResponse, now: i64) -> Result<(), StoreError> {
    sqlx::query(FORGET).bind(now - LIFETIME_MS).execute(&mut **tx).await?;
    sqlx::query(KEEP)
        .bind(actor)
        .bind(key)
        .bind(answer.request.to_string())
        .bind(i64::from(answer.status))
        .bind(&answer.body)
        .bind(now)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
