//! Desired states, as read after their signature held; chunk counts of whatever lengths they name.
#![no_main]

use flotilla_protocol::codec::{self, MAX_DOCUMENT_BYTES};
use flotilla_protocol::desired_state::DesiredState;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(desired) = codec::from_slice::<DesiredState>(bytes, MAX_DOCUMENT_BYTES) {
        let _verdict = desired.check();
        for source in desired
            .targets
            .iter()
            .flat_map(|t| &t.components)
            .flat_map(|c| &c.sources)
        {
            if let Ok(count) = source.blob.chunk_count() {
                assert_eq!(source.blob.chunk_length(count), None);
                assert_eq!(source.blob.chunk_length(0).is_some(), count > 0);
            }
        }
    }
});
