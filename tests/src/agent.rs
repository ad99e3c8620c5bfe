//! A real agent in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::process::{Process, eventually, http, program};

/// How long anything that a device does may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// An agent, running or not.
#[derive(Debug)]
pub struct Agent {
    process: Option<Process>,
    pub id: String,
    dir: PathBuf,
    extra: String,
    http: reqwest::Client,
}

impl Agent {
    /// A device with a factory bundle, not yet started. `extra` is appended to its configuration.
    pub fn new(dir: &Path, id: &str, bundle: &Value) -> anyhow::Result<Self> {
        let dir = dir.join(id);
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("factory.json"), serde_json::to_vec(bundle)?)?;
        Ok(Self {
            process: None,
            id: id.to_owned(),
            dir,
            extra: String::new(),
            http: http(),
        })
    }

    /// Further lines of its configuration.
    pub fn configure(&mut self, extra: &str) {
        extra.clone_into(&mut self.extra);
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Starts it; returns when it answers.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        let config = self.dir.join("agent.toml");
        let text = format!(
            "data_dir = {:?}\ndevice_id = {:?}\nlisten = \"127.0.0.1:0\"\n[enrolment]\nbundle = {:?}\n\
             [link]\nbackoff_cap_ms = 200\nkeep_alive_s = 2\n[update]\nretry_ms = 200\n\
             [telemetry]\nmin_bundle_interval_ms = 100\n{}",
            self.data_dir().display().to_string(),
            self.id,
            self.dir.join("factory.json").display().to_string(),
            self.extra
        );
        std::fs::write(&config, text)?;
        let address = self.data_dir().join("rest.addr");
        if address.exists() {
            std::fs::remove_file(&address)?;
        }
        let mut command = Command::new(program("fleet-agent")?);
        command.arg("run").arg("--config").arg(&config);
        self.process = Some(Process::start(
            &mut command,
            &self.dir.join("agent.log"),
            Stdio::null(),
        )?);
        let alive = eventually("the agent answers", PATIENCE, async || {
            let process = self.process.as_mut().context("started")?;
            anyhow::ensure!(process.is_running()?, "the agent ended; {}", process.log_tail());
            Ok(self.status().await.ok())
        });
        alive.await.map(drop)
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().context("the agent does not run")?.kill()
    }

    /// SIGTERM; must stop cleanly.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let process = self.process.take().context("the agent does not run")?;
        let status = process.terminate(Duration::from_secs(30)).await?;
        anyhow::ensure!(status.success(), "the agent stopped with {status}");
        Ok(())
    }

    pub fn log_tail(&self) -> String {
        self.process.as_ref().map(Process::log_tail).unwrap_or_default()
    }

    fn url(&self, path: &str) -> anyhow::Result<String> {
        let address = std::fs::read_to_string(self.data_dir().join("rest.addr"))?;
        Ok(format!("http://{}{path}", address.trim()))
    }

    pub async fn status(&self) -> anyhow::Result<Value> {
        let response = self
            .http
            .get(self.url("/flotilla/v1/status")?)
            .timeout(Duration::from_secs(10))
            .send()
            .await?;
        Ok(response.error_for_status()?.json().await?)
    }

    /// Waits until the status shows what is wanted.
    pub async fn status_when(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let mut last = Value::Null;
        let found = eventually(what, PATIENCE, async || {
            last = self.status().await?;
            Ok(wanted(&last).then(|| last.clone()))
        });
        let found = found.await;
        found.with_context(|| format!("device {}: last status {last}; {}", self.id, self.log_tail()))
    }

    /// One inference over the Open Inference Protocol; the predicted labels.
    pub async fn infer(&self, model: &str, rows: &[Vec<f32>]) -> anyhow::Result<Vec<String>> {
        let width = rows.first().map_or(0, Vec::len);
        let flat: Vec<f32> = rows.iter().flatten().copied().collect();
        let body =
            json!({"inputs": [{"name": "input", "shape": [rows.len(), width], "datatype": "FP32", "data": flat}]});
        let response = self
            .http
            .post(self.url(&format!("/v2/models/{model}/infer"))?)
            .json(&body)
            .timeout(Duration::from_secs(30))
            .send()
            .await?;
        let status = response.status();
        let answer: Value = response.json().await?;
        anyhow::ensure!(status.is_success(), "infer: {status}: {answer}");
        let outputs = answer["outputs"].as_array().context("outputs")?;
        let labels = outputs
            .iter()
            .find(|output| output["name"] == "label")
            .context("a 'label' output")?;
        let labels = labels["data"].as_array().context("data")?;
        Ok(labels
            .iter()
            .map(|label| label.as_str().unwrap_or_default().to_owned())
            .collect())
    }
}
