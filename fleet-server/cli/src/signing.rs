//! Signing requests: what leaves the server to be signed where the release key is, and what comes back. Files only; no
//! network, no server, no clock.
//!
//! Whoever signs sees the manifest as decoded from the very bytes that are signed, not what a server says about them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flotilla_api_types::models::ManifestDocument;
use flotilla_api_types::time::rfc3339;
use flotilla_protocol::codec::{self, MAX_DOCUMENT_BYTES};
use flotilla_protocol::ids::{Digest, ModelVersionId};
use flotilla_protocol::manifest::Manifest;
use flotilla_protocol::trust::{Document, Envelope, KeyPair, Role, Root, TrustError, Verified};
use serde::{Deserialize, Serialize};

use crate::error::CliError;
use crate::output::{bytes, fields, table};

const FORMAT: &str = "flotilla.signing-request.v1";

/// A JSON file. `envelope` holds the signatures so far; signing adds one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SigningRequest {
    format: String,
    pub(crate) model_version: ModelVersionId,
    manifest: Digest,
    role: String,
    schema: String,
    /// The bytes to sign, base64.
    payload: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) envelope: Option<String>,
    /// The fleet's root as the server has it, base64: only to notice a wrong key before it has signed.
    root: String,
}

/// A request whose parts belong together.
#[derive(Debug)]
pub(crate) struct Reviewed {
    manifest: Manifest,
    digest: Digest,
    role: Role,
    envelope: Envelope,
    root: Verified<Root>,
}

impl SigningRequest {
    pub(crate) fn new(model_version: ModelVersionId, document: ManifestDocument) -> Self {
        Self {
            format: FORMAT.to_owned(),
            model_version,
            manifest: document.manifest,
            role: document.role,
            schema: document.schema,
            payload: document.payload,
            envelope: document.envelope,
            root: document.root,
        }
    }

    /// Takes the request apart; refuses one that does not say of itself what its payload says.
    pub(crate) fn review(&self) -> Result<Reviewed, CliError> {
        let refuse = |why: String| Err(CliError::Failed(format!("the signing request is not usable: {why}")));
        if self.format != FORMAT {
            return refuse(format!("format '{}' where '{FORMAT}' is needed", self.format));
        }
        if self.schema != Manifest::SCHEMA {
            return refuse(format!(
                "schema '{}' where '{}' is needed",
                self.schema,
                Manifest::SCHEMA
            ));
        }
        let payload = BASE64
            .decode(&self.payload)
            .map_err(|why| CliError::Failed(format!("the payload is not base64: {why}")))?;
        let digest = Digest::of(&payload);
        if digest != self.manifest {
            return refuse(format!(
                "the payload's digest is {digest}, the request says {}",
                self.manifest
            ));
        }
        let manifest: Manifest = codec::from_slice(&payload, MAX_DOCUMENT_BYTES).map_err(TrustError::Document)?;
        manifest.check()?;
        let role = manifest.header.role.clone();
        if role != Role::Release(manifest.name.clone()) || role.to_string() != self.role {
            let (line, said) = (&manifest.name, &self.role);
            return refuse(format!(
                "line '{line}', role '{role}' in the manifest, role '{said}' in the request"
            ));
        }
        let envelope = match &self.envelope {
            Some(text) => {
                let bytes = BASE64
                    .decode(text)
                    .map_err(|why| CliError::Failed(format!("the envelope is not base64: {why}")))?;
                let envelope = Envelope::decode(&bytes)?;
                if envelope.payload() != payload {
                    return refuse("the signatures so far are over another payload".to_owned());
                }
                envelope
            }
            None => Envelope::unsigned(payload),
        };
        let root = decode_root(&self.root)?;
        let (of_root, fleet) = (root.header.fleet, manifest.header.fleet);
        if of_root != fleet {
            return refuse(format!("the root is of fleet {of_root}, the manifest of fleet {fleet}"));
        }
        Ok(Reviewed {
            manifest,
            digest,
            role,
            envelope,
            root,
        })
    }

    /// The request with one more signature; refused for a key whose signature nobody in the fleet would accept.
    pub(crate) fn signed(&self, key: &KeyPair) -> Result<Self, CliError> {
        let mut reviewed = self.review()?;
        let authority = reviewed.root.authority(&reviewed.role)?;
        if !authority.keys.contains(&key.public()) {
            return Err(CliError::Failed(format!(
                "key {} may not sign as {}: root version {} wants {}",
                key.id().0.short(),
                reviewed.role,
                reviewed.root.header.version,
                reviewed.may_sign()
            )));
        }
        reviewed.envelope.add_signature(key, &reviewed.role, Manifest::SCHEMA)?;
        Ok(Self {
            envelope: Some(BASE64.encode(reviewed.envelope.encode()?)),
            ..self.clone()
        })
    }
}

impl Reviewed {
    /// Whose signatures count, by the root that came with the request.
    fn may_sign(&self) -> String {
        match self.root.authority(&self.role) {
            Ok(authority) => {
                let keys: Vec<String> = authority.keys.iter().map(|key| key.id().0.short()).collect();
                format!("{} of {}", authority.threshold, keys.join(", "))
            }
            Err(why) => why.to_string(),
        }
    }

    /// What a person reads before signing.
    pub(crate) fn describe(&self) -> String {
        let manifest = &self.manifest;
        let or = |words: &[String], nothing: &str| {
            if words.is_empty() {
                nothing.to_owned()
            } else {
                words.join(", ")
            }
        };
        let head = fields(&[
            ("model", format!("{} {}", manifest.name, manifest.semver)),
            ("release counter", manifest.release_counter.to_string()),
            ("digest", self.digest.to_string()),
            ("fleet", manifest.header.fleet.to_string()),
            ("role", self.role.to_string()),
            ("install until", rfc3339(manifest.header.expires)),
            ("hardware classes", or(&manifest.hardware_classes, "any")),
            ("architectures", or(&manifest.arch, "any")),
            ("classes", or(&manifest.labels, "none")),
            ("may sign", self.may_sign()),
            ("signed so far by", or(&self.envelope.claimed_signers(), "nobody")),
        ]);
        let components = table(
            &["component", "bytes", "digest"],
            manifest.components.iter().map(|component| {
                let blob = &component.blob;
                vec![
                    component.kind.file_name().to_owned(),
                    bytes(blob.length),
                    blob.sha256.to_string(),
                ]
            }),
        );
        format!("{head}\n\n{components}")
    }
}

/// Reads a root (an envelope in base64) and checks that its own keys signed it.
pub(crate) fn decode_root(envelope: &str) -> Result<Verified<Root>, CliError> {
    let bytes = BASE64
        .decode(envelope.trim())
        .map_err(|why| CliError::Failed(format!("the root is not base64: {why}")))?;
    Ok(Root::verify_self(&bytes)?)
}

/// An Ed25519 key from the operating system's randomness.
pub(crate) fn generate_key() -> Result<KeyPair, CliError> {
    let mut seed = [0u8; 32];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut seed)
        .map_err(|_no_randomness| CliError::Failed("the operating system gives no randomness".to_owned()))?;
    Ok(KeyPair::from_seed(&seed))
}

#[cfg(test)]
pub(crate) mod tests {
    use flotilla_protocol::chunks::BlobRef;
    use flotilla_protocol::infer::DataType;
    use flotilla_protocol::manifest::{Component, ComponentKind, Provenance, SelfTest, TensorSpec};
    use flotilla_protocol::trust::{Authority, Header, PublicKey, RoleKeys, sign, verify};

    use super::*;

    fn manifest() -> Manifest {
        let line: flotilla_protocol::ids::ModelLine = "motions".parse().unwrap();
        let tensor = |name: &str| TensorSpec {
            name: name.into(),
            datatype: DataType::Fp32,
            shape: vec![-1, 4],
        };
        Manifest {
            header: Header {
                schema: Manifest::SCHEMA.into(),
                role: Role::Release(line.clone()),
                fleet: "0192f0c1-2345-7abc-8def-0123456789ab".parse().unwrap(),
                version: 1,
                issued: 1,
                expires: 2_000,
            },
            name: line,
            semver: "1.0.0".into(),
            release_counter: 1,
            hardware_classes: vec![],
            arch: vec![],
            min_agent: "0.1.0".into(),
            min_ram_bytes: 0,
            min_disk_bytes: 0,
            runtime: "onnx".into(),
            opset: 17,
            components: vec![Component {
                kind: ComponentKind::Model,
                media_type: ComponentKind::Model.media_type().into(),
                blob: BlobRef {
                    sha256: Digest::of(b"model"),
                    length: 2048,
                },
            }],
            inputs: vec![tensor("input")],
            outputs: vec![tensor("scores")],
            labels: vec!["standing".into(), "walking".into()],
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
                code_version: "0.1.0".into(),
                sbom: None,
            },
        }
    }

    /// The keys that the root of [`request`] names for releases.
    pub(crate) fn release_keys() -> [KeyPair; 2] {
        [1, 2].map(|seed| KeyPair::from_seed(&[seed; 32]))
    }

    fn root() -> Root {
        let root = KeyPair::from_seed(&[3; 32]);
        let release = release_keys().map(|key| key.public());
        let role = |keys: &[PublicKey], threshold| RoleKeys {
            keys: keys.iter().map(PublicKey::id).collect(),
            threshold,
        };
        Root {
            header: Header {
                schema: Root::SCHEMA.into(),
                role: Role::Root,
                ..manifest().header
            },
            keys: [&[root.public()][..], &release].concat(),
            roles: [
                ("root".to_owned(), role(&[root.public()], 1)),
                ("director".to_owned(), role(&[root.public()], 1)),
                ("release/*".to_owned(), role(&release, 2)),
            ]
            .into(),
            tls_anchors: vec![vec![1].into()],
        }
    }

    fn signed_root(root: &Root) -> String {
        BASE64.encode(sign(root, &KeyPair::from_seed(&[3; 32])).unwrap())
    }

    pub(crate) fn request() -> SigningRequest {
        let payload = codec::to_vec(&manifest()).unwrap();
        SigningRequest {
            format: FORMAT.into(),
            model_version: "0192f0c1-2345-7abc-8def-0123456789ac".parse().unwrap(),
            manifest: Digest::of(&payload),
            role: "release/motions".into(),
            schema: Manifest::SCHEMA.into(),
            payload: BASE64.encode(payload),
            envelope: None,
            root: signed_root(&root()),
        }
    }

    #[test]
    fn a_key_that_the_root_does_not_name_signs_nothing() {
        let stranger = generate_key().unwrap();
        let refused = request().signed(&stranger).unwrap_err().to_string();
        let id = stranger.id().0.short();
        assert!(
            refused.contains(&format!(
                "key {id} may not sign as release/motions: root version 1 wants 2 of "
            )),
            "{refused}"
        );
        let mut bare = root();
        bare.roles.remove("release/*");
        let unknown = SigningRequest {
            root: signed_root(&bare),
            ..request()
        };
        assert!(unknown.signed(&release_keys()[0]).is_err());
    }

    #[test]
    fn a_signed_request_verifies_and_gathers_signatures() {
        let [first, second] = release_keys();
        let signed = request().signed(&first).unwrap().signed(&second).unwrap();
        let envelope = BASE64.decode(signed.envelope.unwrap()).unwrap();
        let authority = Authority {
            role: Role::Release("motions".parse().unwrap()),
            keys: vec![first.public(), second.public()],
            threshold: 2,
        };
        let verified = verify::<Manifest>(&envelope, &authority, manifest().header.fleet).unwrap();
        assert_eq!(*verified, manifest());
    }

    #[test]
    fn what_does_not_belong_together_is_not_signed() {
        let [key, _] = release_keys();
        let changes: [fn(&mut SigningRequest); 7] = [
            |r| r.format = "flotilla.signing-request.v2".into(),
            |r| r.role = "release/other".into(),
            |r| r.schema = "flotilla.root.v1".into(),
            |r| r.manifest = Digest::of(b"something else"),
            |r| r.payload = BASE64.encode(b"no manifest"),
            |r| r.root = BASE64.encode(b"no root"),
            |r| {
                let mut foreign = root();
                foreign.header.fleet = "0192f0c1-2345-7abc-8def-0123456789ff".parse().unwrap();
                r.root = signed_root(&foreign);
            },
        ];
        for change in changes {
            let mut request = request();
            change(&mut request);
            assert!(request.signed(&key).is_err(), "{request:?}");
        }
    }

    #[test]
    fn a_manifest_that_would_rewrite_the_screen_is_not_shown() {
        let mut evil = manifest();
        evil.labels = vec!["standing\u{1b}[7A\u{1b}[2Krelease counter   9".into()];
        let payload = codec::to_vec(&evil).unwrap();
        let request = SigningRequest {
            manifest: Digest::of(&payload),
            payload: BASE64.encode(payload),
            ..request()
        };
        let refused = request.review().unwrap_err().to_string();
        assert!(refused.contains("U+001B"), "{refused}");
        assert!(
            !refused.chars().any(flotilla_protocol::text::is_deceptive),
            "{refused:?}"
        );
    }

    #[test]
    fn who_signs_sees_what_is_signed() {
        insta::assert_snapshot!(request().review().unwrap().describe(), @r"
        model             motions 1.0.0
        release counter   1
        digest            sha256:a8e528975d19e0cb4858545f8f4809772e4230475b24a31901328dd7bc47fb2d
        fleet             0192f0c1-2345-7abc-8def-0123456789ab
        role              release/motions
        install until     1970-01-01T00:00:02.000Z
        hardware classes  any
        architectures     any
        classes           standing, walking
        may sign          2 of fd110d301d2f, 47dea58ea00f
        signed so far by  nobody

        COMPONENT   BYTES     DIGEST
        model.onnx  2.00 KiB  sha256:9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4
        ");
    }
}
