//! SQL whose conditions depend on what is asked: fixed pieces and bound values, never a caller's text.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _, Sqlite};

use crate::domain::filter::{Comparison, Match};
use crate::store::{Db, StoreError, to_u64};

/// A bound value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(in crate::store) enum Value {
    Int(i64),
    Float(f64),
    Text(String),
}

impl Value {
    pub(in crate::store) fn bind<'q>(
        &self,
        query: Query<'q, Sqlite, SqliteArguments>,
    ) -> Query<'q, Sqlite, SqliteArguments> {
        match self {
            Self::Int(value) => query.bind(*value),
            Self::Float(value) => query.bind(*value),
            Self::Text(value) => query.bind(value.clone()),
        }
    }
}

/// A statement as it is put together.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::store) struct Sql {
    text: String,
    values: Vec<Value>,
}

impl Sql {
    pub(in crate::store) fn new(piece: &'static str) -> Self {
        Self {
            text: piece.to_owned(),
            values: Vec::new(),
        }
    }

    pub(in crate::store) fn push(&mut self, piece: &'static str) {
        self.text.push_str(piece);
    }

    /// The place of a value.
    pub(in crate::store) fn place(&mut self, value: Value) {
        self.values.push(value);
        let written = write!(self.text, "${}", self.values.len());
        debug_assert!(written.is_ok(), "writing to a String cannot fail");
    }

    pub(in crate::store) fn int(&mut self, value: i64) {
        self.place(Value::Int(value));
    }

    pub(in crate::store) fn float(&mut self, value: f64) {
        self.place(Value::Float(value));
    }

    pub(in crate::store) fn text(&mut self, value: impl Into<String>) {
        self.place(Value::Text(value.into()));
    }

    /// Begins one condition more; a parenthesis ends it.
    pub(in crate::store) fn and(&mut self, negated: bool) {
        self.push(if negated { " AND NOT (" } else { " AND (" });
    }

    /// A column is what somebody looks for.
    pub(in crate::store) fn matched(&mut self, column: &'static str, wanted: &Match) {
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
                self.push(", 1, CAST(");
                self.int(length);
                self.push(" AS INTEGER)) = ");
                self.text(start.as_str());
            }
        }
    }

    /// A column of numbers, whole ones too, stands so to a number.
    pub(in crate::store) fn compared(&mut self, column: &'static str, comparison: Comparison, number: f64) {
        self.push(column);
        self.push(" ");
        self.push(comparison.as_str());
        self.push(" CAST(");
        self.float(number);
        self.push(" AS DOUBLE PRECISION)");
    }

    /// A text holds what somebody typed. Both are in lower case.
    pub(in crate::store) fn holds(&mut self, column: &'static str, typed: &str) {
        self.push(column);
        self.push(" LIKE ");
        self.text(containing(&typed.to_lowercase()));
        self.push(" ESCAPE '\\'");
    }

    pub(in crate::store) fn as_str(&self) -> &str {
        &self.text
    }

    pub(in crate::store) async fn fetch_all(&self, db: &Db) -> Result<Vec<SqliteRow>, StoreError> {
        let mut query = sqlx::query(AssertSqlSafe(self.text.as_str()));
        for value in &self.values {
            query = value.bind(query);
        }
        Ok(query.fetch_all(db.read()).await?)
    }

    /// Of a statement that gives one number.
    pub(in crate::store) async fn count(&self, db: &Db) -> Result<u64, StoreError> {
        match self.fetch_all(db).await?.first() {
            Some(row) => Ok(to_u64(row.try_get(0)?)),
            None => Ok(0),
        }
    }
}

/// The pattern of `LIKE … ESCAPE '\'` that finds `text` anywhere.
pub(in crate::store) fn containing(text: &str) -> String {
    let mut pattern = String::from("%");
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}
