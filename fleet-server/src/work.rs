//! What long work stands on, whatever it does: how it is told to stop and says how far it is, how its writes are fenced by
//! its claim, and how it ends well. Who runs it, and what becomes of it when it fails, is the business of `jobs`.

use std::sync::{Mutex, PoisonError};

use flotilla_api_types::JobState;

use crate::app::{App, Change};
use crate::blobs::BlobError;
use crate::clock;
use crate::store::jobs::{self as store, Claim, Progress};
use crate::store::{StoreError, Tx};

/// A worker that says nothing for so long has lost its job.
const LEASE_MS: i64 = 30_000;
/// As audit entries name the server itself.
pub(crate) const ACTOR: &str = "server";

/// Why a job stops early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Shutdown,
    Cancelled,
    /// Another worker has it.
    Lost,
}

/// Between a job's work and its supervisor: how far it is, and whether it shall stop.
#[derive(Debug)]
pub struct Control(Mutex<(Option<Stop>, Progress)>);

impl Default for Control {
    fn default() -> Self {
        let progress = Progress {
            share: 0.0,
            message: "starting".to_owned(),
        };
        Self(Mutex::new((None, progress)))
    }
}

impl Control {
    /// Work that sees this ends with [`JobError::Stopped`] soon.
    pub fn is_stopping(&self) -> bool {
        self.with(|(stop, _)| stop.is_some())
    }

    /// [`Self::is_stopping`] as an error.
    pub fn check(&self) -> Result<(), JobError> {
        if self.is_stopping() {
            Err(JobError::Stopped)
        } else {
            Ok(())
        }
    }

    /// `share` in [0, 1]; `message` for people.
    pub fn report(&self, share: f64, message: impl Into<String>) {
        let message = message.into();
        self.with(|(_, progress)| *progress = Progress { share, message });
    }

    pub(crate) fn stop(&self, why: Stop) {
        self.with(|(stop, _)| {
            stop.get_or_insert(why);
        });
    }

    pub(crate) fn stopped(&self) -> Option<Stop> {
        self.with(|(stop, _)| *stop)
    }

    pub(crate) fn progress(&self) -> Progress {
        self.with(|(_, progress)| progress.clone())
    }

    fn with<T>(&self, look: impl FnOnce(&mut (Option<Stop>, Progress)) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Why a job did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error("stopped")]
    Stopped,
    /// It cannot be done, however often it is tried.
    #[error("{0}")]
    Failed(String),
    /// It may work another time.
    #[error(transparent)]
    Store(StoreError),
    #[error(transparent)]
    Blob(BlobError),
}

impl From<BlobError> for JobError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::NotFound(_) | BlobError::Damaged(_) => Self::Failed(error.to_string()),
            error => Self::Blob(error),
        }
    }
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { .. } | StoreError::Corrupt { .. } => Self::Failed(error.to_string()),
            error => Self::Store(error),
        }
    }
}

/// When a lease taken or renewed now runs out.
pub(crate) fn lease_until() -> i64 {
    clock::now_ms() + LEASE_MS
}

/// A write transaction in which the claim is sure to be held.
pub async fn fenced(app: &App, claim: &Claim) -> Result<Tx, StoreError> {
    let mut tx = app.db.begin().await?;
    store::fence(&mut tx, claim, lease_until()).await?;
    Ok(tx)
}

/// Ends a job well, in the transaction of its result, and commits.
pub async fn succeed(app: &App, claim: &Claim, mut tx: Tx, message: &str) -> Result<(), StoreError> {
    let progress = Progress {
        share: 1.0,
        message: message.to_owned(),
    };
    store::finish(&mut tx, claim, JobState::Succeeded, &progress, None, clock::now_ms()).await?;
    tx.commit().await?;
    app.changes.tell(Change::Job(claim.id));
    Ok(())
}
