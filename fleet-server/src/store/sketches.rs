//! Hourly sketches, read in order of time and one at a time: memory does not grow with the hours or the fleet.

use std::ops::Range;

use flotilla_protocol::codec::{self, MAX_BUNDLE_BYTES};
use flotilla_protocol::ids::{DeviceId, Digest};
use flotilla_protocol::sketch::SketchSet;
use futures_util::TryStreamExt as _;
use sqlx::Row as _;

use crate::store::{Db, StoreError, statements};

statements! {
    OF_DEVICE = "SELECT hour, sketch FROM sketches WHERE device = $1 AND manifest = $2 AND hour >= $3 AND hour < $4
        ORDER BY hour";
    OF_FLEET = "SELECT hour, sketch FROM sketches WHERE manifest = $1 AND hour >= $2 AND hour < $3 ORDER BY hour";
}

/// Gives every sketch of a package within the hours since 1970, oldest first, with its hour: of one device, or (`None`) of
/// all devices.
pub async fn each(
    db: &Db,
    device: Option<&DeviceId>,
    manifest: &Digest,
    hours: Range<i64>,
    mut take: impl FnMut(i64, SketchSet) + Send,
) -> Result<(), StoreError> {
    let query = match device {
        Some(device) => sqlx::query(OF_DEVICE).bind(device.as_str()),
        None => sqlx::query(OF_FLEET),
    };
    let mut rows = query
        .bind(manifest.to_string())
        .bind(hours.start)
        .bind(hours.end)
        .fetch(db.read());
    while let Some(row) = rows.try_next().await? {
        let bytes: &[u8] = row.try_get("sketch")?;
        let sketch = codec::from_slice(bytes, MAX_BUNDLE_BYTES).map_err(|why| StoreError::corrupt("sketch", why))?;
        take(row.try_get("hour")?, sketch);
    }
    Ok(())
}
