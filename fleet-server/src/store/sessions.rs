//! Sign-in links and sessions. Only hashes of their secrets are stored. Whoever a session stands for is looked up anew each
//! time, so that a revoked token ends its sessions.

use flotilla_api_types::sessions::SessionInfo;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::clock;
use crate::domain::authz::{Principal, PrincipalRef};
use crate::store::{Db, StoreError, Tx, json, parsed, statements};

statements! {
    CREATE_LINK = "INSERT INTO sign_in_links (hash, principal_kind, principal_id, created_at, expires_at)
        VALUES ($1, $2, $3, $4, $5)";
    TAKE_LINK = "DELETE FROM sign_in_links WHERE hash = $1 RETURNING principal_kind, principal_id, expires_at";
    IS_LINK = "SELECT 1 FROM sign_in_links WHERE hash = $1 AND expires_at > $2";
    PRUNE_LINKS = "DELETE FROM sign_in_links WHERE expires_at <= $1";
    OPEN = "INSERT INTO sessions (id, hash, principal_kind, principal_id, csrf, created_at, last_seen, expires_at, user_agent)
        VALUES ($1, $2, $3, $4, $5, $6, $6, $7, $8)";
    FIND = "SELECT s.id, s.csrf, s.principal_kind, s.principal_id, s.last_seen, s.expires_at, t.name, t.roles FROM sessions s
        LEFT JOIN api_tokens t ON s.principal_kind = 'api-token' AND t.id = s.principal_id AND t.revoked_at IS NULL
        WHERE s.hash = $1 AND s.expires_at > $2 AND s.last_seen > $3";
    PRINCIPAL = "SELECT name, roles FROM api_tokens WHERE id = $1 AND revoked_at IS NULL";
    SEEN = "UPDATE sessions SET last_seen = $1 WHERE id = $2 AND last_seen < $1";
    LIST = "SELECT s.id, s.created_at, s.last_seen, s.expires_at, s.user_agent, t.name FROM sessions s
        LEFT JOIN api_tokens t ON s.principal_kind = 'api-token' AND t.id = s.principal_id
        WHERE s.expires_at > $1 AND s.last_seen > $2 AND s.id < $3 ORDER BY s.id DESC LIMIT $4";
    CLOSE = "DELETE FROM sessions WHERE id = $1";
    PRUNE = "DELETE FROM sessions WHERE expires_at <= $1 OR last_seen <= $2";
}

/// How long a link is good for.
pub const LINK_LIFETIME_MS: i64 = 10 * 60 * 1000;
/// How long a session lasts at the most.
pub const LIFETIME_MS: i64 = 7 * 24 * 3600 * 1000;
/// How long a session lasts without a request that a person had a part in.
pub const IDLE_MS: i64 = 12 * 3600 * 1000;
/// `last_seen` is written at most so often.
const SEEN_EVERY_MS: i64 = 60 * 1000;

/// A session that is good now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSession {
    pub id: String,
    pub csrf: String,
    pub subject: PrincipalRef,
    pub principal: Principal,
    /// Unix milliseconds.
    pub last_seen: i64,
    pub expires_at: i64,
}

impl OpenSession {
    /// Is it time to write down that the session is used?
    pub fn is_seen_due(&self, now: i64) -> bool {
        now.saturating_sub(self.last_seen) >= SEEN_EVERY_MS
    }
}

/// A session that is to be.
#[derive(Debug)]
pub struct NewSession<'a> {
    pub hash: &'a str,
    pub subject: PrincipalRef,
    pub csrf: &'a str,
    pub user_agent: &'a str,
}

/// Keeps a link, and forgets those that lapsed. Gives when it lapses.
pub async fn create_link(tx: &mut Tx, hash: &str, subject: PrincipalRef, now: i64) -> Result<i64, StoreError> {
    sqlx::query(PRUNE_LINKS).bind(now).execute(&mut **tx).await?;
    let (kind, id) = subject.parts();
    let expires_at = now.saturating_add(LINK_LIFETIME_MS);
    sqlx::query(CREATE_LINK)
        .bind(hash)
        .bind(kind)
        .bind(id)
        .bind(now)
        .bind(expires_at)
        .execute(&mut **tx)
        .await?;
    Ok(expires_at)
}

/// Would [`take_link`] find one?
pub async fn is_link(db: &Db, hash: &str, now: i64) -> Result<bool, StoreError> {
    let row = sqlx::query(IS_LINK)
        .bind(hash)
        .bind(now)
        .fetch_optional(db.read())
        .await?;
    Ok(row.is_some())
}

/// Uses a link up. `None`: it is not known, used, or lapsed.
pub async fn take_link(tx: &mut Tx, hash: &str, now: i64) -> Result<Option<PrincipalRef>, StoreError> {
    let Some(row) = sqlx::query(TAKE_LINK).bind(hash).fetch_optional(&mut **tx).await? else {
        return Ok(None);
    };
    if row.try_get::<i64, _>("expires_at")? <= now {
        return Ok(None);
    }
    subject_of(&row).map(Some)
}

fn subject_of(row: &SqliteRow) -> Result<PrincipalRef, StoreError> {
    let (kind, id): (String, String) = (row.try_get("principal_kind")?, row.try_get("principal_id")?);
    PrincipalRef::from_parts(&kind, &id).ok_or_else(|| StoreError::corrupt("principal", format!("{kind} {id}")))
}

/// Opens a session, and forgets those that are over. `None`: whom it would stand for is not there any more.
pub async fn open(tx: &mut Tx, new: &NewSession<'_>, now: i64) -> Result<Option<OpenSession>, StoreError> {
    sqlx::query(PRUNE)
        .bind(now)
        .bind(now.saturating_sub(IDLE_MS))
        .execute(&mut **tx)
        .await?;
    let PrincipalRef::ApiToken(token) = new.subject;
    let Some(row) = sqlx::query(PRINCIPAL)
        .bind(token.to_string())
        .fetch_optional(&mut **tx)
        .await?
    else {
        return Ok(None);
    };
    let session = OpenSession {
        id: Uuid::now_v7().to_string(),
        csrf: new.csrf.to_owned(),
        subject: new.subject,
        principal: principal_of(&row)?,
        last_seen: now,
        expires_at: now.saturating_add(LIFETIME_MS),
    };
    let (kind, id) = new.subject.parts();
    sqlx::query(OPEN)
        .bind(&session.id)
        .bind(new.hash)
        .bind(kind)
        .bind(id)
        .bind(new.csrf)
        .bind(now)
        .bind(session.expires_at)
        .bind(new.user_agent)
        .execute(&mut **tx)
        .await?;
    Ok(Some(session))
}

fn principal_of(row: &SqliteRow) -> Result<Principal, StoreError> {
    let roles: Vec<String> = json("roles", row.try_get("roles")?)?;
    Ok(Principal {
        actor: format!("token:{}", row.try_get::<String, _>("name")?),
        roles: roles
            .iter()
            .map(|role| parsed("role", role))
            .collect::<Result<_, _>>()?,
    })
}

/// The session behind a cookie, if it is good now.
pub async fn find(db: &Db, hash: &str, now: i64) -> Result<Option<OpenSession>, StoreError> {
    let row = sqlx::query(FIND)
        .bind(hash)
        .bind(now)
        .bind(now.saturating_sub(IDLE_MS))
        .fetch_optional(db.read())
        .await?;
    let Some(row) = row else { return Ok(None) };
    if row.try_get::<Option<String>, _>("name")?.is_none() {
        return Ok(None);
    }
    Ok(Some(OpenSession {
        id: row.try_get("id")?,
        csrf: row.try_get("csrf")?,
        subject: subject_of(&row)?,
        principal: principal_of(&row)?,
        last_seen: row.try_get("last_seen")?,
        expires_at: row.try_get("expires_at")?,
    }))
}

/// Writes down that a session is used.
pub async fn seen(db: &Db, id: &str, now: i64) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    sqlx::query(SEEN).bind(now).bind(id).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(())
}

/// Sessions that are good now, newest first, below `before`.
pub async fn list(
    db: &Db,
    before: Option<&str>,
    current: Option<&str>,
    limit: u32,
    now: i64,
) -> Result<Vec<SessionInfo>, StoreError> {
    let rows = sqlx::query(LIST)
        .bind(now)
        .bind(now.saturating_sub(IDLE_MS))
        .bind(before.unwrap_or("g"))
        .bind(i64::from(limit))
        .fetch_all(db.read())
        .await?;
    rows.iter()
        .map(|row| {
            let id: String = row.try_get("id")?;
            Ok(SessionInfo {
                current: current == Some(id.as_str()),
                id,
                actor: format!(
                    "token:{}",
                    row.try_get::<Option<String>, _>("name")?.unwrap_or_default()
                ),
                created_at: clock::rfc3339(row.try_get("created_at")?),
                last_seen: clock::rfc3339(row.try_get("last_seen")?),
                expires_at: clock::rfc3339(row.try_get("expires_at")?),
                user_agent: row.try_get("user_agent")?,
            })
        })
        .collect()
}

/// Ends a session. `false`: there was none.
pub async fn close(tx: &mut Tx, id: &str) -> Result<bool, StoreError> {
    let done = sqlx::query(CLOSE).bind(id).execute(&mut **tx).await?;
    Ok(done.rows_affected() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::authz::Role;
    use crate::store::tokens;

    const NOW: i64 = 1_000_000_000_000;

    async fn db() -> (tempfile::TempDir, Db, PrincipalRef) {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("test.db")).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        let token = tokens::create_api_token(&mut tx, "admin", "h", &[Role::Admin], NOW)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        (dir, db, PrincipalRef::ApiToken(token))
    }

    async fn opened(db: &Db, subject: PrincipalRef, hash: &str, now: i64) -> OpenSession {
        let mut tx = db.begin().await.unwrap();
        let new = NewSession {
            hash,
            subject,
            csrf: "c",
            user_agent: "test",
        };
        let session = open(&mut tx, &new, now).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        session
    }

    #[tokio::test]
    async fn a_link_is_good_once_and_for_a_while() {
        let (_dir, db, subject) = db().await;
        let mut tx = db.begin().await.unwrap();
        for hash in ["one", "late"] {
            assert_eq!(
                create_link(&mut tx, hash, subject, NOW).await.unwrap(),
                NOW + LINK_LIFETIME_MS
            );
        }
        assert_eq!(take_link(&mut tx, "none", NOW).await.unwrap(), None);
        assert_eq!(take_link(&mut tx, "one", NOW + 1).await.unwrap(), Some(subject));
        assert_eq!(take_link(&mut tx, "one", NOW + 1).await.unwrap(), None);
        assert_eq!(take_link(&mut tx, "late", NOW + LINK_LIFETIME_MS).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_session_ends_when_idle_when_old_when_closed_and_with_its_token() {
        let (_dir, db, subject) = db().await;
        let session = opened(&db, subject, "h1", NOW).await;
        assert_eq!(find(&db, "h1", NOW).await.unwrap(), Some(session.clone()));
        assert_eq!(find(&db, "h1", NOW + IDLE_MS).await.unwrap(), None, "idle");
        let mut now = NOW;
        while now < NOW + LIFETIME_MS - IDLE_MS / 2 {
            now += IDLE_MS / 2;
            seen(&db, &session.id, now).await.unwrap();
        }
        assert!(find(&db, "h1", NOW + LIFETIME_MS - 1).await.unwrap().is_some());
        assert_eq!(find(&db, "h1", NOW + LIFETIME_MS).await.unwrap(), None, "old");

        let other = opened(&db, subject, "h2", NOW).await;
        let listed = list(&db, None, Some(&other.id), 10, NOW).await.unwrap();
        assert_eq!(listed.iter().filter(|row| row.current).count(), 1);
        let mut tx = db.begin().await.unwrap();
        assert!(close(&mut tx, &other.id).await.unwrap());
        assert!(!close(&mut tx, &other.id).await.unwrap());
        tx.commit().await.unwrap();
        assert_eq!(find(&db, "h2", NOW).await.unwrap(), None, "closed");

        opened(&db, subject, "h3", NOW).await;
        let mut tx = db.begin().await.unwrap();
        sqlx::query("UPDATE api_tokens SET revoked_at = 1")
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        assert_eq!(find(&db, "h3", NOW).await.unwrap(), None, "its token is revoked");
    }

    #[tokio::test]
    async fn what_is_over_is_forgotten_when_the_next_one_opens() {
        let (_dir, db, subject) = db().await;
        opened(&db, subject, "old", NOW).await;
        opened(&db, subject, "new", NOW + LIFETIME_MS).await;
        let left: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM sessions")
            .fetch_one(db.read())
            .await
            .unwrap();
        assert_eq!(left, 1);
    }
}
