//! The audit log: what happened, and whether the chains hold.

use std::collections::BTreeMap;

use flotilla_protocol::ids::{DeviceId, Digest};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEvent {
    /// Position in the server's log, from 0.
    pub index: u64,
    pub at: String,
    pub actor: String,
    pub event: String,
    pub subject: String,
    pub detail: BTreeMap<String, String>,
    /// Set for entries that come from a device's own chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub device: Option<DeviceId>,
}

/// `GET /api/v1/audit/verify`: every chain recomputed from its entries. Its size does not grow with the fleet: devices whose
/// chains hold are counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditVerification {
    pub ok: bool,
    pub server: ChainVerification,
    /// Chains of devices, and entries in all of them.
    pub devices: u64,
    pub device_entries: u64,
    /// Chains of devices that do not hold, and the first of them in order of id, at most 100.
    pub broken_devices: u64,
    pub broken: Vec<DeviceChainVerification>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChainVerification {
    pub ok: bool,
    pub entries: u64,
    #[schema(value_type = String)]
    pub head: Digest,
    /// Where the chain breaks, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// `GET /api/v1/audit/verify/{device}`: one device's chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceChainVerification {
    #[schema(value_type = String)]
    pub device: DeviceId,
    pub epochs: u64,
    pub chain: ChainVerification,
}
