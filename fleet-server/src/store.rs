//! All SQL of the server. One file per aggregate; every statement is a named constant that SQLite and PostgreSQL both
//! accept (a test prepares them all on both). Nothing outside this folder writes SQL.
//!
//! SQLite has one writer: writes go through a pool of one connection in `BEGIN IMMEDIATE` transactions, reads through a
//! pool of their own (WAL). `synchronous=FULL`, because devices are told to forget what was committed.

pub mod audit;
pub mod datasets;
pub mod devices;
pub mod documents;
pub mod idempotency;
pub mod jobs;
pub mod labels;
pub mod models;
pub mod rollouts;
pub mod runs;
pub mod telemetry;
pub mod tokens;

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool, Transaction};

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

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/sqlite");

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
        MIGRATIONS.run(&write).await?;
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
    let due = MIGRATIONS.iter().any(|migration| migration.version > newest);
    if !due {
        return Ok(());
    }
    let copy = path.with_extension(format!("before-migration-{newest}.db"));
    if copy.exists() {
        return Ok(());
    }
    sqlx::query(CHECKPOINT).execute(&mut *connection).await?;
    std::fs::copy(path, &copy).map_err(|source| StoreError::File {
        path: copy.display().to_string(),
        source,
    })?;
    Ok(())
}

// SQLite's own: these two have no counterpart in PostgreSQL, where a backup is the operator's.
const COUNT_TABLES: &str = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table'";
const CHECKPOINT: &str = "PRAGMA wal_checkpoint(TRUNCATE)";

/// An aggregate's statements with their names.
type Statements = &'static [(&'static str, &'static str)];

/// Every statement of the store, by file and name.
pub fn all_statements() -> Vec<(String, &'static str)> {
    let files: [(&str, Statements); 12] = [
        ("audit", audit::STATEMENTS),
        ("datasets", datasets::STATEMENTS),
        ("devices", devices::STATEMENTS),
        ("documents", documents::STATEMENTS),
        ("idempotency", idempotency::STATEMENTS),
        ("jobs", jobs::STATEMENTS),
        ("labels", labels::STATEMENTS),
        ("models", models::STATEMENTS),
        ("rollouts", rollouts::STATEMENTS),
        ("runs", runs::STATEMENTS),
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
        .collect()
}

/// The PostgreSQL migrations, for the test that prepares every statement there too.
pub static POSTGRES_MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/postgres");

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
