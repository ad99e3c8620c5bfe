//! The demo's child processes: started in a process group of their own (Ctrl-C reaches the demo alone), tied to the demo's
//! life, their output in a log each, ended by SIGTERM and, past a deadline, by SIGKILL.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::config;
use crate::error::CliError;

/// Lines of a log that are shown when something goes wrong.
const TAIL: usize = 15;

#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    /// What it prints, line by line; kept open so that it can always print.
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    pub(crate) fn start(name: &str, program: &Path, arguments: &[OsString], log: &Path) -> Result<Self, CliError> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(|why| CliError::file(log, why))?;
        let mut child = Command::new(config::own_program()?)
            .arg("tether")
            .arg("--parent")
            .arg(std::process::id().to_string())
            .arg("--")
            .arg(program)
            .args(arguments)
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .map_err(|why| CliError::file(program, why))?;
        let Some(stdout) = child.stdout.take() else {
            return Err(CliError::Failed(format!("{name} has no output")));
        };
        Ok(Self {
            name: name.to_owned(),
            log: log.to_owned(),
            child,
            lines: BufReader::new(stdout).lines(),
        })
    }

    /// The next line of its output.
    pub(crate) async fn line(&mut self, patience: Duration) -> Result<String, CliError> {
        match tokio::time::timeout(patience, self.lines.next_line()).await {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(Ok(None)) => Err(self.failed("ended before it was ready")),
            Ok(Err(why)) => Err(self.failed(&format!("cannot be read: {why}"))),
            Err(_elapsed) => Err(self.failed(&format!("said nothing for {} s", patience.as_secs()))),
        }
    }

    /// Waits for its end; anything but success is an error.
    pub(crate) async fn succeed(mut self, patience: Duration) -> Result<(), CliError> {
        match tokio::time::timeout(patience, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.failed(&format!("failed ({status})"))),
            Ok(Err(why)) => Err(self.failed(&why.to_string())),
            Err(_elapsed) => Err(self.failed(&format!("did not end in {} s", patience.as_secs()))),
        }
    }

    /// An error if it is gone.
    pub(crate) fn check(&mut self) -> Result<(), CliError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failed(&format!("ended by itself ({status})"))),
            Err(why) => Err(self.failed(&why.to_string())),
        }
    }

    /// SIGTERM, and SIGKILL to what is still there after `patience`. Says whether it ended by itself, successfully.
    pub(crate) async fn stop(&mut self, patience: Duration) -> Result<bool, CliError> {
        let pid = self
            .child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        if let Some(pid) = pid {
            match kill_process(pid, Signal::TERM) {
                // It may have ended meanwhile, which is what is wanted.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(why) => return Err(self.failed(&format!("cannot be told to stop: {why}"))),
            }
        }
        if let Ok(waited) = tokio::time::timeout(patience, self.child.wait()).await {
            let status = waited.map_err(|why| self.failed(&why.to_string()))?;
            return Ok(status.success());
        }
        self.child.kill().await.map_err(|why| self.failed(&why.to_string()))?;
        Ok(false)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn failed(&self, why: &str) -> CliError {
        CliError::Failed(format!("{} {why}\n{}", self.name, self.tail()))
    }

    /// The end of its log, for error messages.
    pub(crate) fn tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let start = lines.len().saturating_sub(TAIL);
        let tail = lines.get(start..).unwrap_or_default().join("\n    ");
        format!("  {}:\n    {tail}", self.log.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_short() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        let text: Vec<String> = (0..100).map(|i| format!("line {i}")).collect();
        std::fs::write(&log, text.join("\n")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let mut child = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let process = Process {
            name: "x".into(),
            log,
            child,
            lines,
        };
        let tail = process.tail();
        assert!(tail.contains("line 85") && !tail.contains("line 84"), "{tail}");
    }
}
