//! Filters, orders and pages of runs as SQL: fixed pieces and bound values.
//!
//! A run may lack the figure that a list is ordered by. Such runs come last whichever way the order goes, the newest first: the
//! databases do not agree where they put what is missing, and an index holds only what is there. So the list is read in two parts.

use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flotilla_protocol::ids::RunId;
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::status_text;
use crate::domain::filter::{Match, Term, clip};
use crate::domain::run_filter::{Condition, KNOWN_FIGURES, RunFilter, figure};
use crate::store::sql::Sql;
use crate::store::{StoreError, to_i64};

/// A run with the names of what it was trained on, and how far its job is.
const COLUMNS: &str = "SELECT r.id, r.experiment_name AS experiment, r.dataset_version, r.trainer, r.seed, r.cause, r.status, \
    r.job, r.metrics, r.model, r.golden, r.error, r.created_at, r.finished_at, d.id AS dataset, d.name AS dataset_name, \
    v.number AS dataset_number, CASE WHEN j.state = 'running' THEN j.progress END AS progress";
const NAMES: &str = " LEFT JOIN dataset_versions v ON v.id = r.dataset_version LEFT JOIN datasets d ON d.id = v.dataset \
    LEFT JOIN jobs j ON j.id = r.job";

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RunOrder {
    #[default]
    Started,
    Experiment,
    Status,
    Cause,
    /// By its full name.
    Figure(String),
}

/// An order, the smallest first or the largest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSort {
    pub order: RunOrder,
    pub descending: bool,
}

impl Default for RunSort {
    /// The newest first.
    fn default() -> Self {
        Self {
            order: RunOrder::Started,
            descending: true,
        }
    }
}

/// The text names no order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no order: started, experiment, status, cause, {figures}, with '-' in front for the newest or largest first",
    figures = KNOWN_FIGURES
)]
pub struct UnknownSort(String);

impl FromStr for RunSort {
    type Err = UnknownSort;

    fn from_str(text: &str) -> Result<Self, UnknownSort> {
        let (descending, name) = text.strip_prefix('-').map_or((false, text), |name| (true, name));
        let order = match name {
            // As the console called it.
            "started" | "created" => RunOrder::Started,
            "experiment" => RunOrder::Experiment,
            "status" => RunOrder::Status,
            "cause" => RunOrder::Cause,
            name => RunOrder::Figure(figure(name).ok_or_else(|| UnknownSort(clip(text)))?.to_owned()),
        };
        Ok(Self { order, descending })
    }
}

impl RunSort {
    /// As a cursor names it.
    fn name(&self) -> &str {
        match &self.order {
            RunOrder::Started => "started",
            RunOrder::Experiment => "experiment",
            RunOrder::Status => "status",
            RunOrder::Cause => "cause",
            RunOrder::Figure(name) => name,
        }
    }

    /// One direction for all of it, so that an index is walked from either end.
    fn by(&self) -> &'static str {
        match (&self.order, self.descending) {
            (RunOrder::Started, false) => " ORDER BY r.id",
            (RunOrder::Started, true) => " ORDER BY r.id DESC",
            (RunOrder::Experiment, false) => " ORDER BY r.experiment_name, r.id",
            (RunOrder::Experiment, true) => " ORDER BY r.experiment_name DESC, r.id DESC",
            (RunOrder::Status, false) => " ORDER BY r.status, r.id",
            (RunOrder::Status, true) => " ORDER BY r.status DESC, r.id DESC",
            (RunOrder::Cause, false) => " ORDER BY r.cause, r.id",
            (RunOrder::Cause, true) => " ORDER BY r.cause DESC, r.id DESC",
            (RunOrder::Figure(_), false) => " ORDER BY f.value, f.run",
            (RunOrder::Figure(_), true) => " ORDER BY f.value DESC, f.run DESC",
        }
    }

    /// Of a row of this order's own page.
    pub(super) fn cursor(&self, row: &SqliteRow, run: RunId) -> Result<RunCursor, StoreError> {
        let at = match &self.order {
            RunOrder::Started => At::Started,
            RunOrder::Experiment | RunOrder::Status | RunOrder::Cause => At::Text(row.try_get(self.name())?),
            RunOrder::Figure(_) => At::Figure(row.try_get("figure")?),
        };
        let order = self.name().to_owned();
        Ok(RunCursor { order, at, run })
    }
}

/// Where a page ended.
#[derive(Debug, Clone, PartialEq)]
pub struct RunCursor {
    order: String,
    at: At,
    run: RunId,
}

#[derive(Debug, Clone, PartialEq)]
enum At {
    /// The id says it.
    Started,
    Text(String),
    Figure(f64),
    /// Among the runs that have no such figure.
    Without,
}

/// A cursor in other orders than the first, as clients give it back.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(rename = "o")]
    order: String,
    /// A figure's bits in hexadecimal, so that it is compared as it was stored.
    #[serde(rename = "v")]
    value: Option<String>,
    #[serde(rename = "r")]
    run: RunId,
}

impl RunCursor {
    /// As clients give it back.
    pub fn encode(&self) -> String {
        let value = match &self.at {
            At::Started => return self.run.to_string(),
            At::Text(text) => Some(text.clone()),
            At::Figure(value) => Some(format!("{:016x}", value.to_bits())),
            At::Without => None,
        };
        let written = Written {
            order: self.order.clone(),
            value,
            run: self.run,
        };
        // Three plain fields: nothing that JSON cannot say.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&written).unwrap_or_default())
    }

    /// `None`: no list of this order gave it out.
    pub fn decode(text: &str, sort: &RunSort) -> Option<Self> {
        let order = sort.name().to_owned();
        if sort.order == RunOrder::Started {
            let (at, run) = (At::Started, text.parse().ok()?);
            return Some(Self { order, at, run });
        }
        let written: Written = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let at = match (&sort.order, written.value) {
            (RunOrder::Figure(_), Some(bits)) => At::Figure(f64::from_bits(u64::from_str_radix(&bits, 16).ok()?)),
            (RunOrder::Figure(_), None) => At::Without,
            (_, value) => At::Text(value?),
        };
        let fits = written.order == order && !matches!(at, At::Figure(value) if !value.is_finite());
        fits.then_some(Self {
            order,
            at,
            run: written.run,
        })
    }
}

/// Which runs, in which order, which part of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunQuery {
    pub filter: RunFilter,
    pub sort: RunSort,
    pub after: Option<RunCursor>,
    /// Matches skipped; only without `after`.
    pub offset: u64,
    pub limit: u32,
}

/// One run.
pub(super) fn one(project: &str, id: RunId) -> Sql {
    let mut sql = Sql::new(COLUMNS);
    sql.push(" FROM runs r");
    sql.push(NAMES);
    sql.push(" WHERE r.id = ");
    sql.text(id.to_string());
    sql.push(" AND r.project_id = ");
    sql.text(project);
    sql
}

/// How many match.
pub(super) fn count(project: &str, filter: &RunFilter) -> Sql {
    let mut sql = Sql::new("SELECT COUNT(*) FROM runs r WHERE r.project_id = ");
    sql.text(project);
    conditions(&mut sql, filter);
    sql
}

/// Those that have the figure, or those that have it not.
fn having(filter: &RunFilter, name: &str, negated: bool) -> RunFilter {
    let mut filter = filter.clone();
    filter.terms.push(Term {
        negated,
        condition: Condition::Figure(name.to_owned(), None),
    });
    filter
}

impl RunQuery {
    /// The figure that orders the list, if one does.
    pub(super) fn figure(&self) -> Option<&str> {
        match &self.sort.order {
            RunOrder::Figure(name) => Some(name),
            _ => None,
        }
    }

    /// A page. In the order of a figure: of the runs that have it.
    pub(super) fn page(&self, project: &str) -> Sql {
        // A page's runs are chosen from indexes; only they are read as rows.
        let mut sql = Sql::new(COLUMNS);
        match self.figure() {
            None => {
                sql.push(" FROM runs r");
                sql.push(NAMES);
                sql.push(" WHERE r.id IN (SELECT r.id FROM runs r WHERE r.project_id = ");
            }
            Some(name) => {
                // Crossed, so that SQLite walks the figures in their order.
                sql.push(", f.value AS figure FROM (SELECT f.run, f.value FROM run_figures f CROSS JOIN runs r");
                sql.push(" WHERE r.id = f.run AND f.name = ");
                sql.text(name);
                sql.push(" AND r.project_id = ");
            }
        }
        sql.text(project);
        conditions(&mut sql, &self.filter);
        self.beyond(&mut sql);
        sql.push(self.sort.by());
        sql.push(" LIMIT ");
        sql.int(i64::from(self.limit));
        if self.after.is_none() && self.offset > 0 {
            sql.push(" OFFSET ");
            sql.int(to_i64(self.offset));
        }
        sql.push(")");
        if self.figure().is_some() {
            sql.push(" AS f JOIN runs r ON r.id = f.run");
            sql.push(NAMES);
        }
        sql.push(self.sort.by());
        sql
    }

    /// Does the page begin among the runs that have no such figure?
    pub(super) fn begins_without(&self) -> bool {
        self.after.as_ref().is_some_and(|after| after.at == At::Without)
    }

    /// What tells, of a list in the order of a figure, how many have it.
    pub(super) fn with(&self, name: &str) -> RunFilter {
        having(&self.filter, name, false)
    }

    /// The rest of a list in the order of a figure: the runs that do not have it.
    pub(super) fn without(&self, name: &str, offset: u64, limit: u32) -> Self {
        let sort = RunSort::default();
        let after = self.after.as_ref().filter(|after| after.at == At::Without);
        let after = after.map(|after| RunCursor {
            order: sort.name().to_owned(),
            at: At::Started,
            run: after.run,
        });
        Self {
            filter: having(&self.filter, name, true),
            sort,
            after,
            offset,
            limit,
        }
    }

    /// The cursor of a run of that rest.
    pub(super) fn cursor_without(&self, run: RunId) -> RunCursor {
        RunCursor {
            order: self.sort.name().to_owned(),
            at: At::Without,
            run,
        }
    }

    /// What comes after the cursor.
    fn beyond(&self, sql: &mut Sql) {
        let Some(after) = &self.after else { return };
        let sign = if self.sort.descending { " < " } else { " > " };
        let column = match self.sort.order {
            RunOrder::Started => {
                sql.push(" AND r.id");
                sql.push(sign);
                sql.text(after.run.to_string());
                return;
            }
            RunOrder::Experiment => " AND (r.experiment_name, r.id)",
            RunOrder::Status => " AND (r.status, r.id)",
            RunOrder::Cause => " AND (r.cause, r.id)",
            RunOrder::Figure(_) => " AND (f.value, f.run)",
        };
        sql.push(column);
        sql.push(sign);
        sql.push("(");
        match &after.at {
            At::Figure(value) => sql.float(*value),
            At::Text(text) => sql.text(text.as_str()),
            At::Started | At::Without => sql.text(""),
        }
        sql.push(", ");
        sql.text(after.run.to_string());
        sql.push(")");
    }
}

fn conditions(sql: &mut Sql, filter: &RunFilter) {
    for term in &filter.terms {
        sql.and(term.negated);
        condition(sql, &term.condition);
        sql.push(")");
    }
}

/// None of them is NULL for any run: negated, it holds for exactly the others.
fn condition(sql: &mut Sql, condition: &Condition) {
    match condition {
        Condition::Experiment(wanted) => sql.matched("r.experiment_name", wanted),
        Condition::Status(status) => {
            sql.push("r.status = ");
            sql.text(status_text(*status));
        }
        Condition::Dataset(wanted) => dataset(sql, wanted),
        Condition::Version(wanted) => sql.matched("r.dataset_version", wanted),
        Condition::Id(wanted) => sql.matched("r.id", wanted),
        Condition::Cause(wanted) => sql.matched("r.cause", wanted),
        Condition::Hidden(wanted) => sql.matched("r.hidden", wanted),
        Condition::Figure(name, bound) => {
            sql.push("r.id IN (SELECT f.run FROM run_figures f WHERE f.name = ");
            sql.text(name.as_str());
            if let Some((comparison, number)) = bound {
                sql.push(" AND ");
                sql.compared("f.value", *comparison, *number);
            }
            sql.push(")");
        }
        Condition::Text(text) => {
            sql.holds("r.search", text);
            sql.push(" OR ");
            sql.holds("COALESCE(r.model, '')", text);
        }
    }
}

fn dataset(sql: &mut Sql, wanted: &Match) {
    sql.push("r.dataset_version IN (SELECT v.id FROM dataset_versions v JOIN datasets d ON d.id = v.dataset WHERE ");
    sql.matched("d.name", wanted);
    if let Match::Exactly(text) = wanted
        && let Some((name, number)) = numbered(text)
    {
        sql.push(" OR (d.name = ");
        sql.text(name);
        sql.push(" AND v.number = ");
        sql.int(number);
        sql.push(")");
    }
    sql.push(")");
}

/// `motions@3`, `motions@v3`
fn numbered(text: &str) -> Option<(&str, i64)> {
    let (name, number) = text.rsplit_once('@')?;
    Some((name, number.strip_prefix('v').unwrap_or(number).parse().ok()?))
}

/// Queries that between them hold every piece: for the test that prepares SQL on both databases.
pub fn sample_queries() -> Vec<String> {
    const EVERYTHING: &str = "experiment:a -experiment:a* status:failed dataset:a -dataset:a* dataset:a@3 version:a -version:a* \
        id:a* cause:a hidden:64,32 seed:>1 epochs:>=1 -batch_size:<1 learning_rate:<=1 loss:0.5 -holdout.ece:* press";
    const ORDERS: [&str; 5] = ["started", "experiment", "status", "cause", "accuracy"];
    let mut queries = vec![one("", RunId::new(uuid::Uuid::nil()))];
    for text in ["", EVERYTHING] {
        let filter = RunFilter::parse(text).unwrap_or_default();
        queries.push(count("", &filter));
        for descending in [false, true] {
            for sort in ORDERS.into_iter().filter_map(|name| name.parse::<RunSort>().ok()) {
                let sort = RunSort { descending, ..sort };
                queries.extend(pages_of(&filter, &sort));
            }
        }
    }
    queries.iter().map(|sql| sql.as_str().to_owned()).collect()
}

/// The beginning of a list, its middle by number and by cursor, and its rest.
fn pages_of(filter: &RunFilter, sort: &RunSort) -> [Sql; 4] {
    let at = match &sort.order {
        RunOrder::Started => At::Started,
        RunOrder::Figure(_) => At::Figure(0.5),
        _ => At::Text(String::new()),
    };
    let after = RunCursor {
        order: sort.name().to_owned(),
        at,
        run: RunId::new(uuid::Uuid::nil()),
    };
    let first = RunQuery {
        filter: filter.clone(),
        sort: sort.clone(),
        limit: 10,
        ..RunQuery::default()
    };
    let skipped = RunQuery {
        offset: 7,
        ..first.clone()
    };
    let next = RunQuery {
        after: Some(after),
        ..first.clone()
    };
    let rest = first.without("holdout.accuracy", 7, 10);
    [first, skipped, next, rest].map(|query| query.page(""))
}
