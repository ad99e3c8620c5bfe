//! Properties that hold for arbitrary bytes: a changed envelope is never believed with other contents, what a device has
//! seen never sinks, and the decoder agrees with another one.

#![cfg(test)]

use std::collections::BTreeMap;

use flotilla_protocol::bundle::Bundle;
use flotilla_protocol::chunks::{BlobRef, ChunkList};
use flotilla_protocol::codec;
use flotilla_protocol::head::Head;
use flotilla_protocol::messages::Want;
use flotilla_protocol::topics::Topic;
use flotilla_protocol::trust::{
    Authority, Envelope, KeyId, MAX_AHEAD_MS, Role, TrustError, TrustSnapshot, TrustStore, Verified, sign, verify,
};
use proptest::prelude::*;
use serde_bytes::ByteBuf;

#[path = "../examples/make_fixtures/documents.rs"]
#[expect(dead_code, reason = "the fixtures use the rest")]
mod documents;

use documents::{DAY, HOUR, ISSUED, NOW, device, key};

fn signed_head() -> Vec<u8> {
    sign(&documents::head().unwrap(), &key("director")).unwrap()
}

/// Believes `bytes` or not; if so, they must say what was signed.
fn never_other_contents(bytes: &[u8], original: &[u8]) -> Result<(), TestCaseError> {
    let authority = Authority::single(Role::Director, key("director").public());
    if let Ok(head) = verify::<Head>(bytes, &authority, documents::fleet()) {
        let original = Envelope::decode(original).unwrap();
        prop_assert_eq!(head.digest(), original.digest());
        prop_assert_eq!(&*head, &documents::head().unwrap());
    }
    Ok(())
}

#[test]
fn every_single_bit_of_an_envelope_counts() {
    let original = signed_head();
    let mut believed = 0;
    for bit in 0..original.len() * 8 {
        let mut changed = original.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        never_other_contents(&changed, &original).unwrap();
        let authority = Authority::single(Role::Director, key("director").public());
        believed += usize::from(verify::<Head>(&changed, &authority, documents::fleet()).is_ok());
    }
    for length in 0..original.len() {
        assert!(Envelope::decode(&original[..length]).is_err(), "cut to {length} bytes");
    }
    // One bit is free: where the payload would stand in the signature, nil (0xf6) may be written undefined (0xf7).
    assert_eq!(believed, 1);
}

/// What may happen to a device's trust store.
#[derive(Debug, Clone)]
enum Happening {
    Head {
        version: u64,
        issued_day: i64,
        floor: u64,
        signer: &'static str,
    },
    DesiredState {
        version: u64,
        signer: &'static str,
    },
    Root {
        version: u64,
        signer: &'static str,
    },
    Noise(Vec<u8>),
    Reboot,
}

fn signer() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just("director"), 1 => Just("root"), 1 => Just("stranger")]
}

/// Mostly about the right time; sometimes the director jumps.
fn day() -> impl Strategy<Value = i64> {
    prop_oneof![6 => -2i64..6, 1 => 6i64..400, 1 => Just(5 * 365)]
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (0u64..6, day(), 0u64..6, signer()).prop_map(|(version, issued_day, floor, signer)| Happening::Head {
            version,
            issued_day,
            floor,
            signer
        }),
        (0u64..6, signer()).prop_map(|(version, signer)| Happening::DesiredState { version, signer }),
        (1u64..5, prop_oneof![Just("root"), Just("stranger")])
            .prop_map(|(version, signer)| Happening::Root { version, signer }),
        proptest::collection::vec(any::<u8>(), 0..80).prop_map(Happening::Noise),
        Just(Happening::Reboot),
    ]
}

fn happen(store: &mut TrustStore, happening: &Happening, wall_ms: i64) -> bool {
    let thumbprint: KeyId = key("device").id();
    let own = device().unwrap();
    match happening {
        Happening::Head {
            version,
            issued_day,
            floor,
            signer,
        } => {
            let mut head = documents::head().unwrap();
            head.header.version = *version;
            head.header.issued = ISSUED + issued_day * DAY;
            head.header.expires = head.header.issued + 3 * DAY;
            head.release_floors = BTreeMap::from([(documents::line().unwrap(), *floor)]);
            store.accept_head(&sign(&head, &key(signer)).unwrap(), wall_ms).is_ok()
        }
        Happening::DesiredState { version, signer } => {
            let mut desired = documents::desired_state(vec![]).unwrap();
            desired.header.version = *version;
            let bytes = sign(&desired, &key(signer)).unwrap();
            store.accept_desired_state(&bytes, &own, thumbprint, wall_ms).is_ok()
        }
        Happening::Root { version, signer } => {
            let mut root = documents::root();
            root.header.version = *version;
            store
                .advance_root(&[sign(&root, &key(signer)).unwrap()], wall_ms)
                .is_ok()
        }
        Happening::Noise(bytes) => {
            store.accept_head(bytes, wall_ms).is_ok()
                || store.accept_desired_state(bytes, &own, thumbprint, wall_ms).is_ok()
                || store.advance_root(std::slice::from_ref(bytes), wall_ms).is_ok()
        }
        Happening::Reboot => {
            let written = codec::to_vec(store.snapshot()).unwrap();
            let read: TrustSnapshot = codec::from_slice(&written, 1 << 20).unwrap();
            *store = TrustStore::restore(read).unwrap();
            false
        }
    }
}

/// Nothing that a device remembers has sunk. (The director's key does not change here; then it may.)
fn not_sunk(before: &TrustSnapshot, after: &TrustSnapshot) -> Result<(), TestCaseError> {
    prop_assert!(after.versions.root >= before.versions.root);
    prop_assert!(after.versions.head.version >= before.versions.head.version);
    prop_assert!(after.versions.desired_state.version >= before.versions.desired_state.version);
    prop_assert!(after.clock_floor >= before.clock_floor);
    for (line, floor) in &before.floors {
        prop_assert!(after.floors.get(line) >= Some(floor));
    }
    prop_assert!(after.revoked_keys.is_superset(&before.revoked_keys));
    Ok(())
}

/// Nobody has moved the clock's floor further than can be believed: a day after a clock that has agreed, and never beyond
/// both a day after the clock and the end of the root.
fn not_far_ahead(before: &TrustSnapshot, store: &TrustStore, wall_ms: i64) -> Result<(), TestCaseError> {
    let by_clock = wall_ms + MAX_AHEAD_MS;
    let floor = store.snapshot().clock_floor;
    if before.clock_agrees && by_clock >= before.clock_floor {
        prop_assert!(floor <= by_clock.max(before.clock_floor));
    }
    prop_assert!(floor <= by_clock.max(store.root().header.expires).max(before.clock_floor));
    Ok(())
}

/// Without what is never written.
fn as_written(snapshot: &TrustSnapshot) -> TrustSnapshot {
    TrustSnapshot {
        clock_agrees: false,
        ..snapshot.clone()
    }
}

/// What a device goes through, in hours.
#[derive(Debug, Clone, Copy)]
enum Stretch {
    On(i64),
    Off(i64),
}

fn stretch() -> impl Strategy<Value = Stretch> {
    prop_oneof![
        (1i64..60).prop_map(Stretch::On),
        (1i64..60).prop_map(Stretch::Off),
        (60i64..24 * 30).prop_map(Stretch::Off),
    ]
}

/// What a device's clock does while the device is off.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rtc {
    Runs,
    StandsStill,
    StartsIn1970,
}

/// A fleet that is right about the time, and a device.
struct World {
    now: i64,
    /// The last one that the director signed, and whether the device was offered it since it started.
    head: Head,
    offered: bool,
    store: TrustStore,
    rtc: Rtc,
    wall: i64,
}

impl World {
    fn new(rtc: Rtc) -> Self {
        let factory = sign(&documents::root(), &key("root")).unwrap();
        Self {
            now: NOW,
            head: documents::head().unwrap(),
            offered: false,
            store: TrustStore::from_factory_root(&factory, 0).unwrap(),
            rtc,
            wall: if rtc == Rtc::StartsIn1970 { 0 } else { NOW },
        }
    }

    /// An hour passes. A device that is on takes what is new and has to be up to date.
    fn hour(&mut self, on: bool) -> Result<(), TrustError> {
        self.now += HOUR;
        if self.now - self.head.header.issued >= 12 * HOUR {
            self.head.header.version += 1;
            (self.head.header.issued, self.head.header.expires) = (self.now, self.now + DAY);
            self.offered = false;
        }
        if on || self.rtc == Rtc::Runs {
            self.wall += HOUR;
        }
        if !on {
            return Ok(());
        }
        if !self.offered {
            self.store
                .accept_head(&sign(&self.head, &key("director"))?, self.wall)?;
            self.offered = true;
        }
        self.store.check_fresh(self.wall)
    }

    /// The device is switched on again.
    fn start(&mut self) {
        self.store = TrustStore::restore(self.store.snapshot().clone()).unwrap();
        self.offered = false;
        if self.rtc == Rtc::StartsIn1970 {
            self.wall = 0;
        }
    }
}

proptest! {
    #[test]
    fn a_changed_envelope_is_never_believed_with_other_contents(
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
        insert in proptest::option::of((any::<proptest::sample::Index>(), any::<u8>())),
    ) {
        let original = signed_head();
        let mut changed = original.clone();
        for (place, byte) in edits {
            let place = place.index(changed.len());
            changed[place] = byte;
        }
        if let Some((place, byte)) = insert {
            changed.insert(place.index(changed.len()), byte);
        }
        if let Some(cut) = cut {
            changed.truncate(cut.index(changed.len()));
        }
        never_other_contents(&changed, &original)?;
    }

    #[test]
    fn what_a_device_has_seen_never_sinks(
        story in proptest::collection::vec((happening(), -3i64..8), 1..24)
    ) {
        let factory = sign(&documents::root(), &key("root")).unwrap();
        let mut store = TrustStore::from_factory_root(&factory, 0).unwrap();
        for (happening, day) in story {
            let before = store.snapshot().clone();
            let wall_ms = NOW + day * DAY;
            let accepted = happen(&mut store, &happening, wall_ms);
            not_sunk(&before, store.snapshot())?;
            not_far_ahead(&before, &store, wall_ms)?;
            if !accepted {
                prop_assert_eq!(as_written(&before), as_written(store.snapshot()), "a refusal changed the store");
            }
            prop_assert_eq!(store.trusted_now(0), store.snapshot().clock_floor);
        }
    }

    /// A director who is right is never taken for one who jumps, whatever the device's clock did: heads are signed every
    /// twelve hours, and a device that starts gets the last one.
    #[test]
    fn an_honest_fleet_is_followed_by_every_clock(
        story in proptest::collection::vec(stretch(), 1..8),
        rtc in prop_oneof![Just(Rtc::Runs), Just(Rtc::StandsStill), Just(Rtc::StartsIn1970)],
    ) {
        let mut world = World::new(rtc);
        for stretch in story {
            let (hours, on) = match stretch {
                Stretch::On(hours) => (hours, true),
                Stretch::Off(hours) => (hours, false),
            };
            for _ in 0..hours {
                let followed = world.hour(on);
                prop_assert!(followed.is_ok(), "{followed:?} at {}, by the device's clock {}", world.now, world.wall);
            }
            if !on {
                world.start();
            }
        }
    }

    /// `serde_cbor` (which we use) and `ciborium` read random bytes as the same value, or one of them refuses for a reason
    /// that is known: ciborium reads no "simple values", ours no half-defined ones.
    #[test]
    fn the_decoder_agrees_with_ciborium(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        agrees(&bytes)?;
    }

    /// The same on bytes that are nearly right.
    #[test]
    fn the_decoder_agrees_with_ciborium_on_damaged_documents(
        place in any::<proptest::sample::Index>(), byte in any::<u8>()
    ) {
        let mut bytes = codec::to_vec(&documents::head().unwrap()).unwrap();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        agrees(&bytes)?;
        let ours = codec::from_slice::<Head>(&bytes, 4096);
        let theirs = ciborium::from_reader::<Head, _>(bytes.as_slice());
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _read = (
            Envelope::decode(&bytes).is_ok(),
            codec::from_slice_zstd::<Bundle>(&bytes, 4096, 4096).is_ok(),
            codec::from_slice::<Want>(&bytes, 4096).is_ok(),
            ChunkList::decode(&bytes, &BlobRef::of(b"blob")).is_ok(),
        );
    }

    #[test]
    fn topics_have_one_spelling(text in "(flotilla/v1/)?(d/[a-z+#/-]{0,9}|head|blob/[0-9a-f]{64}/[0-9+]{1,4}|.{0,20})") {
        if let Ok(topic) = text.parse::<Topic>() {
            prop_assert_eq!(topic.to_string(), text);
        }
    }

    #[test]
    fn any_byte_string_goes_round(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let value = ByteBuf::from(bytes);
        let wire = codec::to_vec_zstd(&value).unwrap();
        prop_assert_eq!(codec::from_slice_zstd::<ByteBuf>(&wire, 4096, 4096).unwrap(), value);
    }
}

/// Both decoders read the bytes, and then the same; or at least one refuses them.
fn agrees(bytes: &[u8]) -> Result<(), TestCaseError> {
    let ours = codec::from_slice::<serde_cbor::Value>(bytes, 4096);
    let mut rest = bytes;
    let theirs = ciborium::from_reader::<ciborium::Value, _>(&mut rest);
    let (Ok(ours), Ok(theirs), true) = (ours, theirs, rest.is_empty()) else {
        return Ok(());
    };
    prop_assert_eq!(canonical(&theirs), from_ours(&ours));
    Ok(())
}

/// Ours sorts maps, keeps the last of equal keys, and reads through tags: bring ciborium's reading to the same form.
fn canonical(value: &ciborium::Value) -> serde_cbor::Value {
    use ciborium::Value as Theirs;
    use serde_cbor::Value as Ours;
    match value {
        Theirs::Integer(number) => Ours::Integer(i128::from(*number)),
        Theirs::Bytes(bytes) => Ours::Bytes(bytes.clone()),
        Theirs::Float(number) => float(*number),
        Theirs::Text(text) => Ours::Text(text.clone()),
        Theirs::Bool(truth) => Ours::Bool(*truth),
        Theirs::Tag(_, inner) => canonical(inner),
        Theirs::Array(items) => Ours::Array(items.iter().map(canonical).collect()),
        Theirs::Map(pairs) => Ours::Map(pairs.iter().map(|(k, v)| (canonical(k), canonical(v))).collect()),
        _ => Ours::Null,
    }
}

fn from_ours(value: &serde_cbor::Value) -> serde_cbor::Value {
    use serde_cbor::Value as Ours;
    match value {
        Ours::Float(number) => float(*number),
        Ours::Tag(_, inner) => from_ours(inner),
        Ours::Array(items) => Ours::Array(items.iter().map(from_ours).collect()),
        Ours::Map(pairs) => Ours::Map(pairs.iter().map(|(k, v)| (from_ours(k), from_ours(v))).collect()),
        other => other.clone(),
    }
}

/// NaN is not equal to itself, and which NaN it is carries no meaning.
fn float(number: f64) -> serde_cbor::Value {
    if number.is_nan() {
        return serde_cbor::Value::Text("NaN".to_owned());
    }
    serde_cbor::Value::Float(number)
}

#[test]
fn verified_documents_can_be_compared_by_digest() {
    let authority = Authority::single(Role::Director, key("director").public());
    let head: Verified<Head> = verify(&signed_head(), &authority, documents::fleet()).unwrap();
    assert_eq!(head.signers(), [key("director").id()]);
    assert_eq!(head.digest(), Envelope::decode(&signed_head()).unwrap().digest());
}
