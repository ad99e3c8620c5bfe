//! Manifests, as read after their signature held: no rule of theirs panics.
#![no_main]

use flotilla_protocol::chunks::BlobRef;
use flotilla_protocol::codec::{self, MAX_DOCUMENT_BYTES};
use flotilla_protocol::manifest::{ComponentKind, Manifest};
use flotilla_protocol::trust::DeviceFacts;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = codec::from_slice::<Manifest>(bytes, MAX_DOCUMENT_BYTES) {
        let facts = DeviceFacts {
            hardware_class: "gateway".to_owned(),
            arch: "x86_64".to_owned(),
            agent_version: "0.1.0".to_owned(),
            ram_bytes: 1 << 26,
            disk_free_bytes: 1 << 26,
        };
        let _verdicts = (manifest.check(), manifest.fits(&facts));
        for kind in ComponentKind::ALL {
            let _verdict = manifest.check_component(kind, &BlobRef::of(bytes));
        }
        let written = codec::to_vec(&manifest).expect("what was read can be written");
        codec::from_slice::<Manifest>(&written, usize::MAX).expect("what was written can be read");
    }
});
