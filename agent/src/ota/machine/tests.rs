//! The machine against every event in every state: the table for people, and properties over random histories.

use std::fmt::Write as _;
use std::path::Path;

use flotilla_protocol::chunks::BlobRef;
use flotilla_protocol::desired_state::{Action, HarvestPolicy, Target, UpdatePolicy};
use flotilla_protocol::ids::{DeploymentId, Digest, ModelLine};
use flotilla_protocol::report::DeploymentState;
use proptest::prelude::*;

use super::*;
use crate::ota::policy::{self, Soak};
use crate::ota::state::{Job, PhaseName};

fn machine() -> Machine {
    Machine {
        device: DeviceId::new("press-07").unwrap(),
        slot: SlotName::new("main").unwrap(),
        retry: RetryLimits {
            max_attempts: 3,
            first_pause_ms: 1000,
        },
    }
}

fn order(deployment: u8, package: u8, action: Action) -> Order {
    let manifest = Digest::of(&[package]);
    Order {
        target: Target {
            slot: SlotName::new("main").unwrap(),
            action,
            line: ModelLine::new("line").unwrap(),
            manifest,
            manifest_envelope: BlobRef {
                sha256: manifest,
                length: 1,
            },
            release_counter: u64::from(package),
            deployment: format!("{deployment:032x}").parse::<DeploymentId>().unwrap(),
            components: vec![],
            update: UpdatePolicy {
                soak_ms: 1,
                max_error_permille: 10,
                start_spread_ms: 0,
                deadline: 0,
                max_bytes_per_s: 0,
            },
            harvest: HarvestPolicy {
                on_drift: false,
                below_permille: 0,
                max_samples: 0,
            },
        },
    }
}

fn model(package: u8) -> InstalledModel {
    InstalledModel {
        line: ModelLine::new("line").unwrap(),
        manifest: Digest::of(&[package]),
        semver: "1.0.0".to_owned(),
        release_counter: u64::from(package),
    }
}

/// Bank A holds package 1, committed; deployment 2 brings package 2 into B.
fn in_phase(name: PhaseName) -> OtaState {
    let mut state = OtaState {
        active: Some(Bank::A),
        a: Some(model(1)),
        ..OtaState::default()
    };
    let job = Job::new(order(2, 2, Action::Install));
    let (bank, previous) = (Bank::B, Some(Bank::A));
    let beyond_install = matches!(
        name,
        PhaseName::SelfTesting | PhaseName::Activating | PhaseName::Soaking | PhaseName::Committing
    );
    if beyond_install {
        state.b = Some(model(2));
    }
    if matches!(name, PhaseName::Activating | PhaseName::Soaking | PhaseName::Committing) {
        state.active = Some(Bank::B);
    }
    let reason = "a reason".to_owned();
    state.phase = match name {
        PhaseName::Idle => Phase::Idle,
        PhaseName::Waiting => Phase::Waiting { job, until: 100 },
        PhaseName::Downloading => Phase::Downloading { job },
        PhaseName::Verifying => Phase::Verifying { job },
        PhaseName::Installing => Phase::Installing { job, bank },
        PhaseName::SelfTesting => Phase::SelfTesting { job, bank },
        PhaseName::Activating => Phase::Activating { job, bank, previous },
        PhaseName::Soaking => Phase::Soaking {
            job,
            bank,
            previous,
            soaked: Soak::default(),
        },
        PhaseName::Committing => Phase::Committing { job, bank },
        PhaseName::RollingBack => Phase::RollingBack {
            job,
            bank,
            reason,
            ending: DeploymentState::RolledBack,
        },
        PhaseName::Failed => Phase::Failed {
            job,
            reason,
            retry_at: Some(100),
            ending: DeploymentState::Failure,
        },
    };
    state
}

const PHASES: [PhaseName; 11] = [
    PhaseName::Idle,
    PhaseName::Waiting,
    PhaseName::Downloading,
    PhaseName::Verifying,
    PhaseName::Installing,
    PhaseName::SelfTesting,
    PhaseName::Activating,
    PhaseName::Soaking,
    PhaseName::Committing,
    PhaseName::RollingBack,
    PhaseName::Failed,
];

fn soaked(elapsed_ms: u64, steady: bool) -> OtaEvent {
    let soaked = Soak {
        elapsed_ms,
        ..Soak::default()
    };
    OtaEvent::Soaked { soaked, steady }
}

fn events() -> Vec<(&'static str, OtaEvent)> {
    let reason = || "a reason".to_owned();
    vec![
        ("agent started", OtaEvent::Started),
        (
            "ordered: another package",
            OtaEvent::Ordered(Box::new(order(3, 3, Action::Install))),
        ),
        (
            "ordered: the same package, new deployment",
            OtaEvent::Ordered(Box::new(order(3, 2, Action::Install))),
        ),
        (
            "ordered: the installed package",
            OtaEvent::Ordered(Box::new(order(3, 1, Action::Install))),
        ),
        (
            "ordered: remove",
            OtaEvent::Ordered(Box::new(order(3, 2, Action::Remove))),
        ),
        ("withdrawn", OtaEvent::Withdrawn),
        ("time has come", OtaEvent::Woken),
        ("downloaded", OtaEvent::Downloaded),
        ("verified", OtaEvent::Verified),
        ("installed", OtaEvent::Installed(model(2))),
        ("self-test passed", OtaEvent::SelfTestPassed),
        ("activated", OtaEvent::Activated),
        ("soaked for a while", soaked(60_000, false)),
        ("soak passed", OtaEvent::SoakPassed),
        ("committed", OtaEvent::Committed),
        ("rolled back", OtaEvent::RolledBack),
        ("failed", OtaEvent::Failed { reason: reason() }),
        ("refused", OtaEvent::Refused { reason: reason() }),
        (
            "bank a lost",
            OtaEvent::BankLost {
                bank: Bank::A,
                reason: reason(),
            },
        ),
        (
            "bank b lost",
            OtaEvent::BankLost {
                bank: Bank::B,
                reason: reason(),
            },
        ),
    ]
}

fn active(state: &OtaState) -> String {
    match (state.active, state.active_model()) {
        (Some(bank), Some(model)) => format!("{} (package {})", bank.as_str(), model.release_counter),
        _ => "none".to_owned(),
    }
}

fn table() -> String {
    let machine = machine();
    let mut text = String::from(
        "# States of an update\n\n\
         Made from `agent/src/ota/machine.rs` by its tests; do not edit by hand (`UPDATE_DOCS=1 cargo test -p fleet-agent`).\n\n\
         One machine per slot. The setting of every row: bank a holds package 1, committed; deployment 2 brings package 2\n\
         into bank b. Rows that change nothing are left out. A `failed` state with a time is tried again then; without one,\n\
         the deployment has ended and only a new one leads on. Every new state is written durably, with its audit entries,\n\
         before its effects are carried out.\n\n\
         | state | active | event | next state | active then | effects |\n|---|---|---|---|---|---|\n",
    );
    for phase in PHASES {
        let state = in_phase(phase);
        for (name, event) in events() {
            let (next, effects) = machine.step(&state, event, 200);
            if next == state && effects.is_empty() {
                continue;
            }
            let effects: Vec<String> = effects
                .iter()
                .map(|effect| match effect {
                    Effect::Audit(entry) => format!("audit `{}`", entry.event),
                    Effect::Discard { bank } => format!("discard bank {}", bank.as_str()),
                    Effect::Restore { bank } => {
                        format!("restore {}", bank.map_or("nothing", |bank| bank.as_str()))
                    }
                    other => other.name().to_owned(),
                })
                .collect();
            let then = match &next.phase {
                Phase::Failed { retry_at: Some(_), .. } => "failed, tried again".to_owned(),
                Phase::Failed { ending, .. } => format!("failed ({})", ending.as_str()),
                Phase::Idle if next.last != state.last => {
                    format!("idle ({})", next.last.as_ref().map_or("", |last| last.state.as_str()))
                }
                phase => phase.name().as_str().to_owned(),
            };
            writeln!(
                text,
                "| {} | {} | {name} | {then} | {} | {} |",
                phase.as_str(),
                active(&state),
                active(&next),
                effects.join(", ")
            )
            .unwrap();
        }
    }
    text
}

#[test]
fn the_table_for_people_is_the_machine() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/agent-states.md");
    let made = table();
    #[expect(clippy::disallowed_methods, reason = "a test's switch")]
    if std::env::var("UPDATE_DOCS").is_ok() {
        std::fs::write(&path, &made).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(
        written == made,
        "docs/agent-states.md is not what the machine does: run with UPDATE_DOCS=1"
    );
}

/// What must hold of every state that is ever durable.
fn check(state: &OtaState) -> Result<(), TestCaseError> {
    if let Some(bank) = state.active {
        prop_assert!(state.bank(bank).is_some(), "the active bank holds nothing: {state:?}");
    }
    if let Phase::Installing { bank, .. } = &state.phase {
        prop_assert!(state.bank(*bank).is_none() && state.active != Some(*bank), "{state:?}");
    }
    if let Phase::SelfTesting { bank, .. } = &state.phase {
        prop_assert!(state.active != Some(*bank), "an untested bank answers: {state:?}");
    }
    Ok(())
}

fn event() -> impl Strategy<Value = OtaEvent> {
    let reason = || "a reason".to_owned();
    let banks = prop_oneof![Just(Bank::A), Just(Bank::B)];
    let action = prop_oneof![6 => Just(Action::Install), 1 => Just(Action::Remove)];
    prop_oneof![
        2 => Just(OtaEvent::Started),
        3 => (1u8..5, 1u8..5, action).prop_map(|(d, p, a)| OtaEvent::Ordered(Box::new(order(d, p, a)))),
        1 => Just(OtaEvent::Withdrawn),
        1 => Just(OtaEvent::Woken),
        1 => (0u64..100).prop_map(|received| OtaEvent::Progress { received, total: 100 }),
        1 => (0u64..100, any::<bool>()).prop_map(|(elapsed_ms, steady)| soaked(elapsed_ms, steady)),
        3 => Just(OtaEvent::Downloaded),
        3 => Just(OtaEvent::Verified),
        3 => Just(OtaEvent::SelfTestPassed),
        3 => Just(OtaEvent::Activated),
        3 => Just(OtaEvent::SoakPassed),
        3 => Just(OtaEvent::Committed),
        3 => Just(OtaEvent::RolledBack),
        2 => Just(OtaEvent::Failed { reason: reason() }),
        1 => Just(OtaEvent::Refused { reason: reason() }),
        3 => Just(OtaEvent::Installed(model(0))),
        1 => banks.prop_map(|bank| OtaEvent::BankLost { bank, reason: "a reason".to_owned() }),
    ]
}

/// `Installed` names the package that the job is about, as the driver does.
fn fitting(state: &OtaState, event: OtaEvent) -> OtaEvent {
    match (event, state.phase.job()) {
        (OtaEvent::Installed(_), Some(job)) => {
            let counter = job.order.target.release_counter;
            OtaEvent::Installed(model(u8::try_from(counter).unwrap()))
        }
        (event, _) => event,
    }
}

/// The answer of work that goes well.
fn good_answer(effect: &Effect, state: &OtaState) -> Option<OtaEvent> {
    let event = match effect {
        Effect::Fetch => OtaEvent::Downloaded,
        Effect::Verify => OtaEvent::Verified,
        Effect::Install { .. } => fitting(state, OtaEvent::Installed(model(0))),
        Effect::SelfTest { .. } => OtaEvent::SelfTestPassed,
        Effect::Activate { .. } => OtaEvent::Activated,
        Effect::Soak => OtaEvent::SoakPassed,
        Effect::Commit => OtaEvent::Committed,
        Effect::Restore { .. } => OtaEvent::RolledBack,
        Effect::WakeAt(_) => OtaEvent::Woken,
        _ => return None,
    };
    Some(event)
}

fn ended(state: &OtaState) -> bool {
    matches!(state.phase, Phase::Idle | Phase::Failed { retry_at: None, .. })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// From any state, whatever happens: a package that answers is never lost (but by removal), and what is active can be.
    #[test]
    fn an_active_package_is_never_lost(start in 0usize..PHASES.len(), events in proptest::collection::vec(event(), 0..60)) {
        let machine = machine();
        let mut state = in_phase(PHASES[start]);
        check(&state)?;
        for event in events {
            let event = fitting(&state, event);
            let removes = |order: &Order| order.removes();
            let may_remove = matches!(&event, OtaEvent::Ordered(order) if removes(order))
                || state.next.as_ref().is_some_and(removes);
            let had = state.active.is_some();
            let (next, effects) = machine.step(&state, event.clone(), 1_000_000);
            check(&next)?;
            // A lost bank gives way to the other, unless that holds nothing that has been tested.
            let lost = matches!(event, OtaEvent::BankLost { .. });
            // The first package of all, or one whose predecessor is lost, has nothing to go back to when it fails or is not
            // wanted any more.
            let alone = matches!(
                state.phase,
                Phase::Activating { previous: None, .. } | Phase::Soaking { previous: None, .. }
            ) && matches!(
                event,
                OtaEvent::Failed { .. } | OtaEvent::Refused { .. } | OtaEvent::Started | OtaEvent::Withdrawn
            );
            prop_assert!(!had || may_remove || lost || alone || next.active.is_some(), "lost by {event:?}: {state:?}");
            for effect in &effects {
                if let Effect::Discard { bank } = effect {
                    prop_assert!(next.bank(*bank).is_none() && next.active != Some(*bank), "a bank in use is deleted");
                }
            }
            let bytes = flotilla_protocol::codec::to_vec(&next).unwrap();
            prop_assert_eq!(&flotilla_protocol::codec::from_slice::<OtaState>(&bytes, 1 << 20).unwrap(), &next);
            state = next;
        }
    }

    /// From any state, work that goes well ends every deployment; work that always fails ends it too.
    #[test]
    fn every_deployment_ends(start in 0usize..PHASES.len(), history in proptest::collection::vec(event(), 0..20), well: bool) {
        let machine = machine();
        let mut state = in_phase(PHASES[start]);
        for event in history {
            let event = fitting(&state, event);
            state = machine.step(&state, event, 1_000_000).0;
        }
        let mut now = 2_000_000;
        let (mut turns, mut effects) = (0, resume(&state));
        while !ended(&state) {
            turns += 1;
            prop_assert!(turns < 60, "in progress for ever: {state:?}");
            now += 10_000_000;
            let effect = effects.iter().rev().find(|effect| good_answer(effect, &state).is_some());
            let Some(effect) = effect else {
                effects = resume(&state);
                prop_assert!(!effects.is_empty(), "nothing to do in {state:?}");
                continue;
            };
            let waits = matches!(effect, Effect::WakeAt(_));
            let event = match good_answer(effect, &state) {
                Some(event) if well || waits => event,
                _ => OtaEvent::Failed { reason: "it always fails".to_owned() },
            };
            let (next, next_effects) = machine.step(&state, event, now);
            state = next;
            effects = next_effects;
        }
    }

    /// An agent that is restarted again and again in the same step gives the step up.
    #[test]
    fn reboot_loops_end(start in 1usize..PHASES.len()) {
        let machine = machine();
        let mut state = in_phase(PHASES[start]);
        let waits = matches!(state.phase, Phase::Waiting { .. } | Phase::Failed { .. } | Phase::Committing { .. });
        for _ in 0..(2 * policy::MAX_STARTS + 2) {
            state = machine.step(&state, OtaEvent::Started, 1).0;
            check(&state)?;
        }
        prop_assert!(waits || ended(&state), "{state:?}");
        if !waits {
            prop_assert_eq!(state.active_model(), Some(&model(1)));
        }
    }
}

fn starts(state: &OtaState) -> u32 {
    state.phase.job().unwrap().starts
}

#[test]
fn a_device_that_is_switched_off_every_night_commits_in_the_end() {
    let machine = machine();
    let mut state = in_phase(PhaseName::Soaking);
    for night in 1..=30 {
        state = machine.step(&state, OtaEvent::Started, 1).0;
        state = machine.step(&state, soaked(night * 8 * 3_600_000, true), 1).0;
        assert_eq!(starts(&state), 0);
        let Phase::Soaking { soaked, .. } = &state.phase else {
            panic!("night {night}: {state:?}")
        };
        assert_eq!(soaked.elapsed_ms, night * 8 * 3_600_000, "what was soaked stays soaked");
    }
    state = machine.step(&state, OtaEvent::SoakPassed, 1).0;
    assert!(matches!(state.phase, Phase::Committing { .. }));
}

#[test]
fn a_package_that_takes_the_agent_down_in_its_first_use_is_rolled_back() {
    let machine = machine();
    let mut state = in_phase(PhaseName::Activating);
    // It answers, is noted as soaking, and a little later it is down again.
    state = machine.step(&state, OtaEvent::Activated, 1).0;
    for minute in 1..=u64::from(policy::MAX_STARTS) {
        state = machine.step(&state, OtaEvent::Started, 1).0;
        assert!(matches!(state.phase, Phase::Soaking { .. }), "{state:?}");
        state = machine.step(&state, soaked(minute * 60_000, false), 1).0;
    }
    state = machine.step(&state, OtaEvent::Started, 1).0;
    assert!(matches!(state.phase, Phase::RollingBack { .. }), "{state:?}");
    assert_eq!(state.active_model(), Some(&model(1)));
    assert_eq!(starts(&state), 0, "going back has starts of its own");
}

#[test]
fn only_getting_further_than_ever_forgives_starts() {
    let machine = machine();
    let started = |state: &OtaState| machine.step(state, OtaEvent::Started, 1).0;
    let mut state = started(&started(&in_phase(PhaseName::Downloading)));
    assert_eq!(starts(&state), 2);
    state = machine.step(&state, OtaEvent::Downloaded, 1).0;
    assert_eq!(starts(&state), 0, "it has never been verified before");
    // Verifying takes the agent down: every start begins at the download again, which finds everything there.
    for start in 1..=policy::MAX_STARTS {
        state = started(&state);
        assert!(matches!(state.phase, Phase::Downloading { .. }), "{state:?}");
        state = machine.step(&state, OtaEvent::Downloaded, 1).0;
        assert_eq!(starts(&state), start);
    }
    assert!(ended(&started(&state)), "it loops for ever");

    let tested = machine.step(&started(&in_phase(PhaseName::SelfTesting)), OtaEvent::SelfTestPassed, 1);
    assert_eq!(starts(&tested.0), 0);
}

#[test]
fn starts_while_an_update_waits_are_not_held_against_it() {
    let machine = machine();
    for phase in [PhaseName::Waiting, PhaseName::Failed] {
        let mut state = in_phase(phase);
        for _ in 0..20 {
            state = machine.step(&state, OtaEvent::Started, 1).0;
        }
        assert_eq!((state.phase.name(), starts(&state)), (phase, 0));
        state = machine.step(&state, OtaEvent::Woken, 200).0;
        state = machine.step(&state, OtaEvent::Started, 201).0;
        assert!(matches!(state.phase, Phase::Downloading { .. }), "{state:?}");
        assert_eq!(starts(&state), 1);
    }
}

#[test]
fn a_soak_of_a_state_from_before_soaks_were_noted_begins_anew() {
    let state = in_phase(PhaseName::Soaking);
    let mut written = serde_json::to_value(&state).unwrap();
    let phase = written["phase"]["soaking"].as_object_mut().unwrap();
    phase.remove("soaked").unwrap();
    phase["job"].as_object_mut().unwrap().remove("reached").unwrap();
    let read: OtaState = serde_json::from_value(written).unwrap();
    assert_eq!(read, state);
}

#[test]
fn a_soak_that_fails_brings_the_previous_package_back() {
    let machine = machine();
    let (state, effects) = machine.step(
        &in_phase(PhaseName::Soaking),
        OtaEvent::Refused {
            reason: "errors".into(),
        },
        1,
    );
    assert_eq!(state.active_model(), Some(&model(1)));
    assert!(state.is_committed());
    assert!(effects.contains(&Effect::Restore { bank: Some(Bank::A) }));
    let (state, _) = machine.step(&state, OtaEvent::RolledBack, 2);
    let report = state.deployment_report(&machine.slot).unwrap();
    assert_eq!(
        (report.state, report.reason.as_deref()),
        (DeploymentState::RolledBack, Some("errors"))
    );
    let again = OtaEvent::Ordered(Box::new(order(2, 2, Action::Install)));
    assert_eq!(
        machine.step(&state, again, 3),
        (state, vec![]),
        "a failed deployment stays failed"
    );
}

#[test]
fn an_order_withdrawn_before_its_commit_is_undone() {
    let machine = machine();
    for phase in [PhaseName::Activating, PhaseName::Soaking] {
        let (state, effects) = machine.step(&in_phase(phase), OtaEvent::Withdrawn, 1);
        assert_eq!(state.active_model(), Some(&model(1)), "{phase:?}");
        assert_eq!(effects.first(), Some(&Effect::StopWork));
        assert!(effects.contains(&Effect::Restore { bank: Some(Bank::A) }));
        let (state, _) = machine.step(&state, OtaEvent::RolledBack, 2);
        let report = state.deployment_report(&machine.slot).unwrap();
        assert_eq!(
            (report.state, report.reason.as_deref()),
            (DeploymentState::NoLongerApplicable, Some("the order was withdrawn"))
        );
    }
    let mut first = in_phase(PhaseName::Soaking);
    first.a = None;
    first.phase = Phase::Soaking {
        job: Job::new(order(2, 2, Action::Install)),
        bank: Bank::B,
        previous: None,
        soaked: Soak::default(),
    };
    let (state, effects) = machine.step(&first, OtaEvent::Withdrawn, 1);
    assert_eq!((state.active, state.b), (None, None));
    assert!(effects.contains(&Effect::Restore { bank: None }));
    let committing = in_phase(PhaseName::Committing);
    assert_eq!(
        machine.step(&committing, OtaEvent::Withdrawn, 1),
        (committing, vec![]),
        "what has proved itself stays"
    );
}

#[test]
fn a_previous_package_that_may_not_run_leaves_the_slot_empty_and_says_so() {
    let machine = machine();
    let lost = OtaEvent::BankLost {
        bank: Bank::A,
        reason: "it is revoked".into(),
    };
    let (state, effects) = machine.step(&in_phase(PhaseName::RollingBack), lost, 1);
    assert_eq!((state.active, &state.a), (None, &None));
    assert!(effects.contains(&Effect::Restore { bank: None }));
    let (state, _) = machine.step(&state, OtaEvent::RolledBack, 2);
    assert!(ended(&state));
    let why = "the package in bank a cannot be used: it is revoked";
    let report = state.deployment_report(&machine.slot).unwrap();
    assert_eq!(report.reason, Some(format!("a reason; and {why}")));
    assert_eq!(state.lost.as_deref(), Some(why));

    let mut tested = in_phase(PhaseName::SelfTesting);
    tested.lost = Some(why.to_owned());
    let (state, _) = machine.step(&tested, OtaEvent::SelfTestPassed, 3);
    assert_eq!(state.lost, None, "another answers");
}

#[test]
fn what_was_lost_after_success_is_brought_back() {
    let machine = machine();
    let mut state = in_phase(PhaseName::Committing);
    state = machine.step(&state, OtaEvent::Committed, 1).0;
    let again = || OtaEvent::Ordered(Box::new(order(2, 2, Action::Install)));
    assert_eq!(machine.step(&state, again(), 2).1, vec![]);
    let lost = OtaEvent::BankLost {
        bank: Bank::B,
        reason: "bits".into(),
    };
    state = machine.step(&state, lost, 3).0;
    assert_eq!(state.active_model(), Some(&model(1)), "the other bank answers");
    let (state, effects) = machine.step(&state, again(), 4);
    assert!(matches!(state.phase, Phase::Downloading { .. }));
    assert!(effects.contains(&Effect::Fetch));
}
