//! Layout 1 on the wire stays as it is: the committed bytes read as they always did, and what is written today is what is
//! committed. A failure here means that devices in the field would not be understood any more.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use flotilla_protocol::audit::SignedAuditHead;
use flotilla_protocol::bundle::Bundle;
use flotilla_protocol::chunks::ChunkList;
use flotilla_protocol::codec::{self, MAX_COMPONENT_BYTES, MAX_MESSAGE_BYTES};
use flotilla_protocol::desired_state::DesiredState;
use flotilla_protocol::enroll::Enrolment;
use flotilla_protocol::features::FeatureSpec;
use flotilla_protocol::golden::GoldenSet;
use flotilla_protocol::head::Head;
use flotilla_protocol::ids::DeviceId;
use flotilla_protocol::manifest::Manifest;
use flotilla_protocol::messages::{ChunkMessage, HeadMessage, Hello, Receipt, SampleBatch, Want};
use flotilla_protocol::report::DeviceReport;
use flotilla_protocol::sketch::ReferenceProfile;
use flotilla_protocol::topics::{Topic, may_publish, may_subscribe};
use flotilla_protocol::trust::{
    Authority, Document, Envelope, PublicKey, Role, Root, TrustError, Verified, external_aad, verify,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

#[path = "../examples/make_fixtures/documents.rs"]
#[expect(dead_code, reason = "the attacks use the rest")]
mod documents;
#[path = "../examples/make_fixtures/v1.rs"]
mod v1;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("test-data/v1")
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(folder().join(format!("{name}.cbor"))).unwrap()
}

fn reading(name: &str) -> Value {
    serde_json::from_slice(&fs::read(folder().join(format!("{name}.json"))).unwrap()).unwrap()
}

fn text(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}

/// Reads and writes one message type.
fn message<T: Serialize + DeserializeOwned>(name: &str) -> Value {
    let value: T = codec::from_slice(&bytes(name), MAX_COMPONENT_BYTES).unwrap();
    assert_eq!(
        codec::to_vec(&value).unwrap(),
        bytes(name),
        "{name} is written as it was read"
    );
    serde_json::to_value(value).unwrap()
}

/// Verifies one envelope by the key that its reading names.
fn envelope<T: Document>(name: &str) -> Value {
    let expected = reading(name);
    let role: Role = serde_json::from_value(expected["role"].clone()).unwrap();
    let keys = reading("keys");
    let signer = keys
        .as_object()
        .unwrap()
        .values()
        .find(|key| key["id"] == expected["signers"][0]);
    let key: PublicKey = serde_json::from_value(signer.unwrap()["ed25519"].clone()).unwrap();
    let authority = Authority::single(role, key);
    let document: Verified<T> = verify(&bytes(name), &authority, documents::fleet()).unwrap();
    assert_eq!(
        codec::to_vec(&*document).unwrap(),
        Envelope::decode(&bytes(name)).unwrap().payload()
    );
    let stranger = Authority::single(authority.role, documents::key("stranger").public());
    assert!(matches!(
        verify::<T>(&bytes(name), &stranger, documents::fleet()),
        Err(TrustError::Threshold { valid: 0, .. })
    ));
    json!({
        "digest": document.digest(),
        "role": document.header().role,
        "schema": document.header().schema,
        "signers": document.signers(),
        "document": *document,
    })
}

fn read(name: &str) -> Value {
    match name {
        "root" => envelope::<Root>(name),
        "manifest" => envelope::<Manifest>(name),
        "desired-state" => envelope::<DesiredState>(name),
        "head" => envelope::<Head>(name),
        "device-report" => envelope::<DeviceReport>(name),
        "audit-head" => envelope::<SignedAuditHead>(name),
        "enrolment" => envelope::<Enrolment>(name),
        "hello" => message::<Hello>(name),
        "want" => message::<Want>(name),
        "chunk" => message::<ChunkMessage>(name),
        "receipt" => message::<Receipt>(name),
        "head-message" => message::<HeadMessage>(name),
        "sample-batch" => message::<SampleBatch>(name),
        "bundle" => message::<Bundle>(name),
        "chunk-list" => message::<ChunkList>(name),
        "reference" => message::<ReferenceProfile>(name),
        "golden" => message::<GoldenSet>(name),
        "features" => message::<FeatureSpec>(name),
        other => panic!("nobody reads '{other}.cbor'"),
    }
}

#[test]
fn committed_bytes_read_as_they_always_did() {
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "cbor") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            assert_eq!(read(&name), reading(&name), "{name}");
            seen.insert(name);
        }
    }
    assert_eq!(seen.len(), 18, "a fixture is gone: {seen:?}");
}

#[test]
fn what_is_written_today_is_what_is_committed() {
    let fixtures = v1::fixtures().unwrap();
    for fixture in &fixtures {
        assert_eq!(fixture.cbor, bytes(fixture.name), "{}", fixture.name);
        assert_eq!(fixture.reading, reading(fixture.name), "{}", fixture.name);
    }
    assert_eq!(v1::keys(), reading("keys"));
    assert_eq!(v1::topics().unwrap(), text("topics.txt"));
    assert_eq!(v1::aad(&fixtures).unwrap(), text("external-aad.txt"));
}

#[test]
fn compressed_messages_read_the_same() {
    let bundle: Bundle = codec::from_slice(&bytes("bundle"), MAX_MESSAGE_BYTES).unwrap();
    let wire = codec::to_vec_zstd(&bundle).unwrap();
    assert_eq!(
        codec::from_slice_zstd::<Bundle>(&wire, MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES).unwrap(),
        bundle
    );
}

#[test]
fn external_aad_is_the_vector() {
    for line in text("external-aad.txt").lines() {
        let [role, schema, hex]: [&str; 3] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(hex::encode(external_aad(&role.parse().unwrap(), schema).unwrap()), hex);
    }
    // Spelled out once, from RFC 8949: array of 3 (0x83), text of 8 (0x68), text of 4 (0x64), text of 16 (0x70).
    let aad = external_aad(&Role::Root, "flotilla.root.v1").unwrap();
    assert_eq!(aad, b"\x83\x68flotilla\x64root\x70flotilla.root.v1");
}

#[test]
fn topics_are_the_committed_ones() {
    let (own, other) = (documents::device().unwrap(), DeviceId::new("press-08").unwrap());
    for line in text("topics.txt").lines() {
        let (kind, topic) = line.split_once('\t').unwrap();
        if matches!(kind, "publish" | "topic") {
            assert_eq!(topic.parse::<Topic>().unwrap().to_string(), topic);
        }
        assert_eq!(may_publish(&own, topic), kind == "publish", "{topic}");
        assert!(!may_publish(&other, topic), "{topic}");
        if kind == "subscribe" {
            assert!(may_subscribe(&own, topic), "{topic}");
        }
        if kind == "filter" {
            assert!(!may_subscribe(&own, topic), "{topic}");
        }
    }
}
