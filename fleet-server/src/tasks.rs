//! Every task of the server is spawned here, told to stop, and joined within a deadline.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

/// Tells tasks that the server is stopping. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Resolves when the server stops.
    pub async fn wait(&mut self) {
        // An error means that the sender is gone, which is a stop as well.
        let stopped = self.0.wait_for(|stop| *stop).await;
        drop(stopped);
    }

    pub fn is_stopping(&self) -> bool {
        *self.0.borrow()
    }
}

/// The server's tasks.
#[derive(Debug)]
pub struct Tasks {
    set: JoinSet<&'static str>,
    stop: watch::Sender<bool>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self {
            set: JoinSet::new(),
            stop: watch::Sender::new(false),
        }
    }
}

impl Tasks {
    pub fn shutdown(&self) -> Shutdown {
        Shutdown(self.stop.subscribe())
    }

    /// Runs a task for as long as the server lives. It must return soon after [`Shutdown::wait`] resolves.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.set.spawn(async move {
            task.await;
            name
        });
    }

    /// Resolves when any task ends: before a stop was asked for, that is a fault, and the server stops.
    pub async fn any_ended(&mut self) -> Option<Result<&'static str, JoinError>> {
        self.set.join_next().await
    }

    /// [`Tasks::stop_by`], in so long.
    pub async fn stop(self, within: Duration) -> usize {
        self.stop_by(Instant::now() + within).await
    }

    /// Tells every task to stop and joins them. Returns how many had to be cut off at the deadline: they end at the next place
    /// where they wait, and are not waited for, for there may be none.
    pub async fn stop_by(mut self, deadline: Instant) -> usize {
        self.stop.send_replace(true);
        let joined = tokio::time::timeout_at(deadline, async {
            while let Some(ended) = self.set.join_next().await {
                if let Err(error) = ended
                    && error.is_panic()
                {
                    tracing::error!(%error, "a task panicked");
                }
            }
        })
        .await;
        if joined.is_ok() {
            return 0;
        }
        self.set.abort_all();
        self.set.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn a_stop_is_over_at_its_deadline_whatever_a_task_does() {
        let mut tasks = Tasks::default();
        let (release, held) = std::sync::mpsc::channel::<()>();
        tasks.spawn("holds its thread", async move {
            let _released = held.recv();
        });
        tasks.spawn("waits for ever", std::future::pending());
        let mut shutdown = tasks.shutdown();
        tasks.spawn("obeys", async move { shutdown.wait().await });
        let stopped = tasks.stop_by(Instant::now() + Duration::from_millis(200));
        let cut_off = tokio::time::timeout(Duration::from_secs(10), stopped).await;
        // Or this runtime would never end.
        drop(release);
        assert_eq!(cut_off.expect("the deadline is not held"), 2);
    }
}
