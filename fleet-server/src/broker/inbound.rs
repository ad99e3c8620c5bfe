//! Takes what devices say, in batches: one transaction for many messages, and only then the acknowledgements, the receipts
//! and the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::codec::{self, CodecError, MAX_MESSAGE_BYTES};
use flotilla_protocol::ids::DeviceId;
use flotilla_protocol::messages::{AuditRefusal, HeadMessage, Receipt, RecordKey, SCHEMA};
use flotilla_protocol::topics::{Down, Topic};
use metrics::counter;
use rumqttc::Publish;
use serde_bytes::ByteBuf;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::app::App;
use crate::broker::active::ActiveDevices;
use crate::broker::client::Publisher;
use crate::broker::handlers::{self, Effects, Message, Now, Report, Said};
use crate::broker::presence::PresenceMap;
use crate::broker::suspects::Suspects;
use crate::clock;
use crate::director::{Director, DirectorError};
use crate::refusals::Refusals;
use crate::store::{StoreError, documents};
use crate::tasks::Shutdown;

/// More than the broker sends without being acknowledged. What finds it full is dropped; its device sends it again.
const QUEUE: usize = 2048;
/// Messages per transaction.
const BATCH: usize = 256;
/// How long a batch is gathered.
const GATHER: Duration = Duration::from_millis(20);
/// Devices whose hello and newest report are kept to be stored again.
const KEPT: usize = 4096;
/// How long they wait.
const AGAIN: Duration = Duration::from_secs(5);
/// A device that is behind on what it was told is told again, but not more often.
const REPEAT: Duration = Duration::from_mins(1);
/// How often a bundle behind a gap in its device's audit chain is left to come again.
const GAP_PATIENCE: u32 = 3;

#[derive(Debug, thiserror::Error)]
enum AnswerError {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Director(#[from] DirectorError),
    #[error("{0}")]
    Codec(#[from] CodecError),
}

/// See the module's documentation.
pub(super) struct Inbound {
    pub(super) app: App,
    pub(super) active: ActiveDevices,
    pub(super) director: Arc<Director>,
    pub(super) publisher: Publisher,
    pub(super) presence: PresenceMap,
    pub(super) refusals: Refusals,
    pub(super) suspects: Suspects,
}

pub(super) fn queue() -> (mpsc::Sender<Publish>, mpsc::Receiver<Publish>) {
    mpsc::channel(QUEUE)
}

/// Gaps in devices' audit chains, and how often they were met. At most one entry per device.
#[derive(Debug, Default)]
struct Gaps(BTreeMap<DeviceId, u32>);

impl Gaps {
    fn given_up(&self) -> BTreeSet<DeviceId> {
        self.0
            .iter()
            .filter(|(_, met)| **met >= GAP_PATIENCE)
            .map(|(device, _)| device.clone())
            .collect()
    }

    fn learn(&mut self, effects: &Effects) {
        for device in &effects.closed {
            self.0.remove(device);
        }
        for device in &effects.gaps {
            let met = self.0.entry(device.clone()).or_insert(0);
            *met = met.saturating_add(1);
        }
    }
}

/// What a device said and could not be stored, though no receipt makes it say that again.
#[derive(Debug, Default)]
struct Unstored {
    /// It said hello with this root's version, and waits for an answer.
    hello: Option<u64>,
    report: Option<Box<Report>>,
}

/// Hellos and reports that could not be stored.
#[derive(Debug, Default)]
struct Kept(BTreeMap<DeviceId, Unstored>);

impl Kept {
    fn keep(&mut self, message: &Message) {
        let (hello, report) = match &message.said {
            Said::Hello { root_version, report } => (Some(*root_version), report.as_ref()),
            Said::Report(report) => (None, Some(report)),
            Said::Bundle { .. } | Said::Samples(_) => return,
        };
        if self.0.len() >= KEPT && !self.0.contains_key(&message.device) {
            counter!("flotilla_inbound_lost_total").increment(1);
            return;
        }
        let kept = self.0.entry(message.device.clone()).or_default();
        kept.hello = hello.or(kept.hello);
        if let Some(report) = report {
            kept.report = Some(report.clone());
        }
    }

    /// Forgets what the device says anew. A report asks for nothing: a hello before it is still to be answered.
    fn forget_older(&mut self, message: &Message) {
        let Some(kept) = self.0.get_mut(&message.device) else {
            return;
        };
        match &message.said {
            Said::Hello { report, .. } => {
                kept.hello = None;
                if report.is_some() {
                    kept.report = None;
                }
            }
            Said::Report(_) => kept.report = None,
            Said::Bundle { .. } | Said::Samples(_) => {}
        }
        if kept.hello.is_none() && kept.report.is_none() {
            self.0.remove(&message.device);
        }
    }

    /// All of it, to be stored again.
    fn take(&mut self) -> Vec<Message> {
        let kept = std::mem::take(&mut self.0).into_iter();
        kept.filter_map(|(device, kept)| {
            let said = match (kept.hello, kept.report) {
                (Some(root_version), report) => Said::Hello { root_version, report },
                (None, Some(report)) => Said::Report(report),
                (None, None) => return None,
            };
            Some(Message { device, said })
        })
        .collect()
    }
}

/// When devices that are behind were told again. Entries are dropped once they are of no use.
#[derive(Debug, Default)]
struct Repeats(BTreeMap<DeviceId, Instant>);

impl Repeats {
    /// Of these, whoever may be told again now.
    fn due(&mut self, behind: BTreeMap<DeviceId, u64>, now: Instant) -> BTreeMap<DeviceId, u64> {
        self.0.retain(|_, told| now.duration_since(*told) < REPEAT);
        let due = behind.into_iter().filter(|(device, _)| !self.0.contains_key(device));
        let due: BTreeMap<DeviceId, u64> = due.collect();
        self.0.extend(due.keys().map(|device| (device.clone(), now)));
        due
    }
}

/// What the task remembers from batch to batch.
#[derive(Debug, Default)]
struct Memory {
    gaps: Gaps,
    kept: Kept,
    repeats: Repeats,
}

impl Inbound {
    pub(super) async fn run(self, mut queue: mpsc::Receiver<Publish>, mut shutdown: Shutdown) {
        let mut memory = Memory::default();
        loop {
            let first = tokio::select! {
                () = shutdown.wait() => return,
                first = queue.recv() => first,
                () = tokio::time::sleep(AGAIN), if !memory.kept.0.is_empty() => {
                    let kept = memory.kept.take();
                    self.store(kept, &mut memory).await;
                    continue;
                }
            };
            let Some(first) = first else { return };
            let mut batch = vec![first];
            let until = Instant::now() + GATHER;
            while batch.len() < BATCH {
                match tokio::time::timeout_at(until, queue.recv()).await {
                    Ok(Some(more)) => batch.push(more),
                    Ok(None) | Err(_) => break,
                }
            }
            self.take(batch, &mut memory).await;
        }
    }

    async fn take(&self, batch: Vec<Publish>, memory: &mut Memory) {
        let messages: Vec<Message> = batch.iter().filter_map(|publish| self.decode(publish)).collect();
        for message in &messages {
            memory.kept.forget_older(message);
        }
        let done = self.stored(messages, memory).await;
        for publish in &batch {
            self.publisher.acknowledge(publish).await;
        }
        self.follow(done, memory).await;
    }

    async fn store(&self, messages: Vec<Message>, memory: &mut Memory) {
        let done = self.stored(messages, memory).await;
        self.follow(done, memory).await;
    }

    async fn stored(&self, messages: Vec<Message>, memory: &mut Memory) -> Vec<Effects> {
        let given_up = memory.gaps.given_up();
        match self.commit(&messages, &given_up).await {
            Ok(effects) => vec![effects],
            Err(error) => {
                tracing::warn!(%error, "a batch cannot be stored; trying its messages one by one");
                self.commit_each(&messages, &given_up, &mut memory.kept).await
            }
        }
    }

    async fn follow(&self, done: Vec<Effects>, memory: &mut Memory) {
        for mut effects in done {
            memory.gaps.learn(&effects);
            let behind = std::mem::take(&mut effects.behind);
            effects.answers.extend(memory.repeats.due(behind, Instant::now()));
            self.carry_out(effects).await;
        }
    }

    /// One message that cannot be stored must not take the others with it. Records are not receipted, so that they come
    /// again; hellos and reports are kept here.
    async fn commit_each(&self, messages: &[Message], given_up: &BTreeSet<DeviceId>, kept: &mut Kept) -> Vec<Effects> {
        let mut done = Vec::new();
        for message in messages {
            match self.commit(std::slice::from_ref(message), given_up).await {
                Ok(effects) => done.push(effects),
                Err(error) => {
                    counter!("flotilla_inbound_failed_total").increment(1);
                    tracing::error!(device = %message.device, %error, "a message cannot be stored; it is tried again");
                    kept.keep(message);
                }
            }
        }
        done
    }

    fn decode(&self, publish: &Publish) -> Option<Message> {
        match handlers::decode(&self.active, self.app.fleet.id, &publish.topic, &publish.payload) {
            Ok(message) => {
                counter!("flotilla_messages_total").increment(1);
                self.presence.seen(&message.device, clock::now_ms());
                Some(message)
            }
            Err(refused) => {
                let who = refused
                    .device
                    .map_or_else(|| "broker".to_owned(), |device| format!("device:{device}"));
                self.refusals.tell("message.refused", who, [("reason", refused.why)]);
                None
            }
        }
    }

    async fn commit(&self, messages: &[Message], given_up: &BTreeSet<DeviceId>) -> Result<Effects, StoreError> {
        let mut effects = Effects::default();
        if messages.is_empty() {
            return Ok(effects);
        }
        let now = Now {
            ms: clock::now_ms(),
            given_up,
        };
        let mut tx = self.app.db.begin().await?;
        for message in messages {
            handlers::apply(&mut tx, message, now, &mut effects).await?;
        }
        tx.commit().await?;
        Ok(effects)
    }

    /// Everything is committed: says and tells what follows from it.
    async fn carry_out(&self, effects: Effects) {
        for (device, records) in effects.receipts {
            let audit_refused = effects.audit_refused.get(&device).copied();
            self.receipt(device, records, audit_refused).await;
        }
        if let Err(error) = self.answer(&effects.answers).await {
            tracing::error!(%error, devices = effects.answers.len(), "devices that said hello cannot be answered");
        }
        for (event, device, why) in effects.refused {
            self.refusals.tell(event, format!("device:{device}"), [("reason", why)]);
        }
        for complaint in effects.complaints {
            self.suspects.tell(complaint);
        }
        for change in effects.changes {
            self.app.changes.tell(change);
        }
    }

    async fn receipt(&self, device: DeviceId, records: Vec<RecordKey>, audit_refused: Option<AuditRefusal>) {
        match codec::to_vec(&Receipt {
            schema: SCHEMA,
            records,
            audit_refused,
        }) {
            Ok(bytes) => {
                self.publisher
                    .publish(&Topic::Down(device, Down::Receipt), true, bytes)
                    .await;
            }
            Err(error) => tracing::error!(%device, %error, "a receipt cannot be written"),
        }
    }

    /// Newer roots and the head, then the desired state.
    async fn answer(&self, hellos: &BTreeMap<DeviceId, u64>) -> Result<(), AnswerError> {
        if hellos.is_empty() {
            return Ok(());
        }
        let (_, head) = documents::latest(&self.app.db, documents::HEAD).await?;
        let mut answers: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for root_version in hellos.values() {
            if !answers.contains_key(root_version) {
                let roots = documents::after(&self.app.db, documents::ROOT, *root_version).await?;
                answers.insert(*root_version, head_message(roots, &head)?);
            }
        }
        for (device, root_version) in hellos {
            if let Some(answer) = answers.get(root_version) {
                self.publisher
                    .publish(&Topic::Down(device.clone(), Down::Head), true, answer.clone())
                    .await;
            }
        }
        let devices: Vec<DeviceId> = hellos.keys().cloned().collect();
        for (device, envelope) in self.director.desired_states(&self.app, &devices).await? {
            counter!("flotilla_desired_states_sent_total").increment(1);
            self.publisher
                .publish(&Topic::Down(device, Down::Desired), true, envelope)
                .await;
        }
        Ok(())
    }
}

/// As many roots as one message holds: a device further behind gets the next ones at its next hello.
fn head_message(roots: Vec<Vec<u8>>, head: &[u8]) -> Result<Vec<u8>, CodecError> {
    let mut room = MAX_MESSAGE_BYTES.saturating_sub(head.len()).saturating_sub(1024);
    let mut taken = Vec::new();
    for root in roots {
        let Some(left) = room.checked_sub(root.len() + 16) else {
            break;
        };
        room = left;
        taken.push(ByteBuf::from(root));
    }
    codec::to_vec(&HeadMessage {
        schema: SCHEMA,
        roots: taken,
        head: ByteBuf::from(head.to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn roots_fill_a_message_and_no_more() {
        let root = vec![7; 40 * 1024];
        let message = head_message(vec![root.clone(), root.clone(), root.clone(), root], b"head").unwrap();
        assert!(message.len() <= MAX_MESSAGE_BYTES);
        let read: HeadMessage = codec::from_slice(&message, MAX_MESSAGE_BYTES).unwrap();
        assert_eq!((read.roots.len(), read.head.as_slice()), (3, &b"head"[..]));
    }

    fn message(said: Said) -> Message {
        Message {
            device: DeviceId::new("a").unwrap(),
            said,
        }
    }

    fn report(version: u64) -> Box<Report> {
        Box::new(Report {
            document: testing::report("a", version),
            envelope: Vec::new(),
        })
    }

    fn hello(root_version: u64, report: Option<Box<Report>>) -> Message {
        message(Said::Hello { root_version, report })
    }

    /// Root versions of hellos, and versions of reports.
    fn told(messages: &[Message]) -> Vec<(Option<u64>, Option<u64>)> {
        let version = |report: &Report| report.document.header.version;
        let told = messages.iter().map(|message| match &message.said {
            Said::Hello { root_version, report } => (Some(*root_version), report.as_deref().map(version)),
            Said::Report(report) => (None, Some(version(report))),
            Said::Bundle { .. } | Said::Samples(_) => (None, None),
        });
        told.collect()
    }

    #[test]
    fn a_hello_that_could_not_be_stored_is_not_forgotten_for_a_report() {
        let mut kept = Kept::default();
        kept.keep(&hello(3, Some(report(1))));
        // A later report is stored: the hello waits for its answer, its report is of no use any more.
        let later = message(Said::Report(report(2)));
        kept.forget_older(&later);
        assert_eq!(told(&kept.take()), [(Some(3), None)]);
        assert!(kept.0.is_empty());

        // Neither is stored: both are kept, as one message.
        kept.keep(&hello(3, Some(report(1))));
        kept.forget_older(&later);
        kept.keep(&later);
        assert_eq!(told(&kept.take()), [(Some(3), Some(2))]);

        // A later hello says what an earlier one said, but without a report nothing of how the device is.
        kept.keep(&later);
        kept.forget_older(&hello(4, None));
        assert_eq!(told(&kept.take()), [(None, Some(2))]);
        kept.keep(&hello(3, Some(report(1))));
        kept.forget_older(&hello(4, Some(report(5))));
        assert!(kept.0.is_empty());
    }

    #[test]
    fn a_device_that_is_behind_is_told_again_now_and_then() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let behind: BTreeMap<DeviceId, u64> = [(DeviceId::new("a").unwrap(), 1)].into();
        assert_eq!(repeats.due(behind.clone(), start), behind);
        assert!(repeats.due(behind.clone(), start + REPEAT / 2).is_empty());
        assert_eq!(repeats.due(behind.clone(), start + REPEAT), behind);
        assert!(repeats.due(BTreeMap::new(), start + 3 * REPEAT).is_empty() && repeats.0.is_empty());
    }

    #[test]
    fn gaps_are_given_up_after_a_while_and_forgotten_when_closed() {
        let device = DeviceId::new("a").unwrap();
        let met = Effects {
            gaps: [device.clone()].into(),
            ..Effects::default()
        };
        let mut gaps = Gaps::default();
        for _ in 0..GAP_PATIENCE {
            assert!(gaps.given_up().is_empty());
            gaps.learn(&met);
        }
        assert_eq!(gaps.given_up(), [device.clone()].into());
        gaps.learn(&Effects {
            closed: [device].into(),
            ..Effects::default()
        });
        assert!(gaps.given_up().is_empty());
    }
}
