//! The last drift judgements as a list: narrowed, in order of device or of severity, page by page.

use flotilla_api_types::drift::DeviceDrift;
use flotilla_protocol::ids::{DeviceId, ModelLine};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::clock;
use crate::store::sql::Sql;
use crate::store::{Db, StoreError, json, parsed, to_u64};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DriftOrder {
    /// By device, then package.
    #[default]
    Device,
    /// The largest share of drifted features first, then by device and package.
    Severity,
}

/// Where a page ended.
#[derive(Debug, Clone, PartialEq)]
pub struct DriftCursor {
    /// Of the last row; only in order of severity.
    share: Option<f64>,
    device: String,
    manifest: String,
}

impl DriftCursor {
    fn of(row: &DeviceDrift, order: DriftOrder) -> Self {
        Self {
            share: (order == DriftOrder::Severity).then_some(row.share),
            device: row.device.to_string(),
            manifest: row.manifest.to_string(),
        }
    }

    /// As clients give it back. The share's bits, so that it is compared as it was stored.
    pub fn encode(&self) -> String {
        let Self {
            share,
            device,
            manifest,
        } = self;
        match share {
            None => format!("{device}/{manifest}"),
            Some(share) => format!("{:016x}/{device}/{manifest}", share.to_bits()),
        }
    }

    /// `None`: no list of this order gave it out.
    pub fn decode(text: &str, order: DriftOrder) -> Option<Self> {
        let (share, rest) = match order {
            DriftOrder::Device => (None, text),
            DriftOrder::Severity => {
                let (bits, rest) = text.split_once('/')?;
                let share = f64::from_bits(u64::from_str_radix(bits, 16).ok()?);
                (Some(share).filter(|share| share.is_finite()), rest)
            }
        };
        let (device, manifest) = rest.split_once('/')?;
        let fits = share.is_some() == (order == DriftOrder::Severity) && !manifest.contains('/');
        fits.then(|| Self {
            share,
            device: device.to_owned(),
            manifest: manifest.to_owned(),
        })
    }
}

/// Which judgements, in which order, which part of them.
#[derive(Debug, Clone, Default)]
pub struct DriftQuery {
    pub line: Option<ModelLine>,
    pub device: Option<DeviceId>,
    pub drifted: Option<bool>,
    pub order: DriftOrder,
    pub after: Option<DriftCursor>,
    pub limit: u32,
}

impl DriftQuery {
    fn conditions(&self, sql: &mut Sql) {
        sql.push(" WHERE 1 = 1");
        if let Some(line) = &self.line {
            sql.push(" AND t.line = ");
            sql.text(line.as_str());
        }
        if let Some(device) = &self.device {
            sql.push(" AND t.device = ");
            sql.text(device.as_str());
        }
        if let Some(drifted) = self.drifted {
            sql.push(" AND t.drifted = ");
            sql.int(i64::from(drifted));
        }
    }

    fn page(&self) -> Sql {
        let mut sql = Sql::new(
            "SELECT t.device, t.manifest, t.line, t.drifted, t.share, t.observations, t.judgements, t.alarms,
            t.nearest_slice, t.worst, t.at, COALESCE(v.semver, '') AS semver
            FROM drift_status t LEFT JOIN model_versions v ON v.manifest = t.manifest",
        );
        self.conditions(&mut sql);
        if let Some(after) = &self.after {
            sql.push(" AND (");
            if let Some(share) = after.share {
                // The first half is what an index is entered by.
                sql.push("t.share <= ");
                sql.float(share);
                sql.push(" AND (t.share < ");
                sql.float(share);
                sql.push(" OR ");
            }
            sql.push("t.device > ");
            sql.text(after.device.as_str());
            sql.push(" OR (t.device = ");
            sql.text(after.device.as_str());
            sql.push(" AND t.manifest > ");
            sql.text(after.manifest.as_str());
            sql.push(if after.share.is_some() { ")))" } else { "))" });
        }
        sql.push(match self.order {
            DriftOrder::Device => " ORDER BY t.device, t.manifest LIMIT ",
            DriftOrder::Severity => " ORDER BY t.share DESC, t.device, t.manifest LIMIT ",
        });
        sql.int(i64::from(self.limit));
        sql
    }

    fn matches(&self) -> Sql {
        let mut sql = Sql::new("SELECT COUNT(*) FROM drift_status t");
        self.conditions(&mut sql);
        sql
    }
}

/// A page, and where it ends if it is full.
pub async fn list(db: &Db, query: &DriftQuery) -> Result<(Vec<DeviceDrift>, Option<DriftCursor>), StoreError> {
    let rows = query.page().fetch_all(db).await?;
    let items = rows.iter().map(drift_of).collect::<Result<Vec<_>, _>>()?;
    let full = items.len() == query.limit as usize;
    let next = items
        .last()
        .filter(|_| full)
        .map(|last| DriftCursor::of(last, query.order));
    Ok((items, next))
}

/// How many match, on all pages.
pub async fn count(db: &Db, query: &DriftQuery) -> Result<u64, StoreError> {
    query.matches().count(db).await
}

fn drift_of(row: &SqliteRow) -> Result<DeviceDrift, StoreError> {
    Ok(DeviceDrift {
        device: parsed("device id", row.try_get("device")?)?,
        line: parsed("model line", row.try_get("line")?)?,
        semver: row.try_get("semver")?,
        manifest: parsed("manifest digest", row.try_get("manifest")?)?,
        drifted: row.try_get::<i64, _>("drifted")? != 0,
        share: row.try_get("share")?,
        count: to_u64(row.try_get("observations")?),
        judgements: to_u64(row.try_get("judgements")?),
        alarms: to_u64(row.try_get("alarms")?),
        nearest_slice: row.try_get("nearest_slice")?,
        at: clock::rfc3339(row.try_get("at")?),
        worst: json("drift", row.try_get("worst")?)?,
    })
}

/// Between them, every piece: for the test that prepares SQL on both databases.
pub fn sample_queries() -> Vec<String> {
    let mut queries = Vec::new();
    for order in [DriftOrder::Device, DriftOrder::Severity] {
        let after = DriftCursor {
            share: (order == DriftOrder::Severity).then_some(0.5),
            device: String::new(),
            manifest: String::new(),
        };
        let query = DriftQuery {
            line: ModelLine::new("x").ok(),
            device: DeviceId::new("x").ok(),
            drifted: Some(true),
            order,
            after: Some(after),
            limit: 10,
        };
        let all = DriftQuery {
            order,
            ..DriftQuery::default()
        };
        let built = [query.page(), query.matches(), all.page(), all.matches()];
        queries.extend(built.iter().map(|sql| sql.as_str().to_owned()));
    }
    queries
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::ids::Digest;

    use super::*;

    /// Forty devices, two packages each; shares repeat, and do not print in few digits.
    async fn fleet() -> (tempfile::TempDir, Db) {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("test.db")).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        for i in 0..80i32 {
            let share = f64::from(i * 7 % 11) / 11.0;
            let (device, package) = (format!("d{:02}", i / 2), if i % 2 == 0 { "a" } else { "b" });
            sqlx::query("INSERT INTO drift_status VALUES ($1, $2, $3, $4, $5, 9, 1, 1, 'import', '[]', 7)")
                .bind(device)
                .bind(Digest::of(package.as_bytes()).to_string())
                .bind(package)
                .bind(i64::from(share > 0.5))
                .bind(share)
                .execute(&mut *tx)
                .await
                .unwrap();
        }
        tx.commit().await.unwrap();
        (dir, db)
    }

    async fn all(db: &Db, mut query: DriftQuery) -> Vec<DeviceDrift> {
        let mut found = Vec::new();
        loop {
            let (page, next) = list(db, &query).await.unwrap();
            found.extend(page);
            let Some(next) = next else { break };
            let text = next.encode();
            query.after = DriftCursor::decode(&text, query.order);
            assert_eq!(query.after, Some(next), "{text}");
        }
        assert_eq!(count(db, &query).await.unwrap(), found.len() as u64, "{query:?}");
        found
    }

    #[tokio::test]
    async fn pages_in_any_order_lose_and_repeat_nothing() {
        let (_dir, db) = fleet().await;
        let everything = all(
            &db,
            DriftQuery {
                limit: 1000,
                ..DriftQuery::default()
            },
        )
        .await;
        assert_eq!(everything.len(), 80);
        let line = ModelLine::new("b").unwrap();
        for (drifted, line) in [
            (None, None),
            (Some(true), None),
            (Some(false), None),
            (Some(true), Some(line)),
        ] {
            let mut expected: Vec<DeviceDrift> = everything
                .iter()
                .filter(|row| drifted.is_none_or(|drifted| row.drifted == drifted))
                .filter(|row| line.as_ref().is_none_or(|line| row.line == *line))
                .cloned()
                .collect();
            assert!(expected.len() > 10);
            let query = DriftQuery {
                line,
                drifted,
                limit: 3,
                ..DriftQuery::default()
            };
            assert_eq!(all(&db, query.clone()).await, expected);
            expected.sort_by(|a, b| b.share.total_cmp(&a.share));
            let order = DriftOrder::Severity;
            assert_eq!(all(&db, DriftQuery { order, ..query }).await, expected);
        }
        let device = DeviceId::new("d07").ok();
        let of_one = all(
            &db,
            DriftQuery {
                device,
                limit: 1,
                ..DriftQuery::default()
            },
        )
        .await;
        assert_eq!(of_one.len(), 2);
    }

    #[tokio::test]
    async fn the_worst_are_read_from_an_index() {
        let (_dir, db) = fleet().await;
        let after = DriftCursor::decode("3fe0000000000000/d01/sha256:00", DriftOrder::Severity);
        assert!(after.is_some());
        for (drifted, line) in [(None, None), (Some(true), None), (None, ModelLine::new("a").ok())] {
            let query = DriftQuery {
                drifted,
                line,
                after: after.clone(),
                order: DriftOrder::Severity,
                limit: 10,
                ..DriftQuery::default()
            };
            let text = format!("EXPLAIN QUERY PLAN {}", query.page().as_str());
            let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(sqlx::AssertSqlSafe(text))
                .fetch_all(db.read())
                .await
                .unwrap();
            let steps: Vec<&str> = plan.iter().map(|(_, _, _, step)| step.as_str()).collect();
            assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE")), "{steps:?}");
            assert!(steps[0].starts_with("SEARCH t USING INDEX drift_status_"), "{steps:?}");
        }
    }

    #[test]
    fn a_cursor_of_another_order_is_none() {
        for (text, order) in [
            ("d01/sha256:00", DriftOrder::Severity),
            ("7ff8000000000000/d01/sha256:00", DriftOrder::Severity),
            ("3fe0000000000000/d01/sha256:00", DriftOrder::Device),
            ("d01", DriftOrder::Device),
            ("", DriftOrder::Device),
        ] {
            assert_eq!(DriftCursor::decode(text, order), None, "{text}");
        }
    }
}
