//! All SQL of the server. One file per aggregate; every statement is a named constant that SQLite and PostgreSQL both
//! accept (a test prepares them all on both). Nothing outside this folder writes SQL.
//!
//! SQLite has one writer: writes go through a pool of one connection in `BEGIN IMMEDIATE` transactions, reads through a
//! pool of their own (WAL). `synchronous=FULL`, because devices are told to forget what was committed.

pub mod attention;
pub mod audit;
pub mod datasets;
pub mod deployments;
pub mod device_summaries;
pub mod devices;
pub mod documents;
pub mod drift;
pub mod idempotency;
pub mod imports;
pub mod jobs;
pub mod labels;
pub mod migrations;
pub mod models;
pub mod overview;
pub mod retention;
pub mod rollout_targets;
pub mod rollouts;
pub mod runs;
pub mod sessions;
pub mod sketches;
mod sql;
pub mod telemetry;
pub mod tokens;

use std::path::Path;
use std::time::Duration;

use sqlx::migrate::Migration;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqliteConnection, SqlitePool, Transaction};

/// Declares an aggregate's statements and lists them, so that a test can prepare every one.
macro_rules! statements {
    ($($name:ident = $sql:literal;)+) => {
        $(pub(crate) const $name: &str = $sql;)+
        pub(crate) const STATEMENTS: &[(&str, &str)] = &[$((stringify!($name), $sql)),+];
    };
}
pub(crate) use statements;

/// A write transaction.
pub type Tx = Transaction<'static, Sqlite>;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("database: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("database migration: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A unique constraint: what is there already.
    #[error("{0} exists already")]
    Exists(String),
    #[error("no {kind} '{id}'")]
    NotFound { kind: &'static str, id: String },
    /// The row is not in the state that the change needs.
    #[error("{0}")]
    Conflict(String),
    /// A row that this server wrote cannot be read back.
    #[error("stored {what} is unreadable: {why}")]
    Corrupt { what: &'static str, why: String },
    #[error("{path}: {source}")]
    File { path: String, source: std::io::Error },
}

impl StoreError {
    #[expect(clippy::needless_pass_by_value, reason = "ids are small, and the calls read better")]
    pub fn not_found(kind: &'static str, id: impl ToString) -> Self {
        Self::NotFound {
            kind,
            id: id.to_string(),
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "errors are handed over by map_err")]
    pub fn corrupt(what: &'static str, why: impl ToString) -> Self {
        Self::Corrupt {
            what,
            why: why.to_string(),
        }
    }

    /// Names what exists where the database only speaks of a constraint.
    pub fn or_exists(error: sqlx::Error, what: impl FnOnce() -> String) -> Self {
        match &error {
            sqlx::Error::Database(db) if db.is_unique_violation() => Self::Exists(what()),
            _ => Self::Sql(error),
        }
    }
}

/// The server's database.
#[derive(Debug, Clone)]
pub struct Db {
    read: SqlitePool,
    write: SqlitePool,
}

impl Db {
    /// Opens the file, copies it aside if migrations are due, and migrates. A schema newer than this server's is refused.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10))
            .foreign_keys(true);
        let write = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options.clone())
            .await?;
        copy_before_migration(&write, path).await?;
        migrations::SQLITE.run(&write).await?;
        let read = SqlitePoolOptions::new()
            .max_connections(8)
            .connect_with(options.read_only(true))
            .await?;
        Ok(Self { read, write })
    }

    pub fn read(&self) -> &SqlitePool {
        &self.read
    }

    /// Begins a write transaction. There is one at a time: keep it short, and never await anything else inside.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        Ok(self.write.begin_with("BEGIN IMMEDIATE").await?)
    }

    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

/// Before a migration changes an existing database, a copy of it is kept beside it.
async fn copy_before_migration(pool: &SqlitePool, path: &Path) -> Result<(), StoreError> {
    use sqlx::migrate::Migrate as _;
    let mut connection = pool.acquire().await?;
    let tables: i64 = sqlx::query_scalar(COUNT_TABLES).fetch_one(&mut *connection).await?;
    if tables == 0 {
        return Ok(());
    }
    connection.ensure_migrations_table("_sqlx_migrations").await?;
    let applied = connection.list_applied_migrations("_sqlx_migrations").await?;
    let newest = applied.iter().map(|migration| migration.version).max().unwrap_or(0);
    let is_due = |migration: &Migration| !applied.iter().any(|done| done.version == migration.version);
    if !migrations::SQLITE.iter().any(is_due) {
        return Ok(());
    }
    let copy = path.with_extension(format!("before-migration-{newest}.db"));
    if copy.exists() {
        return Ok(());
    }
    copy_whole(&mut connection, &copy).await
}

/// Under its name stands a whole copy or none: what is cut short keeps the temporary name and is made again.
async fn copy_whole(connection: &mut SqliteConnection, copy: &Path) -> Result<(), StoreError> {
    let at = |path: &Path| {
        let path = path.display().to_string();
        move |source| StoreError::File { path, source }
    };
    let unfinished = copy.with_extension("db.unfinished");
    if unfinished.exists() {
        std::fs::remove_file(&unfinished).map_err(at(&unfinished))?;
    }
    // Reads through the write-ahead log as well, whoever else has the database open.
    sqlx::query(COPY)
        .bind(unfinished.display().to_string())
        .execute(connection)
        .await?;
    std::fs::File::open(&unfinished)
        .and_then(|file| file.sync_all())
        .map_err(at(&unfinished))?;
    std::fs::rename(&unfinished, copy).map_err(at(copy))?;
    let folder = copy.parent().unwrap_or(Path::new("."));
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(at(folder))
}

// SQLite's own: these two have no counterpart in PostgreSQL, where a backup is the operator's.
const COUNT_TABLES: &str = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table'";
const COPY: &str = "VACUUM INTO $1";

/// An aggregate's statements with their names.
type Statements = &'static [(&'static str, &'static str)];

/// Every statement of the store, by file and name.
pub fn all_statements() -> Vec<(String, &'static str)> {
    let files: [(&str, Statements); 22] = [
        ("attention", attention::STATEMENTS),
        ("audit", audit::STATEMENTS),
        ("datasets", datasets::STATEMENTS),
        ("deployments", deployments::STATEMENTS),
        ("device_summaries", device_summaries::STATEMENTS),
        ("devices", devices::STATEMENTS),
        ("documents", documents::STATEMENTS),
        ("idempotency", idempotency::STATEMENTS),
        ("imports", imports::STATEMENTS),
        ("jobs", jobs::STATEMENTS),
        ("labels", labels::STATEMENTS),
        ("models", models::STATEMENTS),
        ("overview", overview::STATEMENTS),
        ("retention", retention::STATEMENTS),
        ("rollout_targets", rollout_targets::STATEMENTS),
        ("rollouts", rollouts::STATEMENTS),
        ("rollouts::orders", rollouts::ORDERS),
        ("runs", runs::STATEMENTS),
        ("sessions", sessions::STATEMENTS),
        ("sketches", sketches::STATEMENTS),
        ("telemetry", telemetry::STATEMENTS),
        ("tokens", tokens::STATEMENTS),
    ];
    files
        .into_iter()
        .flat_map(|(file, statements)| {
            statements
                .iter()
                .map(move |(name, sql)| (format!("{file}::{name}"), *sql))
        })
        .chain([("labels::GUESSES".to_owned(), labels::GUESSES.as_str())])
        .collect()
}

/// Statements whose conditions depend on what is asked, between them every piece: for the same test.
pub fn sample_queries() -> Vec<String> {
    [
        audit::sample_queries(),
        device_summaries::sample_queries(),
        drift::sample_queries(),
        models::sample_queries(),
        runs::sample_queries(),
    ]
    .concat()
}

/// Reads a text column through its type's parser.
pub(crate) fn parsed<T: std::str::FromStr>(what: &'static str, text: &str) -> Result<T, StoreError>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|why: T::Err| StoreError::corrupt(what, why))
}

/// Reads a JSON column.
pub(crate) fn json<T: serde::de::DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|why| StoreError::corrupt(what, why))
}

/// Writes a JSON column.
pub(crate) fn to_json<T: serde::Serialize>(what: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|why| StoreError::corrupt(what, why))
}

/// A count for a BIGINT column: what does not fit is pinned to the largest.
pub(crate) fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A count from a BIGINT column that never holds less than nothing.
pub(crate) fn to_u64(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// `module::NAME` of every statement that the files below a folder declare.
    fn declared(folder: &Path, above: &str) -> Vec<String> {
        let is_name = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        };
        let mut all = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let module = format!("{above}{}", path.file_stem().unwrap().to_string_lossy());
            if path.is_dir() {
                all.extend(declared(&path, &format!("{module}::")));
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for list in text.split("\nstatements! {\n").skip(1) {
                let (list, _) = list.split_once("\n}\n").unwrap();
                let names = list
                    .lines()
                    .filter_map(|line| line.strip_prefix("    ")?.split_once(" ="));
                let names = names.map(|(name, _)| name).filter(|name| is_name(name));
                all.extend(names.map(|name| format!("{module}::{name}")));
            }
        }
        all
    }

    #[test]
    fn every_statement_that_a_file_declares_is_among_those_that_are_tried() {
        let declared = declared(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store"), "");
        assert!(declared.len() > 200, "{declared:?}");
        let tried: BTreeSet<String> = all_statements().into_iter().map(|(name, _)| name).collect();
        let missing: Vec<&String> = declared.iter().filter(|name| !tried.contains(*name)).collect();
        assert!(missing.is_empty(), "not in all_statements: {missing:?}");
    }

    async fn name_in(path: &Path) -> String {
        let options = SqliteConnectOptions::new().filename(path).read_only(true);
        let pool = SqlitePoolOptions::new().connect_with(options).await.unwrap();
        let name = sqlx::query_scalar("SELECT v FROM copied")
            .fetch_one(&pool)
            .await
            .unwrap();
        pool.close().await;
        name
    }

    #[tokio::test]
    async fn the_copy_before_a_migration_is_whole_or_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.db");
        let db = Db::open(&path).await.unwrap();
        // Somebody reads an old state: the write-ahead log cannot be folded into the file.
        let mut reader = db.read().begin().await.unwrap();
        let _: i64 = sqlx::query_scalar(COUNT_TABLES).fetch_one(&mut *reader).await.unwrap();
        for statement in [
            "CREATE TABLE copied (v TEXT NOT NULL)",
            "INSERT INTO copied (v) VALUES ('whole')",
            "DELETE FROM _sqlx_migrations WHERE version = (SELECT MAX(version) FROM _sqlx_migrations)",
        ] {
            sqlx::query(statement).execute(&db.write).await.unwrap();
        }
        let newest: i64 = sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations")
            .fetch_one(&db.write)
            .await
            .unwrap();
        let copy = path.with_extension(format!("before-migration-{newest}.db"));
        let unfinished = copy.with_extension("db.unfinished");
        std::fs::write(&unfinished, b"power was lost here").unwrap();
        copy_before_migration(&db.write, &path).await.unwrap();
        assert_eq!(name_in(&copy).await, "whole");
        assert!(!unfinished.exists());
        drop(reader);
        db.close().await;
    }
}
