//! Signing, gathering signatures, thresholds, rotation, and what a package needs of a device, through the public API.

#![cfg(test)]

use flotilla_protocol::codec;
use flotilla_protocol::head::Head;
use flotilla_protocol::ids::{Digest, ModelLine};
use flotilla_protocol::manifest::{ComponentKind, Manifest};
use flotilla_protocol::trust::{
    Authority, DeviceFacts, Document as _, Envelope, KeyId, KeyPair, MAX_AHEAD_MS, MAX_REMEMBERED, Role, Root,
    TrustError, TrustStore, Verified, sign, verify,
};

#[path = "../examples/make_fixtures/documents.rs"]
#[expect(dead_code, reason = "the fixtures use the rest")]
mod documents;

use documents::{DAY, HOUR, ISSUED, NOW, facts, fleet, head, key, line, manifest, root, root_with, target};

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
    // What a device has too little of is no refusal of trust.
    assert_eq!(manifest.shortage(&facts()), None);
    let short = |change: fn(&mut DeviceFacts)| {
        let mut facts = facts();
        change(&mut facts);
        manifest.fits(&facts).unwrap();
        manifest.shortage(&facts).expect("something is missing").to_string()
    };
    assert!(short(|f| f.agent_version = "0.0.9".into()).contains("0.0.9 is older than 0.1.0"));
    assert!(short(|f| f.agent_version = "unknown".into()).contains("older"));
    assert!(short(|f| f.ram_bytes = 1).contains("1 bytes of RAM"));
    assert!(short(|f| f.disk_free_bytes = 1).contains("1 bytes of free disk"));
    let mut newer = facts();
    newer.agent_version = "0.10.0-rc.1+build".into();
    assert_eq!(manifest.shortage(&newer), None);
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

/// A device that knows the factory's root alone. That root ends a year after [`ISSUED`].
fn new_device() -> TrustStore {
    TrustStore::from_factory_root(&sign(&root(), &key("root")).unwrap(), 0).unwrap()
}

/// The fleet's next `Head`, as it was signed then, for a day.
fn head_issued(version: u64, at: i64) -> Vec<u8> {
    let mut next = head().unwrap();
    next.header.version = version;
    (next.header.issued, next.header.expires) = (at, at + DAY);
    sign(&next, &key("director")).unwrap()
}

/// The offer is refused as what it is, and leaves no trace.
fn is_ahead(store: &mut TrustStore, offer: impl FnOnce(&mut TrustStore) -> Result<(), TrustError>) {
    let before = store.snapshot().clone();
    let refused = offer(store).unwrap_err();
    assert!(matches!(refused, TrustError::FastForward { .. }), "{refused}");
    assert_eq!(refused.attack(), "fast-forward");
    assert_eq!(*store.snapshot(), before);
}

#[test]
fn a_clock_that_has_agreed_is_believed_against_a_director_who_jumps() {
    let mut store = new_device();
    store.accept_head(&head_issued(7, ISSUED), NOW).unwrap();
    for days in [2, 30, 5 * 365] {
        let then = ISSUED + days * DAY;
        is_ahead(&mut store, |store| {
            store.accept_head(&head_issued(8, then), NOW).map(drop)
        });
        let mut desired = documents::desired_state(vec![]).unwrap();
        (desired.header.issued, desired.header.expires) = (then, then + DAY);
        let desired = sign(&desired, &key("director")).unwrap();
        let own = documents::device().unwrap();
        is_ahead(&mut store, |store| {
            let offered = store.accept_desired_state(&desired, &own, key("device").id(), NOW);
            offered.map(drop)
        });
        let mut next = root();
        next.header.version = 2;
        (next.header.issued, next.header.expires) = (then, then + 365 * DAY);
        let next = sign(&next, &key("root")).unwrap();
        is_ahead(&mut store, |store| store.advance_root(&[next], NOW));
    }
    // Nor does it help to jump in small steps: the device's clock is the measure, not the last thing that was signed.
    let accepted = (1i64..400)
        .filter(|hours| {
            let then = ISSUED + hours * HOUR;
            store
                .accept_head(&head_issued(7 + u64::try_from(*hours).unwrap(), then), NOW)
                .is_ok()
        })
        .count();
    assert_eq!(accepted, 25, "a day after the clock, and no more");
    assert_eq!(store.snapshot().clock_floor, NOW + MAX_AHEAD_MS);
    // A day at the most is what such a director costs: what is signed at the right time after it is followed.
    let later = NOW + DAY + HOUR;
    store.accept_head(&head_issued(500, later), later).unwrap();
}

#[test]
fn a_clock_that_is_dead_or_stood_still_is_told_the_time_though_not_beyond_the_root() {
    // At its first day, before the fleet was there, and left behind since the device was switched off.
    for wall in [0, ISSUED - 400 * DAY, NOW, NOW + 20 * DAY] {
        let mut store = new_device();
        for days in [366, 5 * 365] {
            let then = ISSUED + days * DAY;
            is_ahead(&mut store, |store| {
                store.accept_head(&head_issued(8, then), wall).map(drop)
            });
        }
        for (version, days) in [(8, 30), (9, 60), (10, 364)] {
            let then = ISSUED + days * DAY;
            store.accept_head(&head_issued(version, then), wall).unwrap();
            assert_eq!(store.snapshot().clock_floor, then, "clock at {wall}");
        }
    }
}

#[test]
fn whether_a_clock_agrees_is_found_out_anew_after_every_start() {
    let mut store = new_device();
    store.accept_head(&head_issued(7, ISSUED), NOW).unwrap();
    let monday = ISSUED + 3 * DAY;
    is_ahead(&mut store, |store| {
        store.accept_head(&head_issued(8, monday), NOW).map(drop)
    });
    // Off over the weekend, and its clock with it.
    let mut store = TrustStore::restore(store.snapshot().clone()).unwrap();
    store.accept_head(&head_issued(8, monday), NOW).unwrap();
    assert_eq!(store.trusted_now(NOW), monday);

    // What was signed since shows that a clock was set back: from then on it proves nothing.
    let mut store = new_device();
    for (version, days) in [(7, 0), (8, 10)] {
        let then = ISSUED + days * DAY;
        store.accept_head(&head_issued(version, then), then).unwrap();
    }
    store.accept_head(&head_issued(9, ISSUED + 20 * DAY), NOW).unwrap();
}

#[test]
fn the_news_go_on_under_a_root_that_has_lapsed() {
    let later = ISSUED + 400 * DAY;
    let mut store = new_device();
    store.accept_head(&head_issued(8, later), later).unwrap();
    assert!(
        matches!(store.check_fresh(later), Err(TrustError::Expired { what: "root", .. })),
        "and nothing new is installed"
    );
    store.accept_head(&head_issued(9, later + HOUR), later + HOUR).unwrap();
}

fn digests(from: usize, count: usize) -> Vec<Digest> {
    (from..from + count).map(|n| Digest::of(&n.to_le_bytes())).collect()
}

/// A head that says this as well.
fn offer(store: &mut TrustStore, version: u64, fill: impl FnOnce(&mut Head)) -> Result<(), TrustError> {
    let mut next = head().unwrap();
    next.header.version = version;
    next.release_floors.clear();
    fill(&mut next);
    store
        .accept_head(&sign(&next, &key("director")).unwrap(), NOW)
        .map(drop)
}

#[test]
fn what_a_device_remembers_has_a_bound_and_fits_its_store() {
    type Fill = fn(&mut Head);
    // As much as one head has room for.
    const PAGE: usize = 512;
    // `MAX_VALUE_BYTES` of agent/src/store.rs.
    const STORE_TAKES: usize = 4 << 20;
    let mut store = new_device();
    let mut version = 7;
    for from in (0..MAX_REMEMBERED).step_by(PAGE) {
        version += 1;
        offer(&mut store, version, |head| {
            head.revoked_manifests = digests(from, PAGE);
            head.revoked_keys = digests(from, PAGE).into_iter().map(KeyId).collect();
        })
        .unwrap();
        version += 1;
        offer(&mut store, version, |head| {
            let line = |n: usize| ModelLine::new(format!("{n:0>64}")).unwrap();
            head.release_floors = (from..from + PAGE).map(|n| (line(n), u64::MAX)).collect();
        })
        .unwrap();
    }
    let full = store.snapshot().clone();
    assert_eq!(
        [full.floors.len(), full.revoked_keys.len(), full.revoked_manifests.len()],
        [MAX_REMEMBERED; 3]
    );
    let written = codec::to_vec(&full).unwrap().len();
    // The longest root there is would come on top.
    assert!(
        written + codec::MAX_DOCUMENT_BYTES + 4096 < STORE_TAKES / 2,
        "{written} bytes"
    );
    let more: [(&str, Fill); 3] = [
        ("revoked manifests", |head| {
            head.revoked_manifests = digests(MAX_REMEMBERED, 1);
        }),
        ("revoked keys", |head| {
            head.revoked_keys = digests(MAX_REMEMBERED, 1).into_iter().map(KeyId).collect();
        }),
        ("release floors", |head| {
            head.release_floors = [(line().unwrap(), 1)].into();
        }),
    ];
    for (what, fill) in more {
        let refused = offer(&mut store, version + 1, fill).unwrap_err();
        assert!(
            matches!(&refused, TrustError::Invalid(why) if why.contains(what)),
            "{refused}"
        );
        assert_eq!(*store.snapshot(), full, "nothing of it is taken");
    }
    // What is known already needs no room.
    offer(&mut store, version + 1, |head| {
        head.revoked_manifests = digests(0, PAGE);
    })
    .unwrap();
}
