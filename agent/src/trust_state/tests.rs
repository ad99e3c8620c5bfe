//! What is refused goes on record; what merely waits for the server, or may not run any more, does not.

use std::sync::atomic::{AtomicI64, Ordering};

use flotilla_protocol::chunks::BlobRef;
use flotilla_protocol::desired_state::{Action, HarvestPolicy, UpdatePolicy};

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
