//! Fills a fleet's database for benches and browser tests: devices with tags, models, drift, deployments and telemetry,
//! written through the server's own store. Run it between `fleet-server init` and `serve`: `seed <fleet.toml> <devices>`.
//!
//! The same number of devices gives the same fleet, whatever the day: only times are of today.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use fleet_server::config::Config;
use fleet_server::store::devices::{self, NewDevice, Presence};
use fleet_server::store::rollouts::{self, NewDeployment, Transition};
use fleet_server::store::{Db, Tx, documents, models, overview, telemetry, tokens};
use fleet_server::{audit, clock, store};
use flotilla_protocol::audit::AuditHead;
use flotilla_protocol::bundle::ModelTelemetry;
use flotilla_protocol::ids::{ClaimTokenId, DeploymentId, DeviceId, Digest, ModelLine, RolloutId, SlotName};
use flotilla_protocol::report::{DeploymentReport, DeploymentState, DeviceReport, InstalledModel, SlotReport};
use flotilla_protocol::sketch::{DriftStatus, LatencyHistogram};
use flotilla_protocol::trust::{DeviceFacts, Document as _, DocumentVersions, Header, KeyPair, Role, Root};
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
const VERSIONS: [&str; 4] = ["1.0.0", "1.4.2", "2.0.0", "2.1.0"];
const HOUR_MS: i64 = 3_600_000;
/// Devices per transaction.
const BATCH: u64 = 500;
/// Devices whose whole day is written, hour by hour.
const WITH_A_DAY: u64 = 500;

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let (Some(config), Some(count)) = (words.next(), words.next()) else {
        anyhow::bail!("usage: seed <fleet.toml> <devices>");
    };
    let count: u64 = count.parse().context("the number of devices")?;
    let config = Config::load(Path::new(&config))?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(seed(&config, count))
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
    rollout: RolloutId,
}

async fn seed(config: &Config, count: u64) -> anyhow::Result<()> {
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
    let version = add_versions(&mut tx, &project, &line, now).await?;
    let spec = serde_json::from_value(json!({"model_version": version, "target": "true"}))?;
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

/// Gives the newest version's id.
async fn add_versions(tx: &mut Tx, project: &str, line: &ModelLine, now: i64) -> anyhow::Result<String> {
    let mut newest = String::new();
    for (counter, semver) in (1..).zip(VERSIONS) {
        newest = format!("0192f0c1-0000-7000-8000-0000000001{counter:02x}");
        let version = models::NewVersion {
            id: newest.parse()?,
            line: line.clone(),
            semver: semver.to_owned(),
            release_counter: counter,
            payload: semver.as_bytes().to_vec(),
            run: None,
            dataset_version: None,
            components: Vec::new(),
            package_bytes: 1 << 20,
            golden_max_diff: 0.0,
            golden_cases: 8,
        };
        models::create(tx, project, &version, now).await?;
    }
    Ok(newest)
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

fn manifest(semver: &str) -> Digest {
    Digest::of(semver.as_bytes())
}

fn device_report(
    seed: &Seed,
    n: u64,
    id: &DeviceId,
    deployments: Vec<DeploymentReport>,
) -> anyhow::Result<DeviceReport> {
    let semver = chosen(&VERSIONS, n, 9)?;
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
                manifest: manifest(semver),
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
        manifest: manifest(chosen(&VERSIONS, n, 9)?),
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
