//! A small real model on made-up rows: two classes that a line separates. Enough to train, package, sign and roll out.

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flotilla_protocol::manifest::Manifest;
use flotilla_protocol::trust::{Document as _, Envelope, KeyPair, Role};
use serde_json::{Value, json};

use crate::Server;

/// The model line of the tests.
pub const LINE: &str = "sorter";

/// `rows` rows of four columns and what they are: `hot` where `a + b` is above 1.
pub fn rows(rows: usize) -> Vec<(Vec<f32>, &'static str)> {
    (0..rows)
        .map(|i| {
            let spread = |k: usize| ((i * (2 * k + 3) + 7 * k) % 101) as f32 / 101.0 * 1.4 - 0.2;
            let values: Vec<f32> = (0..4).map(spread).collect();
            let label = if values[0] + values[1] > 1.0 { "hot" } else { "cold" };
            (values, label)
        })
        .collect()
}

pub fn csv(rows: &[(Vec<f32>, &str)]) -> String {
    let header = "a,b,c,d,truth\n".to_owned();
    let lines = rows.iter().map(|(values, label)| {
        let values: Vec<String> = values.iter().map(ToString::to_string).collect();
        format!("{},{label}\n", values.join(","))
    });
    std::iter::once(header).chain(lines).collect::<Vec<_>>().concat()
}

/// The body that creates the tests' dataset.
pub fn dataset(name: &str) -> Value {
    json!({
        "name": name, "labels": ["cold", "hot"], "shape": {"kind": "row", "columns": []}, "drop_columns": ["truth"],
        "split": {"kind": "modulo", "modulus": 4, "train": [0, 1, 2], "holdout": [3]}, "harvest_line": LINE,
    })
}

#[expect(
    clippy::multiple_inherent_impl,
    reason = "what makes models stands in a file of its own"
)]
impl Server {
    /// A labelled dataset, frozen: returns the version's id.
    pub async fn labelled_version(&self) -> anyhow::Result<String> {
        let rows = rows(200);
        let dataset = self.post("/api/v1/datasets", dataset("rows")).await?;
        let id = dataset["id"].as_str().context("id")?;
        self.post_csv(&format!("/api/v1/datasets/{id}/imports"), csv(&rows))
            .await?;
        let page = self
            .get(&format!("/api/v1/datasets/{id}/samples?limit=1000&values=true"))
            .await?;
        let annotations: Vec<Value> = page["items"]
            .as_array()
            .context("samples")?
            .iter()
            .map(|sample| {
                let sum = sample["values"][0].as_f64().unwrap_or(0.0) + sample["values"][1].as_f64().unwrap_or(0.0);
                json!({"sample": sample["digest"], "label": if sum > 1.0 { "hot" } else { "cold" }})
            })
            .collect();
        self.post(
            &format!("/api/v1/datasets/{id}/annotations"),
            json!({"annotations": annotations}),
        )
        .await?;
        let version = self.post(&format!("/api/v1/datasets/{id}/versions"), json!({})).await?;
        Ok(version["id"].as_str().context("version id")?.to_owned())
    }

    /// Trains a network; returns the run. `seed` makes models differ, `hidden` sets their size.
    async fn train(&self, version: &str, seed: u64, hidden: &[u32]) -> anyhow::Result<Value> {
        let run = self
            .post(
                "/api/v1/runs",
                json!({
                    "experiment": "tests", "dataset_version": version, "seed": seed,
                    "trainer": {"kind": "mlp", "hidden": hidden, "learning_rate": 0.01, "weight_decay": 0.0,
                        "epochs": 20, "batch_size": 32},
                }),
            )
            .await?;
        self.job(run["job"].as_str().context("job")?).await?;
        Ok(run)
    }

    /// Trains and packages; returns the model version.
    pub async fn package(&self, version: &str, semver: &str, seed: u64, hidden: &[u32]) -> anyhow::Result<Value> {
        let run = self.train(version, seed, hidden).await?;
        let body = json!({"run": run["id"], "semver": semver});
        self.post(&format!("/api/v1/models/{LINE}/versions"), body).await
    }

    /// A signed package for these architectures alone.
    pub async fn release_for(&self, version: &str, semver: &str, arch: &[&str]) -> anyhow::Result<Value> {
        let run = self.train(version, 9, &[8]).await?;
        let body = json!({"run": run["id"], "semver": semver, "arch": arch});
        let model = self.post(&format!("/api/v1/models/{LINE}/versions"), body).await?;
        self.sign(&model, &self.release_key()?).await?;
        Ok(model)
    }

    /// Signs a model version with a key, as `fleetctl sign` does.
    pub async fn sign(&self, model: &Value, key: &KeyPair) -> anyhow::Result<Value> {
        let id = model["id"].as_str().context("model version id")?;
        let manifest = self.get(&format!("/api/v1/model-versions/{id}/manifest")).await?;
        let payload = STANDARD.decode(manifest["payload"].as_str().context("payload")?)?;
        let role: Role = manifest["role"].as_str().context("role")?.parse()?;
        let mut envelope = Envelope::unsigned(payload);
        envelope.add_signature(key, &role, Manifest::SCHEMA)?;
        let body = json!({"envelope": STANDARD.encode(envelope.encode()?)});
        self.post(&format!("/api/v1/model-versions/{id}/signatures"), body)
            .await
    }

    pub fn release_key(&self) -> anyhow::Result<KeyPair> {
        Ok(KeyPair::from_pkcs8_pem(&std::fs::read_to_string(
            self.offline_key("release.key"),
        )?)?)
    }

    /// Trains, packages and signs.
    pub async fn release(&self, version: &str, semver: &str, seed: u64, hidden: &[u32]) -> anyhow::Result<Value> {
        let model = self.package(version, semver, seed, hidden).await?;
        self.sign(&model, &self.release_key()?).await?;
        Ok(model)
    }

    /// Starts a rollout of a model version to everybody at once; returns its id.
    pub async fn roll_out(&self, model: &Value, soak_s: f64) -> anyhow::Result<String> {
        self.roll_out_spread(model, soak_s, 0).await
    }

    /// The same, with the devices' starts spread over so many seconds.
    pub async fn roll_out_spread(&self, model: &Value, soak_s: f64, start_spread_s: u64) -> anyhow::Result<String> {
        let rollout = self
            .post(
                "/api/v1/rollouts",
                json!({
                    "model_version": model["id"], "soak_s": soak_s, "start_spread_s": start_spread_s,
                    "phases": [{"kind": "percent", "percent": 100.0}],
                }),
            )
            .await?;
        let id = rollout["id"].as_str().context("rollout id")?.to_owned();
        self.post(&format!("/api/v1/rollouts/{id}/start"), json!({})).await?;
        Ok(id)
    }

    /// Follows a rollout until it is in one of these states; returns it.
    pub async fn rollout_when(&self, id: &str, states: &[&str]) -> anyhow::Result<Value> {
        let end = tokio::time::Instant::now() + crate::agent::PATIENCE;
        let mut since = String::new();
        loop {
            let rollout = self
                .get(&format!("/api/v1/rollouts/{id}?wait_ms=5000&since={since}"))
                .await?;
            if states.iter().any(|state| rollout["state"] == **state) {
                return Ok(rollout);
            }
            rollout["updated_at"]
                .as_str()
                .unwrap_or_default()
                .clone_into(&mut since);
            anyhow::ensure!(
                tokio::time::Instant::now() < end,
                "rollout {rollout}; {}",
                self.log_tail()
            );
        }
    }
}
