//! The steps of an update that take time, each answering by the event that the machine waits for.
//!
//! Nothing here decides what comes next.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::ids::SlotName;
use flotilla_protocol::report::InstalledModel;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::inference::package::read_golden;
use crate::inference::{InferenceHandle, LoadedPackage, isolation};
use crate::ota::fetch::{FetchError, Fetcher, Progress};
use crate::ota::machine::{Effect, OtaEvent};
use crate::ota::policy::{self, Soak, SoakVerdict};
use crate::ota::slots;
use crate::ota::state::{Bank, Job, Order, OtaState};
use crate::report;
use crate::store::on_disk;

/// What the steps need.
#[derive(Debug)]
pub struct Workshop {
    pub fetcher: Fetcher,
    pub inference: InferenceHandle,
    pub hardware_class: String,
    pub data_dir: PathBuf,
}

/// One step of one slot's job.
#[derive(Debug, Clone)]
pub struct Step {
    pub slot: SlotName,
    /// The state that asked for the step.
    pub state: OtaState,
    pub effect: Effect,
}

impl Workshop {
    /// Carries out one step. `progress` gets received and total bytes.
    pub async fn perform(self: Arc<Self>, step: Step, progress: mpsc::Sender<(u64, u64)>) -> OtaEvent {
        let slot = &step.slot;
        let job = step.state.phase.job();
        match (step.effect, job) {
            (Effect::Fetch, Some(job)) => self.fetch(job, progress).await,
            (Effect::Verify, Some(job)) => self.verify(slot, &job.order),
            (Effect::Install { bank }, Some(job)) => self.install(slot, bank, job),
            (Effect::SelfTest { bank }, Some(_)) => self.self_test(slot, bank, &step.state).await,
            (Effect::Activate { bank }, _) => match self.activate(slot, bank, &step.state).await {
                Ok(()) => OtaEvent::Activated,
                Err(reason) => OtaEvent::Refused { reason },
            },
            (Effect::Soak, Some(job)) => self.soak(slot, job).await,
            (Effect::Commit, Some(job)) => match on_disk(|| self.fetcher.discard(&job.order.target)) {
                Ok(()) => OtaEvent::Committed,
                Err(why) => OtaEvent::Failed {
                    reason: why.to_string(),
                },
            },
            (Effect::Restore { bank: Some(bank) }, _) => self.restore(slot, bank, &step.state).await,
            (Effect::Restore { bank: None }, _) => {
                self.inference.deactivate(slot).await;
                OtaEvent::RolledBack
            }
            (other, _) => OtaEvent::Refused {
                reason: format!("'{}' is no step of an update", other.name()),
            },
        }
    }

    async fn fetch(&self, job: &Job, progress: mpsc::Sender<(u64, u64)>) -> OtaEvent {
        let facts = report::facts(&self.hardware_class, &self.data_dir);
        match self.fetcher.fetch(&job.order, &facts, Progress::new(progress)).await {
            Ok(()) => OtaEvent::Downloaded,
            Err(why @ FetchError::DiskFull(_)) => {
                // Room first: the failure must be written down somewhere.
                if let Err(left) = on_disk(|| self.fetcher.discard(&job.order.target)) {
                    warn!(%left, "what was downloaded stays on a full disk");
                }
                OtaEvent::Refused {
                    reason: why.to_string(),
                }
            }
            Err(why) => failure(&why),
        }
    }

    /// Both signatures and every byte once more: revocations and the disk may have changed since the download began.
    fn verify(&self, slot: &SlotName, order: &Order) -> OtaEvent {
        let facts = report::facts(&self.hardware_class, &self.data_dir);
        let staging = self.fetcher.dirs.staging(slot);
        let envelope = match slots::read_envelope(&staging) {
            Ok(envelope) => envelope,
            Err(why) => {
                return OtaEvent::Failed {
                    reason: why.to_string(),
                };
            }
        };
        let manifest = match self.fetcher.trust.accept_manifest(&envelope, &order.target, &facts) {
            Ok(manifest) => manifest,
            Err(why) => return failure(&why.into()),
        };
        match on_disk(|| self.fetcher.check_staged(slot, &manifest)) {
            Ok(None) => OtaEvent::Verified,
            Ok(Some(component)) => {
                let detail = "a staged file is not what was signed any more";
                self.fetcher
                    .trust
                    .altered_content("staged component", detail, component);
                OtaEvent::Failed {
                    reason: format!("{detail}: component {component}"),
                }
            }
            Err(why) => OtaEvent::Failed {
                reason: why.to_string(),
            },
        }
    }

    fn install(&self, slot: &SlotName, bank: Bank, job: &Job) -> OtaEvent {
        let dirs = &self.fetcher.dirs;
        let installed = on_disk(|| {
            dirs.install(slot, bank)?;
            slots::read_manifest(&dirs.bank(slot, bank))
        });
        match installed {
            Ok((manifest, digest)) if digest == job.order.target.manifest => OtaEvent::Installed(InstalledModel {
                line: manifest.name,
                manifest: digest,
                semver: manifest.semver,
                release_counter: manifest.release_counter,
            }),
            Ok((_, digest)) => OtaEvent::Refused {
                reason: format!("manifest {digest} was staged, {} is wanted", job.order.target.manifest),
            },
            Err(why) if why.is_disk_full() => OtaEvent::Refused {
                reason: format!("disk full: {why}"),
            },
            Err(why) => OtaEvent::Refused {
                reason: why.to_string(),
            },
        }
    }

    /// The package proves itself on this machine before anything is asked of it.
    async fn self_test(&self, slot: &SlotName, bank: Bank, state: &OtaState) -> OtaEvent {
        let tested = self.with_package(slot, bank, state, |mut package, dir| {
            let Some(golden) = read_golden(&dir, &package.source.manifest).map_err(|why| why.to_string())? else {
                warn!("the package has no golden set: that it loads is all that is known");
                return Ok(());
            };
            let report = package.self_test(&golden).map_err(|why| why.to_string())?;
            info!(
                cases = report.cases,
                max_abs_diff = report.max_abs_diff,
                p95_us = report.p95_us,
                "self-test passed"
            );
            Ok(())
        });
        match tested.await {
            Ok(()) => OtaEvent::SelfTestPassed,
            Err(reason) => OtaEvent::Refused {
                reason: format!("self-test: {reason}"),
            },
        }
    }

    async fn restore(&self, slot: &SlotName, bank: Bank, state: &OtaState) -> OtaEvent {
        // One that may not run any more is given up, or the package that is being left would go on answering.
        if let Err(reason) = self.check(bank, state) {
            return OtaEvent::BankLost { bank, reason };
        }
        match self.activate(slot, bank, state).await {
            Ok(()) => OtaEvent::RolledBack,
            Err(reason) => OtaEvent::Refused { reason },
        }
    }

    /// May the bank's package still run? It may have been revoked since it was installed.
    fn check(&self, bank: Bank, state: &OtaState) -> Result<(), String> {
        match state.bank(bank) {
            Some(model) => self.fetcher.trust.check_installed(model).map_err(|why| why.to_string()),
            None => Ok(()),
        }
    }

    /// Loads a bank and lets it answer in its slot, if it may run.
    pub async fn activate(&self, slot: &SlotName, bank: Bank, state: &OtaState) -> Result<(), String> {
        self.check(bank, state)?;
        let package = self.with_package(slot, bank, state, |package, _| Ok(package)).await?;
        let info = self
            .inference
            .activate(slot.clone(), package)
            .await
            .map_err(|why| why.to_string())?;
        info!(%slot, bank = bank.as_str(), line = %info.manifest.name, version = %info.manifest.semver, "active");
        Ok(())
    }

    /// Loads a bank's package on a thread that may block, and does something with it there.
    async fn with_package<T: Send + 'static>(
        &self,
        slot: &SlotName,
        bank: Bank,
        state: &OtaState,
        then: impl FnOnce(LoadedPackage, PathBuf) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let installed = state
            .bank(bank)
            .ok_or_else(|| format!("bank {} holds no package", bank.as_str()))?;
        let dirs = &self.fetcher.dirs;
        let manifest = on_disk(|| dirs.manifest(slot, bank, installed)).map_err(|why| why.to_string())?;
        let (dir, digest) = (dirs.bank(slot, bank), installed.manifest);
        let work = isolation::on_thread("package", move || {
            let package = LoadedPackage::from_dir(&dir, manifest, digest).map_err(|why| why.to_string())?;
            then(package, dir)
        });
        match work.await {
            Ok(Ok(result)) => result,
            Ok(Err(panicked)) => Err(panicked.to_string()),
            Err(why) => Err(format!("no thread can be started to load the package: {why}")),
        }
    }

    async fn soak(&self, slot: &SlotName, job: &Job) -> OtaEvent {
        let began = Instant::now();
        loop {
            let Some(health) = self.inference.health(slot) else {
                return OtaEvent::Refused {
                    reason: "the package does not answer any more".to_owned(),
                };
            };
            let soak = Soak {
                elapsed_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                inferences: health.inferences,
                failures: health.failures,
            };
            match policy::judge_soak(&job.order.target.update, soak) {
                SoakVerdict::Wait { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
                SoakVerdict::Pass => return OtaEvent::SoakPassed,
                SoakVerdict::Fail {
                    observed_permille,
                    limit_permille,
                } => {
                    return OtaEvent::Refused {
                        reason: format!(
                            "while soaking, {observed_permille} of 1000 inferences failed ({} of {}), \
                             {limit_permille} are allowed",
                            soak.failures, soak.inferences
                        ),
                    };
                }
            }
        }
    }
}

/// Is it the end of the deployment, or of this attempt?
fn failure(why: &FetchError) -> OtaEvent {
    let reason = why.to_string();
    if why.is_worth_retrying() {
        OtaEvent::Failed { reason }
    } else {
        OtaEvent::Refused { reason }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use flotilla_protocol::ids::Digest;

    use super::*;
    use crate::clock::Clock;
    use crate::inference::InferenceLimits;
    use crate::link;
    use crate::ota::slots::SlotDirs;
    use crate::store::Store;
    use crate::test_server::{NOW, head, trusting};

    #[tokio::test]
    async fn a_package_that_was_revoked_is_neither_brought_up_nor_restored() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), 0).unwrap());
        let hand = Arc::new(AtomicI64::new(NOW));
        let trust = trusting(&store, &hand);
        let model = InstalledModel {
            line: "line".parse().unwrap(),
            manifest: Digest::of(b"manifest"),
            semver: "1.0.0".to_owned(),
            release_counter: 1,
        };
        trust
            .accept_head(&[], &head(1, NOW + 1_000, vec![model.manifest]))
            .unwrap();
        let (link, _publishes, _switch) = link::wire();
        let workshop = Workshop {
            fetcher: Fetcher {
                link,
                chunks: Arc::default(),
                store,
                dirs: SlotDirs::open(dir.path()).unwrap(),
                trust: Arc::new(trust),
                window: 4,
            },
            inference: InferenceHandle::new(Clock::manual(hand), InferenceLimits::default()),
            hardware_class: "generic".to_owned(),
            data_dir: dir.path().to_owned(),
        };
        let slot = SlotName::new("main").unwrap();
        let state = OtaState {
            active: Some(Bank::A),
            a: Some(model),
            ..OtaState::default()
        };
        let why = workshop.activate(&slot, Bank::A, &state).await.unwrap_err();
        assert!(why.contains("is revoked"), "{why}");
        let effect = Effect::Restore { bank: Some(Bank::A) };
        let (progress, _received) = mpsc::channel(1);
        let answer = Arc::new(workshop).perform(Step { slot, state, effect }, progress).await;
        assert!(matches!(answer, OtaEvent::BankLost { bank: Bank::A, .. }), "{answer:?}");
    }
}
