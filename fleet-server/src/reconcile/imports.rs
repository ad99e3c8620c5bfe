//! Cleans up after imports that came to nothing: those whose connection went away, that failed or were cancelled, or that
//! the server's end interrupted. It removes their staged samples batch by batch; finished imports it never touches.

use std::time::Duration;

use flotilla_api_types::datasets::ImportState;
use metrics::counter;

use crate::app::App;
use crate::clock;
use crate::store::imports as store;
use crate::store::{StoreError, audit as audit_log};
use crate::tasks::Shutdown;

const ACTOR: &str = "reconciler:imports";
/// Samples removed per transaction.
const BATCH: u32 = 1000;
/// Ends are told at once; this is for what could not be written then.
const TICK: Duration = Duration::from_mins(1);

/// Runs until the server stops.
pub async fn run(app: App, mut shutdown: Shutdown) {
    loop {
        let work = sweep(&app);
        tokio::select! {
            () = shutdown.wait() => return,
            done = work => if let Err(error) = done {
                tracing::error!(%error, "imports cannot be cleaned up; trying again");
            }
        }
        tokio::select! {
            () = shutdown.wait() => return,
            () = app.imports.ended() => {}
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

/// One round. It may be dropped anywhere: every step is a transaction of its own.
pub(crate) async fn sweep(app: &App) -> Result<(), StoreError> {
    for id in store::unfinished(&app.db).await? {
        if app.imports.is_running(id) {
            continue;
        }
        let why = "the connection or the server went away before the file was in";
        let mut tx = app.db.begin().await?;
        if store::end(&mut tx, id, ImportState::Cancelled, why, clock::now_ms()).await? {
            let detail = [("why", why.to_owned())];
            let record = crate::audit::record(ACTOR, "dataset.import-cancelled", format!("import:{id}"), detail);
            audit_log::append(&mut tx, &record).await?;
        }
        tx.commit().await?;
        app.import_moved(id);
    }
    for id in store::left_over(&app.db).await? {
        loop {
            let removed = store::unstage(&app.db, id, BATCH).await?;
            counter!("flotilla_import_samples_removed_total").increment(removed);
            if removed == 0 {
                break;
            }
        }
    }
    Ok(())
}
