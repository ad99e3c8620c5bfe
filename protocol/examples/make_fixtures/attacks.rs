//! The attacks of the trust design that concern signed documents and the codec: for each a folder of bytes and an
//! `expect.json` that says, step by step, which call is made with which bytes and what must come of it.
//!
//! The steps are data, so that another implementation can be driven by the same folders.

mod content;
mod envelopes;
mod freshness;
mod signatures;

use std::collections::BTreeMap;

use coset::cbor::value::Value as Cbor;
use coset::iana::Algorithm;
use coset::{AsCborValue, CborSerializable as _, CoseSign1, CoseSign1Builder, Header, HeaderBuilder};
use ed25519_dalek::{Signer as _, SigningKey};
use flotilla_protocol::codec;
use flotilla_protocol::desired_state::Target;
use flotilla_protocol::trust::{Document, KeyPair, Role, external_aad, sign};
use serde_json::{Value, json};

use crate::documents::{self, Made, NOW, key};

pub(crate) const ACCEPTED: &str = "accepted";

/// One folder.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) steps: Vec<Value>,
}

/// All folders.
pub(crate) fn attacks() -> Made<Vec<Attack>> {
    let mut all = signatures::attacks()?;
    all.extend(freshness::attacks()?);
    all.extend(envelopes::attacks()?);
    all.extend(content::attacks()?);
    Ok(all)
}

impl Attack {
    pub(crate) fn new(name: &'static str, about: &'static str) -> Self {
        Self {
            name,
            about,
            files: BTreeMap::new(),
            steps: Vec::new(),
        }
    }

    /// An attack on a device that has followed the fleet so far: root 1 and head 7 are accepted.
    pub(crate) fn on_device(name: &'static str, about: &'static str) -> Made<Self> {
        Self::new(name, about)
            .factory_root(sign(&documents::root(), &key("root"))?)
            .head(sign(&documents::head()?, &key("director"))?, ACCEPTED)
    }

    fn step(mut self, call: &str, kind: &str, bytes: Vec<u8>, expect: &str, more: &[(&str, Value)]) -> Self {
        let file = format!("{:02}-{kind}", self.steps.len() + 1);
        let mut step = json!({ "call": call, "file": file, "wall_ms": NOW, "expect": expect });
        if let Some(fields) = step.as_object_mut() {
            fields.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        }
        self.files.insert(file, bytes);
        self.steps.push(step);
        self
    }

    /// The last step happens when the device's wall clock says `wall_ms`.
    pub(crate) fn at(mut self, wall_ms: i64) -> Self {
        if let Some(fields) = self.steps.last_mut().and_then(Value::as_object_mut) {
            fields.insert("wall_ms".to_owned(), json!(wall_ms));
        }
        self
    }

    /// The device keeps running after the last step: it does not have to find out anew whether its clock agrees with the
    /// fleet's.
    pub(crate) fn running(mut self) -> Self {
        if let Some(fields) = self.steps.last_mut().and_then(Value::as_object_mut) {
            fields.insert("running".to_owned(), json!(true));
        }
        self
    }

    /// A step that starts over from a factory root, on a device built in 1970.
    pub(crate) fn factory_root(self, bytes: Vec<u8>) -> Self {
        self.step(
            "from_factory_root",
            "root.cbor",
            bytes,
            ACCEPTED,
            &[("clock_floor", json!(0))],
        )
    }

    pub(crate) fn root(self, bytes: Vec<u8>, expect: &str) -> Self {
        self.roots(vec![bytes], expect)
    }

    /// A chain of roots, offered at once.
    pub(crate) fn roots(mut self, chain: Vec<Vec<u8>>, expect: &str) -> Self {
        let mut files = Vec::new();
        for (link, bytes) in chain.into_iter().enumerate() {
            let file = format!("{:02}-{link}-root.cbor", self.steps.len() + 1);
            files.push(file.clone());
            self.files.insert(file, bytes);
        }
        self.steps
            .push(json!({ "call": "advance_root", "files": files, "wall_ms": NOW, "expect": expect }));
        self
    }

    #[expect(clippy::unnecessary_wraps, reason = "chains with the calls that can fail")]
    pub(crate) fn head(self, bytes: Vec<u8>, expect: &str) -> Made<Self> {
        Ok(self.step("accept_head", "head.cbor", bytes, expect, &[]))
    }

    pub(crate) fn desired_state(self, bytes: Vec<u8>, expect: &str) -> Made<Self> {
        let more = [
            ("device", json!(documents::device()?)),
            ("thumbprint", json!(key("device").id())),
        ];
        Ok(self.step("accept_desired_state", "desired-state.cbor", bytes, expect, &more))
    }

    /// A manifest offered for `target` to a device as [`documents::facts`] has it.
    pub(crate) fn manifest(self, bytes: Vec<u8>, target: &Target, expect: &str) -> Self {
        let more = [("target", json!(target)), ("facts", json!(documents::facts()))];
        self.step("accept_manifest", "manifest.cbor", bytes, expect, &more)
    }

    /// The good package: accepted unless something before it went wrong.
    pub(crate) fn good_manifest(self, expect: &str) -> Made<Self> {
        let manifest = documents::manifest()?;
        let envelope = sign(&manifest, &key("release"))?;
        let target = documents::target(&manifest, &envelope)?;
        Ok(self.manifest(envelope, &target, expect))
    }

    /// `what`: which decoder reads the bytes.
    pub(crate) fn decode(self, what: &str, bytes: Vec<u8>, expect: &str) -> Self {
        self.step("decode", "bytes.cbor", bytes, expect, &[("what", json!(what))])
    }

    pub(crate) fn chunk_list(self, bytes: Vec<u8>, blob: Value, expect: &str) -> Self {
        self.step("chunk_list", "chunk-list.cbor", bytes, expect, &[("blob", blob)])
    }

    pub(crate) fn chunk(self, index: u32, bytes: Vec<u8>, expect: &str) -> Self {
        self.step("chunk", "chunk.bin", bytes, expect, &[("index", json!(index))])
    }

    /// Content offered as a component of the manifest that was accepted last.
    pub(crate) fn component(self, kind: &str, bytes: Vec<u8>, expect: &str) -> Self {
        self.step("component", "component.bin", bytes, expect, &[("kind", json!(kind))])
    }
}

/// A signature with headers as an attacker likes them; `signer` signs for `role` and `schema`.
fn signature(headers: (Header, Header), role: &Role, schema: &str, payload: &[u8], signer: &str) -> Made<CoseSign1> {
    let aad = external_aad(role, schema)?;
    let key = SigningKey::from_bytes(&documents::seed(signer));
    Ok(CoseSign1Builder::new()
        .protected(headers.0)
        .unprotected(headers.1)
        .create_detached_signature(payload, &aad, |bytes| key.sign(bytes).to_bytes().to_vec())
        .build())
}

/// What an honest signer protects.
fn protected(algorithm: Algorithm, key: &KeyPair) -> HeaderBuilder {
    HeaderBuilder::new().algorithm(algorithm).key_id(key.id().0.0.to_vec())
}

/// The envelope around a payload and signatures.
fn envelope(payload: Vec<u8>, signatures: Vec<CoseSign1>) -> Made<Vec<u8>> {
    let signatures = signatures
        .into_iter()
        .map(AsCborValue::to_cbor_value)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| e.to_string())?;
    Ok(Cbor::Array(vec![Cbor::Bytes(payload), Cbor::Array(signatures)])
        .to_vec()
        .map_err(|e| e.to_string())?)
}

/// One document in an envelope with one signature whose headers are given.
fn with_headers<T: Document>(document: &T, signer: &str, headers: (Header, Header)) -> Made<Vec<u8>> {
    let payload = codec::to_vec(document)?;
    let signature = signature(headers, &document.header().role, T::SCHEMA, &payload, signer)?;
    envelope(payload, vec![signature])
}
