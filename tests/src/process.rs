//! Child processes that end with the test, and where the programs are.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A program of the workspace, beside the test's own executable. Tests of the whole workspace build it.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    // target/debug/deps/test-… → target/debug
    let folder = test
        .parent()
        .and_then(Path::parent)
        .context("the test executable has no folder")?;
    let path = folder.join(name);
    anyhow::ensure!(
        path.exists(),
        "{} is not built: run 'cargo build --workspace'",
        path.display()
    );
    Ok(path)
}

/// A child that is killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it with standard error going to `log`. Standard output is piped where asked for.
    pub fn start(command: &mut Command, log: &Path, stdout: Stdio) -> anyhow::Result<Self> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(file).spawn()?;
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    pub fn stdout(&mut self) -> anyhow::Result<std::process::ChildStdout> {
        self.child.stdout.take().context("standard output is not piped")
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("no process id")?;
        kill_process(pid, signal).context("the process is gone")
    }

    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// SIGTERM, and the exit status within the deadline.
    pub async fn terminate(self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.ended(deadline).await
    }

    /// The exit status within the deadline.
    pub async fn ended(mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        let log = self.log.clone();
        let waited = tokio::task::spawn_blocking(move || self.child.wait());
        match tokio::time::timeout(deadline, waited).await {
            Ok(status) => Ok(status??),
            Err(_) => bail!("not ended within {deadline:?}; {}", tail(&log)),
        }
    }

    /// SIGKILL.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; either way it is gone afterwards.
        if self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(40).collect();
    format!(
        "{} ends:\n{}",
        log.display(),
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    )
}

/// Looks until `found` gives something. This waits for a condition that has no event of its own; the deadline is the test's.
pub async fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut found: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = tokio::time::Instant::now() + deadline;
    let mut looks = tokio::time::interval(Duration::from_millis(25));
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if let Some(value) = found().await? {
            return Ok(value);
        }
        if tokio::time::Instant::now() > end {
            bail!("{what}: not within {deadline:?}");
        }
    }
}

/// An HTTP client. Two TLS providers are linked into some tests, so one is named before the first client is made.
pub fn http() -> reqwest::Client {
    // An error means that it was named before.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::new()
}
