//! Signing, gathering signatures, thresholds, rotation, and what a package needs of a device, through the public API.

#![cfg(test)]

use flotilla_protocol::codec;
use flotilla_protocol::head::Head;
use flotilla_protocol::manifest::{ComponentKind, Manifest};
use flotilla_protocol::trust::{
    Authority, DeviceFacts, Document as _, Envelope, KeyPair, Role, Root, TrustError, TrustStore, Verified, sign,
    verify,
};

#[path = "../examples/make_fixtures/documents.rs"]
#[expect(dead_code, reason = "the fixtures use the rest")]
mod documents;

use documents::{NOW, facts, fleet, head, key, line, manifest, root, root_with, target};

fn authority(names: &[&str], threshold: u32) -> Authority {
    Authority {
        role: Role::Root,
        keys: names.iter().map(|name| key(name).public()).collect(),
        threshold,
    }
}

/// The root, signed in as many places as there are signers and merged.
fn gathered(root: &Root, signers: &[&str]) -> Vec<u8> {
    let payload = codec::to_vec(root).unwrap();
    let mut whole = Envelope::unsigned(payload.clone());
    for signer in signers {
        let mut part = Envelope::unsigned(payload.clone());
        part.add_signature(&key(signer), &Role::Root, Root::SCHEMA).unwrap();
        whole.merge(Envelope::decode(&part.encode().unwrap()).unwrap()).unwrap();
    }
    whole.encode().unwrap()
}

#[test]
fn a_signed_document_is_believed_and_says_who_signed_it() {
    let bytes = sign(&root(), &key("root")).unwrap();
    let believed: Verified<Root> = verify(&bytes, &authority(&["root"], 1), fleet()).unwrap();
    assert_eq!(*believed, root());
    assert_eq!(believed.signers(), [key("root").id()]);
    assert_eq!(
        Envelope::decode(&bytes).unwrap().claimed_signers(),
        [key("root").id().0.hex()]
    );
    let overhead = bytes.len() - codec::to_vec(&root()).unwrap().len();
    assert!(overhead < 140, "{overhead} bytes of envelope");
}

#[test]
fn two_of_three_may_be_any_two() {
    let three = ["root", "root-2", "root-3"];
    for pair in [["root", "root-2"], ["root-3", "root"], ["root-2", "root-3"]] {
        let believed = verify::<Root>(&gathered(&root(), &pair), &authority(&three, 2), fleet()).unwrap();
        assert_eq!(believed.signers().len(), 2);
    }
    for signers in [&["root"][..], &["root", "root"], &["root", "stranger"]] {
        assert_eq!(
            verify::<Root>(&gathered(&root(), signers), &authority(&three, 2), fleet()).unwrap_err(),
            TrustError::Threshold {
                role: Role::Root,
                needed: 2,
                valid: 1
            }
        );
    }
    let nobody = verify::<Root>(&gathered(&root(), &["root"]), &authority(&three, 0), fleet());
    assert!(
        matches!(nobody, Err(TrustError::Threshold { .. })),
        "a threshold of zero admits nobody"
    );
}

#[test]
fn signatures_over_different_payloads_do_not_merge() {
    let mut other = root();
    other.header.version = 2;
    let mut envelope = Envelope::decode(&gathered(&root(), &["root"])).unwrap();
    let stray = Envelope::decode(&gathered(&other, &["root-2"])).unwrap();
    assert!(envelope.merge(stray).is_err());
}

/// Root keys and threshold of each version; the cases of TUF's conformance suite: 3 of 5, keys exchanged two at a time,
/// threshold up and down.
#[test]
fn roots_rotate_step_by_step_with_thresholds_up_and_down() {
    let all = [
        "root",
        "root-2",
        "root-3",
        "release-2",
        "release-3",
        "system",
        "stranger",
    ];
    let of = |version: u64, from: usize, threshold: u32| {
        root_with(
            version,
            &[
                ("root", &all[from..from + 5], threshold),
                ("director", &["director"], 1),
            ],
        )
    };
    let chain = vec![
        // 3 of 5, two keys exchanged: signed by three of both.
        gathered(&of(2, 2, 3), &all[2..5]),
        // The threshold rises to 4: four of the new ones, which are three of the old ones as well.
        gathered(&of(3, 2, 4), &all[2..6]),
        // It sinks to 1: still four of the old ones.
        gathered(&of(4, 2, 1), &all[2..6]),
        gathered(&of(5, 0, 1), &all[2..3]),
    ];
    let factory = gathered(&of(1, 0, 3), &all[..3]);
    let mut store = TrustStore::from_factory_root(&factory, 0).unwrap();
    assert!(
        store.advance_root(&[gathered(&of(4, 2, 1), &all[2..6])], NOW).is_err(),
        "three versions at once"
    );
    let mut broken = chain.clone();
    broken[2] = gathered(&of(4, 2, 1), &all[2..5]);
    assert!(matches!(
        store.advance_root(&broken, NOW),
        Err(TrustError::Threshold {
            needed: 4,
            valid: 3,
            ..
        })
    ));
    assert_eq!(store.versions().root, 1, "nothing changes unless the whole chain holds");
    store.advance_root(&chain, NOW).unwrap();
    assert_eq!((store.versions().root, store.root().header.version), (5, 5));
    store.advance_root(&[], NOW).unwrap();
}

#[test]
fn a_root_that_would_lock_the_fleet_out_is_refused() {
    type Spoil = fn(&mut Root);
    let spoils: [(&str, Spoil); 5] = [
        ("no director", |root| {
            root.roles.remove("director");
        }),
        ("threshold above its keys", |root| {
            root.roles.get_mut("root").unwrap().threshold = 2;
        }),
        ("threshold zero", |root| {
            root.roles.get_mut("director").unwrap().threshold = 0;
        }),
        ("a key that is not carried", |root| root.keys.clear()),
        ("no anchor", |root| root.tls_anchors.clear()),
    ];
    for (why, spoil) in spoils {
        let mut spoilt = root();
        spoil(&mut spoilt);
        assert!(spoilt.check().is_err(), "{why}");
        spoilt.header.version = 2;
        let mut store = TrustStore::from_factory_root(&sign(&root(), &key("root")).unwrap(), 0).unwrap();
        let next = sign(&spoilt, &key("root")).unwrap();
        assert!(store.advance_root(&[next], NOW).is_err(), "{why}");
    }
}

#[test]
fn the_longest_pattern_decides_alone_who_releases_a_line() {
    let root = root_with(
        1,
        &[
            ("root", &["root"], 1),
            ("director", &["director"], 1),
            ("release/*", &["release"], 1),
            ("release/mot*", &["release-2"], 1),
            ("release/motions", &["release-3"], 1),
            ("release-system", &["system"], 1),
        ],
    );
    let who = |role: &str| root.authority(&role.parse().unwrap()).unwrap().keys;
    assert_eq!(who("release/digits"), [key("release").public()]);
    assert_eq!(who("release/motor"), [key("release-2").public()]);
    assert_eq!(who("release/motions"), [key("release-3").public()]);
    assert_eq!(who("release-system"), [key("system").public()]);
    let everything = root_with(
        1,
        &[
            ("root", &["root"], 1),
            ("director", &["director"], 1),
            ("*", &["stranger"], 1),
        ],
    );
    assert!(
        matches!(
            everything.authority(&Role::Release(line().unwrap())),
            Err(TrustError::UnknownRole(_))
        ),
        "a pattern reaches release roles only"
    );
}

#[test]
fn keys_go_through_pem() {
    let pem = key("director").to_pkcs8_pem().unwrap();
    assert_eq!(
        KeyPair::from_pkcs8_pem(&pem).unwrap().public(),
        key("director").public()
    );
    assert!(
        key("director")
            .public()
            .to_pem()
            .unwrap()
            .starts_with("-----BEGIN PUBLIC KEY-----")
    );
    assert!(KeyPair::from_pkcs8_pem("no key").is_err());
    assert!(!format!("{:?}", key("director")).contains(&hex::encode(documents::seed("director"))));
}

#[test]
fn a_package_fits_or_says_what_is_missing() {
    let manifest = manifest().unwrap();
    manifest.fits(&facts()).unwrap();
    let refused = |change: fn(&mut DeviceFacts)| {
        let mut facts = facts();
        change(&mut facts);
        let error = manifest.fits(&facts).unwrap_err();
        assert_eq!(error.attack(), "wrong-hardware");
        error.to_string()
    };
    assert!(refused(|f| f.hardware_class = "camera".into()).contains("'camera' is not among"));
    assert!(refused(|f| f.arch = "arm".into()).contains("'arm' is not among"));
    assert!(refused(|f| f.agent_version = "0.0.9".into()).contains("0.0.9 is older than 0.1.0"));
    assert!(refused(|f| f.agent_version = "unknown".into()).contains("older"));
    assert!(refused(|f| f.ram_bytes = 1).contains("1 bytes of RAM"));
    assert!(refused(|f| f.disk_free_bytes = 1).contains("1 bytes of free disk"));
    let mut newer = facts();
    newer.agent_version = "0.10.0-rc.1+build".into();
    manifest.fits(&newer).unwrap();
    let mut anywhere = manifest.clone();
    anywhere.hardware_classes.clear();
    anywhere.arch.clear();
    let mut odd = facts();
    (odd.hardware_class, odd.arch) = ("camera".into(), "riscv64".into());
    anywhere.fits(&odd).unwrap();
}

#[test]
fn a_manifest_that_breaks_its_own_rules_is_refused() {
    type Spoil = fn(&mut Manifest);
    let spoils: [(&str, Spoil); 6] = [
        ("no model", |m| m.components.retain(|c| c.kind != ComponentKind::Model)),
        ("two models", |m| m.components.push(m.components[0].clone())),
        ("another runtime", |m| m.runtime = "pickle".into()),
        ("no outputs", |m| m.outputs.clear()),
        ("least agent version that cannot be read", |m| {
            m.min_agent = "v0.1".into();
        }),
        ("four-part version", |m| m.min_agent = "0.1.0.1".into()),
    ];
    let mut store = TrustStore::from_factory_root(&sign(&root(), &key("root")).unwrap(), 0).unwrap();
    store
        .accept_head(&sign(&head().unwrap(), &key("director")).unwrap(), NOW)
        .unwrap();
    for (why, spoil) in spoils {
        let mut spoilt = manifest().unwrap();
        spoil(&mut spoilt);
        let envelope = sign(&spoilt, &key("release")).unwrap();
        let target = target(&spoilt, &envelope).unwrap();
        let error = store.accept_manifest(&envelope, &target, &facts(), NOW).unwrap_err();
        assert!(matches!(error, TrustError::Invalid(_)), "{why}: {error}");
    }
}

#[test]
fn what_is_too_long_is_not_signed() {
    let mut long = head().unwrap();
    long.revoked_manifests = (0..3000u32)
        .map(|n| flotilla_protocol::ids::Digest::of(&n.to_le_bytes()))
        .collect();
    assert!(matches!(
        sign::<Head>(&long, &key("director")),
        Err(TrustError::Document(codec::CodecError::TooLarge { .. }))
    ));
}
