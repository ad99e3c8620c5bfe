//! A device whose disk is really full: the update fails with a reason, nothing that was there is lost, and when there is
//! room again the same package installs.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;
use flotilla_tests::model::{LINE, rows};
use flotilla_tests::{Agent, Fleet};

/// A file system of its own size, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where mounting is not permitted.
    fn mount(at: PathBuf, megabytes: u32) -> anyhow::Result<Option<Self>> {
        std::fs::create_dir_all(&at)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(&at)
            .status()?;
        Ok(mounted.success().then_some(Self(at)))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because the agent may still be ending.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

async fn serves(agent: &Agent) -> anyhow::Result<()> {
    let values: Vec<Vec<f32>> = rows(8).into_iter().map(|(values, _)| values).collect();
    agent.infer(LINE, &values).await.map(drop)
}

#[tokio::test]
async fn a_full_disk_fails_the_update_and_loses_nothing() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(0).await?;
    let version = fleet.server.labelled_version().await?;
    let small = fleet.server.release(&version, "1.0.0", 1, &[16]).await?;
    let large = fleet.server.release(&version, "2.0.0", 2, &[512, 512]).await?;
    let mut agent = fleet.new_agent("device-1").await?;
    let Some(_disk) = SmallDisk::mount(agent.data_dir(), 16)? else {
        println!("not tried: mounting a small file system is not permitted here");
        return Ok(());
    };
    agent.configure("[spool]\nreserve_bytes = 1048576\n");
    agent.start().await?;
    let rollout = fleet.server.roll_out(&small, 0.1).await?;
    fleet.server.rollout_when(&rollout, &["completed"]).await?;
    serves(&agent).await?;

    // Somebody else's file takes all that is left.
    let filler = agent.data_dir().join("filler");
    let filled = Command::new("dd")
        .args(["if=/dev/zero", "bs=64k", "status=none"])
        .arg(format!("of={}", filler.display()))
        .status()?;
    anyhow::ensure!(!filled.success(), "the disk must be full");
    let rollout = fleet.server.roll_out(&large, 0.1).await?;
    let halted = fleet.server.rollout_when(&rollout, &["halted"]).await;
    let halted = halted.with_context(|| agent.log_tail())?;
    assert_eq!(halted["counts"]["failure"], 1, "{halted}");
    let page = fleet
        .server
        .get(&format!("/api/v1/rollouts/{rollout}/deployments"))
        .await?;
    let reason = page["items"][0]["reason"].as_str().unwrap_or_default().to_lowercase();
    assert!(reason.contains("disk") || reason.contains("space"), "{page}");
    serves(&agent).await?;
    let status = agent.status().await?;
    assert_eq!(status["slots"]["main"]["active"]["semver"], "1.0.0", "{status}");

    std::fs::remove_file(&filler)?;
    let rollout = fleet.server.roll_out(&large, 0.1).await?;
    let done = fleet.server.rollout_when(&rollout, &["completed", "halted"]).await?;
    assert_eq!(
        done["state"],
        "completed",
        "with room again: {done}; {}",
        agent.log_tail()
    );
    serves(&agent).await?;
    fleet.agents.push(agent);
    let audit = fleet.server.get("/api/v1/audit/verify").await?;
    assert_eq!(audit["ok"], true, "{audit}");
    Ok(())
}
