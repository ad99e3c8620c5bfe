//! Harvested samples: taken only of packages that a rollout gave to the device, and no more than that rollout allows. A device
//! says of itself which package a sample came from; what it says must not decide what other devices' models learn from.

use std::collections::BTreeMap;

use flotilla_protocol::ids::{DeviceId, Digest, ModelLine};
use flotilla_protocol::messages::Sample;

use crate::store::rollouts;
use crate::store::{StoreError, Tx};

/// What may be taken, and what is said of the rest.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    pub(super) samples: Vec<Sample>,
    pub(super) refused: Vec<String>,
}

/// Counts what it admits.
pub(super) async fn admit(tx: &mut Tx, device: &DeviceId, offered: &[Sample]) -> Result<Admitted, StoreError> {
    let mut packages: BTreeMap<(&ModelLine, Digest), Vec<&Sample>> = BTreeMap::new();
    for sample in offered {
        let package = packages.entry((&sample.line, sample.manifest)).or_default();
        package.push(sample);
    }
    let mut admitted = Admitted::default();
    for ((line, manifest), mut samples) in packages {
        let Some(left) = rollouts::harvest_left(tx, device, line, &manifest).await? else {
            admitted.refused.push(format!(
                "{} sample(s) of package {} of '{line}', which no rollout gave to the device",
                samples.len(),
                manifest.short()
            ));
            continue;
        };
        let room = usize::try_from(left).unwrap_or(usize::MAX);
        if samples.len() > room {
            admitted.refused.push(format!(
                "{} sample(s) of package {} of '{line}' more than its rollout allows",
                samples.len() - room,
                manifest.short()
            ));
            samples.truncate(room);
        }
        rollouts::count_harvested(tx, device, &manifest, samples.len() as u64).await?;
        admitted.samples.extend(samples.into_iter().cloned());
    }
    Ok(admitted)
}
