//! One fixture per wire type of layout 1, with its expected reading, and the vectors that are text.

use flotilla_protocol::audit::AuditBatch;
use flotilla_protocol::bundle::{Bundle, Dropped, ModelTelemetry, Resources};
use flotilla_protocol::chunks::{BlobRef, ChunkList};
use flotilla_protocol::codec;
use flotilla_protocol::features::{FeatureSpec, Statistic};
use flotilla_protocol::golden::{GoldenCase, GoldenSet};
use flotilla_protocol::ids::{Digest, SlotName};
use flotilla_protocol::infer::Tensor;
use flotilla_protocol::manifest::ComponentKind;
use flotilla_protocol::messages::{
    ChunkMessage, HarvestReason, HeadMessage, Hello, Receipt, RecordKey, SCHEMA, Sample, SampleBatch, Want,
};
use flotilla_protocol::sketch::{DriftRule, FeatureReference, LatencyHistogram, ReferenceProfile, SketchSet, judge};
use flotilla_protocol::topics::{Down, Filter, Topic, Up};
use flotilla_protocol::trust::{Document, Envelope, Role, external_aad, sign};
use serde::Serialize;
use serde_bytes::ByteBuf;
use serde_json::{Value, json};

use crate::documents::{
    self, ISSUED, KEYS, Made, NOW, audit_entries, audit_head, component_bytes, device, key, line, manifest, root,
    target,
};

/// A file of `test-data/v1` without its extension, what is in it, and how it reads.
pub(crate) struct Fixture {
    pub(crate) name: &'static str,
    pub(crate) cbor: Vec<u8>,
    pub(crate) reading: Value,
}

fn message<T: Serialize>(name: &'static str, value: &T) -> Made<Fixture> {
    Ok(Fixture {
        name,
        cbor: codec::to_vec(value)?,
        reading: serde_json::to_value(value)?,
    })
}

/// The reading of an envelope: its digest, who signed, the document.
fn envelope<T: Document>(name: &'static str, document: &T, signer: &str) -> Made<Fixture> {
    let cbor = sign(document, &key(signer))?;
    let opened = Envelope::decode(&cbor)?;
    Ok(Fixture {
        name,
        reading: json!({
            "digest": opened.digest(),
            "role": document.header().role,
            "schema": T::SCHEMA,
            "signers": [key(signer).id()],
            "document": document,
        }),
        cbor,
    })
}

/// Every wire type.
pub(crate) fn fixtures() -> Made<Vec<Fixture>> {
    let manifest = manifest()?;
    let manifest_envelope = sign(&manifest, &key("release"))?;
    let desired = documents::desired_state(vec![target(&manifest, &manifest_envelope)?])?;
    Ok(vec![
        envelope("root", &root(), "root")?,
        envelope("manifest", &manifest, "release")?,
        envelope("desired-state", &desired, "director")?,
        envelope("head", &documents::head()?, "director")?,
        envelope("device-report", &documents::report()?, "device")?,
        envelope("audit-head", &audit_head()?, "device")?,
        envelope("enrolment", &documents::enrolment()?, "device")?,
        message("hello", &hello()?)?,
        message("want", &want())?,
        message("chunk", &chunk())?,
        message("receipt", &receipt())?,
        message("head-message", &head_message()?)?,
        message("sample-batch", &sample_batch()?)?,
        message("bundle", &bundle()?)?,
        message("chunk-list", &ChunkList::of(&component_bytes(ComponentKind::Model))?)?,
        message("reference", &reference())?,
        message("golden", &golden()?)?,
        message("features", &features())?,
    ])
}

fn hello() -> Made<Hello> {
    Ok(Hello {
        schema: SCHEMA,
        device: device()?,
        boot_epoch: 3,
        root_version: 1,
        report: ByteBuf::from(sign(&documents::report()?, &key("device"))?),
    })
}

fn want() -> Want {
    Want {
        schema: SCHEMA,
        blob: BlobRef::of(&component_bytes(ComponentKind::Model)),
        first: 0,
        present: ByteBuf::from(vec![0b101]),
        credit: 8,
    }
}

fn chunk() -> ChunkMessage {
    let blob = component_bytes(ComponentKind::Features);
    ChunkMessage {
        schema: SCHEMA,
        blob: Digest::of(&blob),
        first: 0,
        chunks: vec![ByteBuf::from(blob)],
        missing: false,
    }
}

fn record_key() -> RecordKey {
    RecordKey {
        boot_epoch: 3,
        seq: 17,
        nonce: 0x5eed_0003,
    }
}

fn receipt() -> Receipt {
    Receipt {
        schema: SCHEMA,
        records: vec![
            record_key(),
            RecordKey {
                seq: 18,
                ..record_key()
            },
        ],
        audit_refused: None,
    }
}

fn head_message() -> Made<HeadMessage> {
    Ok(HeadMessage {
        schema: SCHEMA,
        roots: vec![ByteBuf::from(sign(&root(), &key("root"))?)],
        head: ByteBuf::from(sign(&documents::head()?, &key("director"))?),
    })
}

fn sample_batch() -> Made<SampleBatch> {
    Ok(SampleBatch {
        schema: SCHEMA,
        device: device()?,
        key: record_key(),
        samples: vec![Sample {
            captured_at: NOW,
            line: line()?,
            manifest: Digest::of(b"a manifest"),
            input: Tensor::from_f32("window", vec![2, 3], &[0.0, 0.5, -1.25, 3.0, 1e-3, -7.0])?,
            scores: vec![0.5, 0.25, 0.125, 0.125],
            predicted: "standing".to_owned(),
            reason: HarvestReason::Drift,
        }],
    })
}

fn reference() -> ReferenceProfile {
    let values: Vec<f32> = (0u8..40).map(f32::from).collect();
    let shifted: Vec<f32> = values.iter().map(|v| v + 100.0).collect();
    ReferenceProfile {
        schema: SCHEMA,
        slices: vec!["import".to_owned(), "harvest".to_owned()],
        features: vec![FeatureReference::from_slices("x", &[values, shifted], 4)],
        labels: vec!["a".to_owned(), "b".to_owned()],
        label_counts: vec![30, 50],
        rule: DriftRule {
            window: 20,
            feature_threshold: 0.25,
            share_threshold: 0.5,
        },
    }
}

fn bundle() -> Made<Bundle> {
    let reference = reference();
    let mut sketches = SketchSet::new(Digest::of(&codec::to_vec(&reference)?), &reference);
    let mut latency = LatencyHistogram::default();
    for step in 0u8..40 {
        sketches.observe(&reference, &[f32::from(step) - 50.0], Some(usize::from(step % 2)));
        latency.record(u64::from(step) * 10);
    }
    Ok(Bundle {
        schema: SCHEMA,
        device: device()?,
        key: record_key(),
        from: ISSUED,
        to: NOW,
        models: vec![ModelTelemetry {
            slot: SlotName::new("main")?,
            line: line()?,
            manifest: Digest::of(b"a manifest"),
            inferences: 41,
            failures: 1,
            latency,
            drift: judge(&reference, &sketches),
            sketches: Some(sketches),
            judged: None,
        }],
        resources: Resources {
            rss_bytes: 14 << 20,
            cpu_ms: 930,
            disk_free_bytes: 512 << 20,
            spool_bytes: 4096,
        },
        dropped: Dropped { samples: 2, bundles: 0 },
        audit: vec![AuditBatch {
            epoch: 0,
            first: 0,
            entries: audit_entries()?.into_iter().map(ByteBuf::from).collect(),
        }],
        audit_head: Some(ByteBuf::from(sign(&audit_head()?, &key("device"))?)),
    })
}

fn golden() -> Made<GoldenSet> {
    Ok(GoldenSet {
        schema: SCHEMA,
        cases: vec![GoldenCase {
            inputs: vec![Tensor::from_f32("window", vec![1, 2, 2], &[1.0, 2.0, 3.0, 4.0])?],
            outputs: vec![
                Tensor::from_f32("scores", vec![1, 2], &[0.75, 0.25])?,
                Tensor::from_i64("class", vec![1], &[-1])?,
                Tensor::from_strings("label", vec![1], &["wälzlager".to_owned()])?,
            ],
        }],
    })
}

fn features() -> FeatureSpec {
    FeatureSpec::Window {
        channels: vec!["acc_x".to_owned(), "acc_y".to_owned()],
        length: 100,
        hop: 50,
        rate_hz: 10.0,
        statistics: Statistic::ALL.to_vec(),
    }
}

/// Every topic and filter, a line each: kind, tab, text.
pub(crate) fn topics() -> Made<String> {
    let device = device()?;
    let blob = Digest::of(b"a blob");
    let mut lines: Vec<String> = Vec::new();
    lines.extend(
        Up::ALL
            .iter()
            .map(|up| format!("publish\t{}", Topic::Up(device.clone(), *up))),
    );
    lines.extend(
        Down::ALL
            .iter()
            .map(|down| format!("topic\t{}", Topic::Down(device.clone(), *down))),
    );
    lines.push(format!("topic\t{}", Topic::Head));
    lines.push(format!("topic\t{}", Topic::Blob(blob, 7)));
    lines.push(format!("subscribe\t{}", Filter::DeviceDown(device)));
    lines.push(format!("subscribe\t{}", Filter::Head));
    lines.push(format!("subscribe\t{}", Filter::Blob(blob)));
    lines.push(format!("filter\t{}", Filter::AllUp));
    lines.push(String::new());
    Ok(lines.join("\n"))
}

/// `external_aad` of every signed document: role, tab, schema, tab, hex.
pub(crate) fn aad(fixtures: &[Fixture]) -> Made<String> {
    let mut lines = Vec::new();
    for fixture in fixtures {
        let field = |name: &str| fixture.reading.get(name).and_then(Value::as_str);
        if let (Some(role), Some(schema)) = (field("role"), field("schema")) {
            let role: Role = role.parse()?;
            lines.push(format!(
                "{role}\t{schema}\t{}",
                hex::encode(external_aad(&role, schema)?)
            ));
        }
    }
    lines.push(String::new());
    Ok(lines.join("\n"))
}

/// Public halves of the test keys, with their ids.
pub(crate) fn keys() -> Value {
    KEYS.iter()
        .map(|name| {
            let key = key(name);
            ((*name).to_owned(), json!({ "id": key.id(), "ed25519": key.public() }))
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}
