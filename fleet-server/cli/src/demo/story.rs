//! How the demo tells what it does: numbered steps, remarks, bars, the time that each step took.

use std::time::Duration;

use indicatif::ProgressBar;
use tokio::time::Instant;

use crate::error::CliError;
use crate::output::{Output, Tone};

#[derive(Debug)]
pub(crate) struct Story {
    out: Output,
    steps: usize,
    done: Vec<(String, Duration)>,
    current: Option<(String, Instant)>,
}

impl Story {
    pub(crate) const fn new(out: Output, steps: usize) -> Self {
        Self {
            out,
            steps,
            done: Vec::new(),
            current: None,
        }
    }

    /// Ends the step before and begins the next.
    pub(crate) fn step(&mut self, title: &str, why: &str) -> Result<(), CliError> {
        self.finish();
        let number = self.done.len() + 1;
        let head = self
            .out
            .paint(Tone::Strong, &format!("[{number:>2}/{}] {title}", self.steps));
        self.out
            .line(&format!("\n{head}\n        {}", self.out.paint(Tone::Faint, why)))?;
        self.current = Some((title.to_owned(), Instant::now()));
        Ok(())
    }

    /// Ends the step under way.
    pub(crate) fn finish(&mut self) {
        if let Some((title, since)) = self.current.take() {
            self.done.push((title, since.elapsed()));
        }
    }

    pub(crate) fn say(&self, text: &str) -> Result<(), CliError> {
        for line in text.lines() {
            self.out.line(&format!("        {line}"))?;
        }
        Ok(())
    }

    pub(crate) fn good(&self, text: &str) -> Result<(), CliError> {
        self.say(&format!("{} {text}", self.out.paint(Tone::Good, "✓")))
    }

    pub(crate) fn bad(&self, text: &str) -> Result<(), CliError> {
        self.say(&format!("{} {text}", self.out.paint(Tone::Bad, "✗")))
    }

    pub(crate) fn bar(&self, length: u64, label: &str) -> ProgressBar {
        self.out.bar(length, label)
    }

    pub(crate) fn spinner(&self, label: &str) -> ProgressBar {
        self.out.spinner(label)
    }

    pub(crate) const fn out(&self) -> &Output {
        &self.out
    }

    pub(crate) fn done(&self) -> &[(String, Duration)] {
        &self.done
    }
}
