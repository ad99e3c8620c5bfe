//! Takes what devices say, in batches: one transaction for many messages, and only then the acknowledgements, the receipts
//! and the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::codec::{self, CodecError, MAX_MESSAGE_BYTES};
use flotilla_protocol::ids::DeviceId;
use flotilla_protocol::messages::{HeadMessage, Receipt, RecordKey, SCHEMA};
use flotilla_protocol::topics::{Down, Topic};
use metrics::counter;
use rumqttc::Publish;
use serde_bytes::ByteBuf;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::app::App;
use crate::broker::active::ActiveDevices;
use crate::broker::client::Publisher;
use crate::broker::handlers::{self, Effects, Message, Now};
use crate::broker::presence::PresenceMap;
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

impl Inbound {
    pub(super) async fn run(self, mut queue: mpsc::Receiver<Publish>, mut shutdown: Shutdown) {
        let mut gaps = Gaps::default();
        loop {
            let first = tokio::select! {
                () = shutdown.wait() => return,
                first = queue.recv() => first,
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
            self.take(batch, &mut gaps).await;
        }
    }

    async fn take(&self, batch: Vec<Publish>, gaps: &mut Gaps) {
        let messages: Vec<Message> = batch.iter().filter_map(|publish| self.decode(publish)).collect();
        let given_up = gaps.given_up();
        let done = match self.commit(&messages, &given_up).await {
            Ok(effects) => vec![effects],
            Err(error) => {
                tracing::warn!(%error, "a batch cannot be stored; trying its messages one by one");
                self.commit_each(&messages, &given_up).await
            }
        };
        for publish in &batch {
            self.publisher.acknowledge(publish).await;
        }
        for effects in done {
            gaps.learn(&effects);
            self.carry_out(effects).await;
        }
    }

    /// One message that cannot be stored must not take the others with it. It is not receipted, so that it comes again.
    async fn commit_each(&self, messages: &[Message], given_up: &BTreeSet<DeviceId>) -> Vec<Effects> {
        let mut done = Vec::new();
        for message in messages {
            match self.commit(std::slice::from_ref(message), given_up).await {
                Ok(effects) => done.push(effects),
                Err(error) => {
                    counter!("flotilla_inbound_failed_total").increment(1);
                    tracing::error!(device = %message.device, %error, "a message cannot be stored; it is not receipted");
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
            self.receipt(device, records).await;
        }
        if let Err(error) = self.answer(&effects.answers).await {
            tracing::error!(%error, devices = effects.answers.len(), "devices that said hello cannot be answered");
        }
        for (event, device, why) in effects.refused {
            self.refusals.tell(event, format!("device:{device}"), [("reason", why)]);
        }
        for change in effects.changes {
            self.app.changes.tell(change);
        }
    }

    async fn receipt(&self, device: DeviceId, records: Vec<RecordKey>) {
        match codec::to_vec(&Receipt {
            schema: SCHEMA,
            records,
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

    #[test]
    fn roots_fill_a_message_and_no_more() {
        let root = vec![7; 40 * 1024];
        let message = head_message(vec![root.clone(), root.clone(), root.clone(), root], b"head").unwrap();
        assert!(message.len() <= MAX_MESSAGE_BYTES);
        let read: HeadMessage = codec::from_slice(&message, MAX_MESSAGE_BYTES).unwrap();
        assert_eq!((read.roots.len(), read.head.as_slice()), (3, &b"head"[..]));
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
