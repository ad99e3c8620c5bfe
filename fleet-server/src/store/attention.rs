//! What somebody should look at: the worst of each kind, and how many there are. A kind never pushes another out of sight, and
//! what is cut is counted.

use std::collections::BTreeSet;

use flotilla_api_types::overview::{Attention, AttentionKind};
use flotilla_protocol::report::DetectedAttack;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::clock;
use crate::store::{Db, StoreError, json, statements, to_u64};

statements! {
    // Of devices, `alert = 1` leaves out those that are decommissioned, and has an index of its own.
    DEVICES = "SELECT CAST(COALESCE(SUM(drifted), 0) AS BIGINT) AS drifted,
        CAST(COALESCE(SUM(attacked), 0) AS BIGINT) AS attacked, CAST(COALESCE(SUM(failed), 0) AS BIGINT) AS failed,
        CAST(COALESCE(SUM(faulty), 0) AS BIGINT) AS faulty FROM device_summaries WHERE alert = 1";
    ATTACKED = "SELECT d.id, d.attack FROM device_summaries s JOIN devices d ON d.id = s.device
        WHERE s.alert = 1 AND s.attacked = 1 AND d.attack IS NOT NULL ORDER BY s.last_seen DESC, d.id LIMIT $1";
    FAULTY = "SELECT d.id, d.error, s.last_seen AS at FROM device_summaries s JOIN devices d ON d.id = s.device
        WHERE s.alert = 1 AND s.faulty = 1 AND d.error IS NOT NULL ORDER BY s.last_seen DESC, d.id LIMIT $1";
    // A device's last deployment alone: one that failed before a good one is past.
    FAILED = "SELECT p.device AS id, p.state, p.reason, p.updated_at AS at FROM device_summaries s
        JOIN deployments p ON p.id = (SELECT q.id FROM deployments q WHERE q.device = s.device
            ORDER BY q.created_at DESC, q.id DESC LIMIT 1)
        WHERE s.alert = 1 AND s.failed = 1 ORDER BY p.state, p.updated_at DESC, p.device LIMIT $1";
    DRIFTED = "SELECT t.device AS id, t.line, t.share, t.nearest_slice, t.at FROM device_summaries s
        JOIN drift_status t ON t.device = s.device
        JOIN device_slots l ON l.device = t.device AND l.manifest = t.manifest
        WHERE s.alert = 1 AND s.drifted = 1 AND t.drifted = 1 ORDER BY t.share DESC, t.at DESC, t.device LIMIT $1";
    HALTED = "SELECT r.id, v.line, v.semver, r.decision, r.updated_at AS at FROM rollouts r
        JOIN model_versions v ON v.id = r.model_version WHERE r.state = 'halted' ORDER BY r.updated_at DESC, r.id LIMIT $1";
    COUNT_HALTED = "SELECT COUNT(*) FROM rollouts WHERE state = 'halted'";
    UNSIGNED = "SELECT id, line, semver, created_at AS at FROM model_versions WHERE signature = 'unsigned'
        ORDER BY created_at DESC, id LIMIT $1";
    COUNT_UNSIGNED = "SELECT COUNT(*) FROM model_versions WHERE signature = 'unsigned'";
    EXPIRING = "SELECT id, uses, used, expires_at FROM claim_tokens WHERE revoked_at IS NULL AND used < uses
        AND expires_at > $1 AND expires_at < $2 ORDER BY expires_at, id LIMIT $3";
    COUNT_EXPIRING = "SELECT COUNT(*) FROM claim_tokens WHERE revoked_at IS NULL AND used < uses
        AND expires_at > $1 AND expires_at < $2";
}

/// Things of one kind that are told one by one.
const MOST: i64 = 10;
/// A token that lapses within so long is worth a word.
const SOON_MS: i64 = 3 * 24 * 3_600_000;

/// All of one kind: how many, and the worst of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concern {
    pub kind: AttentionKind,
    pub total: u64,
    /// The worst first.
    pub worst: Vec<Attention>,
}

/// Everything that somebody should look at, the most severe kind first; kinds of which there is nothing are left out.
pub async fn concerns(db: &Db, now: i64) -> Result<Vec<Concern>, StoreError> {
    let row = sqlx::query(DEVICES).fetch_one(db.read()).await?;
    let of_devices = |column: &str| -> Result<u64, StoreError> { Ok(to_u64(row.try_get(column)?)) };
    let mut found = Vec::new();
    let mut add = |kind: AttentionKind, total: u64, worst: Vec<Attention>| {
        if total > 0 {
            found.push(Concern { kind, total, worst });
        }
    };
    add(AttentionKind::Attack, of_devices("attacked")?, attacked(db).await?);
    add(
        AttentionKind::HaltedRollout,
        count(db, COUNT_HALTED).await?,
        halted(db).await?,
    );
    add(
        AttentionKind::FailedDeployment,
        of_devices("failed")?,
        failed(db).await?,
    );
    add(AttentionKind::DeviceError, of_devices("faulty")?, faulty(db).await?);
    add(AttentionKind::Drift, of_devices("drifted")?, drifted(db).await?);
    add(
        AttentionKind::UnsignedVersion,
        count(db, COUNT_UNSIGNED).await?,
        unsigned(db).await?,
    );
    let (total, worst) = expiring(db, now).await?;
    add(AttentionKind::ExpiringToken, total, worst);
    found.sort_by_key(|concern| concern.kind);
    Ok(found)
}

async fn count(db: &Db, sql: &'static str) -> Result<u64, StoreError> {
    Ok(to_u64(sqlx::query_scalar(sql).fetch_one(db.read()).await?))
}

async fn worst(db: &Db, sql: &'static str) -> Result<Vec<SqliteRow>, StoreError> {
    Ok(sqlx::query(sql).bind(MOST).fetch_all(db.read()).await?)
}

/// Of a row with `id` and `at`.
fn about(kind: AttentionKind, row: &SqliteRow, title: String, detail: String) -> Result<Attention, StoreError> {
    Ok(Attention {
        kind,
        id: row.try_get("id")?,
        title,
        detail,
        at: clock::rfc3339(row.try_get("at")?),
    })
}

async fn attacked(db: &Db) -> Result<Vec<Attention>, StoreError> {
    let mut found = Vec::new();
    for row in worst(db, ATTACKED).await? {
        let attack: DetectedAttack = json("attack", row.try_get("attack")?)?;
        found.push(Attention {
            kind: AttentionKind::Attack,
            id: row.try_get("id")?,
            title: format!("refused an attack: {}", attack.attack),
            detail: attack.detail,
            at: clock::rfc3339(attack.at),
        });
    }
    Ok(found)
}

async fn halted(db: &Db) -> Result<Vec<Attention>, StoreError> {
    let rows = worst(db, HALTED).await?;
    let of = |row: &SqliteRow| {
        let (line, semver): (String, String) = (row.try_get("line")?, row.try_get("semver")?);
        let title = format!("rollout of {line} {semver} halted");
        about(AttentionKind::HaltedRollout, row, title, row.try_get("decision")?)
    };
    rows.iter().map(of).collect()
}

async fn failed(db: &Db) -> Result<Vec<Attention>, StoreError> {
    let rows = worst(db, FAILED).await?;
    let of = |row: &SqliteRow| {
        let (state, reason): (String, Option<String>) = (row.try_get("state")?, row.try_get("reason")?);
        let title = format!("deployment: {state}");
        about(AttentionKind::FailedDeployment, row, title, reason.unwrap_or_default())
    };
    rows.iter().map(of).collect()
}

async fn faulty(db: &Db) -> Result<Vec<Attention>, StoreError> {
    let rows = worst(db, FAULTY).await?;
    let of = |row: &SqliteRow| {
        about(
            AttentionKind::DeviceError,
            row,
            "reports an error".to_owned(),
            row.try_get("error")?,
        )
    };
    rows.iter().map(of).collect()
}

/// One row per device: its package that drifted furthest.
async fn drifted(db: &Db) -> Result<Vec<Attention>, StoreError> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for row in worst(db, DRIFTED).await? {
        if !seen.insert(row.try_get::<String, _>("id")?) {
            continue;
        }
        let (line, slice): (String, String) = (row.try_get("line")?, row.try_get("nearest_slice")?);
        let share = row.try_get::<f64, _>("share")? * 100.0;
        let title = format!("drifted: {share:.0} % of its features");
        let detail = format!("{line}; nearest reference: {slice}");
        found.push(about(AttentionKind::Drift, &row, title, detail)?);
    }
    Ok(found)
}

async fn unsigned(db: &Db) -> Result<Vec<Attention>, StoreError> {
    let rows = worst(db, UNSIGNED).await?;
    let of = |row: &SqliteRow| {
        let (line, semver): (String, String) = (row.try_get("line")?, row.try_get("semver")?);
        let title = format!("{line} {semver} is not signed");
        let detail = "no device takes it before a release key has signed".to_owned();
        about(AttentionKind::UnsignedVersion, row, title, detail)
    };
    rows.iter().map(of).collect()
}

/// Those that lapse first.
async fn expiring(db: &Db, now: i64) -> Result<(u64, Vec<Attention>), StoreError> {
    let soon = now.saturating_add(SOON_MS);
    let total: i64 = sqlx::query_scalar(COUNT_EXPIRING)
        .bind(now)
        .bind(soon)
        .fetch_one(db.read())
        .await?;
    let rows = sqlx::query(EXPIRING)
        .bind(now)
        .bind(soon)
        .bind(MOST)
        .fetch_all(db.read())
        .await?;
    let of = |row: &SqliteRow| -> Result<Attention, StoreError> {
        let (uses, used): (i64, i64) = (row.try_get("uses")?, row.try_get("used")?);
        Ok(Attention {
            kind: AttentionKind::ExpiringToken,
            id: row.try_get("id")?,
            title: format!("a claim token with {} uses left lapses", uses - used),
            detail: format!("at {}", clock::rfc3339(row.try_get("expires_at")?)),
            at: clock::rfc3339(now),
        })
    };
    Ok((to_u64(total), rows.iter().map(of).collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use flotilla_protocol::ids::Digest;

    use super::*;
    use crate::store::device_summaries;
    use crate::testing::{self, NOW, db};

    /// Changes a device as its writers do.
    async fn change(db: &Db, device: &str, sql: &'static str) {
        let mut tx = db.begin().await.unwrap();
        sqlx::query(sql).bind(device).execute(&mut *tx).await.unwrap();
        device_summaries::refresh_all(&mut tx, device).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// A package in a slot of the device, and a judgement that `share` of its features drifted.
    async fn drifts(db: &Db, device: &str, line: &str, share: f64, at: i64) {
        let manifest = Digest::of(line.as_bytes()).to_string();
        let mut tx = db.begin().await.unwrap();
        sqlx::query("INSERT INTO device_slots VALUES ($1, $2, $2, $3, '1.0.0', 1, 1)")
            .bind(device)
            .bind(line)
            .bind(&manifest)
            .execute(&mut *tx)
            .await
            .unwrap();
        sqlx::query("INSERT INTO drift_status VALUES ($1, $2, $3, 1, $4, 9, 1, 1, 'import', '[]', $5)")
            .bind(device)
            .bind(&manifest)
            .bind(line)
            .bind(share)
            .bind(at)
            .execute(&mut *tx)
            .await
            .unwrap();
        device_summaries::refresh_all(&mut tx, device).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn enrol(db: &Db, name: &str, seed: u8) {
        testing::enrol(db, name, seed, BTreeMap::new()).await.unwrap();
        // Its token is used up: nobody has to think of it.
        let mut tx = db.begin().await.unwrap();
        sqlx::query("UPDATE claim_tokens SET used = uses")
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn the_worst_are_told_and_all_are_counted_whatever_else_there_is() {
        let (_dir, db) = db().await;
        for percent in 10..40_u8 {
            let name = format!("drift-{percent}");
            enrol(&db, &name, percent).await;
            // The calmest are the newest: what is new must not stand before what is bad.
            let at = NOW - i64::from(percent);
            drifts(&db, &name, "motions", f64::from(percent) / 100.0, at).await;
        }
        enrol(&db, "old-attack", 100).await;
        let attack = r#"UPDATE devices SET attack = '{"attack":"rollback","detail":"head 3 is older","at":1}', attacked_at = 1 WHERE id = $1"#;
        change(&db, "old-attack", attack).await;
        let found = concerns(&db, NOW).await.unwrap();
        let told: Vec<(AttentionKind, u64, usize)> = found
            .iter()
            .map(|concern| (concern.kind, concern.total, concern.worst.len()))
            .collect();
        assert_eq!(told, [(AttentionKind::Attack, 1, 1), (AttentionKind::Drift, 30, 10)]);
        assert_eq!(found[0].worst[0].id, "old-attack");
        let drifted: Vec<&str> = found[1].worst.iter().map(|item| item.id.as_str()).collect();
        assert_eq!(drifted[..2], ["drift-39", "drift-38"], "the furthest first");
    }

    #[tokio::test]
    async fn a_device_counts_once_and_only_for_its_last_deployment() {
        let (_dir, db) = db().await;
        enrol(&db, "press", 1).await;
        drifts(&db, "press", "motions", 0.5, NOW).await;
        drifts(&db, "press", "sounds", 0.9, NOW).await;
        for (id, state, at) in [("d1", "failure", 1), ("d2", "rolled-back", 2)] {
            let mut tx = db.begin().await.unwrap();
            sqlx::query(
                "INSERT INTO deployments (id, rollout, device, phase, state, reason, bytes_received, bytes_total, created_at,
                updated_at) VALUES ($1, $1, 'press', 0, $2, 'no', 0, 0, $3, $3)",
            )
            .bind(id)
            .bind(state)
            .bind(at)
            .execute(&mut *tx)
            .await
            .unwrap();
            device_summaries::refresh_all(&mut tx, "press").await.unwrap();
            tx.commit().await.unwrap();
        }
        change(&db, "press", "UPDATE devices SET error = 'disk full' WHERE id = $1").await;
        let found = concerns(&db, NOW).await.unwrap();
        let told: Vec<(AttentionKind, u64, &str, &str)> = found
            .iter()
            .map(|concern| {
                let worst = &concern.worst[0];
                assert_eq!((concern.worst.len(), worst.id.as_str()), (1, "press"));
                (concern.kind, concern.total, worst.title.as_str(), worst.detail.as_str())
            })
            .collect();
        assert_eq!(
            told,
            [
                (AttentionKind::FailedDeployment, 1, "deployment: rolled-back", "no"),
                (AttentionKind::DeviceError, 1, "reports an error", "disk full"),
                (
                    AttentionKind::Drift,
                    1,
                    "drifted: 90 % of its features",
                    "sounds; nearest reference: import"
                ),
            ]
        );
    }

    #[tokio::test]
    async fn an_empty_fleet_needs_nobody() {
        let (_dir, db) = db().await;
        assert_eq!(concerns(&db, NOW).await.unwrap(), []);
    }
}
