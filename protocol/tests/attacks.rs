//! Every folder of `test-data/attacks` is played against the trust store, the codec and the chunk list, as its
//! `expect.json` says. Between two steps the device loses power, unless the first says that it keeps running: the store is
//! written and read back.
//!
//! A call that is not known here fails the test, so that no folder stands there without being played. What a refused
//! document must not do is checked everywhere: change the store.

#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};

use flotilla_protocol::bundle::Bundle;
use flotilla_protocol::chunks::{BlobRef, ChunkError, ChunkList};
use flotilla_protocol::codec::{self, CodecError, MAX_BUNDLE_BYTES, MAX_DOCUMENT_BYTES, MAX_MESSAGE_BYTES};
use flotilla_protocol::manifest::{ComponentKind, Manifest};
use flotilla_protocol::trust::{TrustError, TrustSnapshot, TrustStore, Verified};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The attacks of the trust design that concern documents and the codec. (A staged file that changes between its check
/// and its use is the agent's to prove.)
const NAMED: [&str; 39] = [
    "algorithm-swap",
    "arbitrary-package",
    "below-threshold",
    "clock-1970",
    "clock-2038",
    "clock-backwards",
    "deceptive-text",
    "deep-nesting",
    "duplicate-key-id",
    "duplicated-chunk",
    "endless-chunks",
    "endless-data",
    "fast-forward",
    "forged-chunk",
    "forged-chunk-list",
    "freeze-desired-state",
    "freeze-head",
    "freeze-manifest",
    "freeze-root",
    "head-withheld",
    "huge-lengths",
    "mix-and-match",
    "other-device",
    "other-fleet",
    "payload-in-signature",
    "reordered-chunk",
    "revoked-key",
    "revoked-manifest",
    "rollback-desired-state",
    "rollback-head",
    "rollback-manifest",
    "rollback-root",
    "root-gap",
    "trailing-bytes",
    "truncated",
    "unenforced-relations",
    "wrong-hardware",
    "wrong-key",
    "wrong-role",
];

/// What a step left behind for the next.
#[derive(Default)]
struct Device {
    store: Option<TrustStore>,
    manifest: Option<Verified<Manifest>>,
    list: Option<ChunkList>,
}

fn field<T: DeserializeOwned>(step: &Value, name: &str) -> T {
    serde_json::from_value(step[name].clone()).unwrap_or_else(|e| panic!("'{name}' of {step}: {e}"))
}

fn chunk_verdict(error: &ChunkError) -> String {
    let debug = format!("{error:?}");
    debug.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
}

fn codec_verdict(error: &CodecError) -> String {
    match error {
        CodecError::TooLarge { .. } => "TooLarge",
        CodecError::Malformed(_) => "Malformed",
        CodecError::Compression(_) => "Compression",
    }
    .to_owned()
}

fn verdict<T, E>(result: Result<T, E>, name: impl Fn(&E) -> String) -> (String, Option<T>) {
    match result {
        Ok(value) => ("accepted".to_owned(), Some(value)),
        Err(error) => (name(&error), None),
    }
}

impl Device {
    /// Makes one call and says what came of it.
    fn play(&mut self, folder: &Path, step: &Value) -> String {
        let read = |name: &str| fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let attack = |error: &TrustError| error.attack().to_owned();
        let wall: i64 = field(step, "wall_ms");
        let call = step["call"].as_str().unwrap_or_default();
        if call == "advance_root" {
            let chain: Vec<Vec<u8>> = field::<Vec<String>>(step, "files")
                .iter()
                .map(|name| read(name))
                .collect();
            return verdict(self.store().advance_root(&chain, wall), attack).0;
        }
        let bytes = read(&field::<String>(step, "file"));
        match call {
            "from_factory_root" => {
                let (said, store) = verdict(
                    TrustStore::from_factory_root(&bytes, field(step, "clock_floor")),
                    attack,
                );
                self.store = store;
                said
            }
            "accept_head" => verdict(self.store().accept_head(&bytes, wall), attack).0,
            "accept_desired_state" => {
                let (device, thumbprint) = (field(step, "device"), field(step, "thumbprint"));
                verdict(
                    self.store().accept_desired_state(&bytes, &device, thumbprint, wall),
                    attack,
                )
                .0
            }
            "accept_manifest" => {
                let (target, facts) = (field(step, "target"), field(step, "facts"));
                let (said, manifest) = verdict(self.store().accept_manifest(&bytes, &target, &facts, wall), attack);
                self.manifest = manifest;
                said
            }
            "component" => {
                let kind: ComponentKind = field(step, "kind");
                let manifest = self.manifest.as_ref().expect("a manifest was accepted before");
                verdict(manifest.check_component(kind, &BlobRef::of(&bytes)), attack).0
            }
            "chunk_list" => {
                let (said, list) = verdict(ChunkList::decode(&bytes, &field(step, "blob")), chunk_verdict);
                self.list = list;
                said
            }
            "chunk" => {
                let list = self.list.as_ref().expect("a chunk list was accepted before");
                verdict(list.check(field(step, "index"), &bytes), chunk_verdict).0
            }
            "decode" => decode(step["what"].as_str().unwrap_or_default(), &bytes),
            other => panic!("nobody drives the call '{other}'"),
        }
    }

    fn store(&mut self) -> &mut TrustStore {
        self.store.as_mut().expect("the first step is a factory root")
    }

    /// Power loss: all that is left is the snapshot.
    fn reboot(&mut self) {
        if let Some(store) = &self.store {
            let bytes = codec::to_vec(store.snapshot()).unwrap();
            let read: TrustSnapshot = codec::from_slice(&bytes, 1 << 20).unwrap();
            let written = TrustSnapshot {
                clock_agrees: false,
                ..store.snapshot().clone()
            };
            assert_eq!(read, written);
            self.store = Some(TrustStore::restore(read).unwrap());
        }
    }
}

fn decode(what: &str, bytes: &[u8]) -> String {
    match what {
        "value" => {
            verdict(
                codec::from_slice::<serde_cbor::Value>(bytes, MAX_DOCUMENT_BYTES),
                codec_verdict,
            )
            .0
        }
        "bundle" => {
            let read = codec::from_slice_zstd::<Bundle>(bytes, MAX_MESSAGE_BYTES, MAX_BUNDLE_BYTES);
            verdict(read, codec_verdict).0
        }
        other => panic!("nobody decodes '{other}'"),
    }
}

fn folders() -> Vec<PathBuf> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("test-data/attacks");
    let mut folders: Vec<PathBuf> = fs::read_dir(all).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

#[test]
fn every_attack_is_refused_as_its_folder_says() {
    for folder in folders() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let expect: Value = serde_json::from_slice(&fs::read(folder.join("expect.json")).unwrap()).unwrap();
        let steps = expect["steps"].as_array().unwrap();
        assert!(
            steps.iter().any(|step| step["expect"] != "accepted"),
            "{name} refuses nothing: it is no attack"
        );
        let mut device = Device::default();
        for (number, step) in (1..).zip(steps) {
            let before = device.store.as_ref().map(|store| store.snapshot().clone());
            let said = device.play(&folder, step);
            assert_eq!(said, step["expect"], "{name}, step {number}: {}", expect["about"]);
            let store = device.store.as_ref().map(TrustStore::snapshot);
            if said != "accepted" {
                assert_eq!(
                    store,
                    before.as_ref(),
                    "{name}, step {number}: a refusal changed the store"
                );
            }
            if step["running"] != true {
                device.reboot();
            }
        }
    }
}

#[test]
fn every_named_attack_has_its_folder_and_every_file_is_played() {
    let folders = folders();
    for name in NAMED {
        assert!(
            folders.iter().any(|folder| folder.ends_with(name)),
            "no folder for '{name}'"
        );
    }
    for folder in folders {
        let expect = fs::read_to_string(folder.join("expect.json")).unwrap();
        for file in fs::read_dir(&folder).unwrap() {
            let name = file.unwrap().file_name().to_string_lossy().into_owned();
            assert!(
                name == "expect.json" || expect.contains(&format!("\"{name}\"")),
                "{}: {name} is not part of any step",
                folder.display()
            );
        }
    }
}
