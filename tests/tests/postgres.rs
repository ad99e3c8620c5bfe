//! Every statement of the store is one text for two databases: this starts a real PostgreSQL (Debian's, 15 or newer), runs the
//! migrations, prepares every statement there and on SQLite, and has both answer where they could mean different things. The
//! PostgreSQL orders text as American English does, unlike SQLite, unless it is told otherwise.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use fleet_server::store::{Db, all_statements, audit, migrations, sample_queries};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _, PgConnection, SqlSafeStr as _, SqliteConnection};

/// A PostgreSQL of our own, stopped and removed when dropped.
struct Postgres {
    bin: PathBuf,
    dir: tempfile::TempDir,
}

impl Postgres {
    fn start() -> anyhow::Result<Self> {
        let bin = binaries()?;
        // /tmp, because a socket's path may have 107 bytes at the most.
        let dir = tempfile::Builder::new().prefix("pg").tempdir_in("/tmp")?;
        hand_over(dir.path())?;
        let postgres = Self { bin, dir };
        run(as_server(&postgres.bin.join("initdb"))
            .args([
                "--auth=trust",
                "--username=flotilla",
                "--encoding=UTF8",
                "--locale-provider=icu",
                "--icu-locale=en-US",
                "--no-sync",
                "-D",
            ])
            .arg(postgres.data()))?;
        let options = format!("-c listen_addresses= -c fsync=off -k {}", postgres.dir.path().display());
        // pg_ctl waits until the server accepts connections.
        run(as_server(&postgres.bin.join("pg_ctl"))
            .args(["start", "-w", "-l"])
            .arg(postgres.dir.path().join("log"))
            .arg("-D")
            .arg(postgres.data())
            .args(["-o", &options]))?;
        Ok(postgres)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn options(&self) -> PgConnectOptions {
        PgConnectOptions::new()
            .socket(self.dir.path())
            .username("flotilla")
            .database("postgres")
    }

    /// With the server's schema.
    async fn migrated(&self) -> anyhow::Result<PgPool> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect_with(self.options())
            .await?;
        migrations::POSTGRES.run(&pool).await?;
        Ok(pool)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let stopped = run(as_server(&self.bin.join("pg_ctl"))
            .args(["stop", "-m", "fast", "-D"])
            .arg(self.data()));
        assert!(
            stopped.is_ok() || std::thread::panicking(),
            "PostgreSQL cannot be stopped: {stopped:?}"
        );
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdout(Stdio::null()).status()?;
    anyhow::ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// Debian keeps the server's programs out of PATH.
fn binaries() -> anyhow::Result<PathBuf> {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .context("no PostgreSQL: install Debian's package 'postgresql'")?
        .map(|entry| Ok(entry?.path().join("bin")))
        .collect::<std::io::Result<_>>()?;
    versions.retain(|bin| bin.join("initdb").exists());
    versions.sort();
    versions
        .pop()
        .context("no PostgreSQL server: install Debian's package 'postgresql'")
}

/// PostgreSQL refuses to run as root; then it runs as the user that Debian's package made.
fn as_server(program: &Path) -> Command {
    if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"])
            .arg(program);
        command
    } else {
        Command::new(program)
    }
}

fn hand_over(dir: &Path) -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        let done = Command::new("chown").arg("postgres").arg(dir).status()?;
        anyhow::ensure!(done.success(), "chown: {done}");
    }
    Ok(())
}

#[tokio::test]
async fn every_statement_is_accepted_by_both_databases() -> anyhow::Result<()> {
    let postgres = Postgres::start()?;
    let pool = postgres.migrated().await?;

    let dir = tempfile::tempdir()?;
    let sqlite = Db::open(&dir.path().join("test.db")).await?;
    let statements = all_statements();
    anyhow::ensure!(statements.len() > 50, "only {} statements are listed", statements.len());
    let mut refused = Vec::new();
    for (name, sql) in &statements {
        if let Err(error) = (&pool).prepare((*sql).into_sql_str()).await {
            refused.push(format!("PostgreSQL: {name}: {error}"));
        }
        if let Err(error) = sqlite.read().prepare((*sql).into_sql_str()).await {
            refused.push(format!("SQLite: {name}: {error}"));
        }
    }
    // What filters become: put together from fixed pieces, all of which stand in these.
    for sql in sample_queries() {
        if let Err(error) = (&pool).prepare(AssertSqlSafe(sql.as_str()).into_sql_str()).await {
            refused.push(format!("PostgreSQL: {sql}: {error}"));
        }
        if let Err(error) = sqlite.read().prepare(AssertSqlSafe(sql.as_str()).into_sql_str()).await {
            refused.push(format!("SQLite: {sql}: {error}"));
        }
    }
    anyhow::ensure!(refused.is_empty(), "refused:\n{}", refused.join("\n"));
    pool.close().await;
    Ok(())
}

/// A statement of the store.
fn statement(name: &str) -> anyhow::Result<&'static str> {
    let all = all_statements();
    let found = all.iter().find(|(other, _)| other == name);
    Ok(found.with_context(|| format!("there is no statement {name}"))?.1)
}

/// Texts that their bytes put in one order and American English in another; the first five begin with `token:`.
const TEXTS: [&str; 11] = [
    "token:",
    "token:Ann",
    "token:ann",
    "token:ann-2",
    "token:a\u{f1}",
    "Token:ann",
    "TOKEN:ann",
    "tok\u{e9}n:ann",
    "token;ann",
    "token-ann",
    "tokem:zoe",
];

/// What a database makes of [`TEXTS`].
#[derive(Debug, PartialEq)]
struct Answers {
    /// The devices of all pages, each from behind the last of the one before.
    pages: Vec<String>,
    /// The devices between the first and the last of every page.
    spans: Vec<Vec<String>>,
    /// Places in the log of whoever begins with `token:`.
    beginning: Vec<i64>,
}

/// The same for both databases, which sqlx has different types for.
macro_rules! answers {
    ($fill:ident, $ask:ident, $connection:ty) => {
        async fn $fill(db: &mut $connection) -> anyhow::Result<()> {
            for (place, text) in (0i64..).zip(TEXTS) {
                sqlx::query(statement("audit::DEVICE_SET_HEAD")?)
                    .bind(text)
                    .bind(0i64)
                    .bind(1i64)
                    .bind("hash")
                    .bind(&b"envelope"[..])
                    .execute(&mut *db)
                    .await?;
                sqlx::query(statement("audit::DEVICE_APPEND")?)
                    .bind(text)
                    .bind(0i64)
                    .bind(0i64)
                    .bind(place)
                    .bind("event")
                    .bind(&b"entry"[..])
                    .execute(&mut *db)
                    .await?;
                sqlx::query(statement("audit::APPEND")?)
                    .bind(place)
                    .bind(place)
                    .bind("event")
                    .bind(text)
                    .bind("subject")
                    .bind(&b"entry"[..])
                    .bind("hash")
                    .execute(&mut *db)
                    .await?;
            }
            Ok(())
        }

        async fn $ask(db: &mut $connection) -> anyhow::Result<Answers> {
            let (mut pages, mut spans, mut after) = (Vec::new(), Vec::new(), String::new());
            loop {
                let heads: Vec<(String, i64, i64, String)> = sqlx::query_as(statement("audit::DEVICE_HEADS")?)
                    .bind(&after)
                    .bind(3i64)
                    .fetch_all(&mut *db)
                    .await?;
                let Some((last, ..)) = heads.last() else { break };
                let entries: Vec<(String, i64, i64, i64, String, Vec<u8>)> =
                    sqlx::query_as(statement("audit::DEVICE_WALK")?)
                        .bind(&after)
                        .bind(last)
                        .fetch_all(&mut *db)
                        .await?;
                spans.push(entries.into_iter().map(|(device, ..)| device).collect());
                after.clone_from(last);
                pages.extend(heads.into_iter().map(|(device, ..)| device));
            }
            // Event, actor and subject begin with something, between two times.
            let queries = audit::sample_queries();
            let query = queries.last().context("the filters' statements")?;
            let [first, beyond] = audit::beginning_with("token:");
            let [any, all] = audit::beginning_with("");
            let found: Vec<(i64, Vec<u8>)> = sqlx::query_as(AssertSqlSafe(query.as_str()))
                .bind(i64::MAX)
                .bind(&any)
                .bind(&all)
                .bind(&first)
                .bind(&beyond)
                .bind(&any)
                .bind(&all)
                .bind(0i64)
                .bind(i64::MAX)
                .bind(100i64)
                .fetch_all(&mut *db)
                .await?;
            Ok(Answers {
                pages,
                spans,
                beginning: found.into_iter().map(|(place, _)| place).collect(),
            })
        }
    };
}

answers!(fill_postgres, ask_postgres, PgConnection);
answers!(fill_sqlite, ask_sqlite, SqliteConnection);

#[tokio::test]
async fn text_has_one_order_in_both_databases() -> anyhow::Result<()> {
    let postgres = Postgres::start()?;
    let pool = postgres.migrated().await?;
    let otherwise: Vec<(String, String)> = sqlx::query_as(
        "SELECT table_name::text, column_name::text FROM information_schema.columns WHERE table_schema = 'public'
         AND data_type IN ('text', 'character varying') AND collation_name IS DISTINCT FROM 'C'
         AND table_name NOT LIKE '\\_sqlx%' ORDER BY 1, 2",
    )
    .fetch_all(&pool)
    .await?;
    anyhow::ensure!(
        otherwise.is_empty(),
        "not TEXT COLLATE \"C\" in migrations/postgres: {otherwise:?}"
    );
    // Else the rest would prove nothing.
    let english: bool = sqlx::query_scalar("SELECT 'a' < 'B' AND 'B' < 'c'")
        .fetch_one(&pool)
        .await?;
    assert!(english, "this PostgreSQL orders text by its bytes anyway");

    let dir = tempfile::tempdir()?;
    let path = dir.path().join("test.db");
    Db::open(&path).await?.close().await;
    let mut sqlite = SqliteConnectOptions::new().filename(&path).connect().await?;
    fill_sqlite(&mut sqlite).await?;
    let one = ask_sqlite(&mut sqlite).await?;
    let mut connection = pool.acquire().await?;
    fill_postgres(&mut connection).await?;
    let other = ask_postgres(&mut connection).await?;
    drop(connection);
    assert_eq!(one, other);

    let mut by_bytes = TEXTS.to_vec();
    by_bytes.sort_unstable();
    assert_eq!(one.pages, by_bytes);
    let spans: Vec<Vec<&str>> = by_bytes.chunks(3).map(<[&str]>::to_vec).collect();
    assert_eq!(one.spans, spans);
    assert_eq!(one.beginning, [4, 3, 2, 1, 0], "the newest first");
    pool.close().await;
    Ok(())
}

/// A column is in the order of bytes, where `LOWER` knows A to Z alone, as on SQLite. A bound text has the database's own order,
/// where it knows all alphabets: a text would not be found by itself. So what is looked for comes in lower case.
#[test]
fn no_database_is_asked_to_lower_what_somebody_typed() {
    let statements = all_statements().into_iter().map(|(_, sql)| sql.to_owned());
    for sql in statements.chain(sample_queries()) {
        assert!(!sql.contains("LOWER($"), "lower it in Rust: {sql}");
    }
}
