//! `Idempotency-Key`s: taken before their request runs, answered when it has run, free again when it was refused.
//!
//! A running request holds its key for a while and holds it longer as it goes on; when the server dies, the hold lapses and
//! the same request may run again. Secrets are never stored.

use flotilla_protocol::ids::Digest;
use sqlx::Row as _;
use uuid::Uuid;

use crate::store::{Db, StoreError, Tx, parsed, statements};

statements! {
    TAKE = "INSERT INTO idempotency_keys
            (actor, idempotency_key, request, status, body, created_at, state, holder, held_until)
        VALUES ($1, $2, $3, 0, $4, $5, 'running', $6, $7)
        ON CONFLICT (actor, idempotency_key) DO UPDATE SET request = excluded.request, status = excluded.status,
            body = excluded.body, created_at = excluded.created_at, state = excluded.state, holder = excluded.holder,
            held_until = excluded.held_until
        WHERE idempotency_keys.created_at <= $8
            OR (idempotency_keys.state = 'running' AND idempotency_keys.held_until <= $5
                AND idempotency_keys.request = excluded.request)";
    FIND = "SELECT request, status, body, state FROM idempotency_keys WHERE actor = $1 AND idempotency_key = $2";
    HOLD = "UPDATE idempotency_keys SET held_until = $1 WHERE actor = $2 AND idempotency_key = $3 AND holder = $4";
    ANSWER = "UPDATE idempotency_keys SET state = $1, status = $2, body = $3
        WHERE actor = $4 AND idempotency_key = $5 AND holder = $6";
    FREE = "DELETE FROM idempotency_keys WHERE actor = $1 AND idempotency_key = $2 AND holder = $3";
}

/// A day. The reconciler of retention removes what is older.
pub(crate) const LIFETIME_MS: i64 = 24 * 3600 * 1000;

/// For so long a running request has its key, unless it says that it goes on.
pub(crate) const HOLD_MS: i64 = 30_000;

/// A key, and whose it is.
#[derive(Debug, Clone, Copy)]
pub struct Key<'a> {
    pub actor: &'a str,
    pub key: &'a str,
}

/// A key that is held while its request runs.
#[derive(Debug)]
pub struct Held<'a> {
    key: Key<'a>,
    holder: String,
}

/// What a key stands for.
#[derive(Debug)]
pub enum Taken<'a> {
    /// Its request is to run now.
    Ours(Held<'a>),
    /// Its request is running.
    Running,
    /// Its request has run.
    Answered(Answer),
    /// It was used for another request.
    Other,
}

/// What was answered the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Of a withheld answer: what was made, and nothing of its secret.
    pub body: Vec<u8>,
    pub withheld: bool,
}

/// Takes a key for the request with this digest, or says what it stands for.
pub async fn take<'a>(db: &Db, key: Key<'a>, request: Digest, now: i64) -> Result<Taken<'a>, StoreError> {
    let holder = Uuid::now_v7().to_string();
    let mut tx = db.begin().await?;
    let taken = sqlx::query(TAKE)
        .bind(key.actor)
        .bind(key.key)
        .bind(request.to_string())
        .bind(Vec::new())
        .bind(now)
        .bind(&holder)
        .bind(now.saturating_add(HOLD_MS))
        .bind(now.saturating_sub(LIFETIME_MS))
        .execute(&mut *tx)
        .await?;
    if taken.rows_affected() > 0 {
        tx.commit().await?;
        return Ok(Taken::Ours(Held { key, holder }));
    }
    let row = sqlx::query(FIND)
        .bind(key.actor)
        .bind(key.key)
        .fetch_one(&mut *tx)
        .await?;
    let first: Digest = parsed("request digest", row.try_get("request")?)?;
    if first != request {
        return Ok(Taken::Other);
    }
    let state: String = row.try_get("state")?;
    if state == "running" {
        return Ok(Taken::Running);
    }
    Ok(Taken::Answered(Answer {
        status: u16::try_from(row.try_get::<i64, _>("status")?).unwrap_or(200),
        body: row.try_get("body")?,
        withheld: state == "withheld",
    }))
}

impl Held<'_> {
    /// The request goes on.
    pub async fn hold(&self, db: &Db, now: i64) -> Result<(), StoreError> {
        let mut tx = db.begin().await?;
        sqlx::query(HOLD)
            .bind(now.saturating_add(HOLD_MS))
            .bind(self.key.actor)
            .bind(self.key.key)
            .bind(&self.holder)
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// The request has run: its answer stands for a day.
    pub async fn answer(self, tx: &mut Tx, answer: &Answer) -> Result<(), StoreError> {
        sqlx::query(ANSWER)
            .bind(if answer.withheld { "withheld" } else { "done" })
            .bind(i64::from(answer.status))
            .bind(&answer.body)
            .bind(self.key.actor)
            .bind(self.key.key)
            .bind(&self.holder)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }

    /// The request was refused: nothing happened, and the key is free.
    pub async fn free(self, tx: &mut Tx) -> Result<(), StoreError> {
        sqlx::query(FREE)
            .bind(self.key.actor)
            .bind(self.key.key)
            .bind(&self.holder)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key<'_> = Key { actor: "a", key: "k" };

    async fn open() -> (Db, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Db::open(&dir.path().join("test.db")).await.unwrap(), dir)
    }

    fn request(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    async fn ours(db: &Db, text: &str, now: i64) -> Held<'static> {
        match take(db, KEY, request(text), now).await.unwrap() {
            Taken::Ours(held) => held,
            other => panic!("{other:?}"),
        }
    }

    async fn answered(db: &Db, held: Held<'_>, body: &str) -> Answer {
        let answer = Answer {
            status: 201,
            body: body.into(),
            withheld: false,
        };
        let mut tx = db.begin().await.unwrap();
        held.answer(&mut tx, &answer).await.unwrap();
        tx.commit().await.unwrap();
        answer
    }

    #[tokio::test]
    async fn one_runs_and_its_answer_stands_for_a_day() {
        let (db, _dir) = open().await;
        let held = ours(&db, "first", 10).await;
        assert!(matches!(
            take(&db, KEY, request("first"), 11).await.unwrap(),
            Taken::Running
        ));
        assert!(matches!(
            take(&db, KEY, request("other"), 11).await.unwrap(),
            Taken::Other
        ));
        let answer = answered(&db, held, "first").await;
        for now in [12, 10 + LIFETIME_MS - 1] {
            let again = take(&db, KEY, request("first"), now).await.unwrap();
            assert!(matches!(again, Taken::Answered(same) if same == answer));
        }
        ours(&db, "next day", 10 + LIFETIME_MS).await;
    }

    #[tokio::test]
    async fn a_crash_does_not_lock_a_key_for_ever() {
        let (db, _dir) = open().await;
        let dead = ours(&db, "first", 0).await;
        let slow = HOLD_MS - 1;
        dead.hold(&db, slow).await.unwrap();
        let lapsed = slow + HOLD_MS;
        assert!(matches!(
            take(&db, KEY, request("first"), lapsed - 1).await.unwrap(),
            Taken::Running
        ));
        assert!(matches!(
            take(&db, KEY, request("other"), lapsed).await.unwrap(),
            Taken::Other
        ));
        let held = ours(&db, "first", lapsed).await;
        // Whoever was thought dead and is not has nothing to say any more.
        answered(&db, dead, "late").await;
        assert!(matches!(
            take(&db, KEY, request("first"), lapsed).await.unwrap(),
            Taken::Running
        ));
        let mut tx = db.begin().await.unwrap();
        held.free(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        ours(&db, "other", lapsed).await;
    }
}
