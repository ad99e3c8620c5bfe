//! A stolen server against a running agent: the attacker changes the server's blobs and database at will and holds its
//! director key. The agent refuses, says so in its report and audit chain, and goes on with what it ran.

#![expect(
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a JSON value indexed by a missing key is null; a missing agent fails the test; refusals are shown"
)]

use anyhow::Context as _;
use flotilla_protocol::codec::{self, MAX_DOCUMENT_BYTES};
use flotilla_protocol::head::Head;
use flotilla_protocol::ids::Digest;
use flotilla_protocol::manifest::Manifest;
use flotilla_protocol::trust::{Document as _, Envelope, KeyPair, sign};
use flotilla_tests::Fleet;
use flotilla_tests::agent::PATIENCE;
use flotilla_tests::model::{LINE, rows};
use flotilla_tests::process::eventually;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Row as _, SqliteConnection};

const DAY_MS: i64 = 24 * 3_600_000;

/// A fleet of one whose device runs 1.0.0, and a signed 2.0.0 that it has not seen.
async fn prepared() -> anyhow::Result<(Fleet, Value)> {
    let fleet = Fleet::start(1).await?;
    let version = fleet.server.labelled_version().await?;
    let first = fleet.server.release(&version, "1.0.0", 1, &[32]).await?;
    let rollout = fleet.server.roll_out(&first, 0.1).await?;
    fleet.server.rollout_when(&rollout, &["completed"]).await?;
    let second = fleet.server.release(&version, "2.0.0", 2, &[32]).await?;
    Ok((fleet, second))
}

async fn database(fleet: &Fleet) -> anyhow::Result<SqliteConnection> {
    Ok(SqliteConnectOptions::new()
        .filename(fleet.server.database())
        .connect()
        .await?)
}

/// The device must name the attack, the server must hear of it in the device's report and in its audit chain, and 1.0.0 must
/// go on serving. Returns what the device says of it.
async fn refused(fleet: &Fleet, attack: &str) -> anyhow::Result<String> {
    let agent = &fleet.agents[0];
    let status = agent
        .status_when(attack, |status| status["last_attack"]["name"] == attack)
        .await?;
    assert_eq!(status["slots"]["main"]["active"]["semver"], "1.0.0", "{status}");
    let values: Vec<Vec<f32>> = rows(4).into_iter().map(|(values, _)| values).collect();
    agent.infer(LINE, &values).await?;
    let heard = eventually("the audit event", PATIENCE, async || {
        let events = fleet
            .server
            .get("/api/v1/audit?device=device-1&event=attack.refused")
            .await?;
        let items = events["items"].as_array().context("items")?.clone();
        Ok(items.into_iter().find(|event| event["detail"]["attack"] == attack))
    });
    let heard = heard.await?;
    println!("refused and audited: {}", heard["detail"]);
    eventually("the report", PATIENCE, async || {
        let device = fleet.server.get("/api/v1/devices/device-1").await?;
        Ok((device["last_attack"]["attack"] == attack).then_some(()))
    })
    .await?;
    let verified = fleet.server.get("/api/v1/audit/verify").await?;
    assert_eq!(verified["ok"], true, "{verified}");
    Ok(heard["detail"]["detail"].as_str().unwrap_or_default().to_owned())
}

/// The thief signs the fleet's next `Head` with the stolen director key, and has the server send it.
async fn plant_head(fleet: &Fleet, change: impl FnOnce(&mut Head)) -> anyhow::Result<()> {
    let mut db = database(fleet).await?;
    let row = sqlx::query("SELECT version, envelope FROM documents WHERE kind = 'head' ORDER BY version DESC LIMIT 1")
        .fetch_one(&mut db)
        .await?;
    let (version, envelope): (i64, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
    let mut head: Head = codec::from_slice(Envelope::decode(&envelope)?.payload(), MAX_DOCUMENT_BYTES)?;
    head.header.version += 1;
    change(&mut head);
    sqlx::query("INSERT INTO documents (kind, version, envelope, created_at) VALUES ('head', $1, $2, $3)")
        .bind(version + 1)
        .bind(sign(&head, &director_key(fleet)?)?)
        .bind(head.header.issued)
        .execute(&mut db)
        .await?;
    Ok(())
}

/// The true head is the fleet's last one again.
async fn unplant_head(fleet: &Fleet) -> anyhow::Result<()> {
    sqlx::query("DELETE FROM documents WHERE kind = 'head' AND version = (SELECT MAX(version) FROM documents WHERE kind = 'head')")
        .execute(&mut database(fleet).await?)
        .await?;
    Ok(())
}

/// As a director signs it whose clock is so many days ahead.
fn days_ahead(days: i64) -> impl FnOnce(&mut Head) {
    move |head| {
        head.header.issued += days * DAY_MS;
        head.header.expires = head.header.issued + DAY_MS;
    }
}

fn director_key(fleet: &Fleet) -> anyhow::Result<KeyPair> {
    let pem = std::fs::read_to_string(fleet.server.dir().join("data/keys/director.key"))?;
    Ok(KeyPair::from_pkcs8_pem(&pem)?)
}

#[tokio::test]
async fn an_expired_head_is_refused() -> anyhow::Result<()> {
    let (mut fleet, second) = prepared().await?;
    // Valid, newer than all that the device has seen, and over since a second.
    plant_head(&fleet, |head| head.header.expires = head.header.issued + 1).await?;
    fleet.agents[0].stop().await?;
    fleet.agents[0].start().await?;
    let said = refused(&fleet, "freeze").await?;
    assert!(said.contains("head") && said.contains("expired"), "{said}");
    // What the device believed before holds: with the true head it goes on.
    unplant_head(&fleet).await?;
    let rollout = fleet.server.roll_out(&second, 0.1).await?;
    fleet.server.rollout_when(&rollout, &["completed"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_desired_state_past_the_devices_trusted_time_is_refused() -> anyhow::Result<()> {
    let (mut fleet, second) = prepared().await?;
    // A head of the day after next week. A device that has just started takes the fleet's word for the time: its clock may have
    // stood still while it was off. No signed time that comes later may lie before it.
    plant_head(&fleet, days_ahead(10)).await?;
    fleet.agents[0].stop().await?;
    fleet.agents[0].start().await?;
    let said = refused(&fleet, "freeze").await?;
    assert!(said.contains("desired state") && said.contains("expired"), "{said}");
    // Nothing new starts on the word of a document that is over.
    let rollout = fleet.server.roll_out(&second, 0.1).await?;
    refused(&fleet, "freeze").await?;
    let rollout = fleet.server.get(&format!("/api/v1/rollouts/{rollout}")).await?;
    assert_eq!(rollout["state"], "running", "{rollout}");
    Ok(())
}

/// The device has just started and takes the fleet's word for the time, but not beyond the root: nothing that the director says
/// may keep it from ever taking his word again.
#[tokio::test]
async fn a_director_who_is_years_ahead_cuts_no_device_off() -> anyhow::Result<()> {
    let (mut fleet, second) = prepared().await?;
    plant_head(&fleet, days_ahead(5 * 365)).await?;
    fleet.agents[0].stop().await?;
    fleet.agents[0].start().await?;
    // The device is connected: the server hears of the attack from it.
    let said = refused(&fleet, "fast-forward").await?;
    assert!(said.contains("head") && said.contains("issued"), "{said}");
    // The server's clock is put right. Nothing has to be done about the device, nor after another start of it.
    unplant_head(&fleet).await?;
    fleet.agents[0].stop().await?;
    fleet.agents[0].start().await?;
    let rollout = fleet.server.roll_out(&second, 0.1).await?;
    fleet.server.rollout_when(&rollout, &["completed"]).await?;
    Ok(())
}

/// A clock that has agreed with the fleet's since the agent's start is believed against it.
#[tokio::test]
async fn a_director_who_jumps_by_days_is_refused_by_a_running_device() -> anyhow::Result<()> {
    let (mut fleet, second) = prepared().await?;
    fleet.server.stop().await?;
    plant_head(&fleet, days_ahead(10)).await?;
    fleet.server.serve().await?;
    let said = refused(&fleet, "fast-forward").await?;
    assert!(said.contains("head") && said.contains("issued"), "{said}");
    unplant_head(&fleet).await?;
    let rollout = fleet.server.roll_out(&second, 0.1).await?;
    fleet.server.rollout_when(&rollout, &["completed"]).await?;
    Ok(())
}

/// What a head revoked is remembered: a restart without the server gives the package up, and that is no attack.
#[tokio::test]
async fn a_package_revoked_since_is_not_brought_up_again() -> anyhow::Result<()> {
    let (mut fleet, second) = prepared().await?;
    let rollout = fleet.server.roll_out(&second, 0.1).await?;
    fleet.server.rollout_when(&rollout, &["completed"]).await?;
    let status = fleet.agents[0].status().await?;
    let active = &status["slots"]["main"]["active"];
    assert_eq!(active["semver"], "2.0.0", "{status}");
    let manifest: Digest = serde_json::from_value(active["manifest"].clone())?;
    let seen = |status: &Value| status["documents"]["head"].as_u64();
    let before = seen(&status);
    plant_head(&fleet, |head| head.revoked_manifests.push(manifest)).await?;
    fleet.agents[0].stop().await?;
    fleet.agents[0].start().await?;
    let told = fleet.agents[0]
        .status_when("the revocation", |status| seen(status) > before)
        .await?;
    assert_eq!(told["slots"]["main"]["active"]["semver"], "2.0.0", "what runs goes on");
    fleet.server.stop().await?;
    fleet.agents[0].stop().await?;
    fleet.agents[0].start().await?;
    let status = fleet.agents[0]
        .status_when("the version before", |status| {
            status["slots"]["main"]["active"]["semver"] == "1.0.0"
        })
        .await?;
    assert_eq!(status["last_attack"], Value::Null, "{status}");
    let said = status["last_error"].as_str().context("the reason")?;
    assert!(said.contains("is revoked"), "{said}");
    let values: Vec<Vec<f32>> = rows(4).into_iter().map(|(values, _)| values).collect();
    fleet.agents[0].infer(LINE, &values).await?;
    Ok(())
}

#[tokio::test]
async fn a_tampered_package_is_refused() -> anyhow::Result<()> {
    let (fleet, second) = prepared().await?;
    let mut db = database(&fleet).await?;
    let row = sqlx::query("SELECT components FROM model_versions WHERE semver = '2.0.0'")
        .fetch_one(&mut db)
        .await?;
    let components: Value = serde_json::from_str(row.try_get("components")?)?;
    // One bit of every encoding of every component.
    let mut flipped = 0;
    for component in components.as_array().context("components")? {
        for source in component["sources"].as_array().context("sources")? {
            let digest = source["blob"]["sha256"]
                .as_str()
                .and_then(|d| d.strip_prefix("sha256:"))
                .context("digest")?;
            let (folder, rest) = digest.split_at(2);
            let path = fleet.server.dir().join("data/blobs").join(folder).join(rest);
            let mut bytes = std::fs::read(&path)?;
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
            std::fs::write(&path, bytes)?;
            flipped += 1;
        }
    }
    assert!(flipped >= 4);
    let rollout = fleet.server.roll_out(&second, 0.1).await?;
    refused(&fleet, "altered-content").await?;
    // The bits flipped in the server's own store: the operator sees whose fault it is.
    eventually("the damaged blobs on record", PATIENCE, async || {
        let events = fleet.server.get("/api/v1/audit?event=blob.damaged").await?;
        let items = events["items"].as_array().context("items")?;
        Ok((items.len() == flipped).then_some(()))
    })
    .await?;
    let rollout = fleet.server.rollout_when(&rollout, &["halted"]).await?;
    assert_eq!(rollout["counts"]["failure"], 1, "{rollout}");
    Ok(())
}

/// Takes a fleet through three versions of the device's desired state, then sets the server's database back to the first,
/// with the server stopped.
async fn set_back() -> anyhow::Result<(Fleet, SqliteConnection)> {
    let (mut fleet, second) = prepared().await?;
    let mut db = database(&fleet).await?;
    let old = sqlx::query("SELECT desired, desired_version FROM devices")
        .fetch_one(&mut db)
        .await?;
    let (old, old_version): (Vec<u8>, i64) = (old.try_get(0)?, old.try_get(1)?);
    // The fleet goes on to 2.0.0 and back to 1.0.0, which raises the version that the device has seen.
    let rollout = fleet.server.roll_out(&second, 0.1).await?;
    fleet.server.rollout_when(&rollout, &["completed"]).await?;
    let first = fleet.server.get(&format!("/api/v1/models/{LINE}/versions")).await?;
    let first = first["items"]
        .as_array()
        .context("items")?
        .iter()
        .find(|v| v["semver"] == "1.0.0")
        .context("1.0.0")?;
    let rollout = fleet.server.roll_out(first, 0.1).await?;
    fleet.server.rollout_when(&rollout, &["completed"]).await?;

    fleet.server.stop().await?;
    sqlx::query("UPDATE devices SET desired = $1, desired_version = $2, desired_stale = 0")
        .bind(old)
        .bind(old_version)
        .execute(&mut db)
        .await?;
    Ok((fleet, db))
}

#[tokio::test]
async fn a_replayed_desired_state_is_refused() -> anyhow::Result<()> {
    let (mut fleet, mut db) = set_back().await?;
    // The thief's server does not go on above what the device reports, as ours would.
    sqlx::query(
        "CREATE TRIGGER replay BEFORE UPDATE OF desired_version ON devices WHEN NEW.desired IS NULL
         BEGIN SELECT RAISE(IGNORE); END",
    )
    .execute(&mut db)
    .await?;
    fleet.server.serve().await?;
    refused(&fleet, "rollback").await.map(drop)
}

#[tokio::test]
async fn a_server_restored_from_a_copy_goes_on_above_what_its_devices_have_seen() -> anyhow::Result<()> {
    let (mut fleet, _db) = set_back().await?;
    let agent = &fleet.agents[0];
    let seen = |status: &Value| status["documents"]["desired_state"].as_u64();
    let before = seen(&agent.status().await?);
    fleet.server.serve().await?;
    let agent = &fleet.agents[0];
    let status = agent
        .status_when("a newer desired state", |status| seen(status) > before)
        .await?;
    assert_eq!(status["last_attack"], Value::Null, "{status}");
    Ok(())
}

#[tokio::test]
async fn an_old_manifest_for_a_new_target_is_refused() -> anyhow::Result<()> {
    let (fleet, second) = prepared().await?;
    let mut db = database(&fleet).await?;
    sqlx::query(
        "UPDATE model_versions SET envelope = (SELECT envelope FROM model_versions WHERE semver = '1.0.0')
         WHERE semver = '2.0.0'",
    )
    .execute(&mut db)
    .await?;
    let rollout = fleet.server.roll_out(&second, 0.1).await?;
    refused(&fleet, "mix-and-match").await?;
    fleet.server.rollout_when(&rollout, &["halted"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_package_that_no_release_key_signed_is_refused() -> anyhow::Result<()> {
    let (fleet, second) = prepared().await?;
    let version = second["dataset_version"].as_str().context("dataset version")?;
    let third = fleet.server.package(version, "3.0.0", 3, &[32]).await?;
    let mut db = database(&fleet).await?;
    let row = sqlx::query("SELECT payload FROM model_versions WHERE semver = '3.0.0'")
        .fetch_one(&mut db)
        .await?;
    // Everything that stands on the server: its own director key.
    let director = director_key(&fleet)?;
    let mut envelope = Envelope::unsigned(row.try_get("payload")?);
    envelope.add_signature(&director, &format!("release/{LINE}").parse()?, Manifest::SCHEMA)?;
    sqlx::query("UPDATE model_versions SET envelope = $1, signature = 'signed' WHERE semver = '3.0.0'")
        .bind(envelope.encode()?)
        .execute(&mut db)
        .await?;
    let rollout = fleet.server.roll_out(&third, 0.1).await?;
    refused(&fleet, "arbitrary-package").await?;
    let rollout = fleet.server.rollout_when(&rollout, &["halted"]).await?;
    assert_eq!(rollout["counts"]["failure"], 1, "{rollout}");
    Ok(())
}

#[tokio::test]
async fn the_server_refuses_signatures_of_other_keys_and_other_bytes() -> anyhow::Result<()> {
    let fleet = Fleet::start(0).await?;
    let version = fleet.server.labelled_version().await?;
    let model = fleet.server.package(&version, "1.0.0", 1, &[8]).await?;
    let stranger = KeyPair::from_seed(&[7; 32]);
    let error = fleet
        .server
        .sign(&model, &stranger)
        .await
        .err()
        .context("a stranger's key must be refused")?;
    assert!(error.to_string().contains("422"), "{error}");
    let refused = fleet
        .server
        .request(reqwest::Method::POST, "/api/v1/rollouts")
        .json(&json!({"model_version": model["id"]}));
    let (status, problem) = fleet.server.raw(refused).await?;
    assert_eq!(status.as_u16(), 409, "{problem}");
    assert!(
        problem["detail"].as_str().is_some_and(|d| d.contains("not signed")),
        "{problem}"
    );
    let events = fleet.server.get("/api/v1/audit?event=signature.refused").await?;
    assert_eq!(events["items"].as_array().map(Vec::len), Some(1), "{events}");
    Ok(())
}
