//! Tests of streams: windows, columns, FIFOs, files.

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::AtomicI64;

use flotilla_protocol::features::{FeatureSpec, Statistic};

use super::*;
use crate::clock::Clock;
use crate::inference::InferenceLimits;
use crate::inference::fixture::{columns, package};

/// Below [`RETRY`]: a test that needs a retry fails.
const LONGEST: Duration = Duration::from_secs(8);

struct Running {
    inference: InferenceHandle,
    status: watch::Receiver<StreamStatus>,
    stop: CancellationToken,
    task: tokio::task::JoinSet<()>,
}

impl Running {
    fn start(path: &Path, kind: StreamKind, rows_per_second: Option<f64>) -> Self {
        let clock = Clock::manual(Arc::new(AtomicI64::new(0)));
        let inference = InferenceHandle::new(clock, InferenceLimits::default());
        let config = StreamConfig {
            name: "s".into(),
            path: path.to_path_buf(),
            kind,
            model: "main".into(),
            rows_per_second,
        };
        config.check().unwrap();
        let (sender, status) = watch::channel(StreamStatus::default());
        let stop = CancellationToken::new();
        let mut task = tokio::task::JoinSet::new();
        task.spawn(run(config, inference.clone(), sender, stop.clone()));
        Self {
            inference,
            status,
            stop,
            task,
        }
    }

    async fn activate(&self, semver: &str, features: &FeatureSpec) {
        let package = package("press", semver, features);
        self.inference.activate("main".parse().unwrap(), package).await.unwrap();
    }

    async fn until(&mut self, what: &str, reached: impl FnMut(&StreamStatus) -> bool) -> StreamStatus {
        let wait = tokio::time::timeout(LONGEST, self.status.wait_for(reached)).await;
        match wait.map(|status| status.unwrap().clone()) {
            Ok(status) => status,
            Err(tokio::time::error::Elapsed { .. }) => panic!("not {what}: {:?}", self.status.borrow()),
        }
    }

    async fn end(mut self) {
        self.stop.cancel();
        self.task.join_next().await.unwrap().unwrap();
        self.inference.shutdown().await;
    }
}

fn rows(n: usize) -> String {
    let rows: Vec<String> = (0..n).map(|i| format!("{i},{}.5,{}\n", i % 7, i % 3)).collect();
    rows.concat()
}

#[tokio::test]
async fn a_file_waits_for_a_model_and_loses_no_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.csv");
    std::fs::write(&path, format!("t,b,a\n{}\nx,nan,1\n1,2\n", rows(100))).unwrap();
    let mut stream = Running::start(&path, StreamKind::File, None);
    let waiting = stream.until("waiting", |s| s.error.is_some()).await;
    assert_eq!(waiting.rows_read, 0);
    stream.activate("1.0.0", &columns(&["a", "b"])).await;
    let status = stream.until("finished", |s| s.finished).await;
    assert_eq!((status.rows_read, status.rows_skipped), (102, 2));
    assert_eq!(
        (status.samples_inferred, status.samples_failed, status.error),
        (100, 0, None)
    );
    let taken = stream.inference.take_telemetry();
    assert_eq!(taken[0].inferences, 100);
    assert!(taken[0].latency.count() < 100, "rows at hand are inferred together");
    let sketch = &taken[0].sketches.as_ref().unwrap().features[0];
    assert!(
        sketch.min.abs() < 1e-6 && (sketch.max - 2.0).abs() < 1e-6,
        "column a, by name: {sketch:?}"
    );
    stream.end().await;
}

#[tokio::test]
async fn a_missing_column_is_named_and_another_model_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.csv");
    std::fs::write(&path, format!("t,b,a\n{}", rows(10))).unwrap();
    let mut stream = Running::start(&path, StreamKind::File, None);
    stream.activate("1.0.0", &columns(&["a", "pressure"])).await;
    let complains = |s: &StreamStatus| s.error.as_deref().is_some_and(|e| e.contains("'pressure'"));
    let status = stream.until("complaining", complains).await;
    assert_eq!(
        status.error.as_deref(),
        Some("model 'press' needs column 'pressure', the stream has t, b, a")
    );
    stream.activate("2.0.0", &columns(&["t", "b"])).await;
    let status = stream.until("finished", |s| s.finished).await;
    assert_eq!((status.samples_inferred, status.error), (10, None));
    stream.end().await;
}

#[tokio::test]
async fn windows_are_cut_with_their_hop() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.csv");
    std::fs::write(&path, format!("t,b,a\n{}", rows(205))).unwrap();
    let mut stream = Running::start(&path, StreamKind::File, None);
    let spec = FeatureSpec::Window {
        channels: vec!["t".into()],
        length: 10,
        hop: 5,
        rate_hz: 10.0,
        statistics: vec![Statistic::Mean, Statistic::Std, Statistic::Max],
    };
    stream.activate("1.0.0", &spec).await;
    let status = stream.until("finished", |s| s.finished).await;
    assert_eq!((status.samples_inferred, status.samples_failed), (40, 0));
    stream.end().await;
}

#[tokio::test]
async fn a_fifo_takes_one_writer_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.fifo");
    let mut stream = Running::start(&path, StreamKind::Fifo, None);
    stream.activate("1.0.0", &columns(&["a", "b"])).await;
    while !path.exists() {
        tokio::task::yield_now().await;
    }
    let write = |text: String| {
        let path = path.clone();
        tokio::task::spawn_blocking(move || {
            let mut fifo = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            fifo.write_all(text.as_bytes()).unwrap();
        })
    };
    write(format!("t,b,a\n{}", rows(40))).await.unwrap();
    stream.until("read", |s| s.samples_inferred == 40).await;
    // One that says nothing is no error.
    write(String::new()).await.unwrap();
    // The next writer has its columns in another order.
    write(format!("a,b\n{}", "1,2\n".repeat(5))).await.unwrap();
    let status = stream.until("read on", |s| s.samples_inferred == 45).await;
    assert_eq!(
        (status.rows_skipped, status.samples_failed, status.finished),
        (0, 0, false)
    );
    stream.end().await;
}

#[tokio::test]
async fn a_writer_whose_columns_do_not_fit_does_not_block_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.fifo");
    let mut stream = Running::start(&path, StreamKind::Fifo, None);
    stream.activate("1.0.0", &columns(&["a", "b"])).await;
    while !path.exists() {
        tokio::task::yield_now().await;
    }
    let write = |text: &'static str| {
        let path = path.clone();
        tokio::task::spawn_blocking(move || {
            let mut fifo = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            fifo.write_all(text.as_bytes()).unwrap();
        })
    };
    write("t,pressure\n1,2\n3,4\n5,6\n").await.unwrap();
    let status = stream.until("dropped", |s| s.rows_skipped == 3).await;
    assert!(status.error.unwrap().contains("needs column 'a'"));
    // A writer that comes before the other one's end was seen is taken for the same one.
    for _ in 0..50 {
        write("a,b\n1,2\n1,2\n").await.unwrap();
        let inferred = stream.status.wait_for(|s| s.samples_inferred > 0);
        if tokio::time::timeout(Duration::from_millis(100), inferred).await.is_ok() {
            break;
        }
    }
    let status = stream.until("read on", |s| s.samples_inferred >= 2).await;
    assert_eq!((status.samples_failed, status.error), (0, None));
    stream.end().await;
}

#[tokio::test]
async fn a_line_that_is_too_long_is_skipped_and_the_header_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.csv");
    let long = "9".repeat(600 * 1024);
    std::fs::write(&path, format!("a,b\n1,2\n{long}\n{}", "3,4\n".repeat(4))).unwrap();
    let mut stream = Running::start(&path, StreamKind::File, None);
    stream.activate("1.0.0", &columns(&["a", "b"])).await;
    let status = stream.until("finished", |s| s.finished).await;
    assert_eq!(
        (status.rows_read, status.rows_skipped, status.samples_inferred),
        (6, 1, 5)
    );
    stream.end().await;
}

#[tokio::test]
async fn a_rate_spreads_rows_over_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.csv");
    std::fs::write(&path, format!("t,b,a\n{}", rows(21))).unwrap();
    let begun = Instant::now();
    let mut stream = Running::start(&path, StreamKind::File, Some(200.0));
    stream.activate("1.0.0", &columns(&["a", "b"])).await;
    stream.until("finished", |s| s.finished).await;
    assert!(begun.elapsed() >= Duration::from_millis(100), "20 steps of 5 ms");
    stream.end().await;
}

#[tokio::test]
async fn a_rate_that_cannot_be_is_refused() {
    let config = |rate| StreamConfig {
        name: "s".into(),
        path: "x".into(),
        kind: StreamKind::File,
        model: "main".into(),
        rows_per_second: Some(rate),
    };
    assert!(config(0.0).check().is_err() && config(f64::NAN).check().is_err() && config(0.1).check().is_ok());
}
