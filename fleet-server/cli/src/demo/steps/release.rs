//! Packages, offline signatures, rollouts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flotilla_api_types::models::{AddSignature, CreateModelVersion, ModelVersion, SignatureState};
use flotilla_api_types::rollouts::{CreateRollout, Deployment, Gates, Harvest, PhaseSize, Rollout};
use flotilla_protocol::ids::SlotName;

use super::learn::Trained;
use super::{LONG, Stage};
use crate::commands::{rollouts, sign};
use crate::error::CliError;
use crate::files;
use crate::output::bytes;
use crate::signing::SigningRequest;

/// Seconds that a device serves a new model before it commits: short, for a demo.
const SOAK_S: f64 = 2.0;
/// A device that says nothing for so long has failed.
const DEVICE_TIMEOUT_S: u64 = 180;

#[expect(
    clippy::multiple_inherent_impl,
    reason = "the steps of one stage stand in a file per theme"
)]
impl Stage<'_> {
    /// Packages the best run and has it signed.
    pub(super) async fn release(&mut self, trained: &Trained, semver: &str) -> Result<ModelVersion, CliError> {
        self.story.step(
            &format!("Package and sign version {semver}"),
            "the server runs the package's golden inputs, then a person signs its manifest with a key the server never sees",
        )?;
        let body = CreateModelVersion {
            run: trained.best()?.id,
            semver: semver.to_owned(),
            hardware_classes: Vec::new(),
            arch: Vec::new(),
            min_ram_bytes: 0,
            p95_budget_us: 0,
            install_days: 180,
            drift: self.spec.drift,
        };
        let line = self.spec.line.to_string();
        let version: ModelVersion = self
            .client
            .post(&["models", &line, "versions"])
            .json(&body)?
            .send()
            .await?;
        self.story.good(&format!(
            "{line} {semver}: {}, {} golden cases within {:.1e}",
            bytes(version.package_bytes),
            version.golden_cases,
            version.golden_max_diff
        ))?;
        self.sign(&version).await
    }

    /// `sign export`, `sign apply`, `sign import`; a tampered signature on the way is refused.
    async fn sign(&mut self, version: &ModelVersion) -> Result<ModelVersion, CliError> {
        let semver = &version.semver;
        let request_file = self.fleet.path(&format!("signing/{semver}.json"));
        let signed_file = self.fleet.path(&format!("signing/{semver}.signed.json"));
        files::write_json(&request_file, &sign::export(&self.client, version.id).await?)?;
        let request: SigningRequest = files::read_json(&request_file)?;
        let signed = request.signed(&sign::read_key(&self.fleet.release_key())?)?;
        files::write_json(&signed_file, &signed)?;
        self.refuse_tampered(version, &signed).await?;
        let answer = sign::import(&self.client, version.id, &files::read_json(&signed_file)?).await?;
        let version: ModelVersion = serde_json::from_value(answer).map_err(|why| CliError::Failed(why.to_string()))?;
        if version.signature != SignatureState::Signed {
            return Err(CliError::Failed(format!(
                "version {} is {:?}",
                version.semver, version.signature
            )));
        }
        self.story
            .good(&format!("signed with {}", self.fleet.release_key().display()))?;
        Ok(version)
    }

    async fn refuse_tampered(&mut self, version: &ModelVersion, signed: &SigningRequest) -> Result<(), CliError> {
        let envelope = signed.envelope.as_deref().unwrap_or_default();
        let mut bytes = BASE64
            .decode(envelope)
            .map_err(|why| CliError::Failed(why.to_string()))?;
        if let Some(last) = bytes.last_mut() {
            *last ^= 1;
        }
        let path = [
            "model-versions".to_owned(),
            version.id.to_string(),
            "signatures".to_owned(),
        ];
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let body = AddSignature {
            envelope: BASE64.encode(bytes),
        };
        let answer: Result<ModelVersion, CliError> = self.client.post(&path).json(&body)?.send().await;
        let refused = match &answer {
            Err(CliError::Refused(problem)) => problem.status < 500,
            _ => false,
        };
        self.report.require(
            format!("a tampered signature of {} is refused", version.semver),
            refused,
        );
        match answer {
            Err(CliError::Refused(problem)) => self.story.good(&format!(
                "one bit of the signature changed: refused ({})",
                problem.detail
            )),
            Err(why) => Err(why),
            Ok(_) => self.story.bad("one bit of the signature changed: ACCEPTED"),
        }
    }

    /// One device first, then all, if it succeeds.
    pub(super) async fn roll_out(&mut self, which: &str, version: &ModelVersion) -> Result<(), CliError> {
        self.story.step(
            &format!("Roll out the {which} model"),
            "a canary first; it installs into the inactive slot, proves itself on the golden inputs, soaks, commits; then all",
        )?;
        let body = CreateRollout {
            model_version: version.id,
            slot: SlotName::main(),
            target: "device.tags[\"fleet\"] == \"demo\"".to_owned(),
            phases: vec![PhaseSize::Count { devices: 1 }, PhaseSize::Percent { percent: 100.0 }],
            gates: Gates {
                min_success: 1.0,
                device_timeout_s: DEVICE_TIMEOUT_S,
            },
            soak_s: SOAK_S,
            max_error_permille: 10,
            max_bytes_per_s: 0,
            start_spread_s: 0,
            harvest: Some(Harvest {
                on_drift: true,
                below_confidence: 0.0,
                max_samples: self.spec.harvest,
            }),
            seed: None,
        };
        let rollout: Rollout = self.client.post(&["rollouts"]).json(&body)?.send().await?;
        let id = rollout.id.to_string();
        let _started: Rollout = self.client.post(&["rollouts", &id, "start"]).send().await?;
        let story = &*self.story;
        let watched = rollouts::watch(story.out(), &self.client, &id, LONG, |line| story.say(line)).await;
        let rollout = watched.map_err(|why| match why {
            CliError::Waited(why) => CliError::Failed(why),
            other => other,
        })?;
        let deployments: Vec<Deployment> = self.client.get(&["rollouts", &id, "deployments"]).all().await?;
        let moved: u64 = deployments.iter().map(|deployment| deployment.bytes_received).sum();
        self.package_bytes += moved;
        let succeeded = deployments
            .iter()
            .filter(|deployment| deployment.state.is_success())
            .count();
        let expected = self.fleet.devices.len();
        self.report.require(
            format!("{} {} runs on {expected} devices", rollout.line, rollout.semver),
            succeeded == expected && deployments.len() == expected,
        );
        self.story.good(&format!(
            "{} {} runs on {succeeded} devices; {} moved",
            rollout.line,
            rollout.semver,
            bytes(moved)
        ))
    }
}
