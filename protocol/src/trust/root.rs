//! `Root`: which keys speak for which role, and the fleet's TLS anchors. Versions follow each other one by one; N+1 is
//! signed by N's threshold and by its own (TUF 1.0.34 §5.3).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::ids::FleetId;
use crate::trust::{Authority, Document, Header, KeyId, PublicKey, Role, TrustError, Verified, verify};

/// The keys of one role and how many of them must sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleKeys {
    pub keys: BTreeSet<KeyId>,
    pub threshold: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    pub header: Header,
    pub keys: Vec<PublicKey>,
    /// `root`, `director`, `release-system`, and `release/<glob>` where a glob is a line's name or ends in `*`.
    pub roles: BTreeMap<String, RoleKeys>,
    /// DER certificates that a server of this fleet may be signed by; two during a rotation.
    pub tls_anchors: Vec<ByteBuf>,
}

impl Document for Root {
    const SCHEMA: &'static str = "flotilla.root.v1";
    const WHAT: &'static str = "root";

    fn header(&self) -> &Header {
        &self.header
    }
}

impl Root {
    /// The keys that may speak for `role`. For a release role the longest matching pattern decides alone.
    pub fn authority(&self, role: &Role) -> Result<Authority, TrustError> {
        let name = role.to_string();
        let pattern = self
            .roles
            .iter()
            .filter(|(pattern, _)| matches(pattern, &name))
            .max_by_key(|(pattern, _)| (pattern.len(), !pattern.ends_with('*')));
        let Some((_, role_keys)) = pattern else {
            return Err(TrustError::UnknownRole(role.clone()));
        };
        Ok(Authority {
            role: role.clone(),
            keys: self
                .keys
                .iter()
                .filter(|key| role_keys.keys.contains(&key.id()))
                .copied()
                .collect(),
            threshold: role_keys.threshold,
        })
    }

    /// A root that could not be used would lock the fleet out: refuse it before it is signed or followed.
    pub fn check(&self) -> Result<(), TrustError> {
        let invalid = |why: String| Err(TrustError::Invalid(why));
        let known: BTreeSet<KeyId> = self.keys.iter().map(PublicKey::id).collect();
        for (name, role) in &self.roles {
            if role.threshold == 0 || role.keys.len() < role.threshold as usize {
                return invalid(format!(
                    "role '{name}' has {} key(s) and threshold {}",
                    role.keys.len(),
                    role.threshold
                ));
            }
            if let Some(missing) = role.keys.iter().find(|id| !known.contains(id)) {
                return invalid(format!(
                    "role '{name}' names key {missing}, which the root does not carry"
                ));
            }
        }
        for needed in ["root", "director"] {
            if !self.roles.contains_key(needed) {
                return invalid(format!("role '{needed}' is missing"));
            }
        }
        if self.tls_anchors.is_empty() {
            return invalid("no TLS anchor".to_owned());
        }
        Ok(())
    }

    /// Believes a root on its own word: for the factory's root (the trust anchor) and before signing.
    pub fn verify_self(bytes: &[u8]) -> Result<Verified<Self>, TrustError> {
        let envelope = crate::trust::Envelope::decode(bytes)?;
        let claimed: Self = crate::codec::from_slice(envelope.payload(), crate::codec::MAX_DOCUMENT_BYTES)
            .map_err(TrustError::Document)?;
        claimed.check()?;
        verify(bytes, &claimed.authority(&Role::Root)?, claimed.header.fleet)
    }

    /// Follows one step of rotation: the successor must have version N+1, this root's threshold and its own.
    pub fn verify_successor(&self, bytes: &[u8]) -> Result<Verified<Self>, TrustError> {
        let fleet: FleetId = self.header.fleet;
        let next: Verified<Self> = verify(bytes, &self.authority(&Role::Root)?, fleet)?;
        let current = self.header.version;
        if current.checked_add(1) != Some(next.header.version) {
            return Err(TrustError::RootGap {
                offered: next.header.version,
                current,
            });
        }
        next.check()?;
        verify(bytes, &next.authority(&Role::Root)?, fleet)
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => prefix.starts_with("release/") && name.starts_with(prefix),
        None => pattern == name,
    }
}
