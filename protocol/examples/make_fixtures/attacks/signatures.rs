//! Attacks by who signs: strangers, the wrong role, too few, the same one twice, the revoked.

use coset::Header;
use coset::iana::Algorithm;
use flotilla_protocol::codec;
use flotilla_protocol::head::Head;
use flotilla_protocol::manifest::Manifest;
use flotilla_protocol::trust::{Document as _, Envelope, KeyId, Role, Root, sign};

use super::{ACCEPTED, Attack, envelope, protected, signature, with_headers};
use crate::documents::{Made, desired_state, head, key, line, manifest, root, root_with, target};

const ARBITRARY: &str = "arbitrary-package";

pub(super) fn attacks() -> Made<Vec<Attack>> {
    Ok(vec![
        arbitrary_package()?,
        wrong_key()?,
        wrong_role()?,
        below_threshold()?,
        duplicate_key_id()?,
        revoked_key()?,
        stolen_release_key()?,
        root_rotation_unsigned()?,
    ])
}

fn arbitrary_package() -> Made<Attack> {
    let manifest = manifest()?;
    let envelope = sign(&manifest, &key("stranger"))?;
    let mut naked = Envelope::unsigned(codec::to_vec(&manifest)?);
    naked.add_signature(&key("stranger"), &Role::Device, Manifest::SCHEMA)?;
    let target = target(&manifest, &envelope)?;
    Attack::on_device(
        "arbitrary-package",
        "a package that the director targets but no release key signed, as a stolen server would send it",
    )?
    .manifest(envelope, &target, ARBITRARY)
    .manifest(naked.encode()?, &target, ARBITRARY)
    .good_manifest(ACCEPTED)
}

fn wrong_key() -> Made<Attack> {
    let head = Head {
        header: flotilla_protocol::trust::Header {
            version: 8,
            ..head()?.header
        },
        ..head()?
    };
    // The stranger names the director's key id and signs with its own key.
    let claimed = (protected(Algorithm::EdDSA, &key("director")).build(), Header::default());
    Attack::on_device(
        "wrong-key",
        "director documents signed by a key that the root does not name",
    )?
    .head(sign(&head, &key("stranger"))?, ARBITRARY)?
    .head(with_headers(&head, "stranger", claimed)?, ARBITRARY)?
    .desired_state(sign(&desired_state(vec![])?, &key("stranger"))?, ARBITRARY)?
    .head(sign(&head, &key("director"))?, ACCEPTED)
}

fn wrong_role() -> Made<Attack> {
    let manifest = manifest()?;
    let by_director = sign(&manifest, &key("director"))?;
    let by_system = sign(&manifest, &key("system"))?;
    let target = target(&manifest, &by_director)?;
    // Signed as the director's, saying of itself that it is the root's.
    let mut confused = head()?;
    confused.header.version = 8;
    confused.header.role = Role::Root;
    let payload = codec::to_vec(&confused)?;
    let headers = (protected(Algorithm::EdDSA, &key("director")).build(), Header::default());
    let signed = signature(headers, &Role::Director, Head::SCHEMA, &payload, "director")?;
    let confused = envelope(payload, vec![signed])?;
    // One document of the director's passed for another.
    let as_head = sign(&desired_state(vec![])?, &key("director"))?;
    // A release role for another line.
    let other = root_with(
        1,
        &[
            ("root", &["root"], 1),
            ("director", &["director"], 1),
            ("release/*", &["release"], 1),
            ("release/motions", &["release-2"], 1),
        ],
    );
    Attack::on_device(
        "wrong-role",
        "good keys of the fleet speaking for a role that is not theirs",
    )?
    .manifest(by_director, &target, ARBITRARY)
    .manifest(by_system, &target, ARBITRARY)
    .head(sign(&head()?, &key("release"))?, ARBITRARY)?
    .head(as_head, ARBITRARY)?
    .head(confused, "wrong-role")?
    .factory_root(sign(&other, &key("root"))?)
    .head(sign(&head()?, &key("director"))?, ACCEPTED)?
    .good_manifest(ARBITRARY)
}

/// Release needs 2 of 3.
fn threshold_root() -> Root {
    root_with(
        1,
        &[
            ("root", &["root", "root-2", "root-3"], 2),
            ("director", &["director"], 1),
            ("release/*", &["release", "release-2", "release-3"], 2),
        ],
    )
}

fn threshold_root_signed() -> Made<Vec<u8>> {
    signed_by(&threshold_root(), &["root", "root-3"])
}

fn signed_by<T: flotilla_protocol::trust::Document>(document: &T, signers: &[&str]) -> Made<Vec<u8>> {
    let mut envelope = Envelope::unsigned(codec::to_vec(document)?);
    for signer in signers {
        envelope.add_signature(&key(signer), &document.header().role, T::SCHEMA)?;
    }
    Ok(envelope.encode()?)
}

fn below_threshold() -> Made<Attack> {
    let manifest = manifest()?;
    let one = signed_by(&manifest, &["release"])?;
    let target = target(&manifest, &one)?;
    let rotated = |signers: &[&str]| -> Made<Vec<u8>> {
        let mut next = threshold_root();
        next.header.version = 2;
        signed_by(&next, signers)
    };
    Ok(Attack::new(
        "below-threshold",
        "fewer valid signatures than the role's threshold, others make up the number",
    )
    .factory_root(threshold_root_signed()?)
    .head(sign(&head()?, &key("director"))?, ACCEPTED)?
    .manifest(one, &target, ARBITRARY)
    .manifest(
        signed_by(&manifest, &["release", "stranger", "director"])?,
        &target,
        ARBITRARY,
    )
    .manifest(signed_by(&manifest, &["release-3", "release"])?, &target, ACCEPTED)
    .root(rotated(&["root-2"])?, ARBITRARY)
    .root(rotated(&["root-2", "root"])?, ACCEPTED))
}

fn duplicate_key_id() -> Made<Attack> {
    let manifest = manifest()?;
    let payload = codec::to_vec(&manifest)?;
    let role = Role::Release(line()?);
    let one = |algorithm: Algorithm| {
        let headers = (protected(algorithm, &key("release")).build(), Header::default());
        signature(headers, &role, Manifest::SCHEMA, &payload, "release")
    };
    let twice = envelope(payload.clone(), vec![one(Algorithm::EdDSA)?, one(Algorithm::EdDSA)?])?;
    // The same key under both names of its algorithm: two different, valid signatures.
    let both = envelope(payload.clone(), vec![one(Algorithm::EdDSA)?, one(Algorithm::Ed25519)?])?;
    let target = target(&manifest, &twice)?;
    // The key stands twice in the root, too.
    let mut doubled = threshold_root();
    doubled.keys.push(key("release").public());
    Ok(
        Attack::new("duplicate-key-id", "one key signs twice to reach a threshold of two")
            .factory_root(threshold_root_signed()?)
            .head(sign(&head()?, &key("director"))?, ACCEPTED)?
            .manifest(twice.clone(), &target, ARBITRARY)
            .manifest(both.clone(), &target, ARBITRARY)
            .factory_root(signed_by(&doubled, &["root", "root-2"])?)
            .head(sign(&head()?, &key("director"))?, ACCEPTED)?
            .manifest(twice, &target, ARBITRARY)
            .manifest(both, &target, ARBITRARY),
    )
}

fn revoked_key() -> Made<Attack> {
    let mut revoking = head()?;
    revoking.header.version = 8;
    revoking.revoked_keys = vec![key("release").id()];
    Attack::on_device(
        "revoked-key",
        "a package signed by a release key that the head has revoked",
    )?
    .good_manifest(ACCEPTED)?
    .head(sign(&revoking, &key("director"))?, ACCEPTED)?
    .good_manifest(ARBITRARY)
}

fn stolen_release_key() -> Made<Attack> {
    let next = root_with(
        2,
        &[
            ("root", &["root"], 1),
            ("director", &["director"], 1),
            ("release/*", &["release-2"], 1),
        ],
    );
    let mut newer = head()?;
    newer.header.version = 8;
    newer.root_version = 2;
    let newer = sign(&newer, &key("director"))?;
    Attack::on_device(
        "withheld-root",
        "the root that drops a stolen release key is withheld: the head that speaks of it gives that away",
    )?
    .head(newer.clone(), "root-gap")?
    .root(sign(&next, &key("root"))?, ACCEPTED)
    .head(newer, ACCEPTED)?
    .good_manifest(ARBITRARY)
}

fn root_rotation_unsigned() -> Made<Attack> {
    let mut takeover = root();
    takeover.header.version = 2;
    takeover.keys.push(key("stranger").public());
    let stranger: KeyId = key("stranger").id();
    for role in takeover.roles.values_mut() {
        role.keys = [stranger].into();
    }
    let own_only = signed_by(&takeover, &["stranger"])?;
    let old_only = signed_by(&takeover, &["root"])?;
    Ok(Attack::on_device(
        "root-takeover",
        "a next root that only its own keys signed, or only the old ones: both thresholds are needed",
    )?
    .root(own_only, ARBITRARY)
    .root(old_only, ARBITRARY))
}
