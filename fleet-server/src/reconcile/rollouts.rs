//! Carries out what the rollout planner decides, one decision at a time, until it says to wait.

use std::time::Duration;

use flotilla_api_types::rollouts::{Rollout, RolloutState};
use flotilla_protocol::ids::{DeploymentId, RolloutId};
use uuid::Uuid;

use crate::app::{App, Change};
use crate::domain::rollout::plan::Order;
use crate::domain::rollout::{Decision, RolloutFacts, TargetExpression, decide, phases_or_default, silence_s};
use crate::store::rollouts::{NewDeployment, Transition};
use crate::store::{self, StoreError};
use crate::tasks::Shutdown;
use crate::{audit, clock};
use flotilla_expressions::ExprError;

/// News apart, deadlines are looked at this often.
const TICK: Duration = Duration::from_secs(5);
/// News is gathered so long before rollouts are looked at again; longer where looking takes long, so that devices that
/// report much cannot keep the reconciler busy.
const GATHER: Duration = Duration::from_millis(200);
/// Looking at rollouts takes at most one part in so many of the time.
const SHARE: u32 = 5;
/// Devices given the package per transaction.
const BATCH: u64 = 500;
/// Devices looked at per transaction when a rollout begins.
const PAGE: u32 = 500;
/// Devices are given so long after a start of the server to be heard again.
const COMING_BACK_MS: i64 = 300_000;
const ACTOR: &str = "reconciler:rollouts";

#[derive(Debug, thiserror::Error)]
enum RolloutsError {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("target expression: {0}")]
    Target(#[from] ExprError),
}

/// Runs until the server stops.
pub async fn run(app: App, mut shutdown: Shutdown) {
    let mut news = app.changes.listen();
    let since = clock::now_ms();
    loop {
        let began = tokio::time::Instant::now();
        if let Err(error) = reconcile(&app, since).await {
            tracing::error!(%error, "rollouts cannot be reconciled; trying again");
        }
        let gather = began.elapsed().saturating_mul(SHARE).clamp(GATHER, TICK);
        let woken = news.wait_for(|change| matches!(change, Change::Rollout(_) | Change::Device(_)));
        tokio::select! {
            () = shutdown.wait() => return,
            alive = woken => if !alive { return },
            () = tokio::time::sleep(TICK) => continue,
        }
        // What comes in the meantime is seen together. Lost news ends the wait early, which is as good.
        let more = tokio::time::timeout(gather, news.wait_for(|_| false));
        tokio::select! {
            () = shutdown.wait() => return,
            lost = more => if lost == Ok(false) { return },
        }
    }
}

/// Takes the orders of an aborted rollout back from devices that have not finished. It may be dropped anywhere and begun again.
async fn withdraw(app: &App, id: RolloutId) -> Result<(), StoreError> {
    let mut after = String::new();
    loop {
        let last = store::rollouts::withdraw_page(&app.db, id, &after, clock::now_ms()).await?;
        app.changes.tell(Change::Targets);
        app.changes.tell(Change::Rollout(id));
        match last {
            Some(last) => after = last,
            None => return Ok(()),
        }
    }
}

/// `since`: when the server began to listen to devices.
async fn reconcile(app: &App, since: i64) -> Result<(), RolloutsError> {
    for id in store::rollouts::withdrawing(&app.db).await? {
        if let Err(error) = withdraw(app, id).await {
            tracing::error!(rollout = %id, %error, "orders cannot be taken back; trying again");
        }
    }
    for id in store::rollouts::live(&app.db).await? {
        // One rollout that cannot be reconciled does not hold up the others.
        if let Err(error) = advance(app, id, since).await {
            tracing::error!(rollout = %id, %error, "rollout cannot be reconciled; trying again");
        }
    }
    Ok(())
}

/// Takes decisions until there is nothing to do but wait.
async fn advance(app: &App, id: RolloutId, since: i64) -> Result<(), RolloutsError> {
    time_out(app, id, since).await?;
    loop {
        let rollout = store::rollouts::get(&app.db, id).await?;
        if rollout.state != RolloutState::Running {
            return Ok(());
        }
        let Some(waiting) = rollout.waiting else {
            select(app, &rollout).await?;
            continue;
        };
        let progress = store::rollouts::progress(&app.db, id).await?;
        let facts = RolloutFacts {
            phase: rollout.phase,
            phases: phases_or_default(&rollout.spec.phases),
            gates: rollout.spec.gates,
            targeted: waiting + progress.deployed,
            progress,
        };
        let decision = decide(&facts);
        if !carry_out(app, &rollout, &decision).await? {
            return Ok(());
        }
    }
}

/// `true` when there may be more to do at once.
async fn carry_out(app: &App, rollout: &Rollout, decision: &Decision) -> Result<bool, RolloutsError> {
    let text = decision.to_string();
    let stay = Transition {
        from: RolloutState::Running,
        to: RolloutState::Running,
        phase: Some(rollout.phase),
        decision: &text,
    };
    match decision {
        Decision::Deploy { devices, .. } => {
            let mut tx = app.db.begin().await?;
            // Whoever left since the devices were counted is not among these.
            let wanted = (*devices).min(BATCH);
            let chosen: Vec<_> = store::rollout_targets::first(&mut *tx, rollout.id, wanted)
                .await?
                .into_iter()
                .map(|device| NewDeployment {
                    id: DeploymentId::new(Uuid::now_v7()),
                    device,
                })
                .collect();
            if chosen.is_empty() {
                // All went away between counting and choosing: the next wake-up counts again.
                return Ok(false);
            }
            let detail = [
                ("devices", chosen.len().to_string()),
                ("phase", (rollout.phase + 1).to_string()),
            ];
            let now = clock::now_ms();
            if !store::rollouts::set_state(&mut tx, rollout.id, &stay, now).await? {
                // Paused or aborted since the decision: nobody is given anything any more.
                return Ok(false);
            }
            store::rollouts::deploy(&mut tx, rollout, rollout.spec.model_version, &chosen, now).await?;
            let record = audit::record(ACTOR, "rollout.deployed", format!("rollout:{}", rollout.id), detail);
            store::audit::append(&mut tx, &record).await?;
            tx.commit().await.map_err(StoreError::from)?;
            app.changes.tell(Change::Targets);
            app.changes.tell(Change::Rollout(rollout.id));
            Ok(true)
        }
        Decision::Hold { .. } | Decision::NothingTargeted => {
            if rollout.decision != text {
                change(app, rollout, &stay, None).await?;
            }
            Ok(false)
        }
        Decision::NextPhase { .. } => {
            let next = Transition {
                phase: Some(rollout.phase + 1),
                ..stay
            };
            change(app, rollout, &next, Some("rollout.phase-passed")).await
        }
        Decision::Halt { .. } => {
            let halted = Transition {
                to: RolloutState::Halted,
                ..stay
            };
            change(app, rollout, &halted, Some("rollout.halted")).await?;
            Ok(false)
        }
        Decision::Complete { .. } => {
            let complete = Transition {
                to: RolloutState::Completed,
                ..stay
            };
            change(app, rollout, &complete, Some("rollout.completed")).await?;
            Ok(false)
        }
    }
}

/// Changes the rollout's state and records why; `false` when somebody else changed it meanwhile.
async fn change(
    app: &App,
    rollout: &Rollout,
    change: &Transition<'_>,
    event: Option<&str>,
) -> Result<bool, RolloutsError> {
    let mut tx = app.db.begin().await?;
    if !store::rollouts::set_state(&mut tx, rollout.id, change, clock::now_ms()).await? {
        return Ok(false);
    }
    if let Some(event) = event {
        let detail = [
            ("reason", change.decision.to_owned()),
            ("phase", (rollout.phase + 1).to_string()),
        ];
        let record = audit::record(ACTOR, event, format!("rollout:{}", rollout.id), detail);
        store::audit::append(&mut tx, &record).await?;
    }
    tx.commit().await.map_err(StoreError::from)?;
    app.changes.tell(Change::Rollout(rollout.id));
    Ok(true)
}

/// Looks at the whole fleet, once in a rollout's life. Writers have their turn between the pages.
async fn select(app: &App, rollout: &Rollout) -> Result<(), RolloutsError> {
    let target = TargetExpression::compile(&rollout.spec.target)?;
    let order = Order::of(rollout.id, &rollout.spec);
    while !store::rollout_targets::select_page(&app.db, rollout.id, (&target, &order), PAGE).await? {}
    app.changes.tell(Change::Rollout(rollout.id));
    Ok(())
}

/// Fails deployments of devices that said nothing for too long: "in progress" for ever does not exist.
async fn time_out(app: &App, id: RolloutId, since: i64) -> Result<(), RolloutsError> {
    let rollout = store::rollouts::get(&app.db, id).await?;
    let now = clock::now_ms();
    let limit_s = silence_s(&rollout.spec.gates, rollout.spec.start_spread_s);
    let reason = format!("nothing was heard of the device for {limit_s} s");
    let Some(before) = silent_since(now, since, store::rollouts::timeout_ms(limit_s)) else {
        return Ok(());
    };
    if !store::rollouts::is_quiet(&app.db, id, before).await? {
        return Ok(());
    }
    loop {
        let mut tx = app.db.begin().await?;
        let failed = store::rollouts::time_out(&mut tx, id, &reason, before, now).await?;
        if failed == 0 {
            break;
        }
        let detail = [("devices", failed.to_string()), ("reason", reason.clone())];
        let record = audit::record(ACTOR, "rollout.timed-out", format!("rollout:{id}"), detail);
        store::audit::append(&mut tx, &record).await?;
        store::rollouts::touch(&mut tx, id, now).await?;
        tx.commit().await.map_err(StoreError::from)?;
    }
    app.changes.tell(Change::Rollout(id));
    Ok(())
}

/// Who was last heard of before this moment has been silent for longer than `limit_ms`. `None` until the server, which began to
/// listen at `listening`, has given devices [`COMING_BACK_MS`] to return, or the limit where that is shorter: while it was away
/// nobody could be heard.
fn silent_since(now: i64, listening: i64, limit_ms: i64) -> Option<i64> {
    let up = now.saturating_sub(listening);
    (up >= limit_ms.min(COMING_BACK_MS)).then(|| now.saturating_sub(limit_ms))
}

#[cfg(test)]
mod tests;
