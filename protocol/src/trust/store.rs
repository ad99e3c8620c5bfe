//! What a device believes and remembers: its root, the versions it has seen, floors, revocations, and the clock's floor.
//!
//! Versions only rise, also across power loss: the caller writes [`TrustStore::snapshot`] durably before it acts on an
//! accepted document. Every method either accepts and changes the store, or refuses and leaves it as it was.
//!
//! Time: the largest signed time is a floor under the device's clock, and a floor is never taken back but by a new director
//! key. So a document must not have been issued later than can be believed. Once the device's own clock has agreed with a
//! `Head`, that is a day after it. Before, the clock may be dead, or have stood still while the device was off: the fleet tells
//! the time, though never beyond the end of the root, which was signed offline.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::desired_state::{DesiredState, Target};
use crate::head::Head;
use crate::ids::{DeviceId, Digest, FleetId, ModelLine};
use crate::manifest::Manifest;
use crate::trust::{Authority, Document, KeyId, Role, Root, TrustError, Verified, verify};

const HOUR_MS: i64 = 3_600_000;
/// How much later than a clock that is believed a document may have been issued.
pub const MAX_AHEAD_MS: i64 = 24 * HOUR_MS;
/// A clock that is slower than this against a `Head` does not agree with it. A `Head` may be half a day old when it comes: a
/// clock that agrees is slow by eighteen hours at the most, and the next `Head` lies within [`MAX_AHEAD_MS`] of it.
const AGREES_MS: i64 = 6 * HOUR_MS;
/// Most entries of each kind that a device remembers: floors, revoked keys, revoked manifests. With the longest names there are
/// that is 1.2 MB, a third of what the agent's store takes as one value.
pub const MAX_REMEMBERED: usize = 8192;

/// A version number together with the digest it stood for: the same number with other contents is an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Seen {
    pub version: u64,
    pub digest: Option<Digest>,
}

/// The highest version of every document seen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DocumentVersions {
    pub root: u64,
    pub head: Seen,
    pub desired_state: Seen,
}

/// What is written to the device's store. [`TrustStore::restore`] verifies the root again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustSnapshot {
    pub root: ByteBuf,
    pub versions: DocumentVersions,
    /// The largest signed time ever seen, Unix milliseconds.
    pub clock_floor: i64,
    /// When the last `Head` lapses, Unix milliseconds; `None` before the first one.
    #[serde(default)]
    pub head_expires: Option<i64>,
    pub floors: BTreeMap<ModelLine, u64>,
    pub revoked_keys: BTreeSet<KeyId>,
    pub revoked_manifests: BTreeSet<Digest>,
    /// The device's clock has agreed with a `Head` since the store was restored. Never written: while a device is off, its
    /// clock may stand still.
    #[serde(skip)]
    pub clock_agrees: bool,
}

/// Facts of the device that a manifest must fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceFacts {
    pub hardware_class: String,
    /// As `std::env::consts::ARCH` says it: `x86_64`, `aarch64`, `arm`.
    pub arch: String,
    /// Semantic version of the agent.
    pub agent_version: String,
    pub ram_bytes: u64,
    pub disk_free_bytes: u64,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct TrustStore {
    root: Verified<Root>,
    state: TrustSnapshot,
}

impl TrustStore {
    /// Starts from the factory's root. `clock_floor` = the agent's build time; the root's own issue time counts too.
    pub fn from_factory_root(bytes: &[u8], clock_floor: i64) -> Result<Self, TrustError> {
        let root = Root::verify_self(bytes)?;
        let state = TrustSnapshot {
            root: ByteBuf::from(bytes.to_vec()),
            versions: DocumentVersions {
                root: root.header.version,
                ..DocumentVersions::default()
            },
            clock_floor: clock_floor.max(root.header.issued),
            head_expires: None,
            floors: BTreeMap::new(),
            revoked_keys: BTreeSet::new(),
            revoked_manifests: BTreeSet::new(),
            clock_agrees: false,
        };
        Ok(Self { root, state })
    }

    /// Goes on from what was written. Whether the device's clock can be believed is found out anew.
    pub fn restore(mut snapshot: TrustSnapshot) -> Result<Self, TrustError> {
        let root = Root::verify_self(&snapshot.root)?;
        snapshot.clock_agrees = false;
        Ok(Self { root, state: snapshot })
    }

    /// What must be durable before an accepted document is acted on.
    pub fn snapshot(&self) -> &TrustSnapshot {
        &self.state
    }

    pub fn root(&self) -> &Verified<Root> {
        &self.root
    }

    pub fn fleet(&self) -> FleetId {
        self.root.header.fleet
    }

    pub fn versions(&self) -> &DocumentVersions {
        &self.state.versions
    }

    /// The time to judge expiry by: the wall clock, but never before the largest signed time seen.
    pub fn trusted_now(&self, wall_ms: i64) -> i64 {
        wall_ms.max(self.state.clock_floor)
    }

    /// The device's clock, a day on, if that is what later times of issue are judged by: it has agreed with a `Head`, and
    /// nothing signed since says that it was set back.
    fn believed_until(&self, wall_ms: i64) -> Option<i64> {
        let until = wall_ms.saturating_add(MAX_AHEAD_MS);
        (self.state.clock_agrees && until >= self.state.clock_floor).then_some(until)
    }

    /// Refuses what was issued later than can be believed: it would raise the clock's floor for good, and whatever the fleet
    /// signs at the right time would have expired.
    fn not_ahead<T: Document>(&self, document: &T, wall_ms: i64) -> Result<(), TrustError> {
        let latest = self.believed_until(wall_ms).unwrap_or_else(|| {
            wall_ms
                .saturating_add(MAX_AHEAD_MS)
                .max(self.root.header.expires)
                .max(self.state.clock_floor)
        });
        issued_by(document, latest)
    }

    /// Follows a chain of roots, one step at a time. Only the last one is checked for its times. Nothing changes unless the
    /// whole chain holds.
    pub fn advance_root(&mut self, chain: &[Vec<u8>], wall_ms: i64) -> Result<(), TrustError> {
        let mut root = self.root.clone();
        let mut bytes = None;
        for step in chain {
            root = root.verify_successor(step)?;
            bytes = Some(step);
        }
        let Some(bytes) = bytes else { return Ok(()) };
        if let Some(latest) = self.believed_until(wall_ms) {
            issued_by::<Root>(&root, latest)?;
        }
        let director_changed = director_keys(&self.root) != director_keys(&root);
        let mut state = self.state.clone();
        if director_changed {
            // What the old director key said may have been the attacker's: fast-forward is undone here.
            state.versions = DocumentVersions::default();
            state.floors.clear();
            state.revoked_keys.clear();
            state.revoked_manifests.clear();
            state.head_expires = None;
            state.clock_floor = root.header.issued;
        } else {
            state.clock_floor = state.clock_floor.max(root.header.issued);
        }
        not_expired::<Root>(&root, wall_ms.max(state.clock_floor))?;
        state.versions.root = root.header.version;
        state.root = ByteBuf::from(bytes.clone());
        self.root = root;
        self.state = state;
        Ok(())
    }

    /// Accepts a `Head`: newer or the same, signed by the director at a time that can be believed, not expired. A head that
    /// speaks of a newer root than this one is refused: the roots in between were withheld, and they may have dropped a stolen
    /// release key. So is one that would have the device remember more than [`MAX_REMEMBERED`] entries of a kind.
    pub fn accept_head(&mut self, bytes: &[u8], wall_ms: i64) -> Result<Verified<Head>, TrustError> {
        let head: Verified<Head> = verify(bytes, &self.authority(&Role::Director)?, self.fleet())?;
        let seen = not_older::<Head>(&head, self.state.versions.head)?;
        self.not_ahead::<Head>(&head, wall_ms)?;
        not_expired::<Head>(&head, self.trusted_now(wall_ms))?;
        if head.root_version > self.root.header.version {
            return Err(TrustError::RootGap {
                offered: head.root_version,
                current: self.root.header.version,
            });
        }
        self.check_room(&head)?;
        self.state.versions.head = seen;
        self.state.head_expires = Some(head.header.expires);
        self.state.clock_floor = self.state.clock_floor.max(head.header.issued);
        self.state.clock_agrees |= head.header.issued <= wall_ms.saturating_add(AGREES_MS);
        for (line, floor) in &head.release_floors {
            let known = self.state.floors.entry(line.clone()).or_insert(0);
            *known = (*known).max(*floor);
        }
        self.state.revoked_keys.extend(head.revoked_keys.iter().copied());
        self.state
            .revoked_manifests
            .extend(head.revoked_manifests.iter().copied());
        Ok(head)
    }

    /// Can everything that the head names be remembered beside what is known?
    fn check_room(&self, head: &Head) -> Result<(), TrustError> {
        let state = &self.state;
        for (what, total) in [
            (
                "release floors",
                together(state.floors.keys(), head.release_floors.keys()),
            ),
            ("revoked keys", together(&state.revoked_keys, &head.revoked_keys)),
            (
                "revoked manifests",
                together(&state.revoked_manifests, &head.revoked_manifests),
            ),
        ] {
            if total > MAX_REMEMBERED {
                return Err(TrustError::Invalid(format!(
                    "with this head there would be {total} {what} to remember, {MAX_REMEMBERED} at most can be"
                )));
            }
        }
        Ok(())
    }

    /// Accepts a `DesiredState` addressed to this device and this key.
    pub fn accept_desired_state(
        &mut self,
        bytes: &[u8],
        device: &DeviceId,
        thumbprint: KeyId,
        wall_ms: i64,
    ) -> Result<Verified<DesiredState>, TrustError> {
        let desired: Verified<DesiredState> = verify(bytes, &self.authority(&Role::Director)?, self.fleet())?;
        if desired.device != *device || desired.thumbprint != thumbprint {
            return Err(TrustError::OtherDevice {
                expected: device.to_string(),
                expected_key: thumbprint,
                found: desired.device.to_string(),
                found_key: desired.thumbprint,
            });
        }
        let seen = not_older::<DesiredState>(&desired, self.state.versions.desired_state)?;
        self.not_ahead::<DesiredState>(&desired, wall_ms)?;
        not_expired::<DesiredState>(&desired, self.trusted_now(wall_ms))?;
        desired.check()?;
        self.state.versions.desired_state = seen;
        self.state.clock_floor = self.state.clock_floor.max(desired.header.issued);
        Ok(desired)
    }

    /// Accepts a manifest for installing: the one targeted, signed by the line's release role, above the floor, not
    /// revoked, not expired, for this device, and while root and `Head` are fresh ([`Self::check_fresh`]).
    pub fn accept_manifest(
        &self,
        bytes: &[u8],
        target: &Target,
        facts: &DeviceFacts,
        wall_ms: i64,
    ) -> Result<Verified<Manifest>, TrustError> {
        self.check_fresh(wall_ms)?;
        let role = Role::Release(target.line.clone());
        let manifest: Verified<Manifest> = verify(bytes, &self.authority(&role)?, self.fleet())?;
        if manifest.digest() != target.manifest {
            return Err(TrustError::OtherManifest {
                expected: target.manifest,
                found: manifest.digest(),
            });
        }
        self.check_release(&target.line, &target.manifest, target.release_counter)?;
        if manifest.name != target.line {
            return Err(TrustError::Invalid(format!(
                "the manifest is of line '{}', the target of '{}'",
                manifest.name, target.line
            )));
        }
        if manifest.release_counter != target.release_counter {
            return Err(TrustError::CounterMismatch {
                target: target.release_counter,
                manifest: manifest.release_counter,
            });
        }
        not_expired::<Manifest>(&manifest, self.trusted_now(wall_ms))?;
        manifest.check()?;
        manifest.fits(facts)?;
        Ok(manifest)
    }

    /// Is this device still being told the news? A root or a last `Head` that has lapsed means that somebody withholds
    /// their successors; without any `Head` so far, it may be withheld as well. Nothing new is installed then, and what
    /// runs goes on.
    pub fn check_fresh(&self, wall_ms: i64) -> Result<(), TrustError> {
        let now = self.trusted_now(wall_ms);
        not_expired::<Root>(&self.root, now)?;
        match self.state.head_expires {
            None => Err(TrustError::NoHead),
            Some(expires) if now >= expires => Err(TrustError::Expired {
                what: Head::WHAT,
                expires,
                now,
            }),
            Some(_) => Ok(()),
        }
    }

    /// Floors and revocations alone, for packages already installed and for older ones pointed back to.
    pub fn check_release(&self, line: &ModelLine, manifest: &Digest, counter: u64) -> Result<(), TrustError> {
        if self.state.revoked_manifests.contains(manifest) {
            return Err(TrustError::RevokedManifest(*manifest));
        }
        let floor = self.state.floors.get(line).copied().unwrap_or(0);
        if counter < floor {
            return Err(TrustError::BelowFloor {
                line: line.to_string(),
                offered: counter,
                floor,
            });
        }
        Ok(())
    }

    /// The role's keys less the revoked ones.
    fn authority(&self, role: &Role) -> Result<Authority, TrustError> {
        let mut authority = self.root.authority(role)?;
        authority
            .keys
            .retain(|key| !self.state.revoked_keys.contains(&key.id()));
        Ok(authority)
    }
}

fn director_keys(root: &Root) -> BTreeSet<KeyId> {
    root.roles
        .get("director")
        .map(|role| role.keys.clone())
        .unwrap_or_default()
}

/// How many there are in both together.
fn together<'a, T: Ord + 'a>(
    known: impl IntoIterator<Item = &'a T>,
    offered: impl IntoIterator<Item = &'a T>,
) -> usize {
    known.into_iter().chain(offered).collect::<BTreeSet<&T>>().len()
}

fn issued_by<T: Document>(document: &T, latest: i64) -> Result<(), TrustError> {
    let issued = document.header().issued;
    if issued > latest {
        return Err(TrustError::FastForward {
            what: T::WHAT,
            issued,
            latest,
        });
    }
    Ok(())
}

/// The same version again is fine if it is the same document; anything older is a replay.
fn not_older<T: Document>(document: &Verified<T>, seen: Seen) -> Result<Seen, TrustError> {
    let offered = document.header().version;
    if offered < seen.version {
        return Err(TrustError::Rollback {
            what: T::WHAT,
            offered,
            seen: seen.version,
        });
    }
    if offered == seen.version && seen.digest.is_some_and(|digest| digest != document.digest()) {
        return Err(TrustError::Equivocation {
            what: T::WHAT,
            version: offered,
        });
    }
    Ok(Seen {
        version: offered,
        digest: Some(document.digest()),
    })
}

fn not_expired<T: Document>(document: &T, now: i64) -> Result<(), TrustError> {
    let expires = document.header().expires;
    if now >= expires {
        return Err(TrustError::Expired {
            what: T::WHAT,
            expires,
            now,
        });
    }
    Ok(())
}
