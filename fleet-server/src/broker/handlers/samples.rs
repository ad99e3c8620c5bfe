//! Harvested samples: taken only of packages that a rollout gave to the device, and no more than that rollout allows. A device
//! says of itself which package a sample came from; what it says must not decide what other devices' models learn from.
//!
//! What a dataset has already costs nothing: a device that was put back to an earlier state sends its samples again.

use std::collections::BTreeMap;

use flotilla_protocol::ids::{DeviceId, Digest, ModelLine};
use flotilla_protocol::messages::Sample;

use crate::app::Change;
use crate::broker::handlers::Effects;
use crate::store::{StoreError, Tx, datasets, rollouts};

/// Takes what may be taken, counts what was new, and says why the rest is refused.
pub(super) async fn take(
    tx: &mut Tx,
    device: &DeviceId,
    offered: &[Sample],
    now: i64,
    effects: &mut Effects,
) -> Result<(), StoreError> {
    let mut packages: BTreeMap<(&ModelLine, Digest), Vec<&Sample>> = BTreeMap::new();
    for sample in offered {
        let package = packages.entry((&sample.line, sample.manifest)).or_default();
        package.push(sample);
    }
    let mut refuse = |why| effects.refused.push(("samples.refused", device.clone(), why));
    let mut new = 0;
    for ((line, manifest), samples) in packages {
        let Some(left) = rollouts::harvest_left(tx, device, line, &manifest).await? else {
            refuse(format!(
                "{} sample(s) of package {} of '{line}', which no rollout gave to the device",
                samples.len(),
                manifest.short()
            ));
            continue;
        };
        let harvested = datasets::insert_harvested(tx, device, &samples, left, now).await?;
        if harvested.new > 0 {
            rollouts::count_harvested(tx, device, &manifest, harvested.new).await?;
            new += harvested.new;
        }
        if harvested.beyond > 0 {
            refuse(format!(
                "{} sample(s) of package {} of '{line}' more than its rollout allows",
                harvested.beyond,
                manifest.short()
            ));
        }
    }
    if new > 0 {
        effects.change(Change::Samples);
    }
    Ok(())
}
