//! Tests of inference: activation, replacement, telemetry, harvest, over a small real model.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use flotilla_protocol::messages::HarvestReason;

use super::fixture::{WINDOW, columns, input, lookup_onnx, package, usual, write_model};
use super::*;

fn handle(queue: usize) -> InferenceHandle {
    let clock = Clock::manual(Arc::new(AtomicI64::new(7_000)));
    InferenceHandle::new(
        clock,
        InferenceLimits {
            queue,
            ..InferenceLimits::default()
        },
    )
}

fn slot(name: &str) -> SlotName {
    name.parse().unwrap()
}

async fn activate(inference: &InferenceHandle, name: &str, line: &str, semver: &str) -> Arc<ModelInfo> {
    let package = package(line, semver, &columns(&["a", "b"]));
    inference.activate(slot(name), package).await.unwrap()
}

#[tokio::test]
async fn a_model_answers_by_its_line_and_by_its_slot() {
    let inference = handle(8);
    assert!(matches!(
        inference.infer("press", vec![input(&[[1.0, 2.0]])]).await,
        Err(InferenceError::NoModel(_))
    ));
    activate(&inference, "main", "press", "1.0.0").await;
    for name in ["press", "main"] {
        let answer = inference
            .infer(name, vec![input(&[[1.0, 2.0], [2.0, 1.0]])])
            .await
            .unwrap();
        assert_eq!(answer.outcome.label_indices, [1, 0]);
        assert_eq!(answer.model.manifest.semver, "1.0.0");
    }
    let metadata = inference.metadata("press").unwrap();
    assert_eq!(metadata.outputs.last().map(|o| o.name.as_str()), Some("label"));
    inference.deactivate(&slot("main")).await;
    assert!(inference.list().is_empty() && inference.health(&slot("main")).is_none());
}

#[tokio::test]
async fn telemetry_is_moved_and_covers_replaced_models() {
    let inference = handle(8);
    activate(&inference, "main", "press", "1.0.0").await;
    inference
        .infer("press", vec![input(&[usual(0), usual(1)])])
        .await
        .unwrap();
    activate(&inference, "main", "press", "2.0.0").await;
    inference.infer("press", vec![input(&[usual(2)])]).await.unwrap();

    let taken = inference.take_telemetry();
    let counts: Vec<(Digest, u64, u64)> = taken
        .iter()
        .map(|t| (t.manifest, t.inferences, t.latency.count()))
        .collect();
    let digest = |semver: &str| Digest::of(format!("press {semver}").as_bytes());
    assert_eq!(counts, [(digest("2.0.0"), 1, 1), (digest("1.0.0"), 2, 1)]);
    assert_eq!(taken[1].sketches.as_ref().map(|s| s.count), Some(2));

    let again = inference.take_telemetry();
    assert_eq!(again.len(), 1, "the replaced model is done with");
    assert_eq!((again[0].inferences, again[0].latency.count()), (0, 0));
    assert_eq!(
        inference.health(&slot("main")).unwrap().inferences,
        1,
        "health counts on"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_inference_is_counted_once_while_models_are_replaced() {
    let inference = handle(64);
    activate(&inference, "main", "press", "0.0.0").await;
    let done = AtomicBool::new(false);
    let ask = async {
        let mut answered = 0u64;
        for i in 0..3000 {
            match inference.infer("press", vec![input(&[usual(i)])]).await {
                Ok(_) => answered += 1,
                Err(InferenceError::Busy { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        done.store(true, Ordering::SeqCst);
        answered
    };
    let replace = async {
        let mut version = 0;
        while !done.load(Ordering::SeqCst) {
            version += 1;
            activate(&inference, "main", "press", &format!("{}.0.0", version % 3)).await;
        }
        version
    };
    let count = async {
        let mut counted = 0;
        while !done.load(Ordering::SeqCst) {
            counted += inference.take_telemetry().iter().map(|t| t.inferences).sum::<u64>();
            tokio::task::yield_now().await;
        }
        counted
    };
    let (answered, replacements, counted) = tokio::join!(ask, replace, count);
    inference.shutdown().await;
    let rest: u64 = inference.take_telemetry().iter().map(|t| t.inferences).sum();
    assert!(answered > 0 && replacements > 0);
    assert_eq!(counted + rest, answered);
    assert!(inference.take_telemetry().is_empty());
}

/// The worker is held up at the harvester's lock, so that the queue fills in a known order.
#[test]
fn a_full_queue_is_busy_and_what_was_accepted_is_answered() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let inference = handle(1);
    runtime.block_on(activate(&inference, "main", "press", "1.0.0"));
    let requests = inference.target("press").unwrap().requests;
    let held = inference.0.observer.harvester();
    let ask = || {
        let inference = inference.clone();
        let mut set = tokio::task::JoinSet::new();
        set.spawn_on(
            async move { inference.infer("press", vec![input(&[usual(0)])]).await },
            runtime.handle(),
        );
        set
    };
    let until = |free: usize| {
        runtime.block_on(async {
            while requests.capacity() != free {
                tokio::task::yield_now().await;
            }
        });
    };
    let mut first = ask();
    // Only when the first job has been counted is it certainly out of the queue.
    while inference.health(&slot("main")).unwrap().inferences == 0 {
        runtime.block_on(tokio::task::yield_now());
    }
    until(1);
    let mut second = ask();
    until(0);
    let refused = runtime.block_on(inference.infer("press", vec![input(&[usual(0)])]));
    assert!(matches!(refused, Err(InferenceError::Busy { queue: 1, .. })));
    drop(held);
    for asked in [&mut first, &mut second] {
        assert!(runtime.block_on(asked.join_next()).unwrap().unwrap().is_ok());
    }
    drop(requests);
    runtime.block_on(inference.shutdown());
}

#[tokio::test]
async fn a_soak_sees_misfits_as_failures_but_not_sensor_glitches() {
    let inference = handle(8);
    activate(&inference, "main", "press", "1.0.0").await;
    assert!(inference.infer("press", vec![input(&[[f32::NAN, 0.0]])]).await.is_err());
    let wide = Tensor::from_f32("reading", vec![1, 3], &[0.0; 3]).unwrap();
    let error = inference.infer("press", vec![wide]).await.unwrap_err();
    assert_eq!(error.blame(), Some(Blame::Interface));
    inference.infer("press", vec![input(&[usual(0)])]).await.unwrap();
    let health = inference.health(&slot("main")).unwrap();
    assert_eq!((health.inferences, health.failures), (2, 1));
    let (_, totals) = inference.totals().remove(0);
    assert_eq!((totals.requests_succeeded, totals.requests_failed), (1, 2));
}

#[tokio::test]
async fn drift_speaks_once_and_its_inputs_are_harvested() {
    let inference = handle(8);
    let model = activate(&inference, "main", "press", "1.0.0").await;
    let policy = HarvestPolicy {
        on_drift: true,
        below_permille: 0,
        max_samples: 5,
    };
    inference.set_harvest_policies([(model.manifest_digest, policy)].into());
    let window = WINDOW as usize;
    for i in 0..window {
        inference.infer("press", vec![input(&[usual(i)])]).await.unwrap();
    }
    assert!(inference.take_drift_events().is_empty());
    for i in 0..2 * window {
        let [a, b] = usual(i);
        inference
            .infer("press", vec![input(&[[a + 5.0, b + 5.0]])])
            .await
            .unwrap();
    }
    inference.drift_changed().await;
    let events = inference.take_drift_events();
    assert_eq!(events.len(), 1);
    assert!(events[0].status.drifted && events[0].at == 7_000 && events[0].slot == slot("main"));
    let taken = inference.take_telemetry();
    assert_eq!(taken[0].drift.as_ref().map(|d| d.drifted), Some(true));

    let samples = inference.take_samples(usize::MAX);
    assert_eq!(samples.len(), 5);
    assert!(
        samples
            .iter()
            .all(|s| s.reason == HarvestReason::Drift && s.input.shape == [2])
    );
    assert_eq!(samples[0].scores.len(), 2);
    inference.return_samples(samples);
    assert_eq!(inference.harvest_counts().waiting, 5);
}

#[tokio::test]
async fn a_request_made_for_one_model_is_not_held_against_the_next() {
    let inference = handle(8);
    let first = activate(&inference, "main", "press", "1.0.0").await;
    assert!(inference.infer_for(&first, vec![input(&[usual(0)])]).await.is_ok());
    let mut changes = inference.changes();
    activate(&inference, "main", "press", "2.0.0").await;
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert!(matches!(
        inference.infer_for(&first, vec![input(&[usual(0)])]).await,
        Err(InferenceError::Replaced(_))
    ));
    assert_eq!(inference.health(&slot("main")).unwrap().inferences, 0);
}

#[tokio::test]
async fn slots_are_bounded() {
    let inference = InferenceHandle::new(
        Clock::manual(Arc::new(AtomicI64::new(0))),
        InferenceLimits {
            slots: 1,
            ..InferenceLimits::default()
        },
    );
    activate(&inference, "main", "press", "1.0.0").await;
    activate(&inference, "main", "press", "1.1.0").await;
    let third = package("other", "1.0.0", &columns(&["a", "b"]));
    assert!(matches!(
        inference.activate(slot("second"), third).await,
        Err(InferenceError::TooManySlots { limit: 1 })
    ));
    let ended = tokio::time::timeout(Duration::from_secs(30), inference.shutdown()).await;
    assert!(ended.is_ok());
}

#[tokio::test]
async fn a_request_that_makes_the_library_panic_costs_neither_the_agent_nor_the_model() {
    let _parking = super::isolation::tests::Parking::new();
    let dir = tempfile::tempdir().unwrap();
    let (manifest, digest) = write_model(dir.path(), "codes", "1.0.0", &columns(&["code"]), lookup_onnx());
    let package = LoadedPackage::from_dir(dir.path(), manifest, digest).unwrap();
    let inference = handle(8);
    let info = inference.activate(slot("main"), package).await.unwrap();
    let ask = |code: f32| {
        let (inference, info) = (inference.clone(), Arc::clone(&info));
        async move {
            let input = Tensor::from_f32("reading", vec![1, 1], &[code]).unwrap();
            inference.infer_for(&info, vec![input]).await
        }
    };
    assert_eq!(ask(1.0).await.unwrap().scores, [[0.5]]);
    for crash in 1..=3 {
        let error = ask(3.0).await.unwrap_err();
        assert!(
            matches!(&error, InferenceError::Engine(EngineError::Panicked { message, .. }) if message.contains("index")),
            "{error}"
        );
        // The model was loaded anew.
        assert_eq!(ask(2.0).await.unwrap().scores, [[0.75]], "after crash {crash}");
    }
    ask(3.0).await.unwrap_err();
    let error = ask(2.0).await.unwrap_err();
    assert!(error.to_string().contains("stopped until it is replaced"), "{error}");
    let health = inference.health(&slot("main")).unwrap();
    assert_eq!((health.inferences, health.failures), (9, 5));
    inference.shutdown().await;
    assert_eq!(inference.take_telemetry()[0].inferences, 9);
}
