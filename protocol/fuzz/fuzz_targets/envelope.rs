//! Envelopes: taking one apart believes nothing and never panics; what it gives back, it can write and read again.
#![no_main]

use flotilla_protocol::trust::Envelope;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(envelope) = Envelope::decode(bytes) {
        let written = envelope.encode().expect("what was read can be written");
        let again = Envelope::decode(&written).expect("what was written can be read");
        assert_eq!(again.payload(), envelope.payload());
        assert_eq!(again.claimed_signers(), envelope.claimed_signers());
    }
});
