//! The last drift judgements as a list: filtered, in any order, page by page.

use std::str::FromStr;

use flotilla_api_types::drift::DeviceDrift;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::clock;
use crate::domain::drift_filter::{Condition, DriftFilter};
use crate::domain::filter::{Match, clip};
use crate::store::sql::{Sql, Value, containing};
use crate::store::{Db, StoreError, json, parsed, to_i64, to_u64};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DriftField {
    /// By device, then package.
    #[default]
    Device,
    /// Share of drifted features, then by device and package.
    Severity,
    /// By model line; of one line the furthest first.
    Line,
    /// When it was judged.
    At,
}

/// A field, with `-` in front from the largest to the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DriftSort {
    pub field: DriftField,
    pub descending: bool,
}

/// The text names no order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no order: device, severity, line or at, with '-' in front for the largest first")]
pub struct UnknownSort(String);

impl FromStr for DriftSort {
    type Err = UnknownSort;

    fn from_str(text: &str) -> Result<Self, UnknownSort> {
        let (descending, name) = text.strip_prefix('-').map_or((false, text), |name| (true, name));
        let field = match name {
            "device" => DriftField::Device,
            "severity" | "share" => DriftField::Severity,
            "line" => DriftField::Line,
            "at" => DriftField::At,
            _ => return Err(UnknownSort(clip(text))),
        };
        Ok(Self { field, descending })
    }
}

/// A column that orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Device,
    Manifest,
    Share,
    Line,
    At,
}

impl Key {
    const fn column(self) -> &'static str {
        match self {
            Self::Device => "t.device",
            Self::Manifest => "t.manifest",
            Self::Share => "t.share",
            Self::Line => "t.line",
            Self::At => "t.at",
        }
    }

    fn of(self, row: &SqliteRow) -> Result<Value, StoreError> {
        let name = self.column().trim_start_matches("t.");
        Ok(match self {
            Self::Device | Self::Manifest | Self::Line => Value::Text(row.try_get(name)?),
            Self::Share => Value::Float(row.try_get(name)?),
            Self::At => Value::Int(row.try_get(name)?),
        })
    }

    /// A share's bits, so that it is compared as it was stored.
    fn written(value: &Value) -> String {
        match value {
            Value::Text(text) => text.clone(),
            Value::Float(share) => format!("{:016x}", share.to_bits()),
            Value::Int(at) => at.to_string(),
        }
    }

    fn read(self, text: &str) -> Option<Value> {
        Some(match self {
            Self::Device | Self::Manifest | Self::Line => Value::Text(text.to_owned()),
            Self::Share => {
                let bits = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16)?;
                Value::Float(Some(f64::from_bits(bits)).filter(|share| share.is_finite())?)
            }
            Self::At => Value::Int(text.parse().ok()?),
        })
    }
}

impl DriftSort {
    /// The furthest first.
    pub const WORST: Self = Self {
        field: DriftField::Severity,
        descending: true,
    };

    /// What orders, the first first, and whether it is from the largest to the smallest. Each is an index, walked from one end or
    /// the other.
    fn keys(self) -> impl Iterator<Item = (Key, bool)> {
        let keys: &[(Key, bool)] = match self.field {
            DriftField::Device => &[(Key::Device, false), (Key::Manifest, false)],
            DriftField::Severity => &[(Key::Share, false), (Key::Device, true), (Key::Manifest, true)],
            DriftField::Line => &[
                (Key::Line, false),
                (Key::Share, true),
                (Key::Device, false),
                (Key::Manifest, false),
            ],
            DriftField::At => &[(Key::At, false), (Key::Device, false), (Key::Manifest, false)],
        };
        keys.iter().map(move |(key, turned)| (*key, *turned != self.descending))
    }

    fn order(self, sql: &mut Sql) {
        for (index, (key, descending)) in self.keys().enumerate() {
            sql.push(if index == 0 { " ORDER BY " } else { ", " });
            sql.push(key.column());
            sql.push(if descending { " DESC" } else { "" });
        }
    }
}

/// Where a page ended: a value for every column that orders.
#[derive(Debug, Clone, PartialEq)]
pub struct DriftCursor(Vec<Value>);

impl DriftCursor {
    fn of(row: &SqliteRow, sort: DriftSort) -> Result<Self, StoreError> {
        sort.keys()
            .map(|(key, _)| key.of(row))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// As clients give it back. None of the values has a '/' in it.
    pub fn encode(&self) -> String {
        let written: Vec<String> = self.0.iter().map(Key::written).collect();
        written.join("/")
    }

    /// `None`: no list of this order gave it out.
    pub fn decode(text: &str, sort: DriftSort) -> Option<Self> {
        let mut parts = text.split('/');
        let values: Option<Vec<Value>> = sort.keys().map(|(key, _)| key.read(parts.next()?)).collect();
        values.filter(|_| parts.next().is_none()).map(Self)
    }
}

/// Which judgements, in which order, which part of them.
#[derive(Debug, Clone, Default)]
pub struct DriftQuery {
    pub filter: DriftFilter,
    pub sort: DriftSort,
    pub after: Option<DriftCursor>,
    /// Matches skipped; only without `after`.
    pub offset: u64,
    pub limit: u32,
}

impl DriftQuery {
    fn page(&self) -> Sql {
        let mut sql = Sql::new(
            "SELECT t.device, t.manifest, t.line, t.drifted, t.share, t.observations, t.judgements, t.alarms,
            t.nearest_slice, t.worst, t.at, COALESCE(v.semver, '') AS semver,
            (SELECT MIN(s.slot) FROM device_slots s WHERE s.device = t.device AND s.manifest = t.manifest) AS slot
            FROM drift_status t LEFT JOIN model_versions v ON v.manifest = t.manifest",
        );
        let skips = self.after.is_none() && self.offset > 0;
        if skips {
            // What is skipped is read from an index where one has all that is asked; never as whole rows.
            sql.push(" WHERE (t.device, t.manifest) IN (SELECT t.device, t.manifest FROM drift_status t");
        }
        sql.push(" WHERE 1 = 1");
        conditions(&mut sql, &self.filter);
        self.beyond(&mut sql);
        self.sort.order(&mut sql);
        sql.push(" LIMIT ");
        sql.int(i64::from(self.limit));
        if skips {
            sql.push(" OFFSET ");
            sql.int(to_i64(self.offset));
            sql.push(")");
            self.sort.order(&mut sql);
        }
        sql
    }

    /// What comes after the cursor: beyond in the first column, or like it there and beyond in the second, and so on.
    fn beyond(&self, sql: &mut Sql) {
        let Some(DriftCursor(values)) = &self.after else { return };
        let last = values.len().saturating_sub(1);
        sql.push(" AND ");
        for (index, ((key, descending), value)) in self.sort.keys().zip(values).enumerate() {
            if index < last {
                // The first half is what an index is entered by.
                sql.push("(");
                sql.push(key.column());
                sql.push(if descending { " <= " } else { " >= " });
                sql.place(value.clone());
                sql.push(" AND (");
            }
            sql.push(key.column());
            sql.push(if descending { " < " } else { " > " });
            sql.place(value.clone());
            if index < last {
                sql.push(" OR ");
            }
        }
        for _ in 0..last {
            sql.push("))");
        }
    }

    fn matches(&self) -> Sql {
        let mut sql = Sql::new("SELECT COUNT(*) FROM drift_status t WHERE 1 = 1");
        conditions(&mut sql, &self.filter);
        sql
    }
}

fn conditions(sql: &mut Sql, filter: &DriftFilter) {
    for term in &filter.terms {
        sql.and(term.negated);
        condition(sql, &term.condition);
        sql.push(")");
    }
}

fn condition(sql: &mut Sql, condition: &Condition) {
    match condition {
        Condition::Line(wanted) => sql.matched("t.line", wanted),
        Condition::Version(wanted) => version(sql, wanted),
        Condition::Model(wanted) => model(sql, wanted),
        Condition::Device(wanted) => sql.matched("t.device", wanted),
        Condition::Manifest(wanted) => sql.matched("t.manifest", wanted),
        Condition::Slice(wanted) => sql.matched("t.nearest_slice", wanted),
        Condition::Drifted(drifted) => {
            sql.push("t.drifted = ");
            sql.int(i64::from(*drifted));
        }
        Condition::Severity(comparison, share) => sql.compared("t.share", *comparison, *share),
        Condition::Alarms(comparison, count) => sql.compared("t.alarms", *comparison, *count),
        Condition::Text(text) => {
            // `LOWER` knows A to Z alone.
            let wanted = containing(&text.to_ascii_lowercase());
            sql.push("LOWER(t.device || ' ' || t.line || ' ' || t.nearest_slice) LIKE ");
            sql.text(wanted.as_str());
            sql.push(
                " ESCAPE '\\' OR t.manifest IN (SELECT v.manifest FROM model_versions v WHERE LOWER(v.semver) LIKE ",
            );
            sql.text(wanted);
            sql.push(" ESCAPE '\\')");
        }
    }
}

fn version(sql: &mut Sql, wanted: &Match) {
    sql.push("t.manifest IN (SELECT v.manifest FROM model_versions v WHERE ");
    sql.matched("v.semver", wanted);
    sql.push(")");
}

fn model(sql: &mut Sql, wanted: &Match) {
    if let Match::Exactly(text) = wanted
        && let Some((line, semver)) = text.split_once('@')
    {
        sql.push("t.line = ");
        sql.text(line);
        sql.push(" AND ");
        version(sql, &Match::Exactly(semver.to_owned()));
        return;
    }
    sql.matched("t.line", wanted);
    sql.push(" OR ");
    version(sql, wanted);
}

/// A page, and where it ends if it is full.
pub async fn list(db: &Db, query: &DriftQuery) -> Result<(Vec<DeviceDrift>, Option<DriftCursor>), StoreError> {
    let rows = query.page().fetch_all(db).await?;
    let items = rows.iter().map(drift_of).collect::<Result<Vec<_>, _>>()?;
    let full = items.len() == query.limit as usize;
    let next = rows
        .last()
        .filter(|_| full)
        .map(|last| DriftCursor::of(last, query.sort));
    Ok((items, next.transpose()?))
}

/// How many match, on all pages.
pub async fn count(db: &Db, query: &DriftQuery) -> Result<u64, StoreError> {
    query.matches().count(db).await
}

fn drift_of(row: &SqliteRow) -> Result<DeviceDrift, StoreError> {
    let slot: Option<&str> = row.try_get("slot")?;
    Ok(DeviceDrift {
        device: parsed("device id", row.try_get("device")?)?,
        line: parsed("model line", row.try_get("line")?)?,
        semver: row.try_get("semver")?,
        manifest: parsed("manifest digest", row.try_get("manifest")?)?,
        slot: slot.map(|slot| parsed("slot name", slot)).transpose()?,
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
    const EVERYTHING: &str = "line:a -line:a* version:1.0.0 -version:1* model:a model:a* -model:a@1.0.0 device:a device:a* \
        manifest:sha256:00 slice:import -slice:harvest* drifted:yes severity:>0.5 -severity:<=0.1 alarms:>=1 alarms:3 press";
    const ORDERS: [&str; 4] = ["device", "severity", "line", "at"];
    let mut queries = Vec::new();
    for text in ["", EVERYTHING] {
        let filter = DriftFilter::parse(text).unwrap_or_default();
        for descending in [false, true] {
            for sort in ORDERS.into_iter().filter_map(|name| name.parse::<DriftSort>().ok()) {
                queries.extend(pages_of(&filter, DriftSort { descending, ..sort }));
            }
        }
    }
    queries.iter().map(|sql| sql.as_str().to_owned()).collect()
}

/// The beginning of a list, its middle by number and by cursor, and how long it is.
fn pages_of(filter: &DriftFilter, sort: DriftSort) -> [Sql; 4] {
    let values = sort.keys().filter_map(|(key, _)| match key {
        Key::Share => Some(Value::Float(0.5)),
        Key::At => Some(Value::Int(1)),
        key => key.read(""),
    });
    let first = DriftQuery {
        filter: filter.clone(),
        sort,
        limit: 10,
        ..DriftQuery::default()
    };
    let skipped = DriftQuery {
        offset: 7,
        ..first.clone()
    };
    let next = DriftQuery {
        after: Some(DriftCursor(values.collect())),
        ..first.clone()
    };
    [first.page(), skipped.page(), next.page(), first.matches()]
}

#[cfg(test)]
mod tests;
