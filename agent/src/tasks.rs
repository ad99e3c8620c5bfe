//! Every task of the agent is spawned here, so that shutdown can stop and join all of them.
//!
//! Shutdown has two steps: `stop` asks for an orderly end (drain, seal, flush), and what has not ended at the deadline is
//! aborted and named in the log.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// The running tasks and the token that ends them.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<&'static str>,
    stop: CancellationToken,
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the agent is to end.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.set.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits until one of the tasks ends by itself: none should before `stop`. `None` when there are none left.
    pub async fn ended(&mut self) -> Option<String> {
        match self.set.join_next().await? {
            Ok(name) => Some(format!("task '{name}' ended")),
            Err(why) => Some(format!("a task failed: {why}")),
        }
    }

    /// Asks every task to end, waits until the deadline, aborts the rest. Returns whether all of them ended by themselves.
    pub async fn shutdown(mut self, deadline: Duration) -> bool {
        self.stop.cancel();
        let drained = tokio::time::timeout(deadline, async {
            while let Some(joined) = self.set.join_next().await {
                match joined {
                    Ok(name) => info!(task = name, "ended"),
                    Err(why) => error!(%why, "a task failed"),
                }
            }
        })
        .await
        .is_ok();
        if !drained {
            warn!(
                left = self.set.len(),
                "the deadline for shutdown has passed: aborting what is left"
            );
            self.set.shutdown().await;
        }
        drained
    }
}

/// Runs one child future as a task of its own and hands back its join handle: for work that must go on while its
/// starter does something else, and that the starter aborts or joins itself.
pub fn spawn_child<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> Child<T> {
    let mut set = JoinSet::new();
    set.spawn(task);
    Child(set)
}

/// A child task. Aborted when dropped.
#[derive(Debug)]
pub struct Child<T: 'static>(JoinSet<T>);

impl<T: Send + 'static> Child<T> {
    /// The child's result; `None` if it panicked, was aborted, or was waited for before.
    pub async fn join(&mut self) -> Option<T> {
        match self.0.join_next().await? {
            Ok(value) => Some(value),
            Err(why) => {
                if !why.is_cancelled() {
                    error!(%why, "a task failed");
                }
                None
            }
        }
    }

    /// Aborts the child and waits until it is gone.
    pub async fn abort(&mut self) {
        self.0.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shutdown_joins_what_ends_and_aborts_what_does_not() {
        let mut tasks = Tasks::new();
        let stop = tasks.stop_token();
        tasks.spawn("orderly", async move { stop.cancelled().await });
        assert!(tasks.shutdown(Duration::from_secs(5)).await);

        let mut tasks = Tasks::new();
        tasks.spawn("stuck", std::future::pending());
        assert!(!tasks.shutdown(Duration::from_millis(1)).await);
    }
}
