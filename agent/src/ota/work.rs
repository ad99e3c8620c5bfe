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
use tracing::{debug, info, warn};

use crate::inference::package::read_golden;
use crate::inference::{InferenceHandle, LoadedPackage, isolation};
use crate::ota::fetch::{FetchError, Fetcher, Progress};
use crate::ota::machine::{Effect, OtaEvent};
use crate::ota::policy::{self, Soak, SoakVerdict};
use crate::ota::slots;
use crate::ota::state::{Bank, Job, Order, OtaState, Phase};
use crate::report;
use crate::store::on_disk;

const SOAK_NOTE: Duration = Duration::from_millis(policy::SOAK_NOTE_MS);

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
    /// Carries out one step. `progress` is told how far it is; what comes back is its answer.
    pub async fn perform(self: Arc<Self>, step: Step, progress: mpsc::Sender<OtaEvent>) -> OtaEvent {
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
            (Effect::Soak, Some(job)) => {
                let before = match &step.state.phase {
                    Phase::Soaking { soaked, .. } => *soaked,
                    _ => Soak::default(),
                };
                self.soak(slot, job, before, &progress).await
            }
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

    async fn fetch(&self, job: &Job, progress: mpsc::Sender<OtaEvent>) -> OtaEvent {
        let facts = || report::facts(&self.hardware_class, &self.data_dir);
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

    /// Both signatures and every byte once more: revocations and the disk's contents may have changed since the download
    /// began. Not how much of it is free: that was asked for before the download, which has taken it.
    fn verify(&self, slot: &SlotName, order: &Order) -> OtaEvent {
        let mut facts = report::facts(&self.hardware_class, &self.data_dir);
        facts.disk_free_bytes = u64::MAX;
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
        if let Some(shortage) = manifest.shortage(&facts) {
            return failure(&FetchError::Short(shortage));
        }
        match on_disk(|| self.fetcher.check_staged(slot, &manifest)) {
            Ok(None) => OtaEvent::Verified,
            Ok(Some(component)) => {
                self.fetcher.trust.damaged_content("staged component", component);
                OtaEvent::Failed {
                    reason: format!("component {component} changed on this device's disk after it had come"),
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

    /// Lets the package serve until its time is over or too much of it fails. `before` is what it had soaked when the agent
    /// started; how far it is now is told now and then. Nothing is looked at in between but when an inference fails.
    async fn soak(&self, slot: &SlotName, job: &Job, before: Soak, tell: &mpsc::Sender<OtaEvent>) -> OtaEvent {
        let began = Instant::now();
        let mut note_at = began + SOAK_NOTE;
        let (mut failures, mut changes) = (self.inference.failures(), self.inference.changes());
        loop {
            failures.mark_unchanged();
            changes.mark_unchanged();
            let Some(health) = self.inference.health(slot) else {
                return OtaEvent::Refused {
                    reason: "the package does not answer any more".to_owned(),
                };
            };
            let now = Instant::now();
            let elapsed_ms = millis(now.duration_since(began));
            let soaked = before.plus(Soak {
                elapsed_ms,
                inferences: health.inferences,
                failures: health.failures,
            });
            let ms = match policy::judge_soak(&job.order.target.update, soaked) {
                SoakVerdict::Wait { ms } => ms,
                SoakVerdict::Pass => return OtaEvent::SoakPassed,
                SoakVerdict::Fail {
                    observed_permille,
                    limit_permille,
                } => {
                    return OtaEvent::Refused {
                        reason: format!(
                            "while soaking, {observed_permille} of 1000 inferences failed ({} of {}), \
                             {limit_permille} are allowed",
                            soaked.failures, soaked.inferences
                        ),
                    };
                }
            };
            if now >= note_at {
                note_at = now + SOAK_NOTE;
                let steady = elapsed_ms >= policy::STEADY_MS;
                if tell.send(OtaEvent::Soaked { soaked, steady }).await.is_err() {
                    debug!(%slot, "nobody notes how far the soak is");
                }
            }
            let wait = Duration::from_millis(ms).min(note_at.duration_since(now));
            tokio::select! {
                Ok(()) = failures.changed() => {}
                Ok(()) = changes.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
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
    use std::path::Path;
    use std::sync::atomic::AtomicI64;

    use flotilla_protocol::chunks::BlobRef;
    use flotilla_protocol::desired_state::{Action, HarvestPolicy, Target, UpdatePolicy};
    use flotilla_protocol::ids::Digest;
    use tokio::sync::watch;

    use super::*;
    use crate::clock::Clock;
    use crate::inference::{InferenceLimits, fixture};
    use crate::link;
    use crate::ota::slots::SlotDirs;
    use crate::store::Store;
    use crate::test_server::{NOW, head, trusting};

    /// A workshop over a folder, with nobody at the link's other end.
    fn workshop(dir: &Path, hand: &Arc<AtomicI64>) -> Workshop {
        let store = Arc::new(Store::open(dir, 0).unwrap());
        let trust = trusting(&store, hand);
        Workshop {
            fetcher: Fetcher {
                link: link::wire().0,
                chunks: Arc::default(),
                store,
                dirs: SlotDirs::open(dir).unwrap(),
                trust: Arc::new(trust),
                window: 4,
            },
            inference: InferenceHandle::new(Clock::manual(Arc::clone(hand)), InferenceLimits::default()),
            hardware_class: "generic".to_owned(),
            data_dir: dir.to_owned(),
        }
    }

    fn slot() -> SlotName {
        SlotName::new("main").unwrap()
    }

    fn soaking(soak_ms: u64, soaked: Soak) -> Step {
        let target = Target {
            slot: slot(),
            action: Action::Install,
            line: "press".parse().unwrap(),
            manifest: Digest::of(b"manifest"),
            manifest_envelope: BlobRef::of(b"envelope"),
            release_counter: 1,
            deployment: "0191e5a0-0000-7000-8000-000000000009".parse().unwrap(),
            components: vec![],
            update: UpdatePolicy {
                soak_ms,
                max_error_permille: 100,
                ..UpdatePolicy::default()
            },
            harvest: HarvestPolicy::default(),
        };
        let phase = Phase::Soaking {
            job: Job::new(Order { target }),
            bank: Bank::B,
            previous: Some(Bank::A),
            soaked,
        };
        Step {
            slot: slot(),
            state: OtaState {
                phase,
                ..OtaState::default()
            },
            effect: Effect::Soak,
        }
    }

    /// Runs a future and counts how often it was woken.
    async fn counted<T>(work: impl Future<Output = T>, polls: &watch::Sender<u64>) -> T {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|context| {
            polls.send_modify(|polls| *polls += 1);
            work.as_mut().poll(context)
        })
        .await
    }

    #[tokio::test]
    async fn a_soak_goes_on_where_it_was_and_sleeps_until_its_end() {
        const DAY: u64 = 24 * 3_600_000;
        const LEFT: u64 = 1500;
        let dir = tempfile::tempdir().unwrap();
        let workshop = workshop(dir.path(), &Arc::new(AtomicI64::new(NOW)));
        let package = fixture::package("press", "1.0.0", &fixture::columns(&["a", "b"]));
        workshop.inference.activate(slot(), package).await.unwrap();
        let before = Soak {
            elapsed_ms: DAY,
            inferences: 40,
            failures: 2,
        };
        let (tell, mut told) = mpsc::channel(100);
        let (polls, woken) = watch::channel(0);
        let began = Instant::now();
        let work = Arc::new(workshop).perform(soaking(DAY + LEFT, before), tell);
        assert_eq!(counted(work, &polls).await, OtaEvent::SoakPassed);
        let took = millis(began.elapsed());
        assert!(
            (LEFT..DAY).contains(&took),
            "the first day was before the restart: {took}"
        );
        // Notes, if there are any, count on.
        while let Some(event) = told.recv().await {
            let OtaEvent::Soaked { soaked, .. } = event else {
                panic!("{event:?}");
            };
            assert!(soaked.elapsed_ms > DAY);
            assert_eq!((soaked.inferences, soaked.failures), (40, 2), "counts go on too");
        }
        let woken = *woken.borrow();
        assert!(woken < 10, "woken {woken} times, though nothing happened");
    }

    #[tokio::test]
    async fn a_soaking_package_that_fails_is_noticed_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let workshop = Arc::new(workshop(dir.path(), &Arc::new(AtomicI64::new(NOW))));
        let package = fixture::package("press", "1.0.0", &fixture::columns(&["a", "b"]));
        workshop.inference.activate(slot(), package).await.unwrap();
        let inference = workshop.inference.clone();
        let (tell, _told) = mpsc::channel(8);
        let began = Instant::now();
        let soak = workshop.perform(soaking(24 * 3_600_000, Soak::default()), tell);
        let failing = async {
            let wrong = flotilla_protocol::infer::Tensor::from_f32("nonsense", vec![1, 2], &[0.0, 0.0]).unwrap();
            for _ in 0..30 {
                assert!(inference.infer("main", vec![wrong.clone()]).await.is_err());
            }
        };
        let (answer, ()) = tokio::join!(soak, failing);
        let OtaEvent::Refused { reason } = answer else {
            panic!("{answer:?}")
        };
        assert!(reason.contains("inferences failed"), "{reason}");
        assert!(began.elapsed() < Duration::from_mins(1), "not at the next note");
    }

    #[tokio::test]
    async fn a_package_that_was_revoked_is_neither_brought_up_nor_restored() {
        let dir = tempfile::tempdir().unwrap();
        let workshop = workshop(dir.path(), &Arc::new(AtomicI64::new(NOW)));
        let model = InstalledModel {
            line: "line".parse().unwrap(),
            manifest: Digest::of(b"manifest"),
            semver: "1.0.0".to_owned(),
            release_counter: 1,
        };
        let revoking = head(1, NOW + 1_000, vec![model.manifest]);
        workshop.fetcher.trust.accept_head(&[], &revoking).unwrap();
        let slot = slot();
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
