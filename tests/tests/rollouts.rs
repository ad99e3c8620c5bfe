//! An operator's hand on a rollout: pause, resume after a failed gate, abort while a device is away, against real agents.

#![expect(
    clippy::indexing_slicing,
    reason = "a JSON value indexed by a missing key is null; a missing agent fails the test"
)]

use anyhow::Context as _;
use flotilla_tests::agent::PATIENCE;
use flotilla_tests::process::eventually;
use flotilla_tests::{Fleet, Server};
use serde_json::{Value, json};

async fn create(server: &Server, model: &Value, gates: Value) -> anyhow::Result<String> {
    let ask = json!({"model_version": model["id"], "soak_s": 0.1, "gates": gates});
    let rollout = server.post("/api/v1/rollouts", ask).await?;
    Ok(rollout["id"].as_str().context("id")?.to_owned())
}

async fn order(server: &Server, id: &str, verb: &str) -> anyhow::Result<Value> {
    server.post(&format!("/api/v1/rollouts/{id}/{verb}"), json!({})).await
}

async fn deployments(server: &Server, id: &str) -> anyhow::Result<Vec<Value>> {
    let page = server.get(&format!("/api/v1/rollouts/{id}/deployments")).await?;
    Ok(page["items"].as_array().context("items")?.clone())
}

#[tokio::test]
async fn a_paused_rollout_gives_nobody_anything_and_goes_on_when_resumed() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(2).await?;
    let version = fleet.server.labelled_version().await?;
    let model = fleet.server.release(&version, "1.0.0", 1, &[8]).await?;
    // The canary is away: the rollout waits in its first phase, whoever it is.
    for agent in &mut fleet.agents {
        agent.stop().await?;
    }
    let server = &fleet.server;
    let id = create(server, &model, json!({"min_success": 1.0, "device_timeout_s": 3600})).await?;
    order(server, &id, "start").await?;
    eventually("the canary", PATIENCE, async || {
        Ok((deployments(server, &id).await?.len() == 1).then_some(()))
    })
    .await?;
    assert_eq!(order(server, &id, "pause").await?["state"], "paused");
    for agent in &mut fleet.agents {
        agent.start().await?;
    }
    // The canary finishes what it was given before; nobody else is given anything.
    eventually("the canary's success", PATIENCE, async || {
        Ok((deployments(server, &id).await?[0]["state"] == "success").then_some(()))
    })
    .await?;
    assert_eq!(deployments(server, &id).await?.len(), 1);
    assert_eq!(server.get(&format!("/api/v1/rollouts/{id}")).await?["state"], "paused");
    order(server, &id, "resume").await?;
    server.rollout_when(&id, &["completed"]).await?;
    assert_eq!(deployments(server, &id).await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn resuming_after_a_failed_gate_goes_on_and_an_abort_reaches_devices_that_are_away() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(2).await?;
    let version = fleet.server.labelled_version().await?;
    let model = fleet.server.release(&version, "1.0.0", 1, &[8]).await?;
    for agent in &mut fleet.agents {
        agent.stop().await?;
    }
    let server = &fleet.server;
    let id = create(server, &model, json!({"min_success": 1.0, "device_timeout_s": 1})).await?;
    order(server, &id, "start").await?;
    // The canary says nothing for a second: it has failed.
    let halted = server.rollout_when(&id, &["halted"]).await?;
    assert!(
        halted["decision"]
            .as_str()
            .context("decision")?
            .starts_with("phase 1 failed"),
        "{halted}"
    );
    assert_eq!(deployments(server, &id).await?.len(), 1);

    // Somebody looked at it and goes on: the canary's failure is excused, the other device's is not.
    assert_eq!(order(server, &id, "resume").await?["state"], "running");
    let halted = server.rollout_when(&id, &["halted"]).await?;
    assert!(
        halted["decision"]
            .as_str()
            .context("decision")?
            .starts_with("phase 2 failed"),
        "{halted}"
    );
    let given = deployments(server, &id).await?;
    assert!(
        given.len() == 2 && given.iter().all(|one| one["state"] == "failure"),
        "{given:?}"
    );

    assert_eq!(order(server, &id, "abort").await?["state"], "aborted");
    // Both come back, and nobody wants anything of them any more.
    for agent in &mut fleet.agents {
        agent.start().await?;
    }
    for device in ["device-1", "device-2"] {
        let path = format!("/api/v1/devices/{device}");
        let detail = eventually("the device comes back", PATIENCE, async || {
            let detail = server.get(&path).await?;
            Ok((detail["status"] == "online" && detail["desired"] == json!([])).then_some(detail))
        })
        .await?;
        println!("back, and nothing is wanted of it: {}", detail["id"]);
    }
    for agent in &fleet.agents {
        let status = agent.status().await?;
        assert_eq!(status["slots"]["main"]["active"], Value::Null, "{status}");
    }
    let conflict = server
        .raw(server.request(reqwest::Method::POST, &format!("/api/v1/rollouts/{id}/resume")))
        .await?;
    assert_eq!(conflict.0, 409);
    Ok(())
}
