//! When a report is worth sending.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicI64;

use flotilla_protocol::chunks::BlobRef;
use flotilla_protocol::desired_state::{Action, HarvestPolicy, Target, UpdatePolicy};
use flotilla_protocol::ids::{Digest, SlotName};

use super::*;
use crate::link;
use crate::ota::policy::Soak;
use crate::ota::state::{Bank, Job, Order, OtaState, Phase};
use crate::test_server::{NOW, trusting};

fn soaking(elapsed_ms: u64) -> OtaState {
    let target = Target {
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
    };
    let phase = Phase::Soaking {
        job: Job::new(Order { target }),
        bank: Bank::A,
        previous: None,
        soaked: Soak {
            elapsed_ms,
            ..Soak::default()
        },
    };
    OtaState {
        phase,
        ..OtaState::default()
    }
}

#[tokio::test]
async fn how_far_a_soak_is_makes_no_report_and_how_it_ended_does() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path(), 0).unwrap());
    let hand = Arc::new(AtomicI64::new(NOW));
    let trust = Arc::new(trusting(&store, &hand));
    let (link, mut publishes, _switch) = link::wire();
    let slot: SlotName = "main".parse().unwrap();
    let states = watch::Sender::new(BTreeMap::from([(slot.clone(), soaking(0))]));
    let signer = Signer {
        device: DeviceId::new("press-07").unwrap(),
        fleet: trust.fleet(),
        key: KeyPair::from_seed(&[9; 32]),
        boot: Boot { epoch: 1, nonce: 7 },
    };
    let reporter = Arc::new(Reporter {
        signer: Arc::new(signer),
        store,
        trust: Arc::clone(&trust),
        clock: Clock::manual(hand),
        states: states.subscribe(),
        link,
        facts: Facts {
            hardware_class: "generic".to_owned(),
            data_dir: dir.path().to_owned(),
        },
        wanted: trust.refused_notice(),
        error: Mutex::new(None),
    });
    let stop = CancellationToken::new();
    let story = async {
        for minute in 1..60 {
            states.send_modify(|states| {
                states.insert(slot.clone(), soaking(minute * 60_000));
            });
            // The reporter sees each of them.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }
        assert!(publishes.try_recv().is_err(), "nothing of a report has changed");
        states.send_modify(|states| {
            states.insert(slot.clone(), OtaState::default());
        });
        let told = tokio::time::timeout(Duration::from_mins(1), publishes.recv()).await;
        assert_eq!(told.unwrap().unwrap().topic, Up::Report);
        assert!(publishes.try_recv().is_err(), "one report, of the last change");
        stop.cancel();
    };
    tokio::join!(reporter.run(stop.clone()), story);
}
