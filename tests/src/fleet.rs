//! A server and enrolled agents together.

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::{Agent, Server};

/// One fleet in a temporary folder.
#[derive(Debug)]
pub struct Fleet {
    pub server: Server,
    pub agents: Vec<Agent>,
    // Dropped last: the processes write into it.
    dir: tempfile::TempDir,
}

impl Fleet {
    /// A server and `agents` running, enrolled agents named `device-1`, ….
    pub async fn start(agents: usize) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let server = Server::start(dir.path()).await?;
        let mut fleet = Self {
            server,
            agents: Vec::new(),
            dir,
        };
        for n in 1..=agents {
            let mut agent = fleet.new_agent(&format!("device-{n}")).await?;
            agent.start().await?;
            fleet.agents.push(agent);
        }
        Ok(fleet)
    }

    /// A device with a claim token, not yet started.
    pub async fn new_agent(&self, id: &str) -> anyhow::Result<Agent> {
        Agent::new(self.dir.path(), id, &self.factory_bundle(1).await?)
    }

    /// A claim token's factory bundle.
    pub async fn factory_bundle(&self, uses: u32) -> anyhow::Result<Value> {
        let token = self
            .server
            .post("/api/v1/claim-tokens", json!({"uses": uses, "lifetime_s": 3600}))
            .await?;
        Ok(token.get("factory_bundle").context("factory bundle")?.clone())
    }

    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }
}
