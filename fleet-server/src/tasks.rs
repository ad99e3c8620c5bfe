//! Every task of the server is spawned here, told to stop, and joined within a deadline.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

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

    /// Tells every task to stop and joins them. Returns how many had to be cut off at the deadline.
    pub async fn stop(mut self, deadline: Duration) -> usize {
        self.stop.send_replace(true);
        let joined = tokio::time::timeout(deadline, async {
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
        let left = self.set.len();
        self.set.shutdown().await;
        left
    }
}
