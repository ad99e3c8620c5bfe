//! Server and broker away for a while: devices go on inferring, and every inference is counted once in the end.

use flotilla_api_types::devices::Device;
use serde_json::Value;

use super::{LONG, SHORT, Stage};
use crate::client::chain;
use crate::demo::data::Mounting;
use crate::demo::fleet;
use crate::demo::stream::Feed;
use crate::error::CliError;

/// What a device says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Own {
    /// Samples of its sensor, answered since it was started.
    pub(super) inferred: u64,
    failed: u64,
    /// Rows that were no samples.
    skipped: u64,
    connected: bool,
}

#[expect(
    clippy::multiple_inherent_impl,
    reason = "the steps of one stage stand in a file per theme"
)]
impl Stage<'_> {
    pub(super) async fn offline(&mut self) -> Result<(), CliError> {
        self.story.step(
            "Take the server away",
            "broker and server stop; devices go on, spool what they count, and deliver it once when the server is back",
        )?;
        self.fleet.stop_server().await?;
        let before = self.own_counts().await?;
        let wanted = self.spec.drift.window;
        let spinner = self.story.spinner("devices infer on their own");
        let http = self.http.clone();
        let waited = self
            .fleet
            .until("inference without a server", SHORT, async |fleet| {
                let now = own_counts(&http, fleet).await?;
                let moved = now
                    .iter()
                    .zip(&before)
                    .all(|(now, before)| now.inferred >= before.inferred + wanted);
                let alone = now.iter().all(|now| !now.connected);
                Ok((moved && alone).then_some(now))
            })
            .await;
        spinner.finish_and_clear();
        let alone: u64 = total(&waited?) - total(&before);
        self.story
            .good(&format!("server stopped; {alone} inferences made without it"))?;
        self.report.count("inferences_offline", alone, "inferences");
        self.client = self.fleet.start_server().await?;
        self.story.good("server started again")?;
        self.counts_are_exact().await?;
        for (device, sensor) in self.fleet.devices.iter().zip(&self.sensors) {
            let mounting = if device.is_control {
                Mounting::AsTrained
            } else {
                Mounting::Remounted
            };
            sensor.set(Feed::Moving(mounting));
        }
        Ok(())
    }

    /// With the sensors still: what was given to the devices, what they answered, and what the server counted are equal.
    async fn counts_are_exact(&mut self) -> Result<(), CliError> {
        for sensor in &mut self.sensors {
            let held = tokio::time::timeout(SHORT, sensor.hold()).await;
            held.map_err(|elapsed| CliError::Failed(format!("a sensor is not read: {elapsed}")))??;
        }
        let given: u64 = self.sensors.iter().map(crate::demo::stream::Sensor::samples).sum();
        let asked = self.asked;
        let (client, http) = (self.client.clone(), self.http.clone());
        let spinner = self.story.spinner("every count arrives");
        let mut last = (0, 0);
        let waited = self
            .fleet
            .until("every inference counted", LONG, async |fleet| {
                let own = own_counts(&http, fleet).await?;
                let devices: Vec<Device> = client.get(&["devices"]).all().await?;
                last = (
                    total(&own) + asked,
                    devices.iter().map(|device| device.inferences).sum(),
                );
                let lost = own.iter().any(|own| own.failed > 0 || own.skipped > 0);
                Ok((last == (given + asked, given + asked) && !lost).then_some(()))
            })
            .await;
        spinner.finish_and_clear();
        let (own, server) = last;
        let told = format!(
            "{} given to the devices, {own} answered by them, {server} counted by the server",
            given + asked
        );
        self.report.count("inferences_devices", own, "inferences");
        self.report.count("inferences_server", server, "inferences");
        self.report.fact("inferences", told.clone());
        self.report.require(
            format!("every inference is counted exactly once: {told}"),
            waited.is_ok(),
        );
        match waited {
            Ok(()) => self.story.good(&told),
            Err(why) => {
                self.story.bad(&told)?;
                self.story.say(&why.to_string())
            }
        }
    }

    pub(super) async fn own_counts(&self) -> Result<Vec<Own>, CliError> {
        own_counts(&self.http, self.fleet).await
    }
}

fn total(counts: &[Own]) -> u64 {
    counts.iter().map(|own| own.inferred).sum()
}

/// Asks each device's own status.
pub(super) async fn own_counts(http: &reqwest::Client, fleet: &fleet::Fleet) -> Result<Vec<Own>, CliError> {
    let mut counts = Vec::new();
    for device in &fleet.devices {
        let failed = |why: reqwest::Error| CliError::Failed(format!("{}: {}", device.id, chain(&why)));
        let Some(rest) = device.rest() else {
            return Err(CliError::Failed(format!("{} does not say where it answers", device.id)));
        };
        let response = http
            .get(format!("{rest}/flotilla/v1/status"))
            .send()
            .await
            .map_err(failed)?;
        let status: Value = response.json().await.map_err(failed)?;
        counts.push(own(&status).ok_or_else(|| CliError::Failed(format!("{}: status {status}", device.id)))?);
    }
    Ok(counts)
}

fn own(status: &Value) -> Option<Own> {
    let sensor = status.get("streams")?.get("sensor")?;
    let number = |name: &str| sensor.get(name).and_then(Value::as_u64);
    Some(Own {
        inferred: number("samples_inferred")?,
        failed: number("samples_failed")?,
        skipped: number("rows_skipped")?,
        connected: status.get("link")?.as_str()? == "connected",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_own_status_is_read() {
        let status = serde_json::json!({"link": "disconnected", "streams": {"sensor":
            {"rows_read": 100, "rows_skipped": 0, "samples_inferred": 2, "samples_failed": 0}}});
        let expected = Own {
            inferred: 2,
            failed: 0,
            skipped: 0,
            connected: false,
        };
        assert_eq!(own(&status), Some(expected));
        assert_eq!(own(&serde_json::json!({})), None);
    }
}
