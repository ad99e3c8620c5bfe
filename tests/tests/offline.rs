//! Server and broker away: devices go on, and everything they counted arrives once afterwards. What cannot arrive any more
//! is declared.

#![expect(
    clippy::indexing_slicing,
    reason = "a JSON value indexed by a missing key is null; a missing agent fails the test"
)]

use std::path::Path;

use anyhow::Context as _;
use flotilla_tests::agent::PATIENCE;
use flotilla_tests::model::{LINE, rows};
use flotilla_tests::process::eventually;
use flotilla_tests::{Agent, Fleet};

#[tokio::test]
async fn every_inference_is_counted_once() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(2).await?;
    let version = fleet.server.labelled_version().await?;
    let model = fleet.server.release(&version, "1.0.0", 1, &[16]).await?;
    let rollout = fleet.server.roll_out(&model, 0.1).await?;
    fleet.server.rollout_when(&rollout, &["completed"]).await?;

    let batch: Vec<Vec<f32>> = rows(25).into_iter().map(|(values, _)| values).collect();
    let mut sent = [0u64; 2];
    let infer = async |fleet: &Fleet, sent: &mut [u64; 2], times: usize| -> anyhow::Result<()> {
        for _ in 0..times {
            for (agent, sent) in fleet.agents.iter().zip(sent.iter_mut()) {
                agent.infer(LINE, &batch).await?;
                *sent += batch.len() as u64;
            }
        }
        Ok(())
    };
    infer(&fleet, &mut sent, 10).await?;
    // Three outages: two clean, one by SIGKILL; during each the devices work on, and one restarts.
    for outage in 0..3 {
        if outage == 1 {
            fleet.server.kill()?;
        } else {
            fleet.server.stop().await?;
        }
        infer(&fleet, &mut sent, 20).await?;
        fleet.agents[0].stop().await?;
        fleet.agents[0].start().await?;
        infer(&fleet, &mut sent, 5).await?;
        fleet.server.serve().await?;
        infer(&fleet, &mut sent, 5).await?;
    }
    for (agent, sent) in fleet.agents.iter().zip(sent) {
        let path = format!("/api/v1/devices/{}", agent.id);
        let counted = eventually("all counts", PATIENCE, async || {
            let device = fleet.server.get(&path).await?;
            let counted = device["inferences"].as_u64().unwrap_or(0);
            anyhow::ensure!(counted <= sent, "{}: {counted} counted, {sent} made", agent.id);
            Ok((counted == sent).then_some(counted))
        })
        .await?;
        let name = agent.id.replace('-', "_");
        println!("figure offline_{name}_inferences_made {sent} inferences");
        println!("figure offline_{name}_inferences_counted {counted} inferences");
        // The spool empties only by receipts; once it is empty nothing can arrive a second time.
        agent
            .status_when("an empty spool", |status| status["spool"]["records"] == 0)
            .await?;
        let device = fleet.server.get(&path).await?;
        assert_eq!(device["inferences"].as_u64(), Some(sent), "counted twice");
    }
    let audit = fleet.server.get("/api/v1/audit/verify").await?;
    assert_eq!(audit["ok"], true, "{audit}");
    Ok(())
}

/// The server's files are set back to an older copy: audit entries that devices were told to forget are gone for good.
#[tokio::test]
async fn lost_audit_entries_are_declared_and_the_chain_goes_on() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(0).await?;
    let mut agent = fleet.new_agent("device-1").await?;
    agent.configure("[spool]\nresend_after_ms = 300\n");
    agent.start().await?;
    let path = "/api/v1/devices/device-1";
    let mut before = delivered(&fleet, &agent, 2).await?;
    fleet.server.stop().await?;
    let copy = fleet.dir().join("copy");
    copy_files("flotilla.db", &fleet.server.dir().join("data"), &copy)?;
    fleet.server.serve().await?;
    for _ in 0..2 {
        agent.stop().await?;
        agent.start().await?;
        before = delivered(&fleet, &agent, before + 2).await?;
    }
    fleet.server.stop().await?;
    copy_files("flotilla.db", &copy, &fleet.server.dir().join("data"))?;
    fleet.server.serve().await?;
    let after = fleet.server.get(path).await?["audit_entries"].as_u64().unwrap_or(0);
    assert!(after < before, "{after} of {before} entries are left");

    agent.stop().await?;
    agent.start().await?;
    let gaps = eventually("the declared loss", PATIENCE, async || {
        let device = fleet.server.get(path).await?;
        Ok(device["audit_gaps"].as_array().filter(|gaps| !gaps.is_empty()).cloned())
    });
    let gaps = gaps.await.with_context(|| agent.log_tail())?;
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!(gaps[0]["lost"].as_u64(), Some(before - after), "{gaps:?}");
    println!("figure audit_entries_lost {} entries", before - after);
    println!("figure audit_entries_declared_lost {} entries", gaps[0]["lost"]);
    let events = fleet.server.get("/api/v1/audit?event=device.audit-gap").await?;
    assert_eq!(events["items"].as_array().map(Vec::len), Some(1), "{events}");
    let there = delivered(&fleet, &agent, after + 1).await?;
    agent.stop().await?;
    agent.start().await?;
    delivered(&fleet, &agent, there + 2).await?;
    let refused = fleet.server.get("/api/v1/audit?event=device-audit.refused").await?;
    let verified = fleet.server.get("/api/v1/audit/verify").await?;
    assert_eq!(verified["ok"], true, "{verified}; {refused}");
    let device = fleet.server.get(path).await?;
    assert_eq!(
        device["audit_gaps"].as_array().map(Vec::len),
        Some(1),
        "it went on: {device}"
    );
    fleet.agents.push(agent);
    Ok(())
}

/// A device's files are set back to an older copy (a reflashed card, a restored backup): it boots and counts by numbers that
/// the server has seen before.
#[tokio::test]
async fn a_device_put_back_to_a_copy_counts_on_and_says_so() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(1).await?;
    let version = fleet.server.labelled_version().await?;
    let model = fleet.server.release(&version, "1.0.0", 1, &[16]).await?;
    let rollout = fleet.server.roll_out(&model, 0.1).await?;
    fleet.server.rollout_when(&rollout, &["completed"]).await?;
    let batch: Vec<Vec<f32>> = rows(25).into_iter().map(|(values, _)| values).collect();
    let mut agent = fleet.agents.pop().context("an agent")?;
    let path = format!("/api/v1/devices/{}", agent.id);
    let copy = fleet.dir().join("copy");
    agent.stop().await?;
    copy_files("agent.redb", &agent.data_dir(), &copy)?;

    let mut sent = 0;
    for life in 0..3 {
        if life > 0 {
            copy_files("agent.redb", &copy, &agent.data_dir())?;
        }
        agent.start().await?;
        for _ in 0..4 {
            agent.infer(LINE, &batch).await?;
            sent += batch.len() as u64;
        }
        let counted = eventually("all counts", PATIENCE, async || {
            let device = fleet.server.get(&path).await?;
            Ok((device["inferences"].as_u64() == Some(sent)).then_some(sent))
        });
        let counted = counted.await.with_context(|| agent.log_tail())?;
        println!("figure put_back_{life}_times_inferences_made {sent} inferences");
        println!("figure put_back_{life}_times_inferences_counted {counted} inferences");
        let gaps = eventually("the declared break", PATIENCE, async || {
            let device = fleet.server.get(&path).await?;
            Ok((device["audit_gaps"].as_array().map_or(0, Vec::len) == life).then_some(life))
        });
        gaps.await.with_context(|| agent.log_tail())?;
        agent
            .status_when("an empty spool", |status| status["spool"]["records"] == 0)
            .await?;
        agent.stop().await?;
    }
    let verified = fleet.server.get("/api/v1/audit/verify").await?;
    assert_eq!(verified["ok"], true, "{verified}");
    let refused = fleet.server.get("/api/v1/audit?event=device-audit.refused").await?;
    assert!(
        refused["items"].as_array().is_some_and(|items| !items.is_empty()),
        "{refused}"
    );
    Ok(())
}

/// Waits until the server has so many of the device's audit entries (every start makes two) and the device waits for nothing.
/// Returns how many there are.
async fn delivered(fleet: &Fleet, agent: &Agent, entries: u64) -> anyhow::Result<u64> {
    let path = format!("/api/v1/devices/{}", agent.id);
    let arrived = eventually("the audit entries", PATIENCE, async || {
        let device = fleet.server.get(&path).await?;
        Ok(device["audit_entries"].as_u64().filter(|count| *count >= entries))
    });
    arrived.await.with_context(|| agent.log_tail())?;
    agent
        .status_when("an empty spool", |status| status["spool"]["records"] == 0)
        .await?;
    let device = fleet.server.get(&path).await?;
    device["audit_entries"].as_u64().context("audit entries")
}

/// The files of a folder whose names begin so, instead of those that are there.
fn copy_files(prefix: &str, from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(to)?.chain(std::fs::read_dir(from)?) {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_owned();
        if !name.starts_with(prefix) {
            continue;
        }
        if path.starts_with(to) {
            std::fs::remove_file(path)?;
        } else {
            std::fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}
