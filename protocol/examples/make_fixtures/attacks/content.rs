//! Attacks by what is meant for whom and what is delivered: other devices, other fleets, other hardware, other bytes.

use flotilla_protocol::chunks::{BlobRef, CHUNK_BYTES, ChunkList};
use flotilla_protocol::ids::DeviceId;
use flotilla_protocol::manifest::{ComponentKind, Manifest, Relation};
use flotilla_protocol::trust::{KeyPair, sign};
use serde_json::json;

use super::{ACCEPTED, Attack};
use crate::documents::{Made, component_bytes, desired_state, head, key, manifest, other_fleet, root, target};

pub(super) fn attacks() -> Made<Vec<Attack>> {
    Ok(vec![
        other_device()?,
        other_fleet_documents()?,
        wrong_hardware()?,
        mix_and_match()?,
        deceptive_text()?,
        unenforced_relations()?,
        two_targets_for_one_slot()?,
        forged_chunk()?,
        duplicated_chunk()?,
        reordered_chunk()?,
        endless_chunks()?,
        forged_chunk_list()?,
    ])
}

fn other_device() -> Made<Attack> {
    let director = key("director");
    let mut other = desired_state(vec![])?;
    other.device = DeviceId::new("press-08")?;
    let mut reused = desired_state(vec![])?;
    reused.thumbprint = key("device-2").id();
    Attack::on_device(
        "other-device",
        "the desired state of another device replayed, and one for an earlier device of the same name",
    )?
    .desired_state(sign(&other, &director)?, "other-device")?
    .desired_state(sign(&reused, &director)?, "other-device")?
    .desired_state(sign(&desired_state(vec![])?, &director)?, ACCEPTED)
}

fn other_fleet_documents() -> Made<Attack> {
    let other = "other-fleet";
    let mut foreign_root = root();
    foreign_root.header.version = 2;
    foreign_root.header.fleet = other_fleet();
    let mut foreign_head = head()?;
    foreign_head.header.version = 8;
    foreign_head.header.fleet = other_fleet();
    let mut foreign_desired = desired_state(vec![])?;
    foreign_desired.header.fleet = other_fleet();
    let mut foreign_manifest = manifest()?;
    foreign_manifest.header.fleet = other_fleet();
    let envelope = sign(&foreign_manifest, &key("release"))?;
    let target = target(&foreign_manifest, &envelope)?;
    Ok(Attack::on_device(
        "other-fleet",
        "documents of another fleet whose keys happen to be the same",
    )?
    .root(sign(&foreign_root, &key("root"))?, other)
    .head(sign(&foreign_head, &key("director"))?, other)?
    .desired_state(sign(&foreign_desired, &key("director"))?, other)?
    .manifest(envelope, &target, other))
}

fn wrong_hardware() -> Made<Attack> {
    const REFUSED: &str = "wrong-hardware";
    let release = key("release");
    let offer = |attack: Attack, expect: &str, change: &dyn Fn(&mut Manifest)| -> Made<Attack> {
        let mut changed = manifest()?;
        change(&mut changed);
        let envelope = sign(&changed, &release)?;
        let target = target(&changed, &envelope)?;
        Ok(attack.manifest(envelope, &target, expect))
    };
    let mut attack = Attack::on_device(
        "wrong-hardware",
        "packages for another class or architecture; one that needs a newer agent, more memory or more disk is no attack, and whether \
         it can be installed is asked elsewhere",
    )?;
    attack = offer(attack, REFUSED, &|m| m.hardware_classes = vec!["camera".to_owned()])?;
    attack = offer(attack, REFUSED, &|m| m.arch = vec!["arm".to_owned()])?;
    attack = offer(attack, ACCEPTED, &|m| "0.1.1".clone_into(&mut m.min_agent))?;
    attack = offer(attack, ACCEPTED, &|m| m.min_ram_bytes = 65 << 20)?;
    offer(attack, ACCEPTED, &|m| m.min_disk_bytes = 1 << 40)
}

fn mix_and_match() -> Made<Attack> {
    let release: KeyPair = key("release");
    let first = manifest()?;
    let mut second = manifest()?;
    second.header.version = 4;
    second.release_counter = 4;
    "1.3.0".clone_into(&mut second.semver);
    let first_envelope = sign(&first, &release)?;
    let second_envelope = sign(&second, &release)?;
    let for_first = target(&first, &first_envelope)?;
    let mut wrong_counter = target(&second, &second_envelope)?;
    wrong_counter.release_counter = 3;
    let mut other_model = component_bytes(ComponentKind::Model);
    other_model.reverse();
    let mut longer = component_bytes(ComponentKind::Model);
    longer.push(0);
    Ok(Attack::on_device(
        "mix-and-match",
        "the manifest of one release with the target or the components of another",
    )?
    .manifest(second_envelope.clone(), &for_first, "mix-and-match")
    .manifest(second_envelope, &wrong_counter, "mix-and-match")
    .manifest(first_envelope, &for_first, ACCEPTED)
    .component("model", other_model, "altered-content")
    .component("model", longer, "altered-content")
    .component("features", component_bytes(ComponentKind::Model), "altered-content")
    .component("golden", component_bytes(ComponentKind::Features), "malformed-document")
    .component("model", component_bytes(ComponentKind::Model), ACCEPTED))
}

type Change<'a> = &'a dyn Fn(&mut Manifest);

/// Packages that are signed, targeted, and malformed all the same.
fn malformed(attack: Attack, changes: &[Change<'_>]) -> Made<Attack> {
    changes.iter().try_fold(attack, |attack, change| {
        let mut changed = manifest()?;
        change(&mut changed);
        let envelope = sign(&changed, &key("release"))?;
        let target = target(&changed, &envelope)?;
        Ok(attack.manifest(envelope, &target, "malformed-document"))
    })
}

fn deceptive_text() -> Made<Attack> {
    let attack = Attack::on_device(
        "deceptive-text",
        "texts that a terminal shows as something else: escape sequences, carriage returns, a reversed reading direction",
    )?;
    malformed(
        attack,
        &[
            &|m| "1.2.0\u{1b}[2K\rmodel motions 9.9.9".clone_into(&mut m.semver),
            &|m| m.labels = vec!["standing\u{1b}[1A\u{1b}[2K".to_owned(), "running".to_owned()],
            &|m| m.hardware_classes = vec!["gateway".to_owned(), "\u{202e}yawetag".to_owned()],
            &|m| m.labels = vec!["\u{9b}31m".to_owned(), "running\nwalking".to_owned()],
        ],
    )
}

fn unenforced_relations() -> Made<Attack> {
    let line = |name: &str| name.parse::<flotilla_protocol::ids::ModelLine>();
    let (depends, conflicts) = (line("preprocessing")?, line("legacy")?);
    let relation = |line: &flotilla_protocol::ids::ModelLine| Relation {
        line: line.clone(),
        at_least: 2,
    };
    let attack = Attack::on_device(
        "unenforced-relations",
        "packages whose signed relations to others nobody enforces: refused rather than passed over",
    )?;
    malformed(
        attack,
        &[&|m| m.depends = vec![relation(&depends)], &|m| {
            m.conflicts = vec![relation(&conflicts)];
        }],
    )
}

fn two_targets_for_one_slot() -> Made<Attack> {
    let manifest = manifest()?;
    let envelope = sign(&manifest, &key("release"))?;
    let target = target(&manifest, &envelope)?;
    Attack::on_device("two-targets-for-one-slot", "a desired state that contradicts itself")?.desired_state(
        sign(&desired_state(vec![target.clone(), target])?, &key("director"))?,
        "malformed-document",
    )
}

/// The model's chunks, and an attack that starts from its signed list.
fn downloading(name: &'static str, about: &'static str) -> Made<(Attack, Vec<Vec<u8>>)> {
    let bytes = component_bytes(ComponentKind::Model);
    let list = ChunkList::of(&bytes)?;
    let chunks = bytes.chunks(CHUNK_BYTES as usize).map(<[u8]>::to_vec).collect();
    let blob = json!(BlobRef::of(&bytes));
    Ok((
        Attack::new(name, about).chunk_list(list.encode()?, blob, ACCEPTED),
        chunks,
    ))
}

fn chunk_of(chunks: &[Vec<u8>], index: usize) -> Vec<u8> {
    chunks.get(index).cloned().unwrap_or_default()
}

fn forged_chunk() -> Made<Attack> {
    let (attack, chunks) = downloading("forged-chunk", "one bit of one chunk is flipped")?;
    let mut forged = chunk_of(&chunks, 1);
    if let Some(byte) = forged.get_mut(40_000) {
        *byte ^= 0x10;
    }
    Ok(attack
        .chunk(0, chunk_of(&chunks, 0), ACCEPTED)
        .chunk(1, forged, "Digest")
        .chunk(1, chunk_of(&chunks, 1), ACCEPTED))
}

fn duplicated_chunk() -> Made<Attack> {
    let (attack, chunks) = downloading("duplicated-chunk", "a chunk is sent again in the place of another")?;
    Ok(attack
        .chunk(0, chunk_of(&chunks, 0), ACCEPTED)
        .chunk(1, chunk_of(&chunks, 0), "Digest")
        .chunk(2, chunk_of(&chunks, 0), "Length"))
}

fn reordered_chunk() -> Made<Attack> {
    let (attack, chunks) = downloading("reordered-chunk", "good chunks in each other's places")?;
    Ok(attack
        .chunk(0, chunk_of(&chunks, 1), "Digest")
        .chunk(1, chunk_of(&chunks, 0), "Digest")
        .chunk(2, chunk_of(&chunks, 2), ACCEPTED))
}

fn endless_chunks() -> Made<Attack> {
    let (attack, chunks) = downloading("endless-chunks", "a download that does not stop at its signed length")?;
    let mut longer = chunk_of(&chunks, 2);
    longer.push(0);
    Ok(attack
        .chunk(2, longer, "Length")
        .chunk(3, chunk_of(&chunks, 0), "NoSuchChunk")
        .chunk(u32::MAX, chunk_of(&chunks, 0), "NoSuchChunk"))
}

fn forged_chunk_list() -> Made<Attack> {
    let bytes = component_bytes(ComponentKind::Model);
    let mut forged = bytes.clone();
    forged.reverse();
    let blob = json!(BlobRef::of(&bytes));
    let mut short = ChunkList::of(&bytes)?.encode()?;
    // The last digest is cut off and the byte string's length (0x58 0x60 = 96) corrected to 64.
    short.truncate(short.len() - 32);
    let at = short.windows(2).rposition(|pair| pair == [0x58, 0x60]);
    if let Some(length) = at.and_then(|at| short.get_mut(at + 1)) {
        *length = 0x40;
    }
    Ok(Attack::new(
        "forged-chunk-list",
        "a list of another blob's chunks, and a list with too few digests",
    )
    .chunk_list(ChunkList::of(&forged)?.encode()?, blob.clone(), "OtherBlob")
    .chunk_list(short, blob, "Count"))
}
