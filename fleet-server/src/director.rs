//! The director: signs what every device shall run (`DesiredState`) and the fleet's short-lived statement (`Head`).
//!
//! It holds the only signing key that the running server opens. It decides nothing: targets are written by rollouts, and a
//! device installs only what a release key has signed as well.
//!
//! A head is always signed, whatever it is asked to say: devices that get none install nothing. What a document has no room for is
//! left out and said aloud.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use flotilla_api_types::rollouts::CreateRollout;
use flotilla_protocol::chunks::BlobRef;
use flotilla_protocol::codec::{self, MAX_DOCUMENT_BYTES};
use flotilla_protocol::desired_state::{
    Action, ComponentSources, DesiredState, HarvestPolicy, Source, Target, TelemetryPolicy, UpdatePolicy,
};
use flotilla_protocol::head::{Endpoint, Head};
use flotilla_protocol::ids::{DeviceId, Digest, FleetId};
use flotilla_protocol::trust::{Authority, Document as _, Header, KeyPair, Role, TrustError, Verified, sign, verify};
use serde::Deserialize;

use crate::app::{App, Change};
use crate::blobs::BlobError;
use crate::clock;
use crate::store::StoreError;
use crate::store::devices::{self, DesiredTarget, PendingDevice};
use crate::store::documents::{self, RevokedManifest};
use crate::tasks::Shutdown;

const HOUR_MS: i64 = 3_600_000;
const HEAD_LIFETIME_MS: i64 = 24 * HOUR_MS;
const DESIRED_LIFETIME_MS: i64 = 7 * 24 * HOUR_MS;
/// After this a desired state is signed anew although nothing changed.
pub const DESIRED_HALF_LIFE_MS: i64 = DESIRED_LIFETIME_MS / 2;
/// A digest as CBOR: a byte string of 32, and two bytes before it.
const DIGEST_BYTES: usize = 34;
/// An array of digests begins with up to so many bytes more than an empty one.
const ARRAY_BYTES: usize = 2;
/// How often the head's age is looked at.
const TICK: Duration = Duration::from_mins(10);

/// Why a document was not signed.
#[derive(Debug, thiserror::Error)]
pub enum DirectorError {
    #[error("director: {0}")]
    Store(#[from] StoreError),
    #[error("director: {0}")]
    Blobs(#[from] BlobError),
    #[error("director: cannot sign: {0}")]
    Trust(#[from] TrustError),
    #[error("director: the components of manifest {manifest} are unreadable: {source}")]
    Components {
        manifest: Digest,
        source: serde_json::Error,
    },
}

/// What the packager stored of a component; its kind stands in the manifest.
#[derive(Debug, Deserialize)]
struct StoredComponent {
    digest: Digest,
    sources: Vec<Source>,
}

/// A device and the envelope of its desired state.
pub type Addressed = (DeviceId, Vec<u8>);

/// See the module's documentation.
#[derive(Debug)]
pub struct Director {
    key: KeyPair,
    fleet: FleetId,
    bundle_interval_ms: u64,
    /// Manifest envelopes that are kept as blobs already. As many as there are packages in use.
    kept: Mutex<BTreeSet<Digest>>,
}

/// What there is to send.
enum Decision {
    /// The stored one still holds.
    Keep(Vec<u8>),
    New {
        version: u64,
        envelope: Vec<u8>,
        expires: i64,
    },
}

impl Director {
    pub fn new(key: KeyPair, fleet: FleetId, bundle_interval_ms: u64) -> Self {
        Self {
            key,
            fleet,
            bundle_interval_ms,
            kept: Mutex::default(),
        }
    }

    /// Signs a new `Head` if there is none, its half-life has passed, or what it says has changed. `true`: signed.
    pub async fn ensure_head(&self, app: &App) -> Result<bool, DirectorError> {
        let now = clock::now_ms();
        let (root_version, _) = documents::latest(&app.db, documents::ROOT).await?;
        let known = match documents::latest(&app.db, documents::HEAD).await {
            Ok((version, envelope)) => Some((version, self.believe::<Head>(&envelope))),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let version = known.as_ref().map_or(0, |(version, _)| *version).saturating_add(1);
        let known = known.and_then(|(_, head)| head).map(Verified::into_inner);
        let revoked = documents::revoked_manifests(&app.db).await?;
        let frame = Head {
            header: self.header(Head::SCHEMA, version, now, HEAD_LIFETIME_MS),
            root_version,
            revoked_keys: Vec::new(),
            revoked_manifests: Vec::new(),
            release_floors: BTreeMap::new(),
            endpoints: vec![Endpoint {
                broker: app.fleet.broker_url.clone(),
                device_api: app.fleet.device_api_url.clone(),
            }],
        };
        let (head, left_out) = next_head(frame, known.as_ref(), &revoked)?;
        if let Some(first) = left_out.first() {
            tracing::error!(
                left_out = left_out.len(),
                %first,
                "revocations are not told to devices: a head has no room for more of them. What lies below its line's release floor \
                 needs none"
            );
        }
        if let Some(known) = known {
            let fresh = known.header.expires.saturating_sub(now) > HEAD_LIFETIME_MS / 2;
            let same = Head {
                header: head.header.clone(),
                ..known
            } == head;
            if fresh && same {
                return Ok(false);
            }
        }
        let envelope = sign(&head, &self.key)?;
        let mut tx = app.db.begin().await?;
        documents::insert(&mut tx, documents::HEAD, version, &envelope, now).await?;
        documents::prune(&mut tx, documents::HEAD, version).await?;
        tx.commit().await.map_err(StoreError::from)?;
        tracing::info!(version, "head signed");
        app.changes.tell(Change::Head);
        Ok(true)
    }

    /// Keeps the head fresh until the server stops.
    pub async fn keep_head(&self, app: App, mut shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.wait() => return,
                () = tokio::time::sleep(TICK) => {}
            }
            if let Err(error) = self.ensure_head(&app).await {
                tracing::error!(%error, "the head cannot be renewed; trying again");
            }
        }
    }

    /// The desired states of these devices: signed anew where something changed or half of the life has passed. Unknown and
    /// decommissioned devices are left out.
    pub async fn desired_states(&self, app: &App, wanted: &[DeviceId]) -> Result<Vec<Addressed>, DirectorError> {
        let now = clock::now_ms();
        let mut tx = app.db.begin().await?;
        let (mut out, mut envelopes) = (Vec::with_capacity(wanted.len()), Vec::new());
        for id in wanted {
            let Some(device) = devices::pending(&mut tx, id).await? else {
                continue;
            };
            let targets = devices::desired_targets(&mut *tx, id).await?;
            if let Some(envelope) = self.settle(&mut tx, &device, &targets, now).await? {
                envelopes.extend(targets.into_iter().map(|target| target.envelope));
                out.push((device.id, envelope));
            }
        }
        tx.commit().await.map_err(StoreError::from)?;
        self.keep_envelopes(app, envelopes).await?;
        Ok(out)
    }

    /// The same for a page of connected devices whose targets changed, above `after`; and where the next page begins.
    pub async fn stale_desired_states(
        &self,
        app: &App,
        after: &str,
        limit: u32,
    ) -> Result<(Vec<Addressed>, Option<DeviceId>), DirectorError> {
        let now = clock::now_ms();
        let mut tx = app.db.begin().await?;
        let page = devices::pending_stale(&mut tx, after, limit).await?;
        let mut targets: BTreeMap<DeviceId, Vec<DesiredTarget>> = BTreeMap::new();
        for target in devices::desired_targets_of_stale(&mut tx, after, limit).await? {
            targets.entry(target.device.clone()).or_default().push(target);
        }
        let last = page.last().map(|device| device.id.clone());
        let (mut out, mut envelopes) = (Vec::with_capacity(page.len()), Vec::new());
        for device in page {
            let targets = targets.remove(&device.id).unwrap_or_default();
            if let Some(envelope) = self.settle(&mut tx, &device, &targets, now).await? {
                envelopes.extend(targets.into_iter().map(|target| target.envelope));
                out.push((device.id, envelope));
            }
        }
        tx.commit().await.map_err(StoreError::from)?;
        self.keep_envelopes(app, envelopes).await?;
        Ok((out, last))
    }

    /// Decides and stores, before anything is sent: a version that left the house is never given to other contents. `None`:
    /// this device's cannot be made, which is logged and holds up nobody else.
    async fn settle(
        &self,
        tx: &mut crate::store::Tx,
        device: &PendingDevice,
        targets: &[DesiredTarget],
        now: i64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        match self.decide(device, targets, now) {
            Ok(Decision::Keep(envelope)) => {
                devices::clear_stale(tx, &device.id).await?;
                Ok(Some(envelope))
            }
            Ok(Decision::New {
                version,
                envelope,
                expires,
            }) => match devices::set_desired(tx, &device.id, version, &envelope, expires).await {
                Ok(()) => Ok(Some(envelope)),
                Err(StoreError::Conflict(why)) => {
                    tracing::error!(device = %device.id, version, why, "the desired state cannot be kept");
                    Ok(None)
                }
                Err(error) => Err(error),
            },
            Err(error) => {
                tracing::error!(device = %device.id, %error, "no desired state can be signed");
                Ok(None)
            }
        }
    }

    fn decide(&self, device: &PendingDevice, targets: &[DesiredTarget], now: i64) -> Result<Decision, DirectorError> {
        let version = device.desired_version.saturating_add(1);
        let desired = DesiredState {
            header: self.header(DesiredState::SCHEMA, version, now, DESIRED_LIFETIME_MS),
            device: device.id.clone(),
            thumbprint: device.thumbprint,
            targets: targets.iter().map(target_of).collect::<Result<_, _>>()?,
            telemetry: TelemetryPolicy {
                bundle_interval_ms: self.bundle_interval_ms,
            },
            last_report_counter: device.report_counter,
        };
        desired.check()?;
        if let Some(envelope) = &device.desired
            && let Some(known) = self.believe::<DesiredState>(envelope)
        {
            let fresh = known.header.expires.saturating_sub(now) > DESIRED_HALF_LIFE_MS;
            let same = DesiredState {
                header: desired.header.clone(),
                last_report_counter: desired.last_report_counter,
                ..known.into_inner()
            } == desired;
            if fresh && same {
                return Ok(Decision::Keep(envelope.clone()));
            }
        }
        Ok(Decision::New {
            version,
            envelope: sign(&desired, &self.key)?,
            expires: desired.header.expires,
        })
    }

    /// A document of our own, if this key signed it.
    fn believe<T: flotilla_protocol::trust::Document>(&self, envelope: &[u8]) -> Option<Verified<T>> {
        verify(
            envelope,
            &Authority::single(Role::Director, self.key.public()),
            self.fleet,
        )
        .ok()
    }

    fn header(&self, schema: &str, version: u64, now: i64, lifetime_ms: i64) -> Header {
        Header {
            schema: schema.to_owned(),
            role: Role::Director,
            fleet: self.fleet,
            version,
            issued: now,
            expires: now.saturating_add(lifetime_ms),
        }
    }

    /// Manifest envelopes are fetched like any other blob.
    async fn keep_envelopes(&self, app: &App, envelopes: Vec<Vec<u8>>) -> Result<(), BlobError> {
        for envelope in envelopes {
            let digest = Digest::of(&envelope);
            if self
                .kept
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(&digest)
            {
                continue;
            }
            app.blobs.put(Bytes::from(envelope)).await?;
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(digest);
        }
        Ok(())
    }
}

/// What the head after `known` says, and which revocations it has no room for.
///
/// Nothing that was said is taken back: floors, revoked keys and revoked manifests stay. A manifest below its line's floor needs
/// no mention any more, for devices refuse it by the floor.
fn next_head(
    frame: Head,
    known: Option<&Head>,
    revoked: &[RevokedManifest],
) -> Result<(Head, Vec<Digest>), DirectorError> {
    let mut head = frame;
    let mut said = BTreeSet::new();
    if let Some(known) = known {
        head.revoked_keys.clone_from(&known.revoked_keys);
        head.release_floors.clone_from(&known.release_floors);
        said.extend(known.revoked_manifests.iter().copied());
    }
    let mut unsaid = Vec::new();
    for one in revoked {
        let floor = head.release_floors.get(&one.line).copied().unwrap_or(0);
        if one.release_counter < floor {
            said.remove(&one.manifest);
        } else if !said.contains(&one.manifest) {
            unsaid.push(one.manifest);
        }
    }
    let frame_bytes = codec::to_vec(&head).map_err(TrustError::Document)?.len();
    let room = MAX_DOCUMENT_BYTES.saturating_sub(frame_bytes + ARRAY_BYTES) / DIGEST_BYTES;
    // What was said before comes first.
    head.revoked_manifests = said.into_iter().chain(unsaid).collect();
    let left_out = head.revoked_manifests.split_off(room.min(head.revoked_manifests.len()));
    head.revoked_manifests.sort();
    Ok((head, left_out))
}

fn update_policy(spec: &CreateRollout) -> UpdatePolicy {
    let soak = Duration::try_from_secs_f64(spec.soak_s).unwrap_or(Duration::from_mins(1));
    UpdatePolicy {
        soak_ms: u64::try_from(soak.as_millis()).unwrap_or(u64::MAX),
        max_error_permille: spec.max_error_permille,
        start_spread_ms: spec.start_spread_s.saturating_mul(1000),
        deadline: 0,
        max_bytes_per_s: spec.max_bytes_per_s,
    }
}

fn harvest_policy(spec: &CreateRollout) -> HarvestPolicy {
    match spec.harvest {
        Some(harvest) => HarvestPolicy {
            on_drift: harvest.on_drift,
            below_permille: permille(harvest.below_confidence),
            max_samples: harvest.max_samples,
        },
        None => HarvestPolicy {
            on_drift: false,
            below_permille: 0,
            max_samples: 0,
        },
    }
}

fn components_of(target: &DesiredTarget) -> Result<Vec<StoredComponent>, DirectorError> {
    serde_json::from_str(&target.components).map_err(|source| DirectorError::Components {
        manifest: target.manifest,
        source,
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=1000"
)]
fn permille(share: f32) -> u32 {
    (f64::from(share) * 1000.0).round().clamp(0.0, 1000.0) as u32
}

fn target_of(target: &DesiredTarget) -> Result<Target, DirectorError> {
    let components = components_of(target)?.into_iter().map(|component| ComponentSources {
        component: component.digest,
        sources: component.sources,
    });
    Ok(Target {
        slot: target.slot.clone(),
        action: Action::Install,
        line: target.line.clone(),
        manifest: target.manifest,
        manifest_envelope: BlobRef::of(&target.envelope),
        release_counter: target.release_counter,
        deployment: target.deployment,
        components: components.collect(),
        update: update_policy(&target.spec),
        harvest: harvest_policy(&target.spec),
    })
}

/// Every blob that a target names: what its device may ask for.
pub fn blobs_of(target: &DesiredTarget) -> Result<Vec<BlobRef>, DirectorError> {
    let mut blobs = vec![BlobRef::of(&target.envelope)];
    for source in components_of(target)?
        .into_iter()
        .flat_map(|component| component.sources)
    {
        blobs.push(source.blob);
        blobs.extend(source.chunk_list);
    }
    Ok(blobs)
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::desired_state::Encoding;
    use flotilla_protocol::ids::{DeploymentId, ModelLine, ModelVersionId, SlotName};
    use uuid::Uuid;

    use super::*;

    const NOW: i64 = 1_795_399_200_000;

    fn director() -> Director {
        Director::new(KeyPair::from_seed(&[1; 32]), FleetId::new(Uuid::nil()), 5000)
    }

    fn device(desired: Option<Vec<u8>>, desired_version: u64) -> PendingDevice {
        PendingDevice {
            id: DeviceId::new("a").unwrap(),
            thumbprint: KeyPair::from_seed(&[2; 32]).id(),
            report_counter: 4,
            desired_version,
            desired,
        }
    }

    fn target(slot: &str, deployment: u128, soak_s: f64) -> DesiredTarget {
        let blob = BlobRef::of(b"model");
        let source = Source {
            encoding: Encoding::Identity,
            blob,
            chunk_list: None,
        };
        let spec = serde_json::json!({"model_version": ModelVersionId::new(Uuid::nil()), "soak_s": soak_s,
            "start_spread_s": 30});
        DesiredTarget {
            device: DeviceId::new("a").unwrap(),
            slot: SlotName::new(slot).unwrap(),
            deployment: DeploymentId::new(Uuid::from_u128(deployment)),
            line: ModelLine::new("anomaly").unwrap(),
            manifest: Digest::of(b"manifest"),
            release_counter: 3,
            components: serde_json::json!([{"kind": "model", "digest": blob.sha256, "sources": [source]}]).to_string(),
            envelope: b"envelope".to_vec(),
            spec: serde_json::from_value(spec).unwrap(),
        }
    }

    fn signed(director: &Director, decision: Decision) -> (u64, Vec<u8>, DesiredState) {
        let Decision::New { version, envelope, .. } = decision else {
            panic!("a new one is due")
        };
        let desired = director.believe::<DesiredState>(&envelope).unwrap().into_inner();
        (version, envelope, desired)
    }

    #[tokio::test]
    async fn a_device_whose_state_cannot_be_kept_holds_up_nobody_else() {
        let (_dir, app) = crate::testing::app().await;
        for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
            crate::testing::enrol(&app.db, name, seed, BTreeMap::new())
                .await
                .unwrap();
        }
        // As if it had told of a version above which there is none.
        let mut tx = app.db.begin().await.unwrap();
        sqlx::query("UPDATE devices SET desired_version = 9223372036854775807 WHERE id = 'b'")
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let wanted = ["a", "b", "c"].map(|name| DeviceId::new(name).unwrap());
        let signed = director().desired_states(&app, &wanted).await.unwrap();
        let told: Vec<_> = signed.iter().map(|(device, _)| device.as_str()).collect();
        assert_eq!(told, ["a", "c"]);
    }

    fn frame(version: u64) -> Head {
        Head {
            header: director().header(Head::SCHEMA, version, NOW, HEAD_LIFETIME_MS),
            root_version: 1,
            revoked_keys: vec![],
            revoked_manifests: vec![],
            release_floors: BTreeMap::new(),
            endpoints: vec![Endpoint {
                broker: "mqtts://fleet.example:8883".into(),
                device_api: "https://fleet.example:8443".into(),
            }],
        }
    }

    /// Packages of one line with these counters, in order of digest, as the database gives them.
    fn revoked(line: &str, counters: std::ops::Range<u64>) -> Vec<RevokedManifest> {
        let mut all: Vec<RevokedManifest> = counters
            .map(|release_counter| RevokedManifest {
                manifest: Digest::of(format!("{line} {release_counter}").as_bytes()),
                line: ModelLine::new(line).unwrap(),
                release_counter,
            })
            .collect();
        all.sort_by_key(|one| one.manifest);
        all
    }

    #[test]
    fn a_head_is_signed_however_much_is_revoked_and_takes_nothing_back() {
        let (first, left_out) = next_head(frame(1), None, &revoked("anomaly", 1..1001)).unwrap();
        assert_eq!((first.revoked_manifests.len(), left_out.len()), (1000, 0));
        let everything = revoked("anomaly", 1..3001);
        let (full, left_out) = next_head(frame(2), Some(&first), &everything).unwrap();
        assert_eq!(full.revoked_manifests.len() + left_out.len(), 3000);
        let said: BTreeSet<&Digest> = full.revoked_manifests.iter().collect();
        assert!(first.revoked_manifests.iter().all(|manifest| said.contains(manifest)));
        assert!(!left_out.iter().any(|manifest| said.contains(manifest)));
        let bytes = codec::to_vec(&full).unwrap().len();
        let unused = MAX_DOCUMENT_BYTES.checked_sub(bytes).expect("it fits");
        assert!(unused < DIGEST_BYTES + ARRAY_BYTES, "{unused} bytes are wasted");
        assert!(
            director()
                .believe::<Head>(&sign(&full, &director().key).unwrap())
                .is_some()
        );
        // The next one says the same: nothing is said by turns.
        let (again, _) = next_head(frame(2), Some(&full), &everything).unwrap();
        assert_eq!(again, full);
    }

    #[test]
    fn revocations_below_a_lines_floor_make_room() {
        let all = [revoked("anomaly", 1..2001), revoked("digits", 1..11)].concat();
        let (mut known, left_out) = next_head(frame(1), None, &all).unwrap();
        assert!(!left_out.is_empty());
        // Of another database, say: nobody knows its line.
        let strange = Digest::of(b"strange");
        known.revoked_manifests.push(strange);
        known.release_floors = [(ModelLine::new("anomaly").unwrap(), 1990)].into();
        let (next, left_out) = next_head(frame(2), Some(&known), &all).unwrap();
        assert_eq!(left_out, []);
        let counters = |manifest: &Digest| all.iter().find(|one| one.manifest == *manifest).cloned();
        let kept: Vec<_> = next.revoked_manifests.iter().filter_map(counters).collect();
        assert_eq!(
            kept.len(),
            11 + 10,
            "what is at the floor or above, and the other line's"
        );
        assert!(
            kept.iter()
                .all(|one| one.line.as_str() == "digits" || one.release_counter >= 1990)
        );
        assert!(next.revoked_manifests.contains(&strange));
    }

    #[tokio::test]
    async fn the_head_is_renewed_whatever_the_database_has_revoked() {
        let (_dir, app) = crate::testing::app().await;
        let mut tx = app.db.begin().await.unwrap();
        documents::insert(&mut tx, documents::ROOT, 1, b"root", NOW)
            .await
            .unwrap();
        sqlx::query(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 2500)
             INSERT INTO model_versions (id, line, semver, release_counter, manifest, payload, signature, components,
             package_bytes, golden_max_diff, golden_cases, created_at)
             SELECT n, 'anomaly', n, n, printf('sha256:%064x', n), x'00', 'revoked', '[]', 1, 0.0, 0, 0 FROM numbers",
        )
        .execute(&mut *tx)
        .await
        .unwrap();
        tx.commit().await.unwrap();
        let director = director();
        assert!(director.ensure_head(&app).await.unwrap());
        assert!(!director.ensure_head(&app).await.unwrap(), "it says all that it can");
        let (_, envelope) = documents::latest(&app.db, documents::HEAD).await.unwrap();
        let head = director.believe::<Head>(&envelope).unwrap();
        assert!(head.revoked_manifests.len() > 1800, "{}", head.revoked_manifests.len());
    }

    #[test]
    fn the_same_wish_is_signed_once_in_half_a_life() {
        let director = director();
        let targets = [target("main", 1, 3.0)];
        let (version, envelope, desired) = signed(&director, director.decide(&device(None, 0), &targets, NOW).unwrap());
        assert_eq!(
            (version, desired.header.version, desired.last_report_counter),
            (1, 1, 4)
        );
        assert_eq!(
            (
                desired.targets[0].update.soak_ms,
                desired.targets[0].update.start_spread_ms,
                desired.telemetry.bundle_interval_ms
            ),
            (3000, 30_000, 5000)
        );
        let mut again = device(Some(envelope.clone()), 1);
        again.report_counter = 9;
        let half = DESIRED_LIFETIME_MS / 2;
        assert!(
            matches!(director.decide(&again, &targets, NOW + half - 1).unwrap(), Decision::Keep(kept) if kept == envelope)
        );
        assert_eq!(
            signed(&director, director.decide(&again, &targets, NOW + half).unwrap()).0,
            2
        );
        assert_eq!(
            signed(&director, director.decide(&again, &[], NOW).unwrap()).2.targets,
            []
        );
    }

    #[test]
    fn a_desired_state_of_another_director_is_signed_again() {
        let director = director();
        let (_, envelope, _) = signed(&director, director.decide(&device(None, 0), &[], NOW).unwrap());
        let rotated = Director::new(KeyPair::from_seed(&[9; 32]), director.fleet, 5000);
        assert_eq!(
            signed(&rotated, rotated.decide(&device(Some(envelope), 7), &[], NOW).unwrap()).0,
            8
        );
    }

    #[test]
    fn every_slot_has_its_own_rollouts_policy() {
        let director = director();
        let targets = [target("b", 9, 5.0), target("a", 1, 3.0)];
        let (_, _, desired) = signed(&director, director.decide(&device(None, 0), &targets, NOW).unwrap());
        let soaks: Vec<_> = desired.targets.iter().map(|target| target.update.soak_ms).collect();
        assert_eq!(soaks, [5000, 3000]);
        let twice = director.decide(&device(None, 0), &[target("a", 1, 1.0), target("a", 2, 1.0)], NOW);
        assert!(twice.is_err(), "one slot, two wishes");
    }

    #[test]
    fn a_device_may_ask_for_what_its_targets_name() {
        let blobs = blobs_of(&target("main", 1, 1.0)).unwrap();
        assert_eq!(blobs, [BlobRef::of(b"envelope"), BlobRef::of(b"model")]);
        let mut broken = target("main", 1, 1.0);
        broken.components = "[".into();
        assert!(matches!(blobs_of(&broken), Err(DirectorError::Components { .. })));
    }
}
