//! `Manifest`: what a model package is and what it needs, signed by its line's release role. The fields are SUIT's
//! (RFC 9124 information model); the command interpreter of SUIT is deliberately absent.

use serde::{Deserialize, Serialize};

use crate::chunks::BlobRef;
use crate::ids::{DatasetVersionId, Digest, ModelLine, RunId};
use crate::infer::DataType;
use crate::text;
use crate::trust::{DeviceFacts, Document, Header, TrustError};

/// What a component of a package is for. One component of each kind at the most, `Model` always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ComponentKind {
    /// The ONNX file.
    Model,
    /// A `FeatureSpec` (CBOR): from raw input to the model's input.
    Features,
    /// A `ReferenceProfile` (CBOR): the drift baseline.
    Reference,
    /// A `GoldenSet` (CBOR): inputs with the trainer's own outputs.
    Golden,
}

impl ComponentKind {
    pub const ALL: [Self; 4] = [Self::Model, Self::Features, Self::Reference, Self::Golden];

    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Model => "application/vnd.onnx",
            Self::Features => "application/vnd.flotilla.features.v1+cbor",
            Self::Reference => "application/vnd.flotilla.reference.v1+cbor",
            Self::Golden => "application/vnd.flotilla.golden.v1+cbor",
        }
    }

    /// The file's name inside a slot.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Model => "model.onnx",
            Self::Features => "features.cbor",
            Self::Reference => "reference.cbor",
            Self::Golden => "golden.cbor",
        }
    }
}

/// A part of the package, named by the digest and length of its decoded plaintext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    pub kind: ComponentKind,
    pub media_type: String,
    pub blob: BlobRef,
}

/// A tensor at the package's border. `shape`: −1 is dynamic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    pub name: String,
    pub datatype: DataType,
    pub shape: Vec<i64>,
}

/// How the package proves itself on the machine it is to run on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelfTest {
    /// Largest absolute difference from the trainer's outputs.
    pub tolerance_abs: f32,
    /// Budget of one inference at the 95th percentile, microseconds; 0 = none.
    pub p95_budget_us: u64,
}

/// Where the package comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    pub dataset_version: Option<DatasetVersionId>,
    pub dataset_digest: Option<Digest>,
    pub run: Option<RunId>,
    /// Version of the code that packaged it.
    pub code_version: String,
    pub sbom: Option<Digest>,
}

/// Another line's package that must, or must not, be on the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relation {
    pub line: ModelLine,
    /// Least release counter it speaks of.
    pub at_least: u64,
}

/// Why a device cannot take a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Misfit {
    HardwareClass,
    Arch,
    /// Its agent is too old.
    Agent,
    Ram,
    Disk,
}

/// What a device lacks for a package that is meant for it. No refusal of trust, and nobody's attack: it says nothing of who
/// offers the package, and deleting files or a newer agent mends it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    #[error("agent {found} is older than {needed}, which the package needs")]
    Agent { found: String, needed: String },
    #[error("{found} bytes of RAM where {needed} are needed")]
    Ram { found: u64, needed: u64 },
    #[error("{found} bytes of free disk where {needed} are needed")]
    Disk { found: u64, needed: u64 },
}

impl Shortage {
    pub const fn misfit(&self) -> Misfit {
        match self {
            Self::Agent { .. } => Misfit::Agent,
            Self::Ram { .. } => Misfit::Ram,
            Self::Disk { .. } => Misfit::Disk,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub header: Header,
    pub name: ModelLine,
    /// Semantic version, for people.
    pub semver: String,
    /// Only rises per line; what floors and anti-rollback speak of.
    pub release_counter: u64,
    /// Empty = any.
    pub hardware_classes: Vec<String>,
    /// Empty = any. Words of `std::env::consts::ARCH`.
    pub arch: Vec<String>,
    /// Least agent version.
    pub min_agent: String,
    pub min_ram_bytes: u64,
    /// Free disk that fetching takes at its height, on a device that holds nothing of the package yet.
    pub min_disk_bytes: u64,
    /// `onnx`.
    pub runtime: String,
    /// Opset of the default ONNX domain.
    pub opset: i64,
    pub components: Vec<Component>,
    /// The package's inputs: raw, before its features are computed.
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
    /// Class names in the order of the model's scores; empty for a regression.
    pub labels: Vec<String>,
    pub self_test: SelfTest,
    /// Packages that must be on the device too. Nobody enforces it yet: [`Manifest::check`] refuses all but none.
    pub depends: Vec<Relation>,
    /// Packages that must not be on the device. As for `depends`.
    pub conflicts: Vec<Relation>,
    pub provenance: Provenance,
}

impl Document for Manifest {
    const SCHEMA: &'static str = "flotilla.manifest.v1";
    const WHAT: &'static str = "manifest";

    fn header(&self) -> &Header {
        &self.header
    }
}

impl Manifest {
    pub fn component(&self, kind: ComponentKind) -> Option<&Component> {
        self.components.iter().find(|component| component.kind == kind)
    }

    /// Rules that a signature does not prove: a model is there, no kind twice, nothing that would be passed over in
    /// silence, and no text that reads as something else.
    pub fn check(&self) -> Result<(), TrustError> {
        let invalid = |why: String| Err(TrustError::Invalid(why));
        for kind in ComponentKind::ALL {
            let count = self.components.iter().filter(|c| c.kind == kind).count();
            if count > 1 || (count == 0 && kind == ComponentKind::Model) {
                return invalid(format!("{count} components of kind {kind:?}"));
            }
        }
        if self.runtime != "onnx" {
            return invalid(format!("runtime '{}' is not known", self.runtime));
        }
        if self.inputs.is_empty() || self.outputs.is_empty() {
            return invalid("no inputs or no outputs".to_owned());
        }
        if version_triple(&self.min_agent).is_none() {
            return invalid(format!(
                "least agent version '{}' is not major.minor.patch",
                self.min_agent
            ));
        }
        for (field, relations) in [("depends", &self.depends), ("conflicts", &self.conflicts)] {
            if let Some(relation) = relations.first() {
                return invalid(format!(
                    "'{field}' names line '{}', and relations between packages are not enforced yet: leave '{field}' empty",
                    relation.line
                ));
            }
        }
        self.check_texts()
    }

    /// Whoever signs reads these on a terminal.
    fn check_texts(&self) -> Result<(), TrustError> {
        let check =
            |what: &str, text: &str| text::check(what, text).map_err(|why| TrustError::Invalid(why.to_string()));
        check("semver", &self.semver)?;
        check("least agent version", &self.min_agent)?;
        check("code version", &self.provenance.code_version)?;
        let lists = [
            ("label", &self.labels),
            ("hardware class", &self.hardware_classes),
            ("architecture", &self.arch),
        ];
        for (what, texts) in lists {
            texts.iter().try_for_each(|text| check(what, text))?;
        }
        let mut tensors = self.inputs.iter().chain(&self.outputs);
        tensors.try_for_each(|tensor| check("tensor", &tensor.name))?;
        let mut components = self.components.iter();
        components.try_for_each(|component| check("media type", &component.media_type))
    }

    /// Is `found` (digest and length of a decoded component) what was signed? The last word before a package is used,
    /// on the bytes that will be used.
    pub fn check_component(&self, kind: ComponentKind, found: &BlobRef) -> Result<(), TrustError> {
        let Some(component) = self.component(kind) else {
            return Err(TrustError::Invalid(format!("the package has no component {kind:?}")));
        };
        if component.blob == *found {
            return Ok(());
        }
        Err(TrustError::Content {
            what: kind.file_name().to_owned(),
            expected: component.blob.sha256,
            expected_length: component.blob.length,
            found: found.sha256,
            found_length: found.length,
        })
    }

    /// The first thing that the package needs and a device like this has not; `None`: it can take the package.
    pub fn misfit(&self, facts: &DeviceFacts) -> Option<Misfit> {
        if !self.is_for_class(facts) {
            return Some(Misfit::HardwareClass);
        }
        if !self.is_for_arch(facts) {
            return Some(Misfit::Arch);
        }
        self.shortage(facts).map(|shortage| shortage.misfit())
    }

    /// Is the package meant for a device like this? One for other hardware is not to be offered to it; what this device
    /// has too little of is [`Self::shortage`]'s.
    pub fn fits(&self, facts: &DeviceFacts) -> Result<(), TrustError> {
        if !self.is_for_class(facts) {
            return Err(TrustError::Incompatible(format!(
                "hardware class '{}' is not among {:?}",
                facts.hardware_class, self.hardware_classes
            )));
        }
        if !self.is_for_arch(facts) {
            return Err(TrustError::Incompatible(format!(
                "architecture '{}' is not among {:?}",
                facts.arch, self.arch
            )));
        }
        Ok(())
    }

    /// The first thing that a device like this has too little of. The disk's figure holds for a device that holds nothing
    /// of the package yet.
    pub fn shortage(&self, facts: &DeviceFacts) -> Option<Shortage> {
        if version_triple(&facts.agent_version) < version_triple(&self.min_agent) {
            return Some(Shortage::Agent {
                found: facts.agent_version.clone(),
                needed: self.min_agent.clone(),
            });
        }
        if facts.ram_bytes < self.min_ram_bytes {
            return Some(Shortage::Ram {
                found: facts.ram_bytes,
                needed: self.min_ram_bytes,
            });
        }
        (facts.disk_free_bytes < self.min_disk_bytes).then_some(Shortage::Disk {
            found: facts.disk_free_bytes,
            needed: self.min_disk_bytes,
        })
    }

    fn is_for_class(&self, facts: &DeviceFacts) -> bool {
        self.hardware_classes.is_empty() || self.hardware_classes.contains(&facts.hardware_class)
    }

    fn is_for_arch(&self, facts: &DeviceFacts) -> bool {
        self.arch.is_empty() || self.arch.contains(&facts.arch)
    }
}

/// `major.minor.patch`, a pre-release or build suffix ignored; a missing part counts as 0. `None` if it cannot be read,
/// which sorts below every version.
fn version_triple(text: &str) -> Option<[u64; 3]> {
    let mut out = [0; 3];
    let core = text.split(['-', '+']).next()?;
    let mut slots = out.iter_mut();
    for part in core.split('.') {
        *slots.next()? = part.parse().ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::Role;

    fn manifest() -> Manifest {
        let line: ModelLine = "line".parse().unwrap();
        Manifest {
            header: Header {
                schema: Manifest::SCHEMA.to_owned(),
                role: Role::Release(line.clone()),
                fleet: "0191e5a0-0000-7000-8000-000000000001".parse().unwrap(),
                version: 1,
                issued: 0,
                expires: 1,
            },
            name: line,
            semver: "1.0.0".to_owned(),
            release_counter: 1,
            hardware_classes: vec!["gateway".to_owned()],
            arch: vec!["arm".to_owned()],
            min_agent: "0.2.0".to_owned(),
            min_ram_bytes: 100,
            min_disk_bytes: 1000,
            runtime: "onnx".to_owned(),
            opset: 17,
            components: vec![],
            inputs: vec![],
            outputs: vec![],
            labels: vec![],
            self_test: SelfTest {
                tolerance_abs: 0.0,
                p95_budget_us: 0,
            },
            depends: vec![],
            conflicts: vec![],
            provenance: Provenance {
                dataset_version: None,
                dataset_digest: None,
                run: None,
                code_version: "0.1.0".to_owned(),
                sbom: None,
            },
        }
    }

    #[test]
    fn what_a_device_lacks_is_named_and_no_refusal_of_trust() {
        let able = DeviceFacts {
            hardware_class: "gateway".to_owned(),
            arch: "arm".to_owned(),
            agent_version: "0.2.0".to_owned(),
            ram_bytes: 100,
            disk_free_bytes: 1000,
        };
        let manifest = manifest();
        assert_eq!((manifest.misfit(&able), manifest.shortage(&able)), (None, None));
        let lacking = |change: fn(&mut DeviceFacts)| {
            let mut facts = able.clone();
            change(&mut facts);
            manifest.fits(&facts).unwrap();
            let shortage = manifest.shortage(&facts).unwrap();
            assert_eq!(manifest.misfit(&facts), Some(shortage.misfit()));
            (shortage.misfit(), shortage.to_string())
        };
        let (misfit, why) = lacking(|facts| facts.agent_version = "0.1.9".to_owned());
        assert_eq!(misfit, Misfit::Agent);
        assert!(why.contains("0.1.9 is older than 0.2.0"), "{why}");
        let (misfit, why) = lacking(|facts| facts.ram_bytes = 99);
        assert_eq!(
            (misfit, why.as_str()),
            (Misfit::Ram, "99 bytes of RAM where 100 are needed")
        );
        let (misfit, why) = lacking(|facts| facts.disk_free_bytes = 999);
        assert_eq!(
            (misfit, why.as_str()),
            (Misfit::Disk, "999 bytes of free disk where 1000 are needed")
        );
        let foreign = |change: fn(&mut DeviceFacts)| {
            let mut facts = able.clone();
            change(&mut facts);
            let refused = manifest.fits(&facts).unwrap_err();
            assert_eq!(refused.attack(), "wrong-hardware");
            manifest.misfit(&facts)
        };
        let class = foreign(|facts| facts.hardware_class = "camera".to_owned());
        assert_eq!(class, Some(Misfit::HardwareClass));
        assert_eq!(foreign(|facts| facts.arch = "vax".to_owned()), Some(Misfit::Arch));
    }
}
