//! What is refused goes on record; what merely waits for the server, or may not run any more, does not.

use std::sync::atomic::{AtomicI64, Ordering};

use flotilla_protocol::chunks::BlobRef;
use flotilla_protocol::desired_state::{Action, HarvestPolicy, TelemetryPolicy, UpdatePolicy};
use flotilla_protocol::trust::{Document as _, Header, KeyPair, Role, sign};
use redb::ReadableTable as _;

use super::*;
use crate::report;
use crate::test_server::{NOW, head, trusting};

fn target() -> Target {
    Target {
        slot: "main".parse().unwrap(),
        action: Action::Install,
        line: "line".parse().unwrap(),
        manifest: Digest::of(b"manifest"),
        manifest_envelope: BlobRef::of(b"envelope"),
        release_counter: 1,
        deployment: "0191e5a0-0000-7000-8000-000000000009".parse().unwrap(),
        components: vec![],
        update: UpdatePolicy::default(),
        harvest: HarvestPolicy::default(),
    }
}

#[test]
fn a_head_of_ours_that_lapsed_is_no_attack_and_one_that_is_offered_late_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path(), 0).unwrap());
    let hand = Arc::new(AtomicI64::new(NOW));
    let trust = trusting(&store, &hand);
    let facts = report::facts("generic", dir.path());
    let offer = || trust.accept_manifest(b"", &target(), &facts).unwrap_err();
    assert!(matches!(
        offer(),
        NotAccepted::Stale {
            why: TrustError::NoHead
        }
    ));
    trust.accept_head(&[], &head(1, NOW + 1_000, vec![])).unwrap();
    hand.store(NOW + 2_000, Ordering::SeqCst);
    let lapsed = offer();
    let expired = matches!(
        lapsed,
        NotAccepted::Stale {
            why: TrustError::Expired { .. }
        }
    );
    assert!(expired, "{lapsed}");
    assert_eq!(trust.last_attack().unwrap(), None);

    let late = trust.accept_head(&[], &head(2, NOW + 1_500, vec![])).unwrap_err();
    let refused = matches!(
        late,
        NotAccepted::Refused {
            why: TrustError::Expired { .. }
        }
    );
    assert!(refused, "{late}");
    assert_eq!(trust.last_attack().unwrap().unwrap().attack, "freeze");

    let mut heads = trust.heads();
    trust.accept_head(&[], &head(2, NOW + 9_000, vec![])).unwrap();
    assert!(heads.has_changed().unwrap());
    assert_eq!(*heads.borrow_and_update(), 2);
    let malformed = offer();
    let judged = matches!(
        malformed,
        NotAccepted::Refused {
            why: TrustError::Envelope(_)
        }
    );
    assert!(judged, "what is offered is judged again: {malformed}");
}

#[test]
fn what_was_revoked_since_its_installation_may_not_run_and_is_no_attack() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path(), 0).unwrap());
    let hand = Arc::new(AtomicI64::new(NOW));
    let trust = trusting(&store, &hand);
    let model = |package: &[u8]| InstalledModel {
        line: "line".parse().unwrap(),
        manifest: Digest::of(package),
        semver: "1.0.0".to_owned(),
        release_counter: 1,
    };
    trust.check_installed(&model(b"bad")).unwrap();
    let revoked = vec![model(b"bad").manifest];
    trust.accept_head(&[], &head(1, NOW + 1_000, revoked)).unwrap();
    // Revocations do not lapse with the head that brought them.
    hand.store(NOW + 2_000, Ordering::SeqCst);
    let why = trust.check_installed(&model(b"bad")).unwrap_err();
    assert!(matches!(why, TrustError::RevokedManifest(_)), "{why}");
    trust.check_installed(&model(b"good")).unwrap();
    assert_eq!(trust.last_attack().unwrap(), None);
}

fn desired_state(trust: &TrustState, version: u64) -> DesiredState {
    DesiredState {
        header: Header {
            schema: DesiredState::SCHEMA.to_owned(),
            role: Role::Director,
            fleet: trust.fleet(),
            version,
            issued: NOW,
            expires: NOW + 1_000_000,
        },
        device: "press-07".parse().unwrap(),
        thumbprint: KeyPair::from_seed(&[9; 32]).id(),
        targets: vec![],
        telemetry: TelemetryPolicy {
            bundle_interval_ms: 1000,
        },
        last_report_counter: 0,
    }
}

#[test]
fn a_start_goes_on_with_the_desired_state_that_was_accepted_last_and_with_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path(), 0).unwrap());
    let hand = Arc::new(AtomicI64::new(NOW));
    let trust = trusting(&store, &hand);
    assert_eq!(trust.resumable_desired_state().unwrap(), None);
    let accept = |version| {
        let bytes = sign(&desired_state(&trust, version), &KeyPair::from_seed(&[2; 32])).unwrap();
        trust.accept_desired_state(&bytes).unwrap()
    };
    let old = accept(3);
    assert_eq!(trust.resumable_desired_state().unwrap().as_ref(), Some(&old));
    let new = accept(4);
    // As it was where the power went between two transactions: the version is remembered, the document is not.
    store.put(keys::DESIRED, &old).unwrap();
    let reopened = TrustState::open(
        Arc::clone(&store),
        Clock::manual(Arc::clone(&hand)),
        "press-07".parse().unwrap(),
        KeyPair::from_seed(&[9; 32]).id(),
    );
    let reopened = reopened.unwrap().unwrap();
    assert_eq!(reopened.versions().desired_state.version, 4);
    assert_eq!(reopened.resumable_desired_state().unwrap(), None);
    // The server sends the same one again: it is kept, although nothing is new to the trust store.
    let bytes = sign(&new, &KeyPair::from_seed(&[2; 32])).unwrap();
    assert_eq!(reopened.accept_desired_state(&bytes).unwrap(), new);
    assert_eq!(reopened.resumable_desired_state().unwrap(), Some(new));
}

#[test]
fn what_changed_on_the_disk_is_audited_and_no_attack() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path(), 0).unwrap());
    let trust = trusting(&store, &Arc::new(AtomicI64::new(NOW)));
    trust.damaged_content("staged component", Digest::of(b"component"));
    assert_eq!(trust.last_attack().unwrap(), None);
    let entries = store.read(|txn| {
        let table = txn.open_table(crate::store::AUDIT)?;
        let entries: Vec<Vec<u8>> = table.iter()?.map(|item| item.unwrap().1.value().to_vec()).collect();
        Ok(entries)
    });
    let entries = entries.unwrap();
    assert_eq!(entries.len(), 1);
    let record: flotilla_protocol::audit::AuditRecord = codec::from_slice(&entries[0], 1 << 16).unwrap();
    assert_eq!(record.event, "content.damaged");
}
