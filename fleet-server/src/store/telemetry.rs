//! What devices counted and saw: records by name (so that nothing counts twice), totals per package, hourly sketches, and
//! the last drift judgement of every device and package.

use flotilla_api_types::drift::FeatureSeverity;
use flotilla_protocol::bundle::{Judged, ModelTelemetry};
use flotilla_protocol::codec::{self, MAX_BUNDLE_BYTES, MAX_DOCUMENT_BYTES};
use flotilla_protocol::ids::{DeviceId, Digest};
use flotilla_protocol::messages::RecordKey;
use flotilla_protocol::sketch::{DriftStatus, LatencyHistogram, SketchSet};
use sqlx::Row as _;

use crate::store::{StoreError, Tx, statements, to_i64, to_json, to_u64};

statements! {
    RECORD = "INSERT INTO device_records (received_at, device, boot_epoch, seq, nonce) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (device, boot_epoch, seq, nonce) DO NOTHING";
    RECORDED = "SELECT 1 FROM device_records WHERE device = $1 AND boot_epoch = $2 AND seq = $3 AND nonce = $4";
    MODEL = "SELECT inferences, failures, bundles, latency FROM device_models WHERE device = $1 AND manifest = $2";
    SET_MODEL = "INSERT INTO device_models (device, manifest, line, inferences, failures, bundles, latency)
        VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (device, manifest) DO UPDATE SET inferences = excluded.inferences,
        failures = excluded.failures, bundles = excluded.bundles, latency = excluded.latency";
    SKETCH = "SELECT sketch FROM sketches WHERE hour = $1 AND device = $2 AND manifest = $3";
    SET_SKETCH = "INSERT INTO sketches (hour, device, manifest, sketch) VALUES ($1, $2, $3, $4)
        ON CONFLICT (hour, device, manifest) DO UPDATE SET sketch = excluded.sketch";
    DRIFT = "SELECT drifted, share, observations, judgements, alarms, nearest_slice, worst, at FROM drift_status
        WHERE device = $1 AND manifest = $2";
    SET_DRIFT = "INSERT INTO drift_status (device, manifest, line, drifted, share, observations, judgements, alarms,
        nearest_slice, worst, at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        ON CONFLICT (device, manifest) DO UPDATE SET drifted = excluded.drifted, share = excluded.share,
        observations = excluded.observations, judgements = excluded.judgements, alarms = excluded.alarms,
        nearest_slice = excluded.nearest_slice, worst = excluded.worst, at = excluded.at";
    ADD_JUDGED = "UPDATE drift_status SET judgements = $1, alarms = $2, at = CASE WHEN at < $3 THEN $3 ELSE at END
        WHERE device = $4 AND manifest = $5";
}

const HOUR_MS: i64 = 3_600_000;
/// Totals grow no further: they are told as JSON numbers, and whoever adds a few of them up must not overflow.
const MOST: u64 = 1 << 53;

/// What a total becomes.
pub(super) fn total(before: u64, more: u64) -> i64 {
    to_i64(before.saturating_add(more).min(MOST))
}

/// Notes that a record arrived. `false`: it was counted before.
pub async fn record(tx: &mut Tx, device: &DeviceId, key: RecordKey, now: i64) -> Result<bool, StoreError> {
    let inserted = sqlx::query(RECORD)
        .bind(now)
        .bind(device.as_str())
        .bind(to_i64(key.boot_epoch))
        .bind(to_i64(key.seq))
        .bind(i64::from(key.nonce))
        .execute(&mut **tx)
        .await?;
    Ok(inserted.rows_affected() == 1)
}

/// Was the record counted before?
pub async fn is_recorded(tx: &mut Tx, device: &DeviceId, key: RecordKey) -> Result<bool, StoreError> {
    let row = sqlx::query(RECORDED)
        .bind(device.as_str())
        .bind(to_i64(key.boot_epoch))
        .bind(to_i64(key.seq))
        .bind(i64::from(key.nonce))
        .fetch_optional(&mut **tx)
        .await?;
    Ok(row.is_some())
}

/// The hour of an interval's end. Devices' clocks may be wrong: never later than now.
pub fn hour_of(to: i64, now: i64) -> i64 {
    to.clamp(0, now.max(0)) / HOUR_MS
}

/// What one interval of a package changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// The device changed its mind about drift.
    pub drift_changed: bool,
    /// The sketch has other bins than the hour's; it was left out.
    pub sketch_refused: bool,
}

/// Adds one interval of one package. The record must be new ([`record`]), or it counts twice.
pub async fn add_interval(
    tx: &mut Tx,
    device: &DeviceId,
    model: &ModelTelemetry,
    to: i64,
    now: i64,
) -> Result<Taken, StoreError> {
    add_totals(tx, device, model).await?;
    let mut taken = Taken::default();
    if let Some(sketch) = &model.sketches {
        taken.sketch_refused = !add_sketch(tx, device, &model.manifest, sketch, hour_of(to, now)).await?;
    }
    if let Some(status) = &model.drift {
        taken.drift_changed = set_drift(tx, device, model, status, to.clamp(0, now.max(0))).await?;
    }
    Ok(taken)
}

async fn add_totals(tx: &mut Tx, device: &DeviceId, model: &ModelTelemetry) -> Result<(), StoreError> {
    let manifest = model.manifest.to_string();
    let row = sqlx::query(MODEL)
        .bind(device.as_str())
        .bind(&manifest)
        .fetch_optional(&mut **tx)
        .await?;
    let (mut inferences, mut failures, mut bundles) = (0u64, 0u64, 0u64);
    let mut latency = LatencyHistogram::default();
    if let Some(row) = row {
        inferences = to_u64(row.try_get("inferences")?);
        failures = to_u64(row.try_get("failures")?);
        bundles = to_u64(row.try_get("bundles")?);
        latency = codec::from_slice(row.try_get("latency")?, MAX_DOCUMENT_BYTES)
            .map_err(|why| StoreError::corrupt("latency histogram", why))?;
    }
    latency.merge(&model.latency);
    let latency = codec::to_vec(&latency).map_err(|why| StoreError::corrupt("latency histogram", why))?;
    sqlx::query(SET_MODEL)
        .bind(device.as_str())
        .bind(&manifest)
        .bind(model.line.as_str())
        .bind(total(inferences, model.inferences))
        .bind(total(failures, model.failures))
        .bind(total(bundles, 1))
        .bind(latency)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Merges a sketch into its hour; `false` when the hour's sketch has other bins.
async fn add_sketch(
    tx: &mut Tx,
    device: &DeviceId,
    manifest: &Digest,
    sketch: &SketchSet,
    hour: i64,
) -> Result<bool, StoreError> {
    let manifest = manifest.to_string();
    let known: Option<Vec<u8>> = sqlx::query_scalar(SKETCH)
        .bind(hour)
        .bind(device.as_str())
        .bind(&manifest)
        .fetch_optional(&mut **tx)
        .await?;
    let merged = match known {
        None => sketch.clone(),
        Some(bytes) => {
            let mut merged = read_sketch(&bytes)?;
            if merged.merge(sketch).is_err() {
                return Ok(false);
            }
            merged
        }
    };
    sqlx::query(SET_SKETCH)
        .bind(hour)
        .bind(device.as_str())
        .bind(&manifest)
        .bind(codec::to_vec(&merged).map_err(|why| StoreError::corrupt("sketch", why))?)
        .execute(&mut **tx)
        .await?;
    Ok(true)
}

fn read_sketch(bytes: &[u8]) -> Result<SketchSet, StoreError> {
    codec::from_slice(bytes, MAX_BUNDLE_BYTES).map_err(|why| StoreError::corrupt("sketch", why))
}

/// Keeps a judgement; `true` when it is another than the last one's. A device repeats its last judgement in every bundle
/// until the next window is full, and may have judged several windows in one interval: it says how many there were. Of one
/// that does not say so, a judgement counts as new when it differs in any figure.
async fn set_drift(
    tx: &mut Tx,
    device: &DeviceId,
    model: &ModelTelemetry,
    status: &DriftStatus,
    at: i64,
) -> Result<bool, StoreError> {
    let manifest = model.manifest.to_string();
    let worst = to_json("drift", &severities(status))?;
    let row = sqlx::query(DRIFT)
        .bind(device.as_str())
        .bind(&manifest)
        .fetch_optional(&mut **tx)
        .await?;
    let (mut judgements, mut alarms, mut was_drifted) = (0u64, 0u64, false);
    let (mut same, mut older) = (false, false);
    if let Some(row) = row {
        was_drifted = row.try_get::<i64, _>("drifted")? != 0;
        judgements = to_u64(row.try_get("judgements")?);
        alarms = to_u64(row.try_get("alarms")?);
        same = was_drifted == status.drifted
            && row.try_get::<f64, _>("share")?.to_bits() == status.share.to_bits()
            && row.try_get::<i64, _>("observations")? == to_i64(status.count)
            && row.try_get::<String, _>("nearest_slice")? == status.nearest_slice
            && row.try_get::<String, _>("worst")? == worst;
        // Bundles may come out of order: an older one does not speak for the present, but it counts.
        older = row.try_get::<i64, _>("at")? > at;
    }
    let new = model.judged.unwrap_or_else(|| {
        let told = u64::from(!same && !older);
        Judged {
            judgements: told,
            alarms: told * u64::from(status.drifted),
        }
    });
    let judgements = total(judgements, new.judgements);
    let alarms = total(alarms, new.alarms);
    if older || same {
        if new != Judged::default() {
            sqlx::query(ADD_JUDGED)
                .bind(judgements)
                .bind(alarms)
                .bind(at)
                .bind(device.as_str())
                .bind(&manifest)
                .execute(&mut **tx)
                .await?;
        }
        return Ok(false);
    }
    sqlx::query(SET_DRIFT)
        .bind(device.as_str())
        .bind(&manifest)
        .bind(model.line.as_str())
        .bind(i64::from(status.drifted))
        .bind(status.share)
        .bind(to_i64(status.count))
        .bind(judgements)
        .bind(alarms)
        .bind(&status.nearest_slice)
        .bind(worst)
        .bind(at)
        .execute(&mut **tx)
        .await?;
    Ok(was_drifted != status.drifted)
}

fn severities(status: &DriftStatus) -> Vec<FeatureSeverity> {
    let severity = |feature: &flotilla_protocol::sketch::FeatureDrift| FeatureSeverity {
        name: feature.name.chars().take(100).collect(),
        psi: feature.psi,
        corrected: feature.corrected,
        drifted: feature.drifted,
    };
    status.worst.iter().take(8).map(severity).collect()
}

#[cfg(test)]
mod tests {
    use flotilla_api_types::drift::DeviceDrift;
    use flotilla_protocol::ids::{ModelLine, SlotName};
    use flotilla_protocol::sketch::FeatureSketch;

    use super::*;
    use crate::store::drift::{self, DriftQuery};
    use crate::store::{Db, sketches};

    const NOW: i64 = 10 * HOUR_MS;

    async fn db() -> (tempfile::TempDir, Db) {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("test.db")).await.unwrap();
        (dir, db)
    }

    fn device() -> DeviceId {
        DeviceId::new("press-07").unwrap()
    }

    fn set(bins: usize) -> SketchSet {
        SketchSet {
            reference: Digest::of(b"reference"),
            count: 3,
            features: vec![FeatureSketch {
                counts: vec![1; bins],
                ..FeatureSketch::default()
            }],
            label_counts: vec![3],
        }
    }

    fn status(drifted: bool, share: f64) -> DriftStatus {
        DriftStatus {
            drifted,
            count: 96,
            share,
            nearest_slice: "import".into(),
            worst: vec![],
        }
    }

    fn interval(drift: Option<DriftStatus>) -> ModelTelemetry {
        let mut latency = LatencyHistogram::default();
        latency.record(500);
        ModelTelemetry {
            slot: SlotName::main(),
            line: ModelLine::new("anomaly").unwrap(),
            manifest: Digest::of(b"manifest"),
            inferences: 10,
            failures: 1,
            latency,
            sketches: Some(set(3)),
            drift,
            judged: None,
        }
    }

    async fn hours(db: &Db) -> Vec<(i64, SketchSet)> {
        let mut hours = Vec::new();
        let take = |hour, sketch| hours.push((hour, sketch));
        sketches::each(db, Some(&device()), &Digest::of(b"manifest"), 0..1_000_000, take)
            .await
            .unwrap();
        hours
    }

    async fn judgements(db: &Db) -> Vec<DeviceDrift> {
        let query = DriftQuery {
            limit: 10,
            ..DriftQuery::default()
        };
        drift::list(db, &query).await.unwrap().0
    }

    #[tokio::test]
    async fn a_record_counts_once() {
        let (_dir, db) = db().await;
        let mut tx = db.begin().await.unwrap();
        let key = RecordKey {
            boot_epoch: 1,
            seq: 7,
            nonce: 0,
        };
        assert!(record(&mut tx, &device(), key, NOW).await.unwrap());
        assert!(!record(&mut tx, &device(), key, NOW + 1).await.unwrap());
        let next = RecordKey { boot_epoch: 2, ..key };
        assert!(record(&mut tx, &device(), next, NOW).await.unwrap());
        // The device's store was put back: the same boot and number again, other contents.
        let again = RecordKey { nonce: 5, ..key };
        assert!(!is_recorded(&mut tx, &device(), again).await.unwrap());
        assert!(record(&mut tx, &device(), again, NOW).await.unwrap());
        assert!(is_recorded(&mut tx, &device(), again).await.unwrap());
    }

    #[tokio::test]
    async fn intervals_add_up_and_hours_merge() {
        let (_dir, db) = db().await;
        let mut tx = db.begin().await.unwrap();
        // One from a clock in the future: it counts now.
        for to in [NOW - HOUR_MS, NOW, NOW, NOW + 1000 * HOUR_MS] {
            add_interval(&mut tx, &device(), &interval(None), to, NOW)
                .await
                .unwrap();
        }
        let row = sqlx::query(MODEL)
            .bind(device().as_str())
            .bind(Digest::of(b"manifest").to_string())
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        assert_eq!((row.get::<i64, _>("inferences"), row.get::<i64, _>("bundles")), (40, 4));
        tx.commit().await.unwrap();
        let hours = hours(&db).await;
        assert_eq!(hours.iter().map(|(hour, _)| *hour).collect::<Vec<_>>(), [9, 10]);
        assert_eq!(hours.iter().map(|(_, sketch)| sketch.count).sum::<u64>(), 12);
        assert_eq!(hours[1].1.features[0].counts, [3, 3, 3]);
    }

    #[tokio::test]
    async fn a_sketch_with_other_bins_is_left_out_and_the_rest_counts() {
        let (_dir, db) = db().await;
        let mut tx = db.begin().await.unwrap();
        add_interval(&mut tx, &device(), &interval(None), NOW, NOW)
            .await
            .unwrap();
        let mut other = interval(None);
        other.sketches = Some(set(4));
        assert!(
            add_interval(&mut tx, &device(), &other, NOW, NOW)
                .await
                .unwrap()
                .sketch_refused
        );
        tx.commit().await.unwrap();
        assert_eq!(hours(&db).await[0].1.count, 3);
    }

    #[tokio::test]
    async fn counted_judgements_add_up_in_any_order() {
        let (_dir, db) = db().await;
        let mut tx = db.begin().await.unwrap();
        let told = |drifted, share, judgements, alarms| ModelTelemetry {
            judged: Some(Judged { judgements, alarms }),
            ..interval(Some(status(drifted, share)))
        };
        // Three windows in one interval, the alarm already over; the same judgement repeated; an interval that comes late.
        for (at, model, changed) in [
            (NOW - 10, told(false, 0.1, 3, 1), false),
            (NOW - 9, told(false, 0.1, 0, 0), false),
            (NOW - 8, told(true, 0.6, 2, 2), true),
            (NOW - 20, told(false, 0.2, 4, 0), false),
            (NOW - 7, told(true, 0.6, 1, 1), false),
            (NOW - 6, interval(Some(status(false, 0.1))), true),
        ] {
            let taken = add_interval(&mut tx, &device(), &model, at, NOW).await.unwrap();
            assert_eq!(taken.drift_changed, changed, "{at}");
        }
        tx.commit().await.unwrap();
        let list = judgements(&db).await;
        assert_eq!((list[0].judgements, list[0].alarms, list[0].drifted), (11, 4, false));
    }

    #[tokio::test]
    async fn judgements_are_counted_when_they_differ() {
        let (_dir, db) = db().await;
        let mut tx = db.begin().await.unwrap();
        let mut changed = Vec::new();
        let told = [
            status(false, 0.1),
            status(false, 0.1),
            status(true, 0.5),
            status(true, 0.6),
            status(false, 0.1),
        ];
        for (step, status) in (1..).zip(told) {
            let at = NOW - HOUR_MS + step;
            changed.push(
                add_interval(&mut tx, &device(), &interval(Some(status)), at, NOW)
                    .await
                    .unwrap()
                    .drift_changed,
            );
        }
        assert_eq!(changed, [false, false, true, false, true]);
        let late = interval(Some(status(true, 0.9)));
        assert!(
            !add_interval(&mut tx, &device(), &late, NOW - 2 * HOUR_MS, NOW)
                .await
                .unwrap()
                .drift_changed
        );
        tx.commit().await.unwrap();
        let list = judgements(&db).await;
        assert_eq!(list.len(), 1);
        assert_eq!((list[0].judgements, list[0].alarms, list[0].drifted), (4, 2, false));
    }
}
