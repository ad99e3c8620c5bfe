//! Updates under SIGKILL: of the agent in every state, of the server in the middle of a rollout. After every restart a
//! valid model serves, and the update goes on.

#![expect(
    clippy::indexing_slicing,
    reason = "a JSON value indexed by a missing key is null; a missing agent fails the test"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use flotilla_tests::agent::PATIENCE;
use flotilla_tests::model::{LINE, rows};
use flotilla_tests::process::eventually;
use flotilla_tests::{Agent, Fleet};
use serde_json::{Value, json};

/// The states that an update passes through when nothing is wrong. `waiting` is entered where starts are spread.
const STATES: [&str; 8] = [
    "waiting",
    "downloading",
    "verifying",
    "installing",
    "self-testing",
    "activating",
    "soaking",
    "committing",
];
/// The states of an update that goes wrong.
const STATES_OF_FAILURE: [&str; 2] = ["rolling-back", "failed"];
const KILLS_PER_STATE: u64 = 3;
/// A device waits for a share of it that only its name and the deployment's decide.
const START_SPREAD_S: u64 = 6;

/// The model must answer, and answer sensibly: it was trained to tell these rows apart.
async fn serves(agent: &Agent) -> anyhow::Result<()> {
    let rows = rows(40);
    let values: Vec<Vec<f32>> = rows.iter().map(|(values, _)| values.clone()).collect();
    let labels = agent.infer(LINE, &values).await.with_context(|| agent.log_tail())?;
    let right = labels
        .iter()
        .zip(&rows)
        .filter(|(got, (_, truth))| got == truth)
        .count();
    anyhow::ensure!(right >= 32, "{right} of 40 rows are right");
    Ok(())
}

fn active(status: &Value) -> &Value {
    &status["slots"]["main"]["active"]["semver"]
}

/// Lets an update of the only device run into `state`, kills the agent there, and starts it again. A model must serve
/// before and after. Returns the rollout.
async fn kill_in(fleet: &mut Fleet, state: &str, model: &Value, soak_s: f64) -> anyhow::Result<String> {
    let agent = &mut fleet.agents[0];
    agent.stop().await?;
    let paused = agent.data_dir().join("paused");
    if paused.exists() {
        std::fs::remove_file(&paused)?;
    }
    agent.configure(&format!("[debug]\npause_in_state = \"{state}\"\n"));
    agent.start().await?;
    let spread = if state == "waiting" { START_SPREAD_S } else { 0 };
    let rollout = fleet.server.roll_out_spread(model, soak_s, spread).await?;
    let agent = &mut fleet.agents[0];
    if state == "rolling-back" {
        // Requests that the soaking model refuses count against it.
        agent
            .status_when("soaking", |status| status["slots"]["main"]["state"] == "soaking")
            .await?;
        for _ in 0..20 {
            let refused = agent.infer(LINE, &[vec![1.0; 9]]).await;
            anyhow::ensure!(refused.is_err(), "a row of nine columns must be refused");
        }
    }
    let reached = eventually("the update pauses", PATIENCE, async || {
        Ok(paused.exists().then_some(()))
    })
    .await;
    reached.with_context(|| format!("{state}: {}", agent.log_tail()))?;
    serves(agent).await.with_context(|| format!("paused in {state}"))?;
    agent.kill()?;

    agent.configure("");
    agent.start().await?;
    serves(agent)
        .await
        .with_context(|| format!("restarted after SIGKILL in {state}"))?;
    Ok(rollout)
}

#[tokio::test]
async fn the_agent_survives_sigkill_in_every_state() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(1).await?;
    let version = fleet.server.labelled_version().await?;
    // Large enough for several chunks; two versions that take turns.
    let models = [
        fleet.server.release(&version, "1.0.0", 1, &[256, 192]).await?,
        fleet.server.release(&version, "2.0.0", 2, &[256, 192]).await?,
    ];
    let foreign = fleet.server.release_for(&version, "3.0.0", &["no-such-arch"]).await?;
    let first = fleet.server.roll_out(&models[0], 0.1).await?;
    fleet.server.rollout_when(&first, &["completed"]).await?;
    serves(&fleet.agents[0]).await?;

    let mut kills: BTreeMap<&str, u64> = BTreeMap::new();
    let mut current = 0;
    for state in STATES {
        for _ in 0..KILLS_PER_STATE {
            current = 1 - current;
            let rollout = kill_in(&mut fleet, state, &models[current], 0.1).await?;
            *kills.entry(state).or_default() += 1;
            let ended = fleet.server.rollout_when(&rollout, &["completed"]).await;
            ended.with_context(|| state)?;
            let agent = &fleet.agents[0];
            agent
                .status_when("the new version", |status| active(status) == &models[current]["semver"])
                .await?;
            serves(agent).await?;
        }
    }
    for state in STATES_OF_FAILURE {
        for _ in 0..KILLS_PER_STATE {
            let model = if state == "failed" {
                &foreign
            } else {
                &models[1 - current]
            };
            let rollout = kill_in(&mut fleet, state, model, 1.0).await?;
            *kills.entry(state).or_default() += 1;
            let ended = fleet.server.rollout_when(&rollout, &["halted"]).await;
            ended.with_context(|| state)?;
            let agent = &fleet.agents[0];
            agent
                .status_when("the version before", |status| {
                    active(status) == &models[current]["semver"]
                })
                .await?;
            serves(agent).await?;
        }
    }
    for state in STATES.into_iter().chain(STATES_OF_FAILURE) {
        println!("figure kills_{} {} kills", state.replace('-', "_"), kills[state]);
        assert_eq!(kills[state], KILLS_PER_STATE);
    }
    let audit = fleet.server.get("/api/v1/audit/verify").await?;
    assert_eq!(audit["ok"], true, "{audit}");
    Ok(())
}

#[tokio::test]
async fn a_rollout_goes_on_after_sigkill_of_the_server() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(2).await?;
    let version = fleet.server.labelled_version().await?;
    let model = fleet.server.release(&version, "1.0.0", 1, &[64]).await?;
    let rollout = fleet
        .server
        .post("/api/v1/rollouts", json!({"model_version": model["id"], "soak_s": 1.0}))
        .await?;
    let id = rollout["id"].as_str().context("id")?.to_owned();
    fleet
        .server
        .post(&format!("/api/v1/rollouts/{id}/start"), json!({}))
        .await?;
    // The canary has its order: kill the server now, with the rollout half way.
    let path = format!("/api/v1/rollouts/{id}/deployments");
    eventually("the canary", PATIENCE, async || {
        let page = fleet.server.get(&path).await?;
        Ok(page["items"].as_array().filter(|items| !items.is_empty()).map(|_| ()))
    })
    .await?;
    fleet.server.kill()?;
    fleet.server.serve().await?;
    let done = fleet.server.rollout_when(&id, &["completed", "halted"]).await?;
    assert_eq!(done["state"], "completed", "{done}");
    for agent in &fleet.agents {
        agent
            .status_when("the model", |status| active(status) == "1.0.0")
            .await?;
        serves(agent).await?;
    }
    let page = fleet.server.get(&path).await?;
    let phases: Vec<_> = page["items"]
        .as_array()
        .context("items")?
        .iter()
        .map(|d| &d["phase"])
        .collect();
    assert_eq!(phases.len(), 2, "each device once: {page}");
    assert!(
        phases.contains(&&json!(0)) && phases.contains(&&json!(1)),
        "a canary first: {page}"
    );
    Ok(())
}

#[tokio::test]
async fn an_aborted_rollout_leaves_a_soaking_device_with_what_it_had() -> anyhow::Result<()> {
    let fleet = Fleet::start(1).await?;
    let version = fleet.server.labelled_version().await?;
    let first = fleet.server.release(&version, "1.0.0", 1, &[16]).await?;
    let second = fleet.server.release(&version, "2.0.0", 2, &[16]).await?;
    let rollout = fleet.server.roll_out(&first, 0.1).await?;
    fleet.server.rollout_when(&rollout, &["completed"]).await?;
    let agent = &fleet.agents[0];
    // Longer than this test may take: only the abort ends it.
    let rollout = fleet.server.roll_out(&second, 600.0).await?;
    agent
        .status_when("soaking", |status| status["slots"]["main"]["state"] == "soaking")
        .await?;
    assert_eq!(active(&agent.status().await?), "2.0.0");
    let path = format!("/api/v1/rollouts/{rollout}/abort");
    fleet.server.post(&path, json!({})).await?;
    agent
        .status_when("the version before", |status| {
            active(status) == "1.0.0" && status["slots"]["main"]["state"] == "failed"
        })
        .await?;
    serves(agent).await?;
    Ok(())
}

/// Kills at moments that nobody chose: in the middle of a download, of a rename, of loading.
#[tokio::test]
async fn the_agent_survives_sigkill_at_any_moment() -> anyhow::Result<()> {
    const KILLS: u32 = 24;
    /// An update of these models takes about as long.
    const SPAN: Duration = Duration::from_millis(140);
    let mut fleet = Fleet::start(1).await?;
    let version = fleet.server.labelled_version().await?;
    let models = [
        fleet.server.release(&version, "1.0.0", 1, &[256, 192]).await?,
        fleet.server.release(&version, "2.0.0", 2, &[256, 192]).await?,
    ];
    let first = fleet.server.roll_out(&models[0], 0.1).await?;
    fleet.server.rollout_when(&first, &["completed"]).await?;

    let mut found: BTreeMap<String, u32> = BTreeMap::new();
    for kill in 0..KILLS {
        let model = &models[(kill as usize + 1) % 2];
        let rollout = fleet.server.roll_out(model, 0.1).await?;
        let agent = &mut fleet.agents[0];
        agent
            .status_when("the update begins", |status| {
                status["slots"]["main"]["state"] != "idle" || active(status) == &model["semver"]
            })
            .await?;
        // The fault's moment, spread evenly over what is left of the update.
        tokio::time::sleep(SPAN * kill / KILLS).await;
        let status = agent.status().await?;
        agent.kill()?;
        let state = status["slots"]["main"]["state"].as_str().unwrap_or("none").to_owned();
        *found.entry(state).or_default() += 1;
        agent.start().await?;
        serves(agent).await.with_context(|| format!("kill {kill}"))?;
        fleet.server.rollout_when(&rollout, &["completed"]).await?;
        let agent = &fleet.agents[0];
        agent
            .status_when("the new version", |status| active(status) == &model["semver"])
            .await?;
        serves(agent).await?;
    }
    println!("figure kills_at_any_moment {KILLS} kills");
    // By what the update was doing just before.
    for (state, kills) in &found {
        println!("figure kills_at_any_moment_{} {kills} kills", state.replace('-', "_"));
    }
    assert!(found.len() >= 3, "the moments are spread over the update: {found:?}");
    let audit = fleet.server.get("/api/v1/audit/verify").await?;
    assert_eq!(audit["ok"], true, "{audit}");
    Ok(())
}
