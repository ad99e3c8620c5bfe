//! The trust store on a device: every acceptance is durable before anything acts on it, every refusal is an audit entry
//! and stands in the next report.
//!
//! The rules themselves are `flotilla_protocol::trust`'s. What is refused never touches what runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flotilla_protocol::codec::{self, MAX_DOCUMENT_BYTES, MAX_MESSAGE_BYTES};
use flotilla_protocol::desired_state::{DesiredState, Target};
use flotilla_protocol::head::{Endpoint, Head};
use flotilla_protocol::ids::{DeviceId, Digest};
use flotilla_protocol::manifest::Manifest;
use flotilla_protocol::messages::HeadMessage;
use flotilla_protocol::report::{DetectedAttack, InstalledModel};
use flotilla_protocol::trust::{
    DeviceFacts, DocumentVersions, Envelope, KeyId, Root, TrustError, TrustSnapshot, TrustStore, Verified,
};
use serde_bytes::ByteBuf;
use tokio::sync::{Notify, watch};
use tracing::{error, warn};

use crate::audit::{self, Entry};
use crate::clock::Clock;
use crate::store::{self, Store, StoreError, keys};

/// Refusals written to the audit chain per minute; a flood is counted in the next one.
const MAX_REFUSALS_PER_MINUTE: u32 = 20;
const MINUTE_MS: i64 = 60_000;

/// Why a document was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum NotAccepted {
    /// Refused, audited, and to be reported at once.
    #[error("refused as {attack}: {why}", attack = why.attack())]
    Refused { why: TrustError },
    /// The root or the `Head` that we have lapsed, or there is no `Head` yet. Nobody offered anything that could be held
    /// against him, and the server's next news may change it.
    #[error("the server's news are awaited: {why}")]
    Stale { why: TrustError },
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, Default)]
struct Refusals {
    minute: i64,
    written: u32,
    suppressed: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct TrustState {
    store: Arc<Store>,
    clock: Clock,
    device: DeviceId,
    thumbprint: KeyId,
    trust: Mutex<TrustStore>,
    refusals: Mutex<Refusals>,
    /// Told of every refusal that was recorded.
    refused: Arc<Notify>,
    /// The version of the last head taken since the start.
    heads: watch::Sender<u64>,
}

impl TrustState {
    /// Restores what the store remembers.
    pub fn open(
        store: Arc<Store>,
        clock: Clock,
        device: DeviceId,
        thumbprint: KeyId,
    ) -> Result<Option<Self>, NotAccepted> {
        let Some(snapshot) = store.get::<TrustSnapshot>(keys::TRUST)? else {
            return Ok(None);
        };
        let trust = TrustStore::restore(snapshot).map_err(|why| NotAccepted::Refused { why })?;
        clock.set_floor(trust.snapshot().clock_floor);
        Ok(Some(Self {
            store,
            clock,
            device,
            thumbprint,
            trust: Mutex::new(trust),
            refusals: Mutex::new(Refusals::default()),
            refused: Arc::new(Notify::new()),
            heads: watch::Sender::new(0),
        }))
    }

    fn trust(&self) -> MutexGuard<'_, TrustStore> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notified of every refusal: the server must learn at once that somebody speaks in its name.
    pub fn refused_notice(&self) -> Arc<Notify> {
        Arc::clone(&self.refused)
    }

    /// Changes whenever a head was taken.
    pub fn heads(&self) -> watch::Receiver<u64> {
        self.heads.subscribe()
    }

    /// Are the root and the `Head` that we have still valid? Nothing new is installed otherwise.
    pub fn check_fresh(&self) -> Result<(), TrustError> {
        self.trust().check_fresh(self.clock.wall_ms())
    }

    pub fn versions(&self) -> DocumentVersions {
        self.trust().versions().clone()
    }

    /// DER certificates that a server of this fleet may be signed by.
    pub fn tls_anchors(&self) -> Vec<Vec<u8>> {
        self.trust()
            .root()
            .tls_anchors
            .iter()
            .map(|anchor| anchor.to_vec())
            .collect()
    }

    pub fn fleet(&self) -> flotilla_protocol::ids::FleetId {
        self.trust().fleet()
    }

    /// `down/head`: follows the roots, then takes the head.
    pub fn accept_head_message(&self, bytes: &[u8]) -> Result<Verified<Head>, NotAccepted> {
        let message: HeadMessage = codec::from_slice(bytes, MAX_MESSAGE_BYTES)
            .map_err(|source| self.refused(TrustError::Document(source), "head message", Digest::of(bytes)))?;
        self.accept_head(&message.roots, &message.head)
    }

    /// Follows the roots that are new, then takes the head. Both or neither.
    pub fn accept_head(&self, roots: &[ByteBuf], head: &[u8]) -> Result<Verified<Head>, NotAccepted> {
        let digest = Digest::of(head);
        let known: Option<Endpoint> = self.store.get(keys::ENDPOINT)?;
        let accepted = self.change(
            |trust, wall_ms| {
                let current = trust.root().header.version;
                let newer: Vec<Vec<u8>> = roots
                    .iter()
                    .filter(|root| claimed_root_version(root).is_none_or(|version| version > current))
                    .map(|root| root.to_vec())
                    .collect();
                trust.advance_root(&newer, wall_ms)?;
                trust.accept_head(head, wall_ms)
            },
            |head| match head
                .endpoints
                .first()
                .filter(|endpoint| known.as_ref() != Some(*endpoint))
            {
                Some(endpoint) => Beside::new(keys::ENDPOINT, endpoint).map(Some),
                None => Ok(None),
            },
        );
        let head = self.or_refuse(accepted, "head", digest)?;
        self.heads.send_replace(head.header.version);
        Ok(head)
    }

    /// `down/desired`. The accepted document is kept, in the transaction that remembers its version, so that an update goes on
    /// after a reboot without the server.
    pub fn accept_desired_state(&self, bytes: &[u8]) -> Result<DesiredState, NotAccepted> {
        let stored = self.stored_desired_state()?;
        let accepted = self.change(
            |trust, wall_ms| trust.accept_desired_state(bytes, &self.device, self.thumbprint, wall_ms),
            |desired| {
                let desired: &DesiredState = desired;
                if stored.as_ref() == Some(desired) {
                    return Ok(None);
                }
                Beside::new(keys::DESIRED, desired).map(Some)
            },
        );
        let desired = self.or_refuse(accepted, "desired state", Digest::of(bytes))?;
        Ok(desired.into_inner())
    }

    fn stored_desired_state(&self) -> Result<Option<DesiredState>, StoreError> {
        self.store.get(keys::DESIRED)
    }

    /// The desired state to go on with after a start: the stored one, if it is the one that was accepted last. Its expiry is
    /// the caller's to judge: it stops new installs only.
    pub fn resumable_desired_state(&self) -> Result<Option<DesiredState>, StoreError> {
        let accepted = self.versions().desired_state.version;
        let Some(desired) = self.stored_desired_state()? else {
            return Ok(None);
        };
        if desired.header.version != accepted {
            // An agent that wrote them one after the other was cut off in between, or a new director key undid what the old
            // one had said.
            warn!(
                stored = desired.header.version,
                accepted, "the stored desired state is not the one that was accepted last: the server's is awaited"
            );
            return Ok(None);
        }
        Ok(Some(desired))
    }

    /// Checks a manifest against its target and this device. Refusals are audited; that our own root or `Head` has lapsed
    /// is none: a device that was switched off for a day finds them so.
    pub fn accept_manifest(
        &self,
        bytes: &[u8],
        target: &Target,
        facts: &DeviceFacts,
    ) -> Result<Verified<Manifest>, NotAccepted> {
        let wall_ms = self.clock.wall_ms();
        let checked = {
            let trust = self.trust();
            if let Err(why) = trust.check_fresh(wall_ms) {
                return Err(NotAccepted::Stale { why });
            }
            trust.accept_manifest(bytes, target, facts, wall_ms)
        };
        checked.map_err(|why| self.refused(why, &format!("manifest for slot {}", target.slot), Digest::of(bytes)))
    }

    /// Floors and revocations, as far as they are known here, for a package that was installed before. Nobody offers it, so
    /// that it may not run any more is no attack on record.
    pub fn check_installed(&self, model: &InstalledModel) -> Result<(), TrustError> {
        self.trust()
            .check_release(&model.line, &model.manifest, model.release_counter)
    }

    /// Records content that came from elsewhere and is not what was signed (a forged chunk).
    pub fn altered_content(&self, what: &str, detail: &str, document: Digest) {
        self.record_refusal("altered-content", detail, what, document);
    }

    /// Records content that had been checked and has changed on this device's disk since. Nobody offered it, so that it is no
    /// attack on record: bits rot, and whoever can write here needs no network to attack.
    pub fn damaged_content(&self, what: &str, document: Digest) {
        warn!(what, %document, "it has changed on this device's disk");
        let entry = Entry::new("content.damaged", what).with("document", document);
        let at = self.clock.now_ms();
        if let Err(why) = self.store.write(|txn| audit::append(txn, &entry, at)) {
            error!(%why, "the damage could not be audited");
        }
    }

    /// The last attack that was refused.
    pub fn last_attack(&self) -> Result<Option<DetectedAttack>, StoreError> {
        self.store.get(keys::LAST_ATTACK)
    }

    /// Applies a change to a copy, makes it durable together with what is to be kept beside it, then believes it.
    fn change<T>(
        &self,
        apply: impl FnOnce(&mut TrustStore, i64) -> Result<T, TrustError>,
        beside: impl FnOnce(&T) -> Result<Option<Beside>, StoreError>,
    ) -> Result<Result<T, TrustError>, StoreError> {
        let mut trust = self.trust();
        let mut next = trust.clone();
        let value = match apply(&mut next, self.clock.wall_ms()) {
            Ok(value) => value,
            Err(why) => return Ok(Err(why)),
        };
        let beside = beside(&value)?;
        let changed = next.snapshot() != trust.snapshot();
        if changed || beside.is_some() {
            self.store.write(|txn| {
                if changed {
                    txn.put(keys::TRUST, next.snapshot())?;
                }
                match &beside {
                    Some(beside) => txn.put_encoded(beside.key, &beside.bytes),
                    None => Ok(()),
                }
            })?;
        }
        if changed {
            self.clock.set_floor(next.snapshot().clock_floor);
            *trust = next;
        }
        Ok(Ok(value))
    }

    fn or_refuse<T>(
        &self,
        accepted: Result<Result<T, TrustError>, StoreError>,
        what: &str,
        document: Digest,
    ) -> Result<T, NotAccepted> {
        accepted?.map_err(|why| self.refused(why, what, document))
    }

    fn refused(&self, why: TrustError, what: &str, document: Digest) -> NotAccepted {
        self.record_refusal(why.attack(), &why.to_string(), what, document);
        NotAccepted::Refused { why }
    }

    /// The audit entry and the attack of the next report, in one transaction.
    fn record_refusal(&self, attack: &str, detail: &str, what: &str, document: Digest) {
        let at = self.clock.now_ms();
        warn!(attack, what, %document, detail, "refused");
        let suppressed = {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            let minute = at.div_euclid(MINUTE_MS);
            if refusals.minute != minute {
                refusals.minute = minute;
                refusals.written = 0;
            }
            if refusals.written >= MAX_REFUSALS_PER_MINUTE {
                refusals.suppressed = refusals.suppressed.saturating_add(1);
                return;
            }
            refusals.written += 1;
            std::mem::take(&mut refusals.suppressed)
        };
        let mut entry = Entry::new("attack.refused", what)
            .with("attack", attack)
            .with("detail", detail)
            .with("document", document);
        if suppressed > 0 {
            entry = entry.with("suppressed_before", suppressed);
        }
        let detected = DetectedAttack {
            attack: attack.to_owned(),
            detail: detail.chars().take(500).collect(),
            at,
        };
        let written = self.store.write(|txn| {
            audit::append(txn, &entry, at)?;
            txn.put(keys::LAST_ATTACK, &detected)
        });
        if let Err(why) = written {
            error!(%why, "the refusal could not be audited");
        }
        self.refused.notify_one();
    }
}

/// A value that becomes durable together with what is trusted.
struct Beside {
    key: &'static str,
    bytes: Vec<u8>,
}

impl Beside {
    fn new<T: serde::Serialize>(key: &'static str, value: &T) -> Result<Self, StoreError> {
        let bytes = store::encode(key, value)?;
        Ok(Self { key, bytes })
    }
}

/// What a root claims to be, unverified: to skip those that were followed before.
fn claimed_root_version(bytes: &[u8]) -> Option<u64> {
    let envelope = Envelope::decode(bytes).ok()?;
    let root: Root = codec::from_slice(envelope.payload(), MAX_DOCUMENT_BYTES).ok()?;
    Some(root.header.version)
}

#[cfg(test)]
mod tests;
