//! The demo's steps, in order. Each takes what the ones before made and tells what it does.

mod field;
mod learn;
mod offline;
mod release;

use std::sync::Arc;
use std::time::Duration;

use flotilla_api_types::audit::AuditVerification;
use flotilla_api_types::devices::{CreateClaimToken, CreatedClaimToken, Device, DeviceStatus};

use crate::client::Client;
use crate::demo::data::{Part, Recording, class_counts};
use crate::demo::fleet::Fleet;
use crate::demo::report::{Moment, Report, mean};
use crate::demo::spec::DemoSpec;
use crate::demo::story::Story;
use crate::demo::stream::Sensor;
use crate::error::CliError;
use crate::output::{bytes, pairs, percent};

/// Steps that are told.
pub(super) const COUNT: usize = 17;
/// For what takes moments.
const SHORT: Duration = Duration::from_mins(1);
/// For what takes training, data or a rollout.
const LONG: Duration = Duration::from_mins(5);

/// What all steps share.
pub(super) struct Stage<'a> {
    spec: &'a DemoSpec,
    recording: Arc<Recording>,
    fleet: &'a mut Fleet,
    story: &'a mut Story,
    report: &'a mut Report,
    client: Client,
    /// For the devices' own interfaces.
    http: reqwest::Client,
    /// In the order of the fleet's devices.
    sensors: Vec<Sensor>,
    /// Samples asked for over the inference protocol.
    asked: u64,
    /// Bytes of packages that devices received.
    package_bytes: u64,
}

/// Plays all steps. The sensors that it returns go on as long as they are kept.
pub(super) async fn run(
    spec: &DemoSpec,
    fleet: &mut Fleet,
    story: &mut Story,
    report: &mut Report,
) -> Result<Vec<Sensor>, CliError> {
    let recording = Arc::new(Recording::load(spec)?);
    introduce(spec, &recording, story)?;
    let client = start(spec, fleet, story).await?;
    let mut stage = Stage {
        spec,
        recording,
        fleet,
        story,
        report,
        client,
        http: reqwest::Client::new(),
        sensors: Vec::new(),
        asked: 0,
        package_bytes: 0,
    };
    stage.enrol().await?;
    stage.around_the_loop().await?;
    stage.audit().await?;
    Ok(stage.sensors)
}

fn introduce(spec: &DemoSpec, recording: &Recording, story: &Story) -> Result<(), CliError> {
    let count = |part| recording.part(part).count();
    let (train, holdout, field) = (count(Part::Train), count(Part::Holdout), count(Part::Field));
    story.out().line(&format!("Flotilla demo: {}", spec.title))?;
    story.say(&format!(
        "{} cases: {train} to learn from (the server sees them without labels), {holdout} held out to measure with, \
         {field} that only devices see",
        recording.cases.len()
    ))?;
    story.say(&format!(
        "classes in the field: {}",
        pairs(class_counts(recording.part(Part::Field)))
    ))
}

async fn start(spec: &DemoSpec, fleet: &mut Fleet, story: &mut Story) -> Result<Client, CliError> {
    story.step(
        "Make a fleet and start its server",
        "keys, certificate authority and database are made; root and release keys stay outside the server",
    )?;
    fleet.init(&format!("demo-{}", spec.dataset.name)).await?;
    let client = fleet.start_server().await?;
    story.good(&format!("server ready at {}", fleet.api))?;
    Ok(client)
}

#[expect(
    clippy::multiple_inherent_impl,
    reason = "the steps of one stage stand in a file per theme"
)]
impl Stage<'_> {
    async fn enrol(&mut self) -> Result<(), CliError> {
        self.story.step(
            "Enrol three devices",
            "one claim token; each agent makes its own keys, which never leave it, and connects over mutual TLS",
        )?;
        let body = CreateClaimToken {
            uses: 3,
            lifetime_s: 3600,
            tags: [("fleet".to_owned(), "demo".to_owned())].into(),
        };
        let created: CreatedClaimToken = self.client.post(&["claim-tokens"]).json(&body)?.send().await?;
        let bundle = created.factory_bundle;
        for (id, is_control) in [("control", true), ("device-a", false), ("device-b", false)] {
            self.fleet.start_device(id, is_control, &bundle)?;
        }
        for (seed, device) in (1..).zip(&self.fleet.devices) {
            let recording = Arc::clone(&self.recording);
            self.sensors.push(Sensor::start(
                recording,
                device.sensor(),
                seed,
                self.spec.rows_per_second,
            ));
        }
        let client = self.client.clone();
        let spinner = self.story.spinner("waiting for three devices");
        let connected = self
            .fleet
            .until("three devices online", SHORT, async |fleet| {
                let devices: Vec<Device> = client.get(&["devices"]).all().await?;
                let online = devices
                    .iter()
                    .filter(|device| device.status == DeviceStatus::Online)
                    .count();
                let answering = fleet.devices.iter().all(|device| device.rest().is_some());
                Ok((online == fleet.devices.len() && answering).then_some(()))
            })
            .await;
        spinner.finish_and_clear();
        connected?;
        self.story
            .good("control, device-a and device-b are online; their sensors wait for a model")
    }

    async fn around_the_loop(&mut self) -> Result<(), CliError> {
        let dataset = self.label().await?;
        let version = self.freeze(&dataset, "before drift").await?;
        let first = self.train("first", &version, "manual").await?;
        self.report
            .accuracy(&self.mean_of_seeds(), Moment::Before, mean(&first.holdout));
        let released = self.release(&first, "1.0.0").await?;
        self.roll_out("first", &released).await?;

        let before = self.serve_undrifted(&released).await?;
        let drifted = self.remount(&dataset, &released, &first).await?;
        let labelled = self.harvest(&dataset).await?;

        let version = self.freeze(&dataset, "with harvested samples").await?;
        self.check_version(&version, labelled);
        let second = self.train("second", &version, "drift").await?;
        let again = self.release(&second, "1.1.0").await?;
        self.roll_out("second", &again).await?;
        let after = self.recover(&drifted, &second, &again).await?;
        self.hold_bars(mean(&first.holdout), mean(&drifted.accuracies), after);
        let what = format!("the devices answer as the server measured: {}", percent(mean(&before)));
        self.report.require(what, mean(&before) >= self.spec.bars.before);
        self.offline().await?;
        self.control_is_calm().await
    }

    async fn audit(&mut self) -> Result<(), CliError> {
        self.story.step(
            "Verify the audit log",
            "the server recomputes every hash chain: its own, and each device's against the head that the device signed",
        )?;
        let client = self.client.clone();
        let verification: AuditVerification = client.get(&["audit", "verify"]).send().await?;
        let (devices, entries) = (verification.devices, verification.device_entries);
        let all = verification.ok && devices == self.fleet.devices.len() as u64;
        let told = format!(
            "{} entries of the server, {entries} of {devices} devices",
            verification.server.entries
        );
        self.report
            .count("audit_entries", verification.server.entries + entries, "entries");
        self.report
            .fact("audit", format!("{}: {told}", if all { "verified" } else { "BROKEN" }));
        self.report.require(format!("the audit log verifies ({told})"), all);
        self.report.count("package_bytes_moved", self.package_bytes, "bytes");
        self.report
            .fact("package bytes moved to devices", bytes(self.package_bytes));
        if all {
            self.story.good(&told)
        } else {
            self.story.bad(&told)
        }
    }

    /// What the mean over the seeds is called in figures and tables.
    fn mean_of_seeds(&self) -> String {
        format!("mean of {} seeds", self.spec.seeds.len())
    }

    /// Compares the means over the seeds with the specification's bars.
    fn hold_bars(&mut self, before: f64, drifted: f64, after: f64) {
        let bars = self.spec.bars;
        let least = percent(bars.before);
        let what = format!("mean accuracy before is {}, at least {least}", percent(before));
        self.report.require(what, before >= bars.before);
        let what = format!(
            "drifted, it is {}, at least {} lower",
            percent(drifted),
            percent(bars.drop)
        );
        self.report.require(what, before - drifted >= bars.drop);
        let what = format!(
            "retrained, it is {}, at most {} lower",
            percent(after),
            percent(bars.recovered)
        );
        self.report.require(what, after >= before - bars.recovered);
    }
}
