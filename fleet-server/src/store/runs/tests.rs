//! Lists of runs on a real SQLite file: every condition, every order both ways, pages that neither lose nor repeat, and more rows
//! than a console once showed.

use flotilla_api_types::runs::{ClassWeights, MlpParameters};
use sqlx::AssertSqlSafe;

use super::*;
use crate::testing;

const PROJECT: &str = "p";
/// More than a console once showed of a list.
const MANY: u32 = 2_101;

fn id(n: u32) -> RunId {
    RunId::new(Uuid::from_u128(u128::from(n)))
}

fn version(n: u32) -> DatasetVersionId {
    DatasetVersionId::new(Uuid::from_u128(u128::from(n) << 64))
}

fn job(n: u32) -> JobId {
    JobId::new(Uuid::from_u128(u128::from(n) << 32))
}

fn asked_for(experiment: &str, cause: &str, seed: u64, hidden: &[u32]) -> CreateRun {
    CreateRun {
        experiment: experiment.into(),
        dataset_version: version(1),
        trainer: Trainer::Mlp(MlpParameters {
            hidden: hidden.to_vec(),
            learning_rate: 0.01,
            weight_decay: 0.1,
            epochs: hidden.len().pow(2).try_into().unwrap(),
            batch_size: 16,
            class_weights: ClassWeights::None,
        }),
        seed,
        cause: cause.into(),
    }
}

/// Without an accuracy it failed, or was cancelled.
async fn add(tx: &mut Tx, n: u32, run: &CreateRun, accuracy: Option<f64>) {
    create(tx, PROJECT, id(n), job(n), run, i64::from(n)).await.unwrap();
    let Some(accuracy) = accuracy else {
        let status = if n.is_multiple_of(2) {
            RunStatus::Failed
        } else {
            RunStatus::Killed
        };
        end(tx, id(n), status, None, 1).await.unwrap();
        return;
    };
    let finished = Finished {
        metrics: BTreeMap::from([("holdout.accuracy".to_owned(), accuracy)]),
        model: Digest::of(&n.to_le_bytes()),
        golden: Digest::of(b"golden"),
        evaluations: vec![],
    };
    finish(tx, id(n), &finished, 1).await.unwrap();
}

/// Accuracies repeat and do not print in few digits; every third run has none.
async fn many(count: u32) -> (tempfile::TempDir, Db) {
    let (dir, db) = testing::db().await;
    let mut tx = db.begin().await.unwrap();
    for n in 1..=count {
        let accuracy = (!n.is_multiple_of(3)).then(|| f64::from(n * 7 % 11) / 11.0);
        let cause = if n.is_multiple_of(5) { "drift" } else { "manual" };
        let run = asked_for(&format!("experiment {}", n % 4), cause, u64::from(n % 7), &[8]);
        add(&mut tx, n, &run, accuracy).await;
    }
    tx.commit().await.unwrap();
    (dir, db)
}

fn asked(filter: &str, sort: &str) -> RunQuery {
    RunQuery {
        filter: RunFilter::parse(filter).unwrap(),
        sort: sort.parse().unwrap(),
        limit: 10_000,
        ..RunQuery::default()
    }
}

async fn whole(db: &Db, query: &RunQuery) -> Vec<Run> {
    let rows = list(db, PROJECT, query).await.unwrap();
    rows.into_iter().map(|(run, _)| run).collect()
}

/// All that match, page by page; counted, and from every offset, it is the same list.
async fn in_pages(db: &Db, asked: &RunQuery, limit: u32) -> Vec<Run> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let query = RunQuery {
            after,
            limit,
            ..asked.clone()
        };
        let page = list(db, PROJECT, &query).await.unwrap();
        let Some((_, last)) = page.last() else { break };
        let text = last.encode();
        let read = RunCursor::decode(&text, &asked.sort);
        assert_eq!(read.as_ref(), Some(last), "{text}");
        after = read;
        found.extend(page.into_iter().map(|(run, _)| run));
    }
    assert_eq!(count(db, PROJECT, &asked.filter).await.unwrap(), found.len() as u64);
    for offset in 0..=found.len() {
        let query = RunQuery {
            offset: offset as u64,
            limit,
            ..asked.clone()
        };
        let expected: Vec<Run> = found.iter().skip(offset).take(limit as usize).cloned().collect();
        assert_eq!(whole(db, &query).await, expected, "from {offset}: {asked:?}");
    }
    found
}

fn accuracy(run: &Run) -> Option<f64> {
    run.metrics.get("holdout.accuracy").copied()
}

#[tokio::test]
async fn pages_neither_lose_nor_repeat_in_any_order() {
    let (_dir, db) = many(40).await;
    for filter in [
        "",
        "-cause:drift",
        "accuracy:*",
        "-accuracy:*",
        "status:finished nothing",
    ] {
        for sort in [
            "started",
            "experiment",
            "status",
            "cause",
            "seed",
            "accuracy",
            "holdout.ece",
        ] {
            for sort in [sort.to_owned(), format!("-{sort}")] {
                let query = asked(filter, &sort);
                assert_eq!(
                    in_pages(&db, &query, 3).await,
                    whole(&db, &query).await,
                    "{filter} by {sort}"
                );
            }
        }
    }
    let newest = whole(
        &db,
        &RunQuery {
            limit: 3,
            ..RunQuery::default()
        },
    )
    .await;
    assert_eq!(
        newest.iter().map(|run| run.id).collect::<Vec<_>>(),
        [id(40), id(39), id(38)]
    );
}

#[tokio::test]
async fn a_figure_orders_those_that_have_it_and_the_others_come_last_either_way() {
    let (_dir, db) = many(40).await;
    let upwards = whole(&db, &asked("", "accuracy")).await;
    let downwards = whole(&db, &asked("", "-accuracy")).await;
    for (runs, turned) in [(&upwards, false), (&downwards, true)] {
        assert_eq!(runs.len(), 40);
        let (with, without) = runs.split_at(27);
        assert!(with.iter().all(|run| accuracy(run).is_some()));
        // What is alike is in the order of its making, in the same direction.
        let ordered = with.is_sorted_by(|a, b| {
            let (a, b) = ((accuracy(a), a.id), (accuracy(b), b.id));
            if turned { a > b } else { a < b }
        });
        assert!(ordered, "{with:?}");
        assert!(without.iter().all(|run| accuracy(run).is_none()));
        assert!(
            without.is_sorted_by(|a, b| a.id > b.id),
            "the newest first: {without:?}"
        );
    }
    // Nobody has it: all of them, the newest first.
    assert_eq!(
        whole(&db, &asked("", "train.f1")).await,
        whole(
            &db,
            &RunQuery {
                limit: 99,
                ..RunQuery::default()
            }
        )
        .await
    );
}

#[tokio::test]
async fn the_best_of_all_comes_first_however_many_there_are() {
    let (_dir, db) = many(MANY).await;
    let all = asked("", "-accuracy");
    assert_eq!(count(&db, PROJECT, &all.filter).await.unwrap(), u64::from(MANY));
    let best = whole(&db, &all).await;
    assert_eq!(best.len(), MANY as usize);
    assert!(accuracy(&best[0]) > Some(0.909));
    for offset in [0, 1_350, 1_401, 2_000, 2_100] {
        let query = RunQuery {
            offset,
            limit: 100,
            ..all.clone()
        };
        let from = usize::try_from(offset).unwrap();
        let to = best.len().min(from + 100);
        assert_eq!(whole(&db, &query).await, best[from..to], "from {offset}");
    }
    let few = asked("accuracy:>0.9 -cause:drift experiment:experiment*", "seed");
    let found = whole(&db, &few).await;
    assert_eq!(found.len() as u64, count(&db, PROJECT, &few.filter).await.unwrap());
    assert!(
        found.len() > 50
            && found
                .iter()
                .all(|run| accuracy(run) > Some(0.9) && run.cause == "manual")
    );
}

async fn found(db: &Db, filter: &str) -> String {
    let query = asked(filter, "started");
    let runs = whole(db, &query).await;
    assert_eq!(
        count(db, PROJECT, &query.filter).await.unwrap(),
        runs.len() as u64,
        "{filter}"
    );
    let numbers: Vec<String> = runs.iter().map(|run| run.id.0.as_u128().to_string()).collect();
    numbers.join(" ")
}

async fn few() -> (tempfile::TempDir, Db) {
    let (dir, db) = testing::db().await;
    let mut tx = db.begin().await.unwrap();
    for number in [1, 2] {
        sqlx::query(
            "INSERT INTO dataset_versions (id, dataset, number, digest, summary, created_at) VALUES ($1, $2, $3, '', '{}', 1)",
        )
        .bind(version(number).to_string())
        .bind(version(0).to_string())
        .bind(number)
        .execute(&mut *tx)
        .await
        .unwrap();
    }
    sqlx::query("INSERT INTO datasets (id, project_id, name, spec, created_at) VALUES ($1, 'p', 'my data', '{}', 1)")
        .bind(version(0).to_string())
        .execute(&mut *tx)
        .await
        .unwrap();
    add(&mut tx, 1, &asked_for("motions", "manual", 1, &[64, 32]), Some(0.9)).await;
    let second = CreateRun {
        dataset_version: version(2),
        ..asked_for("motions", "drift", 2, &[32])
    };
    add(&mut tx, 2, &second, Some(0.5)).await;
    add(&mut tx, 3, &asked_for("Ålesund 100%", "manual", 3, &[32]), None).await;
    let waits = CreateRun {
        dataset_version: version(9),
        ..asked_for("digits", "drift", u64::MAX, &[8])
    };
    create(&mut tx, PROJECT, id(4), job(4), &waits, 4).await.unwrap();
    create(&mut tx, "another", id(5), job(5), &waits, 5).await.unwrap();
    tx.commit().await.unwrap();
    (dir, db)
}

#[tokio::test]
async fn every_condition_finds_what_it_says() {
    let (_dir, db) = few().await;
    let of_version = format!("version:{}", version(1));
    let of_id = format!("id:{}", id(1));
    let of_model = format!("\"{}\"", Digest::of(&1u32.to_le_bytes())).to_uppercase();
    for (filter, expected) in [
        ("", "1 2 3 4"),
        ("experiment:motions", "1 2"),
        ("-experiment:mot*", "3 4"),
        ("status:finished", "1 2"),
        ("status:cancelled", "3"),
        ("-status:finished", "3 4"),
        ("dataset:\"my data\"", "1 2 3"),
        ("dataset:\"my data@2\"", "2"),
        ("-dataset:\"my data@v2\"", "1 3 4"),
        ("dataset:my*", "1 2 3"),
        ("dataset:my@data", ""),
        (of_version.as_str(), "1 3"),
        (of_id.as_str(), "1"),
        ("id:00000000-*", "1 2 3 4"),
        ("cause:drift", "2 4"),
        ("hidden:64,32", "1"),
        ("hidden:32", "2 3"),
        ("seed:2", "2"),
        ("seed:>2", "3 4"),
        ("epochs:>=4", "1"),
        ("-epochs:>1", "2 3 4"),
        ("batch_size:16 learning_rate:<1 weight_decay:>0.05", "1 2 3 4"),
        ("accuracy:>0.5", "1"),
        ("holdout.accuracy:>=0.5", "1 2"),
        ("-accuracy:>0.5", "2 3 4"),
        ("accuracy:*", "1 2"),
        ("-accuracy:*", "3 4"),
        ("train.loss:<1", ""),
        ("MOTI", "1 2"),
        ("ålesund", "3"),
        ("%", "3"),
        ("_", ""),
        ("DRIFT -digits", "2"),
        (of_model.as_str(), "1"),
        ("-sha256", "3 4"),
    ] {
        assert_eq!(found(&db, filter).await, expected, "{filter}");
    }
}

#[tokio::test]
async fn a_row_has_names_and_says_how_far_its_job_is() {
    let (_dir, db) = few().await;
    let mut tx = db.begin().await.unwrap();
    set_status(&mut tx, id(4), RunStatus::Running).await.unwrap();
    sqlx::query(
        "INSERT INTO jobs (id, kind, subject, payload, state, progress, message, epoch, attempts, lease_until, \
         cancel_requested, created_at, updated_at) VALUES ($1, 'train', '', '', 'running', 0.25, '', 1, 1, 1, 0, 1, 1)",
    )
    .bind(job(4).to_string())
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    let runs = whole(&db, &asked("", "started")).await;
    let named: Vec<Option<(&str, u64)>> = runs
        .iter()
        .map(|run| {
            run.dataset_version_name
                .as_ref()
                .map(|of| (of.name.as_str(), of.number))
        })
        .collect();
    let (first, second) = (Some(("my data", 1)), Some(("my data", 2)));
    assert_eq!(named, [first, second, first, None], "the last one's version is gone");
    let progress: Vec<Option<f64>> = runs.iter().map(|run| run.progress).collect();
    assert_eq!(progress, [None, None, None, Some(0.25)]);
    for run in runs {
        assert_eq!(get(&db, PROJECT, run.id).await.unwrap().run, run);
    }
    assert!(matches!(
        get(&db, "another", id(4)).await,
        Err(StoreError::NotFound { .. })
    ));
}

#[tokio::test]
async fn what_is_no_number_is_nowhere_in_an_order() {
    let (_dir, db) = few().await;
    let mut tx = db.begin().await.unwrap();
    set_figure(&mut tx, id(4), "holdout.accuracy", f64::NAN).await.unwrap();
    set_figure(&mut tx, id(3), "holdout.accuracy", 0.1).await.unwrap();
    set_figure(&mut tx, id(3), "holdout.accuracy", 0.7).await.unwrap();
    tx.commit().await.unwrap();
    let order: Vec<RunId> = whole(&db, &asked("", "-accuracy"))
        .await
        .iter()
        .map(|run| run.id)
        .collect();
    assert_eq!(
        order,
        [id(1), id(3), id(2), id(4)],
        "written again, it is the last that counts"
    );
}

#[tokio::test]
async fn runs_from_before_are_found_once_the_server_has_started() {
    let (_dir, db) = few().await;
    let mut tx = db.begin().await.unwrap();
    for sql in [
        "UPDATE runs SET project_id = '', experiment_name = '', hidden = '', search = ''",
        "DELETE FROM run_figures",
    ] {
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
    assert_eq!(found(&db, "").await, "");
    for _twice in 0..2 {
        fill_missing(&db).await.unwrap();
        for (filter, expected) in [
            ("", "1 2 3 4"),
            ("experiment:motions hidden:64,32 seed:1 epochs:4 accuracy:>0.8", "1"),
            ("\u{e5}LESUND", "3"),
        ] {
            assert_eq!(found(&db, filter).await, expected, "{filter}");
        }
    }
}

#[tokio::test]
async fn every_order_is_read_from_an_index() {
    let (_dir, db) = many(40).await;
    for (sort, index) in [
        ("-started", "runs_filter"),
        ("started", "runs_filter"),
        ("experiment", "runs_by_experiment"),
        ("-status", "runs_by_status"),
        ("cause", "runs_by_cause"),
        ("-accuracy", "run_figures_value"),
        ("seed", "run_figures_value"),
    ] {
        let query = RunQuery {
            limit: 10,
            ..asked("", sort)
        };
        let text = format!("EXPLAIN QUERY PLAN {}", query.page(PROJECT).as_str());
        let rows = sqlx::query(AssertSqlSafe(text)).fetch_all(db.read()).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.try_get("detail").unwrap()).collect();
        let wanted = format!("USING COVERING INDEX {index} ");
        assert!(plan.iter().any(|step| step.contains(&wanted)), "{sort}: {plan:?}");
    }
}

#[test]
fn orders_are_read_and_a_cursor_belongs_to_its_order() {
    let sort = |text: &str| text.parse::<RunSort>().unwrap();
    assert_eq!(sort("-started"), RunSort::default());
    assert_eq!(sort("-created"), RunSort::default());
    assert_eq!(sort("accuracy").order, RunOrder::Figure("holdout.accuracy".into()));
    assert_eq!(sort("-duration").order, sort("duration_s").order);
    let wrong = "acuracy".parse::<RunSort>().unwrap_err().to_string();
    assert!(
        wrong.starts_with("'acuracy' is no order: started, experiment") && wrong.contains("holdout.ece"),
        "{wrong}"
    );
    // As it was before there were other orders.
    let plain = id(7).to_string();
    assert_eq!(RunCursor::decode(&plain, &RunSort::default()).unwrap().encode(), plain);
    for (text, order) in [
        ("x", "-started"),
        ("", "started"),
        (plain.as_str(), "experiment"),
        ("bm8", "accuracy"),
    ] {
        assert_eq!(RunCursor::decode(text, &sort(order)), None, "{text} by {order}");
    }
    let rest = asked("", "accuracy").cursor_without(id(7)).encode();
    assert!(RunCursor::decode(&rest, &sort("-accuracy")).is_some());
    for other in ["loss", "experiment", "started"] {
        assert_eq!(RunCursor::decode(&rest, &sort(other)), None, "{other}");
    }
}

#[test]
fn what_is_tried_on_both_databases_has_every_piece() {
    let tried = sample_queries().join("\n");
    for piece in [
        "OFFSET",
        "r.hidden = ",
        "v.number = ",
        "f.value > ",
        "f.value <= ",
        "NOT (",
        "SUBSTR(d.name",
        "r.search LIKE",
    ] {
        assert!(tried.contains(piece), "{piece}");
    }
}
