//! Every statement of the store is one text for two databases: this starts a real PostgreSQL (Debian's), runs the
//! migrations, and prepares every statement there and on SQLite.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use fleet_server::store::{Db, all_statements, migrations, sample_queries};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor as _, SqlSafeStr as _};

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
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(postgres.options())
        .await?;
    migrations::POSTGRES.run(&pool).await?;

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
