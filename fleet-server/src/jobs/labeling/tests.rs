//! Tests of writing guesses: the writer is free between batches, and what is broken off is never seen.

use flotilla_protocol::features::FeatureSpec;
use flotilla_protocol::ids::{JobId, LabelingFunctionId};
use uuid::Uuid;

use super::*;
use crate::heavy::Heavy;
use crate::store::datasets::{NewSample, Origin};
use crate::store::jobs::{self, JobKind};
use crate::testing::{self, NOW};
use crate::work::Stop;

const STORED: &str = "SELECT COUNT(*) FROM stored_guesses WHERE dataset = $1";
const SEEN: &str = "SELECT COUNT(*) FROM guesses WHERE dataset = $1";

fn dataset() -> DatasetId {
    DatasetId::new(Uuid::nil())
}

/// A claimed job that fits the dataset's label model.
async fn claimed(app: &App) -> Claim {
    let mut tx = app.db.begin().await.unwrap();
    let subject = dataset().to_string();
    jobs::enqueue(
        &mut tx,
        JobId::new(Uuid::now_v7()),
        JobKind::LabelModel,
        &subject,
        "{}",
        NOW,
    )
    .await
    .unwrap();
    tx.commit().await.unwrap();
    jobs::claim(&app.db, NOW, NOW + 1).await.unwrap().unwrap()
}

fn guesses(count: u32, label: &str) -> Vec<Guess> {
    (0..count)
        .map(|sample| Guess {
            sample: Digest::of(&sample.to_le_bytes()),
            label: label.to_owned(),
            confidence: 0.5,
        })
        .collect()
}

fn settled() -> Settled {
    Settled {
        summary: LabelModel {
            model: LabelModelKind::Majority,
            samples: 0,
            iterations: 0,
            coverage: 1.0,
            conflict: 0.0,
            accuracy: None,
            prior: BTreeMap::new(),
            fitted_at: String::new(),
        },
        guesses: Vec::new(),
        statistics: Vec::new(),
        conflicts: LabelingFunctionConflicts::default(),
    }
}

async fn publish(app: &App, generation: Generation, replaces: Option<i64>) -> Result<(), StoreError> {
    let mut tx = app.db.begin().await?;
    labels::publish(&mut tx, generation, replaces, &settled(), NOW).await?;
    tx.commit().await?;
    Ok(())
}

async fn count(app: &App, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql)
        .bind(dataset().to_string())
        .fetch_one(app.db.read())
        .await
        .unwrap()
}

#[tokio::test]
async fn others_write_between_the_batches_and_what_is_stopped_is_never_seen() {
    let (_dir, app) = testing::app().await;
    let claim = claimed(&app).await;
    let control = Control::default();
    let first = write(&app, &claim, &control, dataset(), &[&guesses(3, "low")])
        .await
        .unwrap();
    assert_eq!(count(&app, SEEN).await, 0, "written, not published");
    publish(&app, first, None).await.unwrap();
    assert_eq!(count(&app, SEEN).await, 3);

    let many = guesses(20_000, "high");
    let lists = [many.as_slice()];
    let writing = write(&app, &claim, &control, dataset(), &lists);
    // As a device's message would be: it queues for the writer like everybody else.
    let interrupting = async {
        loop {
            let mut tx = app.db.begin().await.unwrap();
            let stored: i64 = sqlx::query_scalar(STORED)
                .bind(dataset().to_string())
                .fetch_one(&mut *tx)
                .await
                .unwrap();
            if stored > 3 {
                control.stop(Stop::Cancelled);
                return stored;
            }
            drop(tx);
        }
    };
    let (outcome, stored) = tokio::join!(writing, interrupting);
    assert!(matches!(outcome, Err(JobError::Stopped)), "{outcome:?}");
    assert!(stored < 20_000, "a turn came after {stored}");
    assert!(count(&app, STORED).await < 20_000);
    assert_eq!(count(&app, SEEN).await, 3, "what was published is");
}

#[tokio::test]
async fn a_generation_made_from_another_than_the_published_one_is_refused() {
    let (_dir, app) = testing::app().await;
    let claim = claimed(&app).await;
    let control = Control::default();
    let before = labels::published(&app.db, dataset()).await.unwrap();
    assert_eq!(before, None);
    let both = [guesses(2, "low"), guesses(150, "high")];
    let mut written = Vec::new();
    for guesses in &both {
        written.push(write(&app, &claim, &control, dataset(), &[guesses]).await.unwrap());
    }
    publish(&app, written[0], Some(before.unwrap_or(0))).await.unwrap();
    // The other one was made from what was there before the first: it does not have the first's guesses.
    let refused = publish(&app, written[1], Some(before.unwrap_or(0))).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    assert_eq!(count(&app, SEEN).await, 2);
    let now = labels::published(&app.db, dataset()).await.unwrap();
    publish(&app, written[1], now).await.unwrap();
    assert_eq!(count(&app, SEEN).await, 150);
}

/// A dataset of 30 samples in each of two slices, with one function that votes on most of them.
async fn with_samples(app: &App) {
    let spec = serde_json::json!({"name": "rows", "labels": ["low", "high"], "shape": {"kind": "row"},
        "split": {"kind": "all", "split": "train"}});
    let features = FeatureSpec::Row {
        columns: vec!["x".into()],
    };
    let mut tx = app.db.begin().await.unwrap();
    let spec = serde_json::from_value(spec).unwrap();
    datasets::create(&mut tx, dataset(), "p", &spec, NOW).await.unwrap();
    datasets::fix_features(&mut tx, dataset(), &features).await.unwrap();
    for (slice, values) in [("import", 0u8..30), ("late", 30..60)] {
        let samples: Vec<NewSample> = values
            .map(|value| NewSample {
                digest: Digest::of(&[value]),
                key: format!("row={value}"),
                split: Split::Train,
                values: vec![f32::from(value)],
                harvested: None,
            })
            .collect();
        let origin = Origin { slice, import: None };
        datasets::insert_samples(&mut tx, dataset(), origin, &samples, NOW)
            .await
            .unwrap();
    }
    let function = LabelingFunction {
        id: LabelingFunctionId::new(Uuid::nil()),
        name: "above".to_owned(),
        when: r#"f["x"] > 9.0"#.to_owned(),
        label: "high".to_owned(),
        statistics: None,
    };
    labels::create_function(&mut tx, dataset(), &function, NOW)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_label_model_takes_no_more_memory_than_is_allowed() {
    let (_dir, mut app) = testing::app().await;
    with_samples(&app).await;
    let claim = claimed(&app).await;
    let control = Arc::new(Control::default());
    let counts = datasets::counts(&app.db, dataset()).await.unwrap().slices;
    let names = ["low".to_owned(), "high".to_owned()];
    let ask = FitLabelModel::default();
    let needed = needed_bytes(&names, 1, &counts, &ask);

    app.heavy = Heavy::new(needed - 1);
    let refused = fit(&app, &claim, &control).await;
    let Err(JobError::Failed(why)) = &refused else {
        panic!("{refused:?}")
    };
    assert!(
        why.contains("1 functions and 2 classes on 60 samples")
            && why.contains(&format!("training.max_dataset_bytes allows {}", needed - 1)),
        "{why}"
    );
    assert_eq!(count(&app, STORED).await, 0);
    app.heavy = Heavy::new(needed);
    fit(&app, &claim, &control).await.unwrap();
    assert_eq!(count(&app, SEEN).await, 50);

    // Fewer slices need less, and many functions of many classes much, however few the samples.
    let of_one = FitLabelModel {
        slices: Some(vec!["late".to_owned()]),
        ..ask.clone()
    };
    assert!(needed_bytes(&names, 1, &counts, &of_one) < needed);
    let classes = vec![String::new(); 1024];
    assert!(needed_bytes(&classes, 512, &counts, &ask) > 4u64 << 30);
    let majority = FitLabelModel {
        model: LabelModelKind::Majority,
        ..ask
    };
    assert!(needed_bytes(&classes, 512, &counts, &majority) < 4u64 << 20);
}

#[test]
fn guesses_of_other_slices_are_kept() {
    let sample = |slice: &str, guess: Option<(&str, f64)>| LabelledSample {
        digest: Digest::of(slice.as_bytes()),
        slice: slice.to_owned(),
        split: Split::Train,
        hand: None,
        guess: guess.map(|(label, confidence)| (label.to_owned(), confidence)),
    };
    let samples = [
        sample("a", Some(("low", 0.9))),
        sample("b", Some(("high", 0.7))),
        sample("c", None),
    ];
    assert_eq!(kept(&samples, None), []);
    let b = Guess {
        sample: samples[1].digest,
        label: "high".to_owned(),
        confidence: 0.7,
    };
    assert_eq!(kept(&samples, Some(&["a".to_owned()])), [b]);
}
