//! Fills a fleet's database for benches and browser tests: devices with tags, models, drift, deployments and telemetry,
//! written through the server's own store. Run it between `fleet-server init` and `serve`:
//! `seed <fleet.toml> <release key> <devices> [<runs>]`.
//!
//! The same number of devices gives the same fleet, whatever the day: only times are of today.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use fleet_server::config::Config;
use fleet_server::store::devices::{self, NewDevice, Presence};
use fleet_server::store::rollouts::{self, NewDeployment, Transition};
use fleet_server::store::{Db, Tx, documents, models, overview, runs, telemetry, tokens};
use fleet_server::{audit, clock, store};
use flotilla_api_types::models::SignatureState;
use flotilla_api_types::runs::RunStatus;
use flotilla_protocol::audit::AuditHead;
use flotilla_protocol::bundle::ModelTelemetry;
use flotilla_protocol::codec;
use flotilla_protocol::ids::{
    ClaimTokenId, DeploymentId, DeviceId, Digest, ModelLine, ModelVersionId, RolloutId, SlotName,
};
use flotilla_protocol::manifest::{Manifest, Provenance, SelfTest};
use flotilla_protocol::report::{DeploymentReport, DeploymentState, DeviceReport, InstalledModel, SlotReport};
use flotilla_protocol::sketch::{DriftStatus, LatencyHistogram};
use flotilla_protocol::trust::{DeviceFacts, Document as _, DocumentVersions, Header, KeyPair, Role, Root, sign};
use serde_json::json;

const SITES: [&str; 12] = [
    "oslo", "bergen", "lyon", "graz", "turin", "porto", "gent", "malmo", "espoo", "brno", "leeds", "cork",
];
const CLASSES: [(&str, &str); 4] = [
    ("pi-5", "aarch64"),
    ("jetson-orin", "aarch64"),
    ("nuc-13", "x86_64"),
    ("imx-8m", "aarch64"),
];
const KINDS: [&str; 5] = ["press", "lathe", "saw", "mill", "robot"];
const EXPERIMENTS: [&str; 3] = ["bearings", "belts", "spindles"];
const VERSIONS: [&str; 4] = ["1.0.0", "1.4.2", "2.0.0", "2.1.0"];
const HOUR_MS: i64 = 3_600_000;
/// Devices per transaction.
const BATCH: u64 = 500;
/// Devices whose whole day is written, hour by hour.
const WITH_A_DAY: u64 = 500;

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let (Some(config), Some(key), Some(count)) = (words.next(), words.next(), words.next()) else {
        anyhow::bail!("usage: seed <fleet.toml> <release key> <devices> [<runs>]");
    };
    let release = KeyPair::from_pkcs8_pem(&std::fs::read_to_string(key).context("the release key")?)?;
    let count: u64 = count.parse().context("the number of devices")?;
    let runs: u64 = words
        .next()
        .map_or(Ok(0), |text| text.parse())
        .context("the number of runs")?;
    let config = Config::load(Path::new(&config))?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        seed(&config, &release, count).await?;
        add_runs(&config, runs).await
    })
}

/// A number of `0..below` that belongs to a device and a purpose.
fn pick(device: u64, purpose: u64, below: u64) -> u64 {
    let mut x = device.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ purpose.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 30)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) % below
}

fn chosen<T: Copy>(list: &[T], device: u64, purpose: u64) -> anyhow::Result<T> {
    let index = usize::try_from(pick(device, purpose, list.len() as u64))?;
    list.get(index).copied().context("the list is empty")
}

struct Seed {
    now: i64,
    root: Root,
    claim_token: ClaimTokenId,
    line: ModelLine,
    /// Version and manifest.
    versions: Vec<(&'static str, Digest)>,
    rollout: RolloutId,
}

impl Seed {
    /// What the device runs.
    fn installed(&self, n: u64) -> anyhow::Result<(&'static str, Digest)> {
        chosen(&self.versions, n, 9)
    }
}

async fn seed(config: &Config, release: &KeyPair, count: u64) -> anyhow::Result<()> {
    let db = Db::open(&config.database()).await?;
    let now = clock::now_ms();
    let (_, root) = documents::latest(&db, documents::ROOT).await?;
    let root = Root::verify_self(&root)?;
    let line = ModelLine::new("vibration")?;
    let rollout: RolloutId = "0192f0c1-0000-7000-8000-000000000001".parse()?;
    let mut tx = db.begin().await?;
    let wanted = serde_json::from_value(json!({"uses": 1, "lifetime_s": 172_800, "tags": {}}))?;
    let claim_token = tokens::create_claim_token(&mut tx, "seed", &wanted, now).await?.id;
    let project = documents::default_project(&db).await?;
    let mut newest = None;
    let mut versions = Vec::new();
    for (counter, semver) in (1..).zip(VERSIONS) {
        let manifest = manifest(&root, &line, semver, counter);
        let (version, digest) = add_version(&mut tx, &project, &manifest, release).await?;
        versions.push((semver, digest));
        newest = Some(version);
    }
    let spec = serde_json::from_value(json!({"model_version": newest, "target": "true"}))?;
    rollouts::create(&mut tx, rollout, &project, &spec, now).await?;
    let running = Transition {
        from: rollout_state("draft")?,
        to: rollout_state("running")?,
        phase: Some(1),
        decision: "waiting for the canary's soak",
    };
    rollouts::set_state(&mut tx, rollout, &running, now).await?;
    tx.commit().await?;
    let seed = Seed {
        now,
        root: (*root).clone(),
        claim_token,
        line,
        versions,
        rollout,
    };
    let begun = tokio::time::Instant::now();
    let mut next = 0;
    while next < count {
        let end = (next + BATCH).min(count);
        batch(&db, &seed, next..end).await?;
        next = end;
    }
    deployments(&db, &seed, count).await?;
    db.close().await;
    report(count, begun.elapsed());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "what the program is for")]
fn report(count: u64, spent: std::time::Duration) {
    println!("{count} devices in {:.1} s", spent.as_secs_f64());
}

/// Read as the API reads it.
fn rollout_state<T: serde::de::DeserializeOwned>(name: &str) -> anyhow::Result<T> {
    Ok(serde_json::from_value(json!(name))?)
}

/// Registers a version, signed. Gives its id and its manifest's digest.
async fn add_version(
    tx: &mut Tx,
    project: &str,
    manifest: &Manifest,
    release: &KeyPair,
) -> anyhow::Result<(ModelVersionId, Digest)> {
    let payload = codec::to_vec(manifest)?;
    let digest = Digest::of(&payload);
    let version = models::NewVersion {
        id: format!("0192f0c1-0000-7000-8000-0000000001{:02x}", manifest.release_counter).parse()?,
        line: manifest.name.clone(),
        semver: manifest.semver.clone(),
        release_counter: manifest.release_counter,
        payload,
        run: None,
        dataset_version: None,
        components: Vec::new(),
        package_bytes: 1 << 20,
        golden_max_diff: 0.0,
        golden_cases: 8,
    };
    models::create(tx, project, &version, manifest.header.issued).await?;
    models::set_envelope(tx, version.id, &sign(manifest, release)?, SignatureState::Signed).await?;
    Ok((version.id, digest))
}

/// A package for every device, without content: nobody installs it.
fn manifest(root: &Root, line: &ModelLine, semver: &str, release_counter: u64) -> Manifest {
    Manifest {
        header: Header {
            schema: Manifest::SCHEMA.into(),
            role: Role::Release(line.clone()),
            version: release_counter,
            ..root.header.clone()
        },
        name: line.clone(),
        semver: semver.into(),
        release_counter,
        hardware_classes: vec![],
        arch: vec![],
        min_agent: "0.1.0".into(),
        min_ram_bytes: 0,
        min_disk_bytes: 0,
        runtime: "onnx".into(),
        opset: 17,
        components: vec![],
        inputs: vec![],
        outputs: vec![],
        labels: vec!["sound".into(), "worn".into()],
        self_test: SelfTest {
            tolerance_abs: 1e-4,
            p95_budget_us: 0,
        },
        depends: vec![],
        conflicts: vec![],
        provenance: Provenance {
            dataset_version: None,
            dataset_digest: None,
            run: None,
            code_version: "seed".into(),
            sbom: None,
        },
    }
}

fn name(n: u64) -> anyhow::Result<DeviceId> {
    Ok(DeviceId::new(format!("{}-{n:06}", chosen(&KINDS, n, 1)?))?)
}

async fn batch(db: &Db, seed: &Seed, numbers: std::ops::Range<u64>) -> anyhow::Result<()> {
    let mut tx = db.begin().await?;
    let mut presence = BTreeMap::new();
    for n in numbers {
        let id = name(n)?;
        enrol(&mut tx, seed, n, &id).await?;
        devices::apply_report(&mut tx, &device_report(seed, n, &id, Vec::new())?, b"", seed.now).await?;
        observe(&mut tx, seed, n, &id).await?;
        let here = Presence {
            connected: Some(pick(n, 7, 100) < 92),
            last_seen: seed.now - i64::try_from(pick(n, 8, 600_000))?,
        };
        presence.insert(id, here);
    }
    devices::apply_presence(&mut tx, &presence).await?;
    tx.commit().await?;
    Ok(())
}

async fn enrol(tx: &mut Tx, seed: &Seed, n: u64, id: &DeviceId) -> anyhow::Result<()> {
    let mut key = [0u8; 32];
    for (place, byte) in key.iter_mut().zip(n.to_le_bytes()) {
        *place = byte;
    }
    let tags = BTreeMap::from([
        ("site".to_owned(), chosen(&SITES, n, 2)?.to_owned()),
        ("hall".to_owned(), format!("h{}", pick(n, 3, 9))),
    ]);
    let device = NewDevice {
        id,
        signing_key: KeyPair::from_seed(&key).public(),
        wrapping_key: &[0; 32],
        certificate_digest: Digest::of(&key),
        claim_token: seed.claim_token,
        tags: &tags,
        facts: &facts(n)?,
    };
    let enrolled = seed.now - i64::try_from(pick(n, 4, 90 * 24))? * HOUR_MS;
    devices::insert(tx, &device, enrolled).await?;
    Ok(())
}

fn facts(n: u64) -> anyhow::Result<DeviceFacts> {
    let (class, arch) = chosen(&CLASSES, n, 5)?;
    Ok(DeviceFacts {
        hardware_class: class.into(),
        arch: arch.into(),
        agent_version: format!("0.1.{}", pick(n, 6, 3)),
        ram_bytes: 4 << 30,
        disk_free_bytes: 20 << 30,
    })
}

fn device_report(
    seed: &Seed,
    n: u64,
    id: &DeviceId,
    deployments: Vec<DeploymentReport>,
) -> anyhow::Result<DeviceReport> {
    let (semver, manifest) = seed.installed(n)?;
    Ok(DeviceReport {
        header: Header {
            schema: DeviceReport::SCHEMA.into(),
            role: Role::Device,
            fleet: seed.root.header.fleet,
            version: if deployments.is_empty() { 1 } else { 2 },
            issued: seed.now,
            expires: seed.now + HOUR_MS,
        },
        device: id.clone(),
        facts: facts(n)?,
        slots: vec![SlotReport {
            slot: SlotName::main(),
            active: Some(InstalledModel {
                line: seed.line.clone(),
                manifest,
                semver: semver.to_owned(),
                release_counter: 1,
            }),
            committed: true,
        }],
        deployments,
        documents: DocumentVersions::default(),
        trusted_time: seed.now,
        attack: None,
        boot_count: 1 + pick(n, 10, 40),
        error: (pick(n, 11, 500) == 0).then(|| "the disk is nearly full".to_owned()),
        audit_head: AuditHead::start(0),
    })
}

/// What the device counted in the last hour, or in every hour of the last day; a few see other data than they were trained on.
async fn observe(tx: &mut Tx, seed: &Seed, n: u64, id: &DeviceId) -> anyhow::Result<()> {
    let mut latency = LatencyHistogram::default();
    for sample in 0..8 {
        latency.record(300 + pick(n, 20 + sample, 4000));
    }
    let drifted = pick(n, 12, 100) < 3;
    let share = if drifted { 50 + pick(n, 13, 45) } else { pick(n, 13, 30) };
    let model = ModelTelemetry {
        slot: SlotName::main(),
        line: seed.line.clone(),
        manifest: seed.installed(n)?.1,
        inferences: 200 + pick(n, 14, 5000),
        failures: pick(n, 15, 4),
        latency,
        sketches: None,
        drift: Some(DriftStatus {
            drifted,
            count: 640,
            share: f64::from(u32::try_from(share)?) / 100.0,
            nearest_slice: "import".into(),
            worst: Vec::new(),
        }),
        judged: None,
    };
    telemetry::add_interval(tx, id, &model, seed.now, seed.now).await?;
    let hours = if n < WITH_A_DAY { 24 } else { 1 };
    for hour in 0..hours {
        overview::add_hour(tx, id, &model, overview::hour_of(seed.now - hour * HOUR_MS)).await?;
    }
    store::device_summaries::refresh(tx, id.as_str()).await?;
    Ok(())
}

/// A rollout that reached a part of the fleet: most succeeded, some are under way, a few failed.
async fn deployments(db: &Db, seed: &Seed, count: u64) -> anyhow::Result<()> {
    let rollout = rollouts::get(db, seed.rollout).await?;
    let mut reached = (0..count).filter(|n| pick(*n, 16, 100) < 10).peekable();
    while reached.peek().is_some() {
        let mut tx = db.begin().await?;
        for n in reached.by_ref().take(usize::try_from(BATCH)?) {
            let device = name(n)?;
            let id: DeploymentId = format!("0192f0c1-0000-7000-8000-1{n:011x}").parse()?;
            let new = NewDeployment {
                id,
                device: device.clone(),
            };
            rollouts::deploy(&mut tx, &rollout, rollout.spec.model_version, &[new], seed.now).await?;
            let (state, reason) = match pick(n, 17, 20) {
                0 => (DeploymentState::Failure, Some("golden outputs differ by 0.31")),
                1..=3 => (DeploymentState::Downloading, None),
                4 => continue,
                _ => (DeploymentState::Success, None),
            };
            let told = DeploymentReport {
                deployment: id,
                slot: SlotName::main(),
                state,
                reason: reason.map(str::to_owned),
                bytes_received: 1 << 20,
                bytes_total: 1 << 20,
            };
            devices::apply_report(&mut tx, &device_report(seed, n, &device, vec![told])?, b"", seed.now).await?;
        }
        let record = audit::record("seed", "rollout.deployed", format!("rollout:{}", seed.rollout), []);
        store::audit::append(&mut tx, &record).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// Runs of a few experiments, a minute apart: most finished, some failed and have no accuracy.
async fn add_runs(config: &Config, count: u64) -> anyhow::Result<()> {
    let db = Db::open(&config.database()).await?;
    let project = documents::default_project(&db).await?;
    let now = clock::now_ms();
    let mut next = 0;
    while next < count {
        let end = (next + BATCH).min(count);
        let mut tx = db.begin().await?;
        for n in next..end {
            add_run(&mut tx, &project, n, now - i64::try_from(count - n)? * 60_000).await?;
        }
        tx.commit().await?;
        next = end;
    }
    db.close().await;
    Ok(())
}

async fn add_run(tx: &mut Tx, project: &str, n: u64, at: i64) -> anyhow::Result<()> {
    let id = format!("0192f0c1-0000-7000-8000-3{n:011x}").parse()?;
    let job = format!("0192f0c1-0000-7000-8000-4{n:011x}").parse()?;
    let trainer = json!({"kind": "mlp", "hidden": [8], "learning_rate": 0.01, "weight_decay": 0.1, "epochs": 20, "batch_size": 16});
    let asked = json!({
        "experiment": chosen(&EXPERIMENTS, n, 40)?,
        "dataset_version": "0192f0c1-0000-7000-8000-000000000201",
        "trainer": trainer,
        "seed": n,
        "cause": "seed",
    });
    runs::create(tx, project, id, job, &serde_json::from_value(asked)?, at).await?;
    if pick(n, 41, 10) == 0 {
        runs::end(tx, id, RunStatus::Failed, Some("lower the learning rate"), at).await?;
        return Ok(());
    }
    let accuracy = f64::from(u32::try_from(pick(n, 42, 1000))?) / 1000.0;
    let finished = runs::Finished {
        metrics: BTreeMap::from([
            ("holdout.accuracy".to_owned(), accuracy),
            ("duration_s".to_owned(), 3.0),
        ]),
        model: Digest::of(&n.to_le_bytes()),
        golden: Digest::of(b"golden"),
        evaluations: Vec::new(),
    };
    runs::finish(tx, id, &finished, at).await?;
    Ok(())
}
