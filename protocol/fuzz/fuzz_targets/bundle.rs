//! Bundles as devices send them: compressed, merged into what is known, with an audit chain that goes on or does not.
#![no_main]

use flotilla_protocol::audit::{AuditHead, continue_chain};
use flotilla_protocol::bundle::Bundle;
use flotilla_protocol::codec::{self, MAX_BUNDLE_BYTES, MAX_MESSAGE_BYTES};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _compressed = codec::from_slice_zstd::<Bundle>(bytes, MAX_MESSAGE_BYTES, MAX_BUNDLE_BYTES);
    if let Ok(bundle) = codec::from_slice::<Bundle>(bytes, MAX_BUNDLE_BYTES) {
        for model in &bundle.models {
            let mut latency = model.latency.clone();
            latency.merge(&model.latency);
            assert!(latency.quantile_us(0.5) <= latency.max_us);
            if let Some(sketches) = &model.sketches {
                sketches.clone().merge(sketches).expect("a sketch merges with itself");
            }
        }
        let mut head = AuditHead::start(0);
        for batch in &bundle.audit {
            if let Ok((next, _records)) = continue_chain(head, batch) {
                assert!((next.epoch, next.count) >= (head.epoch, 0));
                head = next;
            }
        }
    }
});
