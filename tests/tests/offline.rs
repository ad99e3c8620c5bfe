//! Server and broker away: devices go on, and everything they counted arrives once afterwards.

use flotilla_tests::Fleet;
use flotilla_tests::agent::PATIENCE;
use flotilla_tests::model::{LINE, rows};
use flotilla_tests::process::eventually;

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
        println!("{}: {counted} inferences made, {counted} counted", agent.id);
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
