//! Numbers what changed, for those who follow it: one bounded ring of events, read by any number of followers at their own
//! pace. Who falls behind the ring is told so and asks for everything again; nobody holds anybody up.
//!
//! Events come from two sources: the hints of [`Changes`](crate::app::Changes), and the audit log, in which every change by
//! people stands. The same thing is told at most once per [`WINDOW`]. The log is read when it grew and somebody follows; while
//! nobody does, its end is all that has to be known. Where nothing happens, nothing runs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flotilla_api_types::audit::AuditEvent;
use flotilla_api_types::events::{ChangeEvent, Resource};
use flotilla_protocol::ids::DeviceId;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::app::{App, Change, Listener, News};
use crate::clock;
use crate::store::{StoreError, audit, device_summaries, imports, jobs, rollouts};
use crate::tasks::{Shutdown, Tasks};

/// Events kept for those who come back.
const RING: usize = 4096;
/// The same thing is told once in so long.
const WINDOW: Duration = Duration::from_millis(250);
/// More things than this in one window are told as a reset.
const MOST_PENDING: usize = RING / 2;
/// More devices than this in one go are told without their rows.
const MOST_PATCHES: usize = 128;
/// Audit entries read at a time.
const AUDIT_PAGE: u32 = 256;

/// One event, ready to be sent.
#[derive(Debug)]
pub struct Event {
    pub seq: u64,
    pub resource: Resource,
    pub id: String,
    /// A [`ChangeEvent`] as JSON.
    pub data: String,
}

#[derive(Debug, Default)]
struct Ring {
    /// Sequence number of the newest event; 0: none yet.
    latest: u64,
    events: VecDeque<Arc<Event>>,
}

#[derive(Debug)]
struct Shared {
    /// Tells this process's numbers from those of the one before.
    epoch: i64,
    ring: Mutex<Ring>,
    latest: watch::Sender<u64>,
    followers: AtomicUsize,
    /// Told of every follower that comes.
    arrivals: Notify,
}

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EventHub(Arc<Shared>);

impl Default for EventHub {
    fn default() -> Self {
        Self(Arc::new(Shared {
            epoch: clock::now_ms(),
            ring: Mutex::default(),
            latest: watch::Sender::new(0),
            followers: AtomicUsize::new(0),
            arrivals: Notify::new(),
        }))
    }
}

/// More happened since than the ring holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap;

/// Counts as a follower until it is dropped.
#[derive(Debug)]
pub struct Following(EventHub);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.0.followers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl EventHub {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `<epoch>-<sequence>`
    pub fn id(&self, seq: u64) -> String {
        format!("{}-{seq}", self.0.epoch)
    }

    /// The sequence number of an id that this process gave out.
    pub fn seq_of(&self, id: &str) -> Option<u64> {
        let (epoch, seq) = id.split_once('-')?;
        (epoch.parse() == Ok(self.0.epoch)).then(|| seq.parse().ok())?
    }

    pub fn latest(&self) -> u64 {
        self.ring().latest
    }

    /// Changes whenever there is something new.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.latest.subscribe()
    }

    /// `None`: there are `most` followers already.
    pub fn follow(&self, most: usize) -> Option<Following> {
        let taken = self
            .0
            .followers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                (now < most).then_some(now + 1)
            });
        taken.ok()?;
        self.0.arrivals.notify_one();
        Some(Following(self.clone()))
    }

    /// Resolves when a follower has come since the last time.
    async fn arrival(&self) {
        self.0.arrivals.notified().await;
    }

    pub fn followers(&self) -> usize {
        self.0.followers.load(Ordering::Relaxed)
    }

    /// Events after `seq`, oldest first.
    pub fn after(&self, seq: u64, limit: usize) -> Result<Vec<Arc<Event>>, Gap> {
        let ring = self.ring();
        let behind = usize::try_from(ring.latest.checked_sub(seq).ok_or(Gap)?).unwrap_or(usize::MAX);
        if behind > ring.events.len() {
            return Err(Gap);
        }
        let skip = ring.events.len() - behind;
        Ok(ring.events.iter().skip(skip).take(limit).cloned().collect())
    }

    fn publish(&self, changes: Vec<Told>) {
        if changes.is_empty() {
            return;
        }
        let at = clock::rfc3339(clock::now_ms());
        let mut ring = self.ring();
        for Told { resource, id, patch } in changes {
            let event = ChangeEvent {
                resource,
                id,
                at: at.clone(),
                patch,
            };
            // A ChangeEvent has nothing that JSON cannot say.
            let data = serde_json::to_string(&event).unwrap_or_default();
            ring.latest += 1;
            if ring.events.len() == RING {
                ring.events.pop_front();
            }
            let seq = ring.latest;
            ring.events.push_back(Arc::new(Event {
                seq,
                resource,
                id: event.id,
                data,
            }));
        }
        let latest = ring.latest;
        drop(ring);
        self.0.latest.send_replace(latest);
    }

    /// Anything may have changed: every follower is told to ask again.
    fn reset(&self) {
        let mut ring = self.ring();
        ring.events.clear();
        ring.latest += 1;
        let latest = ring.latest;
        drop(ring);
        self.0.latest.send_replace(latest);
    }
}

/// What an event is about.
type Key = (Resource, String);

struct Told {
    resource: Resource,
    id: String,
    patch: Option<Value>,
}

/// Holds back what was told in this window already.
#[derive(Debug, Default)]
struct Gather {
    told: BTreeSet<Key>,
    pending: BTreeSet<Key>,
    ready: BTreeSet<Key>,
    /// More than can be named.
    overflown: bool,
}

impl Gather {
    fn hear(&mut self, change: Change) {
        if let Change::Rollout(id) = &change {
            self.add((Resource::Deployment, id.to_string()));
        }
        if let Some(key) = key_of(change) {
            self.add(key);
        }
    }

    fn add(&mut self, key: Key) {
        if self.told.contains(&key) {
            self.pending.insert(key);
        } else {
            self.ready.insert(key);
        }
    }

    /// What is to be told now.
    fn take(&mut self) -> BTreeSet<Key> {
        let ready = std::mem::take(&mut self.ready);
        self.told.extend(ready.iter().cloned());
        ready
    }

    /// A new window begins: what was held back is ready.
    fn turn(&mut self) {
        self.told.clear();
        let pending = std::mem::take(&mut self.pending);
        self.ready.extend(pending);
    }

    fn overflow(&mut self) {
        self.overflown = true;
    }

    /// Is there something that must not be told again before the window is over?
    fn is_holding(&self) -> bool {
        !self.told.is_empty()
    }

    fn is_too_much(&self) -> bool {
        self.overflown || self.told.len() + self.pending.len() + self.ready.len() > MOST_PENDING
    }
}

/// Which thing a hint speaks of; `None` for those that are for the server's own parts.
fn key_of(change: Change) -> Option<Key> {
    Some(match change {
        Change::Device(id) | Change::Telemetry(id) => (Resource::Device, id.to_string()),
        Change::Rollout(id) => (Resource::Rollout, id.to_string()),
        Change::Job(id) => (Resource::Job, id.to_string()),
        Change::Run(id) => (Resource::Run, id.to_string()),
        Change::Drift => (Resource::Drift, String::new()),
        Change::Samples => (Resource::Dataset, String::new()),
        Change::Import(id) => (Resource::Import, id.to_string()),
        Change::Session(id) => (Resource::Session, id),
        Change::Targets | Change::Head | Change::Audit | Change::Decommissioned(_) => return None,
    })
}

/// Which things an audit entry speaks of.
fn keys_of(entry: &AuditEvent) -> Vec<Key> {
    let mut keys = vec![(Resource::Audit, entry.index.to_string())];
    let Some((kind, id)) = entry.subject.split_once(':') else {
        return keys;
    };
    let label = ["label", "dataset.annotated", "dataset.annotation-removed"]
        .iter()
        .any(|prefix| entry.event.starts_with(prefix));
    let resource = match kind {
        "device" => Resource::Device,
        "rollout" => Resource::Rollout,
        "deployment" => Resource::Deployment,
        "run" => Resource::Run,
        "job" => Resource::Job,
        "dataset" | "dataset-version" if label => Resource::Labels,
        "dataset" | "dataset-version" => Resource::Dataset,
        "import" => Resource::Import,
        "labels" | "labeling-function" | "label-model" => Resource::Labels,
        "model" | "model-version" | "model-line" => Resource::Model,
        "claim-token" | "api-token" => Resource::Token,
        "session" => Resource::Session,
        _ => return keys,
    };
    keys.push((resource, id.to_owned()));
    if entry.event.starts_with("rollout.") {
        // Its deployments may have changed with it.
        keys.push((Resource::Deployment, id.to_owned()));
    }
    keys
}

/// The audit log as far as it was told.
struct Log {
    appended: watch::Receiver<u64>,
    /// Index of the first entry that was not told.
    next: u64,
    /// It grew since it was last read to its end.
    grew: bool,
    /// It was looked at in this window.
    looked: bool,
}

impl Log {
    /// From here on.
    async fn open(app: &App) -> Result<Self, StoreError> {
        // Taken before the end is, so that nothing falls in between.
        let appended = audit::appended();
        audit::settled(&app.db).await?;
        Ok(Self {
            appended,
            next: audit::next_index(&app.db).await?,
            grew: false,
            looked: false,
        })
    }

    /// Resolves when the log grew.
    async fn growth(&mut self) {
        // The sender is never dropped.
        if self.appended.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.grew = true;
    }

    /// Tells what is new, once per window and if anybody follows. After an error it is tried again in the next window.
    async fn look(&mut self, app: &App, gather: &mut Gather) -> Result<(), StoreError> {
        if !self.grew || self.looked || app.changes.events().followers() == 0 {
            return Ok(());
        }
        self.looked = true;
        audit::settled(&app.db).await?;
        let end = audit::next_index(&app.db).await?;
        if end.saturating_sub(self.next) > MOST_PENDING as u64 {
            // Whoever comes back after so much asks for everything anyway.
            self.next = end;
            gather.overflow();
        }
        while self.next < end {
            let entries = audit::list_from(&app.db, self.next, AUDIT_PAGE).await?;
            let Some(last) = entries.last() else { break };
            self.next = last.index + 1;
            for key in entries.iter().flat_map(keys_of) {
                gather.add(key);
            }
        }
        self.grew = false;
        Ok(())
    }
}

/// Starts the task that turns changes into events. What changes after it returned becomes an event.
pub async fn start(app: &App, tasks: &mut Tasks) -> Result<(), StoreError> {
    let news = app.changes.listen();
    let log = Log::open(app).await?;
    let shutdown = tasks.shutdown();
    tasks.spawn("events", run(app.clone(), news, log, shutdown));
    Ok(())
}

/// Until the server stops.
async fn run(app: App, mut news: Listener, mut log: Log, mut shutdown: Shutdown) {
    let hub = app.changes.events();
    let mut gather = Gather::default();
    // When the window ends in which something was told or looked at.
    let mut window: Option<Instant> = None;
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            told = news.next() => match told {
                News::Change(change) => gather.hear(change),
                News::Lost => hub.reset(),
                News::Closed => return,
            },
            () = log.growth() => {}
            () = hub.arrival() => {}
            () = over(window) => {
                window = None;
                gather.turn();
                log.looked = false;
            }
        }
        if let Err(error) = log.look(&app, &mut gather).await {
            tracing::warn!(%error, "events of the audit log cannot be told; trying again");
        }
        if gather.is_too_much() {
            gather = Gather::default();
            hub.reset();
        } else {
            let ready = gather.take();
            if !ready.is_empty() {
                hub.publish(with_patches(&app, ready).await);
            }
        }
        if window.is_none() && (gather.is_holding() || log.looked) {
            window = Some(Instant::now() + WINDOW);
        }
    }
}

async fn over(window: Option<Instant>) {
    match window {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Adds the rows that lists show, where somebody follows and they are quickly had. An event without is as good: its follower
/// asks.
async fn with_patches(app: &App, keys: BTreeSet<Key>) -> Vec<Told> {
    let mut rows = BTreeMap::new();
    if app.changes.events().followers() > 0 {
        match patches(app, &keys).await {
            Ok(found) => rows = found,
            Err(error) => tracing::debug!(%error, "events are told without rows"),
        }
    }
    keys.into_iter()
        .map(|key| {
            let patch = rows.remove(&key);
            let (resource, id) = key;
            Told { resource, id, patch }
        })
        .collect()
}

async fn patches(app: &App, keys: &BTreeSet<Key>) -> Result<BTreeMap<Key, Value>, StoreError> {
    let mut rows = BTreeMap::new();
    let ids = |wanted: Resource| keys.iter().filter(move |(resource, _)| *resource == wanted);
    let devices: Vec<DeviceId> = ids(Resource::Device).filter_map(|(_, id)| id.parse().ok()).collect();
    if devices.len() <= MOST_PATCHES {
        for device in device_summaries::by_ids(&app.db, &devices).await? {
            let key = (Resource::Device, device.id.to_string());
            rows.extend(serde_json::to_value(device).ok().map(|row| (key, row)));
        }
    }
    for key in ids(Resource::Job).take(8) {
        if let Ok(id) = key.1.parse() {
            let row = serde_json::to_value(jobs::get(&app.db, id).await?).ok();
            rows.extend(row.map(|row| (key.clone(), row)));
        }
    }
    for key in ids(Resource::Import).take(8) {
        if let Ok(id) = key.1.parse() {
            let row = serde_json::to_value(imports::get(&app.db, id).await?).ok();
            rows.extend(row.map(|row| (key.clone(), row)));
        }
    }
    for key in ids(Resource::Rollout).take(4) {
        if let Ok(id) = key.1.parse() {
            let row = serde_json::to_value(rollouts::get(&app.db, id).await?).ok();
            rows.extend(row.map(|row| (key.clone(), row)));
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(id: usize) -> Told {
        Told {
            resource: Resource::Device,
            id: id.to_string(),
            patch: None,
        }
    }

    fn seqs(events: &[Arc<Event>]) -> Vec<u64> {
        events.iter().map(|event| event.seq).collect()
    }

    #[test]
    fn followers_read_at_their_own_pace_until_they_fall_out_of_the_ring() {
        let hub = EventHub::default();
        assert_eq!(hub.after(0, 10).unwrap().len(), 0);
        hub.publish((0..5).map(told).collect());
        assert_eq!(seqs(&hub.after(0, 2).unwrap()), [1, 2]);
        assert_eq!(seqs(&hub.after(2, 10).unwrap()), [3, 4, 5]);
        assert_eq!(hub.after(5, 10).unwrap().len(), 0);
        assert_eq!(hub.after(6, 10).unwrap_err(), Gap, "from the future");
        hub.publish((0..RING).map(told).collect());
        assert_eq!(hub.after(4, 10).unwrap_err(), Gap);
        assert_eq!(seqs(&hub.after(5, 1).unwrap()), [6]);
        let latest = hub.latest();
        hub.reset();
        assert_eq!(
            hub.after(latest, 10).unwrap_err(),
            Gap,
            "a reset leaves everybody behind"
        );
        assert!(hub.after(hub.latest(), 10).unwrap().is_empty());
    }

    #[test]
    fn ids_of_another_process_are_not_ours() {
        let hub = EventHub::default();
        assert_eq!(hub.seq_of(&hub.id(7)), Some(7));
        for id in ["1-7", "x", "", &format!("{}-", hub.0.epoch)] {
            assert_eq!(hub.seq_of(id), None, "{id}");
        }
    }

    #[test]
    fn the_same_thing_is_told_at_once_and_then_once_per_window() {
        let key = |id: &str| (Resource::Device, id.to_owned());
        let mut gather = Gather::default();
        gather.add(key("a"));
        assert_eq!(gather.take().len(), 1, "the first at once");
        for _ in 0..100 {
            gather.add(key("a"));
        }
        gather.add(key("b"));
        assert_eq!(gather.take(), [key("b")].into(), "the rest waits");
        gather.turn();
        assert_eq!(gather.take(), [key("a")].into());
        gather.turn();
        assert!(gather.take().is_empty());
    }

    #[test]
    fn there_are_only_so_many_followers() {
        let hub = EventHub::default();
        let first = hub.follow(1).unwrap();
        assert!(hub.follow(1).is_none());
        drop(first);
        assert!(hub.follow(1).is_some());
    }

    #[test]
    fn audit_entries_name_what_changed() {
        let entry = |event: &str, subject: &str| AuditEvent {
            index: 7,
            at: String::new(),
            actor: String::new(),
            event: event.to_owned(),
            subject: subject.to_owned(),
            detail: BTreeMap::new(),
            device: None,
        };
        let second = |event, subject| keys_of(&entry(event, subject)).get(1).cloned();
        assert_eq!(
            second("dataset.annotated", "dataset:d"),
            Some((Resource::Labels, "d".into()))
        );
        assert_eq!(
            second("dataset.frozen", "dataset:d"),
            Some((Resource::Dataset, "d".into()))
        );
        assert_eq!(
            second("signature.added", "model-version:m"),
            Some((Resource::Model, "m".into()))
        );
        assert_eq!(
            second("dataset.annotation-removed", "dataset:d"),
            Some((Resource::Labels, "d".into()))
        );
        assert_eq!(
            second("dataset.import-cancelled", "import:i"),
            Some((Resource::Import, "i".into()))
        );
        assert_eq!(second("fleet.created", "fleet:x"), None);
        assert_eq!(keys_of(&entry("rollout.halted", "rollout:r")).len(), 3);
    }
}
