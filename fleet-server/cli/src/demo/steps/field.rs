//! What happens in the field: serving, drift, harvest, recovery.

use std::collections::BTreeMap;

use flotilla_api_types::Page;
use flotilla_api_types::datasets::{Annotation, Dataset, Sample};
use flotilla_api_types::drift::DeviceDrift;
use flotilla_api_types::models::ModelVersion;
use flotilla_protocol::ids::{DatasetVersionId, DeviceId};

use super::learn::Trained;
use super::offline::own_counts;
use super::{LONG, Stage};
use crate::demo::data::{Mounting, Part, Truth};
use crate::demo::report::{Moment, mean};
use crate::demo::score::{Score, score};
use crate::demo::stream::Feed;
use crate::error::CliError;
use crate::output::percent;

/// What the re-mount did to the first model.
pub(super) struct Drifted {
    /// The held-out cases, re-mounted.
    version: DatasetVersionId,
    /// One per seed.
    pub(super) accuracies: Vec<f64>,
}

impl Stage<'_> {
    /// Sensors as they were: nobody must complain.
    pub(super) async fn serve_undrifted(&mut self, version: &ModelVersion) -> Result<Vec<f64>, CliError> {
        self.story.step(
            "Serve",
            "each device reads its sensor, infers, and compares what it sees with what the model was trained on",
        )?;
        for sensor in &self.sensors {
            sensor.set(Feed::Moving(Mounting::AsTrained));
        }
        let rows = self
            .wait_for_drift(version, "a judgement of every device", |rows, devices| {
                devices
                    .iter()
                    .all(|device| rows.get(device).is_some_and(|row| row.judgements > 0))
            })
            .await?;
        let alarms: u64 = rows.values().map(|row| row.alarms).sum();
        for (device, row) in &rows {
            self.story.say(&format!(
                "{device}: {} of the features drifted, {} alarms",
                percent(row.share),
                row.alarms
            ))?;
        }
        self.report
            .require("no device raises an alarm before the re-mount", alarms == 0);
        let mut accuracies = Vec::new();
        for (device, accuracy) in self.score_devices(Moment::Before).await? {
            self.report.accuracy(device.as_str(), Moment::Before, accuracy);
            accuracies.push(accuracy);
        }
        let told = format!(
            "devices answer {} of the held-out cases rightly",
            percent(mean(&accuracies))
        );
        self.story.good(&told)?;
        Ok(accuracies)
    }

    /// Two sensors are re-mounted: the devices must notice by themselves.
    pub(super) async fn remount(
        &mut self,
        dataset: &str,
        version: &ModelVersion,
        first: &Trained,
    ) -> Result<Drifted, CliError> {
        let spec = self.spec;
        self.story.step("Re-mount two sensors", spec.remount.words())?;
        for (device, sensor) in self.fleet.devices.iter().zip(&self.sensors) {
            if !device.is_control {
                sensor.set(Feed::Moving(Mounting::Remounted));
            }
        }
        let remounted: Vec<DeviceId> = self.fleet.remounted().map(|device| device.id.clone()).collect();
        let rows = self
            .wait_for_drift(version, "the drift alarm of the re-mounted devices", |rows, _| {
                remounted
                    .iter()
                    .all(|device| rows.get(device).is_some_and(|row| row.drifted))
            })
            .await?;
        for (device, row) in &rows {
            let worst: Vec<&str> = row.worst.iter().take(3).map(|feature| feature.name.as_str()).collect();
            let alarm = if row.drifted { "DRIFT" } else { "calm" };
            let told = format!(
                "{device}: {alarm}, {} of the features drifted ({})",
                percent(row.share),
                worst.join(", ")
            );
            self.story.say(&told)?;
            self.report.figure(
                format!("drift_share_{}", device.as_str().replace('-', "_")),
                row.share,
                "share",
            );
            self.report.fact(
                &format!("drift on {device}"),
                format!("{alarm}, {} of the features", percent(row.share)),
            );
        }
        self.report
            .require("both re-mounted devices raise the drift alarm", true);
        // Scored only once harvesting is complete, or held-out cases could be harvested.
        self.await_harvest(dataset).await?;
        for (device, accuracy) in self.score_devices(Moment::Drifted).await? {
            self.report.accuracy(device.as_str(), Moment::Drifted, accuracy);
        }
        let version = self.drifted_holdout().await?;
        let accuracies = self.evaluate(first, version).await?;
        self.report
            .accuracy(&self.mean_of_seeds(), Moment::Drifted, mean(&accuracies));
        let told = format!(
            "on the re-mounted held-out cases the model falls to {}",
            percent(mean(&accuracies))
        );
        self.story.good(&told)?;
        Ok(Drifted { version, accuracies })
    }

    /// Waits until enough samples arrived, and until the devices keep no more: after two whole passes each has seen every
    /// field case, which is as many as it may keep, or more.
    async fn await_harvest(&mut self, dataset: &str) -> Result<(), CliError> {
        let wanted = u64::from(self.spec.harvest);
        let pass = self.recording.part(Part::Field);
        let pass: usize = pass
            .map(|case| self.recording.samples(case, Mounting::Remounted).len())
            .sum();
        let before = self.own_counts().await?;
        let bar = self.story.bar(wanted, "harvesting");
        let (client, http, progress) = (self.client.clone(), self.http.clone(), bar.clone());
        let waited = self
            .fleet
            .until("harvested samples", LONG, async |fleet| {
                let dataset: Dataset = client.get(&["datasets", dataset]).send().await?;
                let harvested: u64 = harvests(&dataset).map(|(_, count)| count).sum();
                progress.set_position(harvested.min(wanted));
                let now = own_counts(&http, fleet).await?;
                let seen_all = now
                    .iter()
                    .zip(&before)
                    .all(|(now, before)| now.inferred >= before.inferred + 2 * pass as u64);
                Ok((harvested >= wanted && seen_all).then_some(()))
            })
            .await;
        bar.finish_and_clear();
        waited
    }

    /// The scripted human labels what the devices sent. Returns how many.
    pub(super) async fn harvest(&mut self, dataset: &str) -> Result<u64, CliError> {
        self.story.step(
            "Label what the devices harvested",
            "inputs seen while drifting came back on their own; a person labels them, nothing else of the field is known",
        )?;
        let listed: Dataset = self.client.get(&["datasets", dataset]).send().await?;
        let slices: Vec<String> = harvests(&listed).map(|(slice, _)| slice.clone()).collect();
        let truth = Truth::of(&self.recording, &[Part::Field], Mounting::Remounted);
        let measure = Truth::of(&self.recording, &[Part::Holdout], Mounting::Remounted);
        let mut annotations = Vec::new();
        let (mut leaked, mut unknown) = (0u64, 0u64);
        for slice in &slices {
            let call = self.client.get(&["datasets", dataset, "samples"]).query("slice", slice);
            let samples: Vec<Sample> = call.query("labelled", false).query("values", true).all().await?;
            for sample in samples {
                let values = sample.values.as_deref().unwrap_or_default();
                match (truth.label(values), measure.label(values)) {
                    (Some((label, _)), _) => annotations.push(Annotation {
                        sample: sample.digest,
                        label: label.to_owned(),
                    }),
                    (None, Some(_)) => leaked += 1,
                    (None, None) => unknown += 1,
                }
            }
        }
        let labelled = self.send_annotations(dataset, annotations).await?;
        self.report.count("harvested", labelled, "samples");
        self.report.fact(
            "harvested and labelled",
            format!("{labelled} samples in {} slices", slices.len()),
        );
        self.report.require(
            format!(
                "at least {} harvested samples are labelled ({labelled})",
                self.spec.harvest
            ),
            labelled >= u64::from(self.spec.harvest),
        );
        self.report
            .require(format!("no held-out case was harvested ({leaked})"), leaked == 0);
        if unknown > 0 {
            self.story
                .say(&format!("{unknown} samples straddle the re-mount and are left alone"))?;
        }
        self.story
            .good(&format!("{labelled} samples labelled"))
            .map(|()| labelled)
    }

    /// After the second rollout: measured on cases that no device ever harvested.
    pub(super) async fn recover(
        &mut self,
        drifted: &Drifted,
        second: &Trained,
        version: &ModelVersion,
    ) -> Result<f64, CliError> {
        self.story.step(
            "Measure the recovery",
            "re-mounted held-out cases, none of them ever harvested; and the control, whose sensor never moved",
        )?;
        let after = mean(&self.evaluate(second, drifted.version).await?);
        self.report.accuracy(&self.mean_of_seeds(), Moment::After, after);
        self.report
            .figure("accuracy_undrifted_after", mean(&second.holdout), "share");
        let floor = self.spec.bars.before;
        for (device, accuracy) in self.score_devices(Moment::After).await? {
            self.report.accuracy(device.as_str(), Moment::After, accuracy);
            let is_control = self.fleet.device(&device).is_some_and(|device| device.is_control);
            if is_control {
                self.report.require(
                    format!("the control is unharmed: {}", percent(accuracy)),
                    accuracy >= floor,
                );
            }
        }
        let rows = self
            .wait_for_drift(version, "calm on every device", |rows, devices| {
                devices
                    .iter()
                    .all(|device| rows.get(device).is_some_and(|row| row.judgements > 0 && !row.drifted))
            })
            .await?;
        for (device, row) in &rows {
            self.story
                .say(&format!("{device}: calm, nearest to slice '{}'", row.nearest_slice))?;
        }
        self.report
            .require("the drift alarm clears on the re-mounted devices", true);
        self.story
            .good(&format!("accuracy on the re-mounted cases is {} again", percent(after)))?;
        Ok(after)
    }

    /// The control must never have raised an alarm, under any model.
    pub(super) async fn control_is_calm(&mut self) -> Result<(), CliError> {
        let rows: Vec<DeviceDrift> = self.client.get(&["drift"]).all().await?;
        let of_control = rows
            .iter()
            .filter(|row| self.fleet.device(&row.device).is_some_and(|device| device.is_control));
        let (mut alarms, mut judgements) = (0, 0);
        for row in of_control {
            alarms += row.alarms;
            judgements += row.judgements;
        }
        self.report.count("control_alarms", alarms, "alarms");
        self.report.count("control_judgements", judgements, "judgements");
        let what = format!("the control raises no alarm ({alarms} of {judgements} judgements)");
        self.report.require(what, alarms == 0 && judgements > 0);
        Ok(())
    }

    /// Waits until the server's judgements of a version are as wanted.
    async fn wait_for_drift(
        &mut self,
        version: &ModelVersion,
        what: &str,
        wanted: impl Fn(&BTreeMap<DeviceId, DeviceDrift>, &[DeviceId]) -> bool,
    ) -> Result<BTreeMap<DeviceId, DeviceDrift>, CliError> {
        let devices: Vec<DeviceId> = self.fleet.devices.iter().map(|device| device.id.clone()).collect();
        let (client, manifest) = (self.client.clone(), version.manifest);
        let spinner = self.story.spinner(&format!("waiting for {what}"));
        // The first look does not wait: what is wanted may hold already.
        let mut patience_ms = 0;
        let found = self
            .fleet
            .until(what, LONG, async |_| {
                let call = client
                    .get(&["drift"])
                    .query("limit", 1000)
                    .query("wait_ms", patience_ms);
                let page: Page<DeviceDrift> = call.send().await?;
                patience_ms = 1000;
                let rows = page.items.into_iter().filter(|row| row.manifest == manifest);
                let rows: BTreeMap<DeviceId, DeviceDrift> = rows.map(|row| (row.device.clone(), row)).collect();
                Ok(wanted(&rows, &devices).then_some(rows))
            })
            .await;
        spinner.finish_and_clear();
        found
    }

    /// Asks every device about the held-out cases, mounted as its own sensor is at that moment.
    async fn score_devices(&mut self, moment: Moment) -> Result<Vec<(DeviceId, f64)>, CliError> {
        let mut accuracies = Vec::new();
        for device in &self.fleet.devices {
            let mounting = if device.is_control || moment == Moment::Before {
                Mounting::AsTrained
            } else {
                Mounting::Remounted
            };
            let Some(rest) = device.rest() else {
                return Err(CliError::Failed(format!("{} does not say where it answers", device.id)));
            };
            let scored: Score = score(&self.http, &rest, &self.recording, Part::Holdout, mounting).await?;
            self.asked += scored.asked;
            accuracies.push((device.id.clone(), scored.accuracy()));
        }
        Ok(accuracies)
    }
}

/// Slices that came from devices.
fn harvests(dataset: &Dataset) -> impl Iterator<Item = (&String, u64)> {
    dataset
        .slices
        .iter()
        .filter(|(slice, _)| *slice != "import")
        .map(|(slice, count)| (slice, *count))
}
