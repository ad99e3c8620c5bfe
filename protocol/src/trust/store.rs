//! What a device believes and remembers: its root, the versions it has seen, floors, revocations, and the clock's floor.
//!
//! Versions only rise, also across power loss: the caller writes [`TrustStore::snapshot`] durably before it acts on an
//! accepted document. Every method either accepts and changes the store, or refuses and leaves it as it was.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::desired_state::{DesiredState, Target};
use crate::head::Head;
use crate::ids::{DeviceId, Digest, FleetId, ModelLine};
use crate::manifest::Manifest;
use crate::trust::{Authority, Document, KeyId, Role, Root, TrustError, Verified, verify};

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
        };
        Ok(Self { root, state })
    }

    pub fn restore(snapshot: TrustSnapshot) -> Result<Self, TrustError> {
        let root = Root::verify_self(&snapshot.root)?;
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

    /// Follows a chain of roots, one step at a time. Only the last one is checked for expiry. Nothing changes unless the
    /// whole chain holds.
    pub fn advance_root(&mut self, chain: &[Vec<u8>], wall_ms: i64) -> Result<(), TrustError> {
        let mut root = self.root.clone();
        let mut bytes = None;
        for step in chain {
            root = root.verify_successor(step)?;
            bytes = Some(step);
        }
        let Some(bytes) = bytes else { return Ok(()) };
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

    /// Accepts a `Head`: newer or the same, signed by the director, not expired. A head that speaks of a newer root than
    /// this one is refused: the roots in between were withheld, and they may have dropped a stolen release key.
    pub fn accept_head(&mut self, bytes: &[u8], wall_ms: i64) -> Result<Verified<Head>, TrustError> {
        let head: Verified<Head> = verify(bytes, &self.authority(&Role::Director)?, self.fleet())?;
        let seen = not_older::<Head>(&head, self.state.versions.head)?;
        not_expired::<Head>(&head, self.trusted_now(wall_ms))?;
        if head.root_version > self.root.header.version {
            return Err(TrustError::RootGap {
                offered: head.root_version,
                current: self.root.header.version,
            });
        }
        self.state.versions.head = seen;
        self.state.head_expires = Some(head.header.expires);
        self.state.clock_floor = self.state.clock_floor.max(head.header.issued);
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
