//! Makes one telemetry record of two, when the spool has no room for both: counts add up, sketches merge, and what is given
//! up is only when within the interval it was counted.

use flotilla_protocol::bundle::Bundle;
use flotilla_protocol::codec::{self, CodecError, MAX_BUNDLE_BYTES, MAX_MESSAGE_BYTES};
use tracing::debug;

/// The server takes no more packages in one bundle.
const MAX_MODELS: usize = 64;

/// The younger record with everything that the older one says, under the younger one's name. `None`: they do not fit into
/// one message, or are none of ours.
pub(super) fn merged(older: &[u8], younger: &[u8]) -> Option<Vec<u8>> {
    match try_merge(older, younger) {
        Ok(merged) => merged,
        Err(why) => {
            debug!(%why, "two records stay two");
            None
        }
    }
}

fn try_merge(older: &[u8], younger: &[u8]) -> Result<Option<Vec<u8>>, CodecError> {
    let read = |bytes: &[u8]| codec::from_slice_zstd::<Bundle>(bytes, MAX_MESSAGE_BYTES, MAX_BUNDLE_BYTES);
    let (older, mut bundle) = (read(older)?, read(younger)?);
    if let Err(why) = bundle.absorb(older) {
        debug!(%why, "two bundles stay two");
        return Ok(None);
    }
    if bundle.models.len() > MAX_MODELS || codec::to_vec(&bundle)?.len() > MAX_BUNDLE_BYTES {
        return Ok(None);
    }
    let bytes = codec::to_vec_zstd(&bundle)?;
    Ok((bytes.len() <= MAX_MESSAGE_BYTES).then_some(bytes))
}
