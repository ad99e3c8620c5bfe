//! The devices' sensors: a FIFO each, into which the demo writes the field cases as CSV, pass after pass, each pass in a
//! shuffled order that is the same in every demo.
//!
//! A case is written whole, so that the windows a device cuts are the cases' own. Nothing is lost: a device that does not
//! read holds its sensor up.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, Mode, mkfifoat};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::demo::data::{Case, Mounting, Part, Recording};
use crate::error::CliError;

/// What a sensor does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feed {
    Still,
    Moving(Mounting),
}

/// A device's sensor. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Sensor {
    feed: watch::Sender<Feed>,
    /// Samples that were written in full.
    samples: Arc<AtomicU64>,
    /// `true` while a case is being written.
    busy: watch::Receiver<bool>,
    task: JoinSet<Result<(), CliError>>,
}

/// Everything that a sensor's task needs.
struct Source {
    recording: Arc<Recording>,
    path: PathBuf,
    seed: u64,
    rows_per_second: f64,
}

pub(crate) fn make_fifo(path: &Path) -> Result<(), CliError> {
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).map_err(|why| CliError::file(path, why))
}

impl Sensor {
    /// Opens the FIFO at `path` and waits to be told to move.
    pub(crate) fn start(recording: Arc<Recording>, path: PathBuf, seed: u64, rows_per_second: f64) -> Self {
        let (feed, orders) = watch::channel(Feed::Still);
        let (busy, is_busy) = watch::channel(false);
        let samples = Arc::new(AtomicU64::new(0));
        let source = Source {
            recording,
            path,
            seed,
            rows_per_second,
        };
        let mut task = JoinSet::new();
        task.spawn(run(source, orders, busy, Arc::clone(&samples)));
        Self {
            feed,
            samples,
            busy: is_busy,
            task,
        }
    }

    pub(crate) fn set(&self, feed: Feed) {
        self.feed.send_replace(feed);
    }

    /// Stops at the end of a case and waits until that is written.
    pub(crate) async fn hold(&mut self) -> Result<(), CliError> {
        self.set(Feed::Still);
        if self.busy.wait_for(|busy| !busy).await.is_err() {
            return self.failure().await;
        }
        Ok(())
    }

    pub(crate) fn samples(&self) -> u64 {
        self.samples.load(Ordering::Acquire)
    }

    /// Why the sensor broke, if it did.
    pub(crate) async fn failure(&mut self) -> Result<(), CliError> {
        match self.task.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(why)) => Err(CliError::Failed(format!("a sensor broke: {why}"))),
            None => Err(CliError::Failed("a sensor broke".to_owned())),
        }
    }
}

async fn run(
    source: Source,
    mut orders: watch::Receiver<Feed>,
    busy: watch::Sender<bool>,
    samples: Arc<AtomicU64>,
) -> Result<(), CliError> {
    let failed = |why: std::io::Error| CliError::file(&source.path, why);
    // Opened for both directions, it neither waits for a reader nor fails when the reader goes away for a while.
    let mut fifo = pipe::OpenOptions::new()
        .read_write(true)
        .open_sender(&source.path)
        .map_err(failed)?;
    let recording = &source.recording;
    let header = format!("{}\n", recording.columns.join(","));
    fifo.write_all(header.as_bytes()).await.map_err(failed)?;
    let mut pass = Pass::new(recording.part(Part::Field).collect(), source.seed);
    let mut next = Instant::now();
    loop {
        // Said while the order is borrowed: whoever holds the sensor from now on sees it busy, or its order is seen here.
        let mounting = match orders.wait_for(|feed| *feed != Feed::Still).await {
            Ok(order) => match *order {
                Feed::Still => continue,
                Feed::Moving(mounting) => {
                    busy.send_replace(true);
                    mounting
                }
            },
            Err(_dropped) => return Ok(()),
        };
        let Some(case) = pass.next() else { return Ok(()) };
        next = next.max(Instant::now());
        tokio::time::sleep_until(next).await;
        fifo.write_all(lines(recording, case, mounting).as_bytes())
            .await
            .map_err(failed)?;
        next += Duration::from_secs_f64(rows(case) / source.rows_per_second);
        samples.fetch_add(recording.samples(case, mounting).len() as u64, Ordering::AcqRel);
        busy.send_replace(false);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a case has few rows")]
fn rows(case: &Case) -> f64 {
    case.rows.len() as f64
}

fn lines(recording: &Recording, case: &Case, mounting: Mounting) -> String {
    let mut text = String::new();
    for row in &case.rows {
        let values: Vec<String> = recording.seen(row, mounting).iter().map(ToString::to_string).collect();
        text.push_str(&values.join(","));
        text.push('\n');
    }
    text
}

/// Cases over and over, each pass shuffled anew.
struct Pass<'a> {
    cases: Vec<&'a Case>,
    left: Vec<&'a Case>,
    state: u64,
}

impl<'a> Pass<'a> {
    const fn new(cases: Vec<&'a Case>, seed: u64) -> Self {
        Self {
            cases,
            left: Vec::new(),
            state: seed,
        }
    }

    /// `SplitMix64`: an order that looks like chance and is the same everywhere.
    const fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Fisher and Yates.
    fn shuffle(&mut self) {
        self.left.clone_from(&self.cases);
        for last in (1..self.left.len()).rev() {
            let other = usize::try_from(self.random() % (last as u64 + 1)).unwrap_or(0);
            self.left.swap(last, other);
        }
    }
}

impl<'a> Iterator for Pass<'a> {
    type Item = &'a Case;

    fn next(&mut self) -> Option<&'a Case> {
        if self.left.is_empty() {
            self.shuffle();
        }
        self.left.pop()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::io::{AsyncBufReadExt as _, BufReader};

    use super::*;
    use crate::demo::spec::tests::load;

    #[test]
    fn every_pass_has_every_case_once_and_is_the_same_in_every_demo() {
        let recording = Recording::load(&load("motions")).unwrap();
        let field: Vec<&Case> = recording.part(Part::Field).collect();
        let names = |seed: u64, skip: usize| -> Vec<String> {
            Pass::new(field.clone(), seed)
                .skip(skip)
                .take(24)
                .map(|case| case.names.join("-"))
                .collect()
        };
        for skip in [0, 24, 48] {
            assert_eq!(names(7, skip).iter().collect::<BTreeSet<_>>().len(), 24);
        }
        assert_eq!(names(7, 0), names(7, 0));
        assert_ne!(names(7, 0), names(7, 24));
        assert_ne!(names(7, 0), names(8, 0));
    }

    #[tokio::test]
    async fn a_held_sensor_has_written_whole_cases() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sensor");
        make_fifo(&path).unwrap();
        let recording = Arc::new(Recording::load(&load("motions")).unwrap());
        let mut sensor = Sensor::start(Arc::clone(&recording), path.clone(), 1, 1e6);
        let reader = pipe::OpenOptions::new().open_receiver(&path).unwrap();
        let mut lines = BufReader::new(reader).lines();
        sensor.set(Feed::Moving(Mounting::Remounted));
        let header = lines.next_line().await.unwrap().unwrap();
        assert_eq!(header, "accel_x,accel_y,accel_z,gyro_x,gyro_y,gyro_z");
        for _ in 0..250 {
            lines.next_line().await.unwrap().unwrap();
        }
        let mut read = 250;
        {
            // The sensor may be in the middle of a case: somebody must read it to its end.
            let hold = sensor.hold();
            tokio::pin!(hold);
            loop {
                tokio::select! {
                    held = &mut hold => { held.unwrap(); break; }
                    line = lines.next_line() => { line.unwrap().unwrap(); read += 1; }
                }
            }
        }
        let written = sensor.samples() * 50;
        assert_eq!(written % 100, 0);
        while read < written {
            lines.next_line().await.unwrap().unwrap();
            read += 1;
        }
        assert_eq!(read, written, "what was written is what was counted");
    }
}
