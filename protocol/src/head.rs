//! `Head`: the fleet-wide short-lived statement. What is revoked, below what nobody may go, where the servers are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, ModelLine};
use crate::trust::{Document, Header, KeyId};

/// Where a device finds its fleet. The last good one is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `mqtts://host:port`
    pub broker: String,
    /// `https://host:port`: enrolment, blobs.
    pub device_api: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    pub header: Header,
    pub root_version: u64,
    pub revoked_keys: Vec<KeyId>,
    pub revoked_manifests: Vec<Digest>,
    /// Least release counter per model line; only rises.
    pub release_floors: BTreeMap<ModelLine, u64>,
    pub endpoints: Vec<Endpoint>,
}

impl Document for Head {
    const SCHEMA: &'static str = "flotilla.head.v1";
    const WHAT: &'static str = "head";

    fn header(&self) -> &Header {
        &self.header
    }
}
