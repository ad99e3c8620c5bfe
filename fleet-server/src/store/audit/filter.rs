//! What a reader of the log asks for. Every condition alone, and with others, is answered from an index that holds the
//! positions; only a page's entries are read.

use flotilla_protocol::audit::AuditRecord;

use crate::domain::device_filter::Match;
use crate::store::sql::Sql;

/// All of it holds; nothing given: every entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditFilter {
    pub event: Option<Match>,
    pub actor: Option<Match>,
    pub subject: Option<Match>,
    /// Unix milliseconds; the first that counts.
    pub from: Option<i64>,
    /// Unix milliseconds; the first that does not count any more.
    pub to: Option<i64>,
}

impl AuditFilter {
    /// Every entry of one event.
    pub fn of_event(event: &str) -> Self {
        Self {
            event: Some(Match::Exactly(event.to_owned())),
            ..Self::default()
        }
    }

    /// Does the entry itself match?
    pub fn matches(&self, record: &AuditRecord) -> bool {
        let holds = |wanted: &Option<Match>, text: &str| match wanted {
            None => true,
            Some(Match::Exactly(whole)) => text == whole,
            Some(Match::StartsWith(start)) => text.starts_with(start.as_str()),
        };
        holds(&self.event, &record.event)
            && holds(&self.actor, &record.actor)
            && holds(&self.subject, &record.subject)
            && self.from.is_none_or(|from| record.at >= from)
            && self.to.is_none_or(|to| record.at < to)
    }

    /// The newest that match below `before`.
    pub(super) fn page(&self, before: i64, limit: u32) -> Sql {
        let mut sql = Sql::new(
            "SELECT a.idx, a.entry FROM audit_log a WHERE a.idx IN (SELECT f.idx FROM audit_log f WHERE f.idx < ",
        );
        sql.int(before);
        for (column, end, wanted) in [
            (" AND f.event ", " AND f.event < ", &self.event),
            (" AND f.actor ", " AND f.actor < ", &self.actor),
            (" AND f.subject ", " AND f.subject < ", &self.subject),
        ] {
            match wanted {
                None => {}
                Some(Match::Exactly(text)) => {
                    sql.push(column);
                    sql.push("= ");
                    sql.text(text.as_str());
                }
                // In the order of bytes, which SQLite has by itself; for PostgreSQL the columns say COLLATE "C".
                Some(Match::StartsWith(start)) => {
                    let [first, beyond] = beginning_with(start);
                    sql.push(column);
                    sql.push(">= ");
                    sql.text(first);
                    sql.push(end);
                    sql.text(beyond);
                }
            }
        }
        if self.from.is_some() || self.to.is_some() {
            // Always both: SQLite takes the index for what has two ends, and would walk the whole log otherwise.
            sql.push(" AND f.at >= ");
            sql.int(self.from.unwrap_or(i64::MIN));
            sql.push(" AND f.at < ");
            sql.int(self.to.unwrap_or(i64::MAX));
        }
        sql.push(" ORDER BY f.idx DESC LIMIT ");
        sql.int(i64::from(limit));
        sql.push(") ORDER BY a.idx DESC");
        sql
    }
}

/// What begins with `start`, in the order of bytes: the first of it, and what lies behind the last.
pub fn beginning_with(start: &str) -> [String; 2] {
    [start.to_owned(), format!("{start}{}", char::MAX)]
}

/// Between them, every piece: for the test that prepares SQL on both databases.
pub fn sample_queries() -> Vec<String> {
    let exactly = Some(Match::Exactly("x".to_owned()));
    let start = Some(Match::StartsWith("x".to_owned()));
    let with = |wanted: &Option<Match>| AuditFilter {
        event: wanted.clone(),
        actor: wanted.clone(),
        subject: wanted.clone(),
        from: Some(0),
        to: Some(1),
    };
    [AuditFilter::default(), with(&exactly), with(&start)]
        .iter()
        .map(|filter| filter.page(7, 10).as_str().to_owned())
        .collect()
}
