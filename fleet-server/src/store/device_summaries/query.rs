//! Filters, orders and pages as SQL: fixed pieces and bound values.

use std::fmt::Write as _;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flotilla_protocol::ids::DeviceId;
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::limit as sql_limit;
use crate::domain::device_filter::{Comparison, Condition, DeviceFilter, Match, Status, Term};
use crate::store::StoreError;
use crate::store::sql::{Value, containing};

const COLUMNS: &str = "s.device, s.status, s.updating, s.alert, s.drifted, s.attacked, s.failed, s.faulty, s.drift, \
    s.inferences, s.hardware_class, s.arch, s.agent_version, s.models, s.tags, s.thumbprint, s.enrolled_at, s.last_seen, \
    s.urgency, s.model";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortField {
    #[default]
    Id,
    /// Those that need attention first, decommissioned ones last.
    Status,
    Model,
    Drift,
    Inferences,
    Class,
    Agent,
    EnrolledAt,
    LastSeen,
}

impl SortField {
    pub const ALL: [(&'static str, Self); 9] = [
        ("id", Self::Id),
        ("status", Self::Status),
        ("model", Self::Model),
        ("drift", Self::Drift),
        ("inferences", Self::Inferences),
        ("class", Self::Class),
        ("agent", Self::Agent),
        ("enrolled_at", Self::EnrolledAt),
        ("last_seen", Self::LastSeen),
    ];

    const fn column(self) -> &'static str {
        match self {
            Self::Id => "s.device",
            Self::Status => "s.urgency",
            Self::Model => "s.model",
            Self::Drift => "s.drift",
            Self::Inferences => "s.inferences",
            Self::Class => "s.hardware_class",
            Self::Agent => "s.agent_version",
            Self::EnrolledAt => "s.enrolled_at",
            Self::LastSeen => "s.last_seen",
        }
    }

    fn value(self, row: &SqliteRow) -> Result<Value, StoreError> {
        let name = self.column().trim_start_matches("s.");
        Ok(match self {
            Self::Id | Self::Model | Self::Class | Self::Agent => Value::Text(row.try_get(name)?),
            Self::Drift => Value::Float(row.try_get(name)?),
            Self::Status | Self::Inferences | Self::EnrolledAt | Self::LastSeen => Value::Int(row.try_get(name)?),
        })
    }
}

/// A field, with `-` in front from the largest to the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sort {
    pub field: SortField,
    pub descending: bool,
}

/// The text names no order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no order: id, status, model, drift, inferences, class, agent, enrolled_at or last_seen, with '-' in front for the largest first"
)]
pub struct UnknownSort(String);

impl FromStr for Sort {
    type Err = UnknownSort;

    fn from_str(text: &str) -> Result<Self, UnknownSort> {
        let (descending, name) = text.strip_prefix('-').map_or((false, text), |name| (true, name));
        SortField::ALL
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, field)| Self {
                field: *field,
                descending,
            })
            .ok_or_else(|| UnknownSort(text.chars().take(40).collect()))
    }
}

impl Sort {
    fn order(self) -> String {
        let direction = if self.descending { " DESC" } else { "" };
        match self.field {
            SortField::Id => format!("s.device{direction}"),
            field => format!("{}{direction}, s.device{direction}", field.column()),
        }
    }

    pub(super) fn cursor(self, row: &SqliteRow, device: &str) -> Result<Cursor, StoreError> {
        Ok(Cursor {
            field: self.field.column().to_owned(),
            value: self.field.value(row)?,
            device: device.to_owned(),
        })
    }
}

/// Where a page ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cursor {
    #[serde(rename = "f")]
    field: String,
    #[serde(rename = "v")]
    value: Value,
    #[serde(rename = "d")]
    device: String,
}

impl Cursor {
    /// As clients give it back.
    pub fn encode(&self) -> String {
        // Three plain fields: nothing that JSON cannot say.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// `None`: no list of this order gave it out.
    pub fn decode(text: &str, sort: Sort) -> Option<Self> {
        let cursor: Self = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let fits = cursor.field == sort.field.column()
            && match sort.field {
                SortField::Id | SortField::Model | SortField::Class | SortField::Agent => {
                    matches!(cursor.value, Value::Text(_))
                }
                _ => !matches!(cursor.value, Value::Text(_)),
            };
        fits.then_some(cursor)
    }
}

/// Which devices, in which order, which part of them.
#[derive(Debug, Clone, Default)]
pub struct DeviceQuery {
    pub filter: DeviceFilter,
    pub sort: Sort,
    pub after: Option<Cursor>,
    /// Matches skipped; only without `after`.
    pub offset: u64,
    pub limit: u32,
    /// How many match, where that is known: few are gathered and then sorted, many are met soon in the order's own index.
    pub matches: Option<u64>,
}

/// Up to so many matches are gathered first: for a page at the beginning, and for one far down.
const FEW: u64 = 2_000;
const FEW_FAR_DOWN: u64 = 25_000;

/// SQL and the values of its places.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Built {
    pub(super) sql: String,
    pub(super) values: Vec<Value>,
    /// Rows are met in the order's index: a planner must not start from the filter instead.
    walks: bool,
}

impl Built {
    fn new() -> Self {
        Self {
            sql: String::new(),
            values: Vec::new(),
            walks: false,
        }
    }

    fn push(&mut self, piece: &str) {
        self.sql.push_str(piece);
    }

    /// The place of a value.
    fn place(&mut self, value: Value) {
        self.values.push(value);
        let written = write!(self.sql, "${}", self.values.len());
        debug_assert!(written.is_ok(), "writing to a String cannot fail");
    }

    fn text(&mut self, text: impl Into<String>) {
        self.place(Value::Text(text.into()));
    }

    fn conditions(&mut self, filter: &DeviceFilter) {
        self.push(" WHERE 1 = 1");
        for term in &filter.terms {
            self.push(" AND ");
            self.term(term);
        }
    }

    fn term(&mut self, term: &Term) {
        if term.negated {
            self.push("NOT ");
        }
        self.push("(");
        match &term.condition {
            Condition::Status(Status::Updating) => self.push("s.updating = 1"),
            Condition::Status(Status::Alert) => self.push("s.alert = 1"),
            Condition::Status(status) => {
                self.push("s.status = ");
                self.text(status.as_str());
            }
            Condition::Id(wanted) => self.matched("s.device", wanted),
            Condition::Class(wanted) => self.matched("s.hardware_class", wanted),
            Condition::Arch(wanted) => self.matched("s.arch", wanted),
            Condition::Agent(wanted) => self.matched("s.agent_version", wanted),
            Condition::Model(wanted) => self.model(wanted),
            Condition::Drift(comparison, share) => self.drift(*comparison, *share),
            Condition::Tag(key, wanted) => {
                self.push("s.device IN (SELECT t.device FROM device_tags t WHERE t.tag_key = ");
                self.text(key.as_str());
                if *wanted != Match::StartsWith(String::new()) {
                    self.push(" AND ");
                    self.matched("t.tag_value", wanted);
                }
                self.push(")");
            }
            Condition::Text(text) => {
                self.push("s.search LIKE ");
                self.text(containing(&text.to_lowercase()));
                self.push(" ESCAPE '\\'");
            }
        }
        // A condition about a condition is one that no index answers.
        self.push(if self.walks { ") IS TRUE" } else { ")" });
    }

    fn matched(&mut self, column: &str, wanted: &Match) {
        match wanted {
            Match::Exactly(text) => {
                self.push(column);
                self.push(" = ");
                self.text(text.as_str());
            }
            Match::StartsWith(start) => {
                let length = i64::try_from(start.chars().count()).unwrap_or(i64::MAX);
                self.push("SUBSTR(");
                self.push(column);
                self.push(", 1, ");
                self.push("CAST(");
                self.place(Value::Int(length));
                self.push(" AS INTEGER)) = ");
                self.text(start.as_str());
            }
        }
    }

    fn model(&mut self, wanted: &Match) {
        self.push("s.device IN (SELECT m.device FROM device_slots m WHERE ");
        match wanted {
            Match::Exactly(text) if text.contains('@') => {
                let (line, semver) = text.split_once('@').unwrap_or((text, ""));
                self.push("m.line = ");
                self.text(line);
                self.push(" AND m.semver = ");
                self.text(semver);
            }
            wanted => {
                self.matched("m.line", wanted);
                self.push(" UNION ALL SELECT m.device FROM device_slots m WHERE ");
                self.matched("m.semver", wanted);
            }
        }
        self.push(")");
    }

    fn drift(&mut self, comparison: Comparison, share: f64) {
        self.push("s.drift >= 0.0 AND s.drift ");
        self.push(comparison.as_str());
        self.push(" ");
        self.place(Value::Float(share));
    }
}

impl DeviceQuery {
    pub(super) fn page(&self) -> Built {
        let mut built = Built::new();
        let order = self.sort.order();
        let skips = self.after.is_none() && self.offset > 0;
        let gathers = self.gathers();
        built.walks = !gathers && self.matches.is_some();
        built.push("SELECT ");
        built.push(COLUMNS);
        built.push(" FROM device_summaries s");
        if gathers || skips {
            // Matches, and what is skipped, are read from an index where one has all that is asked; never as whole rows.
            built.push(" WHERE s.device IN (SELECT s.device FROM device_summaries s");
        }
        built.conditions(&self.filter);
        if gathers {
            built.push(")");
        }
        self.beyond(&mut built);
        built.push(&format!(" ORDER BY {order} LIMIT "));
        built.place(Value::Int(i64::from(self.limit)));
        if skips {
            built.push(" OFFSET ");
            built.place(Value::Int(sql_limit(self.offset)));
        }
        if skips && !gathers {
            built.push(&format!(") ORDER BY {order}"));
        }
        built
    }

    fn gathers(&self) -> bool {
        let few = if self.offset > 0 { FEW_FAR_DOWN } else { FEW };
        !self.filter.terms.is_empty() && self.matches.is_some_and(|matches| matches <= few)
    }

    /// What comes after the cursor.
    fn beyond(&self, built: &mut Built) {
        let Some(after) = &self.after else { return };
        let sign = if self.sort.descending { "<" } else { ">" };
        if self.sort.field == SortField::Id {
            built.push(&format!(" AND s.device {sign} "));
            built.text(after.device.as_str());
            return;
        }
        built.push(&format!(" AND ({}, s.device) {sign} (", self.sort.field.column()));
        built.place(after.value.clone());
        built.push(", ");
        built.text(after.device.as_str());
        built.push(")");
    }
}

/// Keeps the matches as a job's devices.
pub(super) fn keep_matching(job: &str, filter: &DeviceFilter) -> Built {
    let mut built = keep(job);
    built.conditions(filter);
    built
}

/// Keeps those of these devices that there are.
pub(super) fn keep_named(job: &str, devices: &[DeviceId]) -> Built {
    let mut built = keep(job);
    built.push(" WHERE s.device IN (''");
    for device in devices {
        built.push(", ");
        built.text(device.as_str());
    }
    built.push(")");
    built
}

fn keep(job: &str) -> Built {
    let mut built = Built::new();
    built.push("INSERT INTO job_devices (job, device) SELECT CAST(");
    built.text(job);
    built.push(" AS TEXT), s.device FROM device_summaries s");
    built
}

pub(super) fn counts(filter: &DeviceFilter) -> Built {
    let mut built = Built::new();
    built.push(
        "SELECT s.status, COUNT(*) AS n, CAST(SUM(s.updating) AS BIGINT) AS updating, CAST(SUM(s.alert) AS BIGINT) AS alert \
         FROM device_summaries s",
    );
    built.conditions(filter);
    built.push(" GROUP BY s.status");
    built
}

/// Queries that between them hold every piece: for the test that prepares SQL on both databases.
pub fn sample_queries() -> Vec<String> {
    const EVERYTHING: &str = "status:online -status:alert status:updating id:a -id:a* model:x -model:1* model:x@1.0.0 class:c \
        arch:a agent:1* drift:>0.1 drift:<=1 drift:<1 -drift:>=0 site:oslo site:* -site:o* press";
    let mut queries = Vec::new();
    for text in ["", EVERYTHING] {
        let filter = DeviceFilter::parse(text).unwrap_or_default();
        for (_, field) in SortField::ALL {
            for descending in [false, true] {
                let sort = Sort { field, descending };
                let value = match field {
                    SortField::Id | SortField::Model | SortField::Class | SortField::Agent => {
                        Value::Text(String::new())
                    }
                    SortField::Drift => Value::Float(0.0),
                    _ => Value::Int(0),
                };
                let cursor = Cursor {
                    field: field.column().to_owned(),
                    value,
                    device: String::new(),
                };
                let places = [(None, 0), (None, 7), (Some(cursor), 0)];
                queries.extend(places.into_iter().flat_map(|(after, offset)| {
                    let query = DeviceQuery {
                        filter: filter.clone(),
                        sort,
                        after,
                        offset,
                        limit: 10,
                        matches: None,
                    };
                    let gathered = DeviceQuery {
                        matches: Some(1),
                        ..query.clone()
                    };
                    let walked = DeviceQuery {
                        matches: Some(u64::MAX),
                        ..query.clone()
                    };
                    [query.page().sql, gathered.page().sql, walked.page().sql]
                }));
            }
        }
        queries.push(keep_matching("", &filter).sql);
        queries.push(counts(&filter).sql);
    }
    queries.push(keep_named("", &[]).sql);
    queries
}
