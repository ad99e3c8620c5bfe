//! Carries out what the machines decide: persists every state before its effects, runs one piece of work per slot, wakes
//! slots at their time, and brings the installed packages up before anything else at start.
//!
//! Orders come from `trust_state` only, so they are signed and fresh. A disk that is full at the start keeps nobody from
//! answering: what cannot be written then is owed, and nothing but the answering packages rests on it until it is.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::desired_state::DesiredState;
use flotilla_protocol::ids::{DeviceId, SlotName};
use futures_util::FutureExt as _;
use redb::ReadableTable as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::audit;
use crate::clock::Clock;
use crate::files::{self, Access};
use crate::inference::isolation;
use crate::ota::machine::{self, Effect, Machine, OtaEvent};
use crate::ota::policy::RetryLimits;
use crate::ota::state::{FORMAT, Order, OtaState, Phase, PhaseName};
use crate::ota::work::{Step, Workshop};
use crate::store::{self, SLOTS, Store, StoreError, on_disk};
use crate::tasks::{Child, spawn_child};

/// Events of work under way. When full, the work waits.
const EVENTS: usize = 64;
/// Pause before a state that could not be written is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(2);

/// Why the installed packages are not known.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "slot '{slot}' has state format {found}, this agent knows {FORMAT}: run a newer agent, nothing was changed"
    )]
    Newer { slot: String, found: u16 },
    #[error("the store names a slot '{0}', which is no slot name")]
    Name(String),
}

/// All slots' states, for reports and status.
pub type States = BTreeMap<SlotName, OtaState>;

/// What the driver is told at its start.
#[derive(Debug)]
pub struct DriverOptions {
    pub device: DeviceId,
    pub retry: RetryLimits,
    pub clock: Clock,
    pub data_dir: PathBuf,
    pub pause_in: Option<PhaseName>,
}

struct Slot {
    machine: Machine,
    state: OtaState,
    work: Option<Child<()>>,
    /// Tells events of work that was replaced since from those that are wanted.
    generation: u64,
    wake: Option<i64>,
    paused: bool,
    /// The effects of steps whose state is not durable yet: only between a start with a full disk and its end.
    owed: Option<Vec<Effect>>,
    /// The previous package answers for the active one, whose start could not be counted.
    stand_in: bool,
}

struct WorkEvent {
    slot: SlotName,
    generation: u64,
    event: OtaEvent,
}

/// See the module's documentation.
pub struct Driver {
    options: DriverOptions,
    store: Arc<Store>,
    workshop: Arc<Workshop>,
    slots: BTreeMap<SlotName, Slot>,
    states: watch::Sender<States>,
    events: mpsc::Sender<WorkEvent>,
    incoming: mpsc::Receiver<WorkEvent>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver")
            .field("slots", &self.slots.len())
            .finish_non_exhaustive()
    }
}

impl Driver {
    /// Reads the slots' states.
    pub fn open(
        options: DriverOptions,
        store: Arc<Store>,
        workshop: Arc<Workshop>,
    ) -> Result<(Self, watch::Receiver<States>), DriverError> {
        let (events, incoming) = mpsc::channel(EVENTS);
        let found = read_states(&store)?;
        let (states, watching) = watch::channel(found.clone());
        let mut driver = Self {
            options,
            store,
            workshop,
            slots: BTreeMap::new(),
            states,
            events,
            incoming,
        };
        for (name, state) in found {
            let slot = driver.new_slot(&name, state);
            driver.slots.insert(name, slot);
        }
        Ok((driver, watching))
    }

    fn new_slot(&self, name: &SlotName, state: OtaState) -> Slot {
        Slot {
            machine: Machine {
                device: self.options.device.clone(),
                slot: name.clone(),
                retry: self.options.retry,
            },
            state,
            work: None,
            generation: 0,
            wake: None,
            paused: false,
            owed: None,
            stand_in: false,
        }
    }

    /// Brings every active package up, before there is any network. The start is counted durably first: a package that
    /// takes the agent down with it is given up after a few. Where it cannot be counted, one that has not proved itself stays
    /// down while there is another.
    pub async fn boot(&mut self) {
        let names: Vec<SlotName> = self.slots.keys().cloned().collect();
        for name in &names {
            self.at_boot(name, OtaEvent::Started);
            if !self.stands_in(name).await {
                self.bring_up(name).await;
            }
        }
        if self.slots.values().any(|slot| slot.owed.is_some()) {
            // A bank is forgotten before its files are touched.
            return;
        }
        if let Err(why) = on_disk(|| self.workshop.fetcher.dirs.sweep(&self.states.borrow())) {
            error!(%why, "files that no package needs stay until the next start");
        }
    }

    /// Loads the active bank; one that cannot be loaded gives way to the other, if that can.
    async fn bring_up(&mut self, name: &SlotName) {
        loop {
            let Some(state) = self.slots.get(name).map(|slot| slot.state.clone()) else {
                return;
            };
            let Some(bank) = state.active else { return };
            match self.workshop.activate(name, bank, &state).await {
                Ok(()) => return,
                Err(reason) => {
                    error!(slot = %name, bank = bank.as_str(), %reason, "the active package cannot be used");
                    self.at_boot(name, OtaEvent::BankLost { bank, reason });
                }
            }
        }
    }

    /// Lets the package before a new one answer in a slot whose start could not be counted, if there is one.
    async fn stands_in(&mut self, name: &SlotName) -> bool {
        let Some(slot) = self.slots.get(name).filter(|slot| slot.owed.is_some()) else {
            return false;
        };
        let (Phase::Activating {
            previous: Some(bank), ..
        }
        | Phase::Soaking {
            previous: Some(bank), ..
        }) = slot.state.phase
        else {
            return false;
        };
        let state = slot.state.clone();
        if let Err(why) = self.workshop.activate(name, bank, &state).await {
            error!(slot = %name, bank = bank.as_str(), %why, "the package before the new one cannot be used");
            return false;
        }
        warn!(slot = %name, bank = bank.as_str(), "it answers until the start of the new package can be counted");
        if let Some(slot) = self.slots.get_mut(name) {
            slot.stand_in = true;
        }
        true
    }

    /// A step before anything runs: its audit entries and deletions, not its work (which `run` takes up). What cannot be
    /// written is owed.
    fn at_boot(&mut self, name: &SlotName, event: OtaEvent) {
        let Some(slot) = self.slots.get_mut(name) else { return };
        let (state, effects) = slot.machine.step(&slot.state, event, self.options.clock.now_ms());
        let says_nothing = !effects.iter().any(|effect| matches!(effect, Effect::Audit(_)));
        if state == slot.state && says_nothing && slot.owed.is_none() {
            return;
        }
        let old = slot.state.clone();
        let mut owed = slot.owed.take().unwrap_or_default();
        owed.extend(effects);
        let written = self.persist(name, &state, &owed);
        self.keep(name, state);
        match written {
            Ok(()) => owed.iter().for_each(|effect| self.tidy(name, &old, effect)),
            Err(why) => {
                error!(slot = %name, %why, "an update's state cannot be written: what is installed answers all the same");
                if let Some(slot) = self.slots.get_mut(name) {
                    slot.owed = Some(owed);
                }
            }
        }
    }

    /// Writes what the start could not, before anything is done about it. `false` when told to stop.
    async fn pay(&mut self, stop: &CancellationToken) -> bool {
        let owing = |(name, slot): (&SlotName, &Slot)| {
            let owed = slot.owed.clone()?;
            Some((name.clone(), slot.state.clone(), owed))
        };
        loop {
            let Some((name, state, owed)) = self.slots.iter().find_map(owing) else {
                return true;
            };
            while let Err(why) = self.persist(&name, &state, &owed) {
                error!(slot = %name, %why, "an update's state cannot be written");
                tokio::select! {
                    () = stop.cancelled() => return false,
                    () = tokio::time::sleep(WRITE_AGAIN) => {}
                }
            }
            let mut stood_in = false;
            if let Some(slot) = self.slots.get_mut(&name) {
                slot.owed = None;
                stood_in = std::mem::take(&mut slot.stand_in);
            }
            for effect in &owed {
                self.tidy(&name, &state, effect);
            }
            if stood_in {
                self.bring_up(&name).await;
            }
        }
    }

    /// Serves orders and work until `stop`.
    pub async fn run(mut self, mut orders: watch::Receiver<Option<DesiredState>>, stop: CancellationToken) {
        if !self.pay(&stop).await {
            return;
        }
        let names: Vec<SlotName> = self.slots.keys().cloned().collect();
        for name in names {
            let Some(slot) = self.slots.get(&name) else { continue };
            let (state, phase) = (slot.state.clone(), slot.state.phase.name());
            if !self.pauses(&name, phase) {
                for effect in machine::resume(&state) {
                    self.perform(&name, &state, effect).await;
                }
            }
        }
        loop {
            let wake = self.slots.values().filter_map(|slot| slot.wake).min();
            let pause = wake.map(|at| at.saturating_sub(self.options.clock.now_ms()));
            let pause = Duration::from_millis(u64::try_from(pause.unwrap_or(60_000)).unwrap_or(0));
            tokio::select! {
                () = stop.cancelled() => break,
                // Of several orders that came meanwhile only the newest counts: it says all that is wanted.
                news = orders.changed() => match news {
                    Ok(()) => {
                        let desired = orders.borrow_and_update().clone();
                        if let Some(desired) = desired {
                            self.order(desired, &stop).await;
                        }
                    }
                    Err(_nobody_orders) => break,
                },
                Some(work) = self.incoming.recv() => {
                    let wanted = self.slots.get(&work.slot).is_some_and(|slot| slot.generation == work.generation);
                    if wanted {
                        self.apply(&work.slot, work.event, &stop).await;
                    }
                }
                () = tokio::time::sleep(pause) => self.wake(&stop).await,
            }
        }
        for slot in self.slots.values_mut() {
            if let Some(mut work) = slot.work.take() {
                work.abort().await;
            }
        }
    }

    async fn order(&mut self, desired: DesiredState, stop: &CancellationToken) {
        let named: BTreeSet<SlotName> = desired.targets.iter().map(|target| target.slot.clone()).collect();
        let withdrawn: Vec<SlotName> = self
            .slots
            .keys()
            .filter(|name| !named.contains(*name))
            .cloned()
            .collect();
        for name in withdrawn {
            self.apply(&name, OtaEvent::Withdrawn, stop).await;
        }
        for target in desired.targets {
            let name = target.slot.clone();
            if !self.slots.contains_key(&name) {
                let slot = self.new_slot(&name, OtaState::default());
                self.slots.insert(name.clone(), slot);
            }
            let order = Order { target };
            self.apply(&name, OtaEvent::Ordered(Box::new(order)), stop).await;
        }
    }

    async fn wake(&mut self, stop: &CancellationToken) {
        let now = self.options.clock.now_ms();
        let due = |slot: &Slot| slot.wake.is_some_and(|at| at <= now);
        let names: Vec<SlotName> = self
            .slots
            .iter()
            .filter(|(_, slot)| due(slot))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            if let Some(slot) = self.slots.get_mut(&name) {
                slot.wake = None;
            }
            self.apply(&name, OtaEvent::Woken, stop).await;
        }
    }

    /// One step: decide, write durably, act.
    async fn apply(&mut self, name: &SlotName, event: OtaEvent, stop: &CancellationToken) {
        let Some(slot) = self.slots.get(name).filter(|slot| !slot.paused) else {
            return;
        };
        let (state, effects) = slot.machine.step(&slot.state, event, self.options.clock.now_ms());
        let old = slot.state.clone();
        if state == old && effects.is_empty() {
            return;
        }
        while let Err(why) = self.persist(name, &state, &effects) {
            // Nothing is done that is not durable: what runs goes on, the step waits.
            error!(slot = %name, %why, "an update's state cannot be written");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(WRITE_AGAIN) => {}
            }
        }
        let (from, to) = (old.phase.name(), state.phase.name());
        self.keep(name, state.clone());
        if from != to {
            info!(slot = %name, from = from.as_str(), to = to.as_str(), reason = reason(&state), "update");
            if self.pauses(name, to) {
                return;
            }
        }
        for effect in effects {
            self.tidy(name, &old, &effect);
            self.perform(name, &state, effect).await;
        }
    }

    fn persist(&self, name: &SlotName, state: &OtaState, effects: &[Effect]) -> Result<(), StoreError> {
        let at = self.options.clock.now_ms();
        let bytes = store::encode("slot state", state)?;
        self.store.write(|txn| {
            for effect in effects {
                if let Effect::Audit(entry) = effect {
                    audit::append(txn, entry, at)?;
                }
            }
            txn.table(SLOTS)?.insert(name.as_str(), bytes.as_slice())?;
            Ok(())
        })
    }

    fn keep(&mut self, name: &SlotName, state: OtaState) {
        if let Some(slot) = self.slots.get_mut(name) {
            slot.state = state.clone();
        }
        self.states.send_modify(|states| {
            states.insert(name.clone(), state);
        });
    }

    /// Deletions. What cannot be deleted is swept at the next start.
    fn tidy(&self, name: &SlotName, old: &OtaState, effect: &Effect) {
        let fetcher = &self.workshop.fetcher;
        let tidied = on_disk(|| match effect {
            Effect::Discard { bank } => fetcher.dirs.discard(name, *bank).map_err(|why| why.to_string()),
            Effect::DiscardDownload => match old.phase.job() {
                Some(job) => fetcher.discard(&job.order.target).map_err(|why| why.to_string()),
                None => Ok(()),
            },
            _ => Ok(()),
        });
        if let Err(why) = tidied {
            warn!(slot = %name, %why, effect = effect.name(), "left over");
        }
    }

    async fn perform(&mut self, name: &SlotName, state: &OtaState, effect: Effect) {
        let Some(slot) = self.slots.get_mut(name) else { return };
        match effect {
            Effect::Audit(_) | Effect::Discard { .. } | Effect::DiscardDownload => {}
            Effect::WakeAt(at) => slot.wake = Some(at),
            Effect::StopWork => {
                slot.generation += 1;
                if let Some(mut work) = slot.work.take() {
                    work.abort().await;
                }
            }
            work => {
                slot.generation += 1;
                // At most one piece of work: the one before has answered, or is not wanted any more.
                if let Some(mut before) = slot.work.take() {
                    before.abort().await;
                }
                let step = Step {
                    slot: name.clone(),
                    state: state.clone(),
                    effect: work,
                };
                let run = work_on(Arc::clone(&self.workshop), step, slot.generation, self.events.clone());
                slot.work = Some(spawn_child(run));
            }
        }
    }

    /// For whole-system tests: stays in a state that was durably entered.
    fn pauses(&mut self, name: &SlotName, phase: PhaseName) -> bool {
        if self.options.pause_in != Some(phase) {
            return false;
        }
        if let Some(slot) = self.slots.get_mut(name) {
            slot.paused = true;
        }
        let path = self.options.data_dir.join("paused");
        let text = format!("{name} {}\n", phase.as_str());
        if let Err(why) = on_disk(|| files::write_atomic(&path, text.as_bytes(), Access::Everybody)) {
            error!(%why, "the pause cannot be shown");
        }
        warn!(slot = %name, state = phase.as_str(), "paused, as configured");
        true
    }
}

fn reason(state: &OtaState) -> &str {
    match &state.phase {
        Phase::Failed { reason, .. } | Phase::RollingBack { reason, .. } => reason,
        _ => "",
    }
}

/// Runs a step and passes on its progress and its answer.
async fn work_on(workshop: Arc<Workshop>, step: Step, generation: u64, events: mpsc::Sender<WorkEvent>) {
    let slot = step.slot.clone();
    let tagged = |event| WorkEvent {
        slot: slot.clone(),
        generation,
        event,
    };
    let (tell, mut progress) = mpsc::channel(8);
    let work = answer(workshop.perform(step, tell));
    tokio::pin!(work);
    let answer = loop {
        tokio::select! {
            biased;
            Some(event) = progress.recv() => {
                if events.send(tagged(event)).await.is_err() {
                    return;
                }
            }
            answer = &mut work => break answer,
        }
    };
    while let Ok(event) = progress.try_recv() {
        if events.send(tagged(event)).await.is_err() {
            return;
        }
    }
    if events.send(tagged(answer)).await.is_err() {
        warn!(%slot, "a step ended after the driver");
    }
}

/// A step's answer. One that panics answers too, or its slot would wait for it until the next start.
async fn answer(step: impl Future<Output = OtaEvent>) -> OtaEvent {
    AssertUnwindSafe(step)
        .catch_unwind()
        .await
        .unwrap_or_else(|panicked| OtaEvent::Failed {
            reason: format!("a step of the update panicked: {}", isolation::text(&*panicked)),
        })
}

fn read_states(store: &Store) -> Result<States, DriverError> {
    let rows: Vec<(String, Vec<u8>)> = store.read(|txn| {
        let mut rows = Vec::new();
        for item in txn.open_table(SLOTS)?.iter()? {
            let (name, bytes) = item?;
            rows.push((name.value().to_owned(), bytes.value().to_vec()));
        }
        Ok(rows)
    })?;
    let mut states = States::new();
    for (name, bytes) in rows {
        let format: Format = store::decode(&name, &bytes)?;
        if format.format != FORMAT {
            return Err(DriverError::Newer {
                slot: name,
                found: format.format,
            });
        }
        let state = store::decode(&name, &bytes)?;
        let slot = SlotName::new(name.as_str()).map_err(|_malformed| DriverError::Name(name.clone()))?;
        states.insert(slot, state);
    }
    Ok(states)
}

/// The one field that every format has.
#[derive(serde::Deserialize)]
struct Format {
    format: u16,
}

#[cfg(test)]
mod tests;
