//! Attacks by when: old documents, withheld ones, far-future ones, and clocks that lie.

use std::collections::BTreeMap;

use flotilla_protocol::codec;
use flotilla_protocol::head::Head;
use flotilla_protocol::ids::Digest;
use flotilla_protocol::trust::{Root, sign};

use super::{ACCEPTED, Attack};
use crate::documents::{
    DAY, HOUR, ISSUED, Made, NOW, desired_state, head, key, line, manifest, root, root_with, target,
};

const ROLLBACK: &str = "rollback";
const FREEZE: &str = "freeze";
const FAST_FORWARD: &str = "fast-forward";

pub(super) fn attacks() -> Made<Vec<Attack>> {
    Ok(vec![
        rollback_root()?,
        rollback_head()?,
        rollback_desired_state()?,
        rollback_manifest()?,
        freeze_root()?,
        freeze_head()?,
        head_withheld()?,
        freeze_desired_state()?,
        freeze_manifest()?,
        fast_forward()?,
        root_gap()?,
        revoked_manifest()?,
        clock_1970()?,
        clock_2038()?,
        clock_backwards()?,
    ])
}

fn head_of(version: u64) -> Made<Head> {
    let mut head = head()?;
    head.header.version = version;
    Ok(head)
}

fn signed_head(version: u64) -> Made<Vec<u8>> {
    Ok(sign(&head_of(version)?, &key("director"))?)
}

fn signed_desired_state(version: u64) -> Made<Vec<u8>> {
    let mut desired = desired_state(vec![])?;
    desired.header.version = version;
    Ok(sign(&desired, &key("director"))?)
}

fn next_root(version: u64) -> Root {
    let mut next = root();
    next.header.version = version;
    next
}

fn rollback_root() -> Made<Attack> {
    let root_key = key("root");
    Ok(
        Attack::on_device("rollback-root", "the root before the last, and the last one again")?
            .root(sign(&next_root(2), &root_key)?, ACCEPTED)
            .root(sign(&next_root(3), &root_key)?, ACCEPTED)
            .root(sign(&next_root(2), &root_key)?, "root-gap")
            .root(sign(&next_root(3), &root_key)?, "root-gap"),
    )
}

fn rollback_head() -> Made<Attack> {
    let mut other = head_of(9)?;
    other.release_floors = BTreeMap::new();
    Attack::on_device(
        "rollback-head",
        "an older head, and the same version with other contents",
    )?
    .head(signed_head(9)?, ACCEPTED)?
    .head(signed_head(9)?, ACCEPTED)?
    .head(signed_head(8)?, ROLLBACK)?
    .head(sign(&other, &key("director"))?, ROLLBACK)
}

fn rollback_desired_state() -> Made<Attack> {
    Attack::on_device(
        "rollback-desired-state",
        "an older desired state of this very device, still unexpired",
    )?
    .desired_state(signed_desired_state(12)?, ACCEPTED)?
    .desired_state(signed_desired_state(11)?, ROLLBACK)?
    .desired_state(signed_desired_state(13)?, ACCEPTED)?
    .desired_state(signed_desired_state(12)?, ROLLBACK)
}

fn rollback_manifest() -> Made<Attack> {
    let mut raised = head_of(8)?;
    raised.release_floors = BTreeMap::from([(line()?, 4)]);
    let mut lowered = head_of(9)?;
    lowered.release_floors = BTreeMap::from([(line()?, 1)]);
    Attack::on_device(
        "rollback-manifest",
        "a package below its line's floor; a floor that was raised does not sink again",
    )?
    .good_manifest(ACCEPTED)?
    .head(sign(&raised, &key("director"))?, ACCEPTED)?
    .good_manifest(ROLLBACK)?
    .head(sign(&lowered, &key("director"))?, ACCEPTED)?
    .good_manifest(ROLLBACK)
}

fn freeze_root() -> Made<Attack> {
    let mut short = next_root(2);
    short.header.expires = NOW;
    let mut long = next_root(3);
    long.header.expires = ISSUED + 3 * 365 * DAY;
    let later = ISSUED + 400 * DAY;
    let mut late_head = head_of(8)?;
    late_head.header.expires = later + DAY;
    let mut late_manifest = manifest()?;
    late_manifest.header.expires = later + DAY;
    let envelope = sign(&late_manifest, &key("release"))?;
    let target = target(&late_manifest, &envelope)?;
    Ok(Attack::on_device(
        "freeze-root",
        "an expired root at a chain's end, and a root that lapses because its successors are withheld",
    )?
    .root(sign(&short, &key("root"))?, FREEZE)
    .head(sign(&late_head, &key("director"))?, ACCEPTED)?
    .at(later)
    .manifest(envelope.clone(), &target, FREEZE)
    .at(later)
    // In the middle of a chain the expired one is followed: only the last one counts.
    .roots(vec![sign(&short, &key("root"))?, sign(&long, &key("root"))?], ACCEPTED)
    .at(later)
    .manifest(envelope, &target, ACCEPTED)
    .at(later))
}

fn freeze_head() -> Made<Attack> {
    Attack::on_device(
        "freeze-head",
        "an expired head, and a last head that lapses because newer ones are withheld",
    )?
    .head(signed_head(8)?, FREEZE)?
    .at(ISSUED + DAY)
    .good_manifest(ACCEPTED)?
    .good_manifest(FREEZE)
    .map(|attack| attack.at(ISSUED + DAY))
}

fn head_withheld() -> Made<Attack> {
    let mut recovered = next_root(2);
    let second = key("director-2");
    recovered.keys.push(second.public());
    if let Some(director) = recovered.roles.get_mut("director") {
        director.keys = [second.id()].into();
    }
    let mut first_of_second = head_of(1)?;
    first_of_second.root_version = 2;
    Attack::new(
        "head-withheld",
        "a device that has never been told what is revoked, and one whose director's key has just been replaced",
    )
    .factory_root(sign(&root(), &key("root"))?)
    .desired_state(signed_desired_state(12)?, ACCEPTED)?
    .good_manifest(FREEZE)?
    .head(signed_head(7)?, ACCEPTED)?
    .good_manifest(ACCEPTED)?
    .root(sign(&recovered, &key("root"))?, ACCEPTED)
    .good_manifest(FREEZE)?
    .head(sign(&first_of_second, &second)?, ACCEPTED)?
    .good_manifest(ACCEPTED)
}

fn freeze_desired_state() -> Made<Attack> {
    Ok(
        Attack::on_device("freeze-desired-state", "a desired state kept back until it has expired")?
            .desired_state(signed_desired_state(12)?, FREEZE)?
            .at(ISSUED + DAY)
            .desired_state(signed_desired_state(12)?, ACCEPTED)?
            .at(ISSUED + DAY - 1),
    )
}

fn freeze_manifest() -> Made<Attack> {
    let mut short = manifest()?;
    short.header.expires = NOW;
    let envelope = sign(&short, &key("release"))?;
    let target = target(&short, &envelope)?;
    Ok(Attack::on_device(
        "freeze-manifest",
        "a package whose manifest has expired is not installed any more",
    )?
    .manifest(envelope.clone(), &target, FREEZE)
    .manifest(envelope, &target, ACCEPTED)
    .at(NOW - 1))
}

/// A head and a desired state that were issued so many days later than everything else.
fn ahead(version: u64, days: i64) -> Made<(Vec<u8>, Vec<u8>)> {
    let issued = ISSUED + days * DAY;
    let mut head = head_of(version)?;
    (head.header.issued, head.header.expires) = (issued, issued + DAY);
    let mut desired = desired_state(vec![])?;
    desired.header.version = version;
    (desired.header.issued, desired.header.expires) = (issued, issued + DAY);
    Ok((sign(&head, &key("director"))?, sign(&desired, &key("director"))?))
}

fn fast_forward() -> Made<Attack> {
    let (month_head, month_desired) = ahead(20, 30)?;
    let (years_head, years_desired) = ahead(20, 5 * 365)?;
    let mut poisoned = head_of(u64::MAX)?;
    poisoned.header.issued = ISSUED + 300 * DAY;
    poisoned.header.expires = ISSUED + 301 * DAY;
    poisoned.release_floors = BTreeMap::from([(line()?, u64::MAX)]);
    poisoned.revoked_keys = vec![key("release").id()];
    poisoned.revoked_manifests = vec![Digest::of(&codec::to_vec(&manifest()?)?)];
    let mut poisoned_desired = desired_state(vec![])?;
    poisoned_desired.header.version = u64::MAX;
    poisoned_desired.header.expires = ISSUED + 301 * DAY;
    let recovered = root_with(
        2,
        &[
            ("root", &["root"], 1),
            ("director", &["director-2"], 1),
            ("release/*", &["release"], 1),
            ("release-system", &["system"], 1),
        ],
    );
    let mut fresh = head_of(1)?;
    fresh.root_version = 2;
    let mut desired = desired_state(vec![])?;
    desired.header.version = 1;
    Attack::on_device(
        "fast-forward",
        "a stolen director key, or a director whose clock is wrong, raises versions, floors, revocations and the clock. A \
         clock that has agreed with a head is believed against it, a clock that is dead as far as the root reaches; a root \
         with a new director key undoes the rest",
    )?
    .running()
    .head(month_head, FAST_FORWARD)?
    .running()
    .desired_state(month_desired, FAST_FORWARD)?
    .head(years_head.clone(), FAST_FORWARD)?
    .desired_state(years_desired.clone(), FAST_FORWARD)?
    .head(years_head, FAST_FORWARD)?
    .at(0)
    .desired_state(years_desired, FAST_FORWARD)?
    .at(0)
    .head(sign(&poisoned, &key("director"))?, ACCEPTED)?
    .at(0)
    .desired_state(sign(&poisoned_desired, &key("director"))?, ACCEPTED)?
    .head(signed_head(8)?, ROLLBACK)?
    .desired_state(signed_desired_state(12)?, ROLLBACK)?
    .root(sign(&recovered, &key("root"))?, ACCEPTED)
    .head(signed_head(9)?, "arbitrary-package")?
    .head(sign(&fresh, &key("director-2"))?, ACCEPTED)?
    .desired_state(sign(&desired, &key("director-2"))?, ACCEPTED)?
    .good_manifest(ACCEPTED)
}

fn root_gap() -> Made<Attack> {
    let root_key = key("root");
    let mut last = next_root(u64::MAX);
    last.tls_anchors.push(serde_bytes::ByteBuf::from(b"another".to_vec()));
    Ok(Attack::on_device(
        "root-gap",
        "a root that skips its predecessor; the last number there is has no successor",
    )?
    .root(sign(&next_root(3), &root_key)?, "root-gap")
    .root(sign(&next_root(2), &root_key)?, ACCEPTED)
    .factory_root(sign(&next_root(u64::MAX), &root_key)?)
    .root(sign(&last, &root_key)?, "root-gap"))
}

fn revoked_manifest() -> Made<Attack> {
    let mut revoking = head_of(8)?;
    revoking.revoked_manifests = vec![Digest::of(&codec::to_vec(&manifest()?)?)];
    Attack::on_device(
        "revoked-manifest",
        "a package that was good and is revoked; forgetting it does not bring it back",
    )?
    .good_manifest(ACCEPTED)?
    .head(sign(&revoking, &key("director"))?, ACCEPTED)?
    .good_manifest("revoked-manifest")?
    .head(signed_head(9)?, ACCEPTED)?
    .good_manifest("revoked-manifest")
}

fn clock_1970() -> Made<Attack> {
    let mut expired = head_of(8)?;
    expired.header.expires = ISSUED - 1;
    let mut later = head_of(9)?;
    later.header.issued = ISSUED + 30 * DAY;
    later.header.expires = ISSUED + 31 * DAY;
    Attack::on_device(
        "clock-1970",
        "a dead clock un-expires nothing: the largest signed time is its floor, and the device still follows the fleet",
    )?
    .head(sign(&expired, &key("director"))?, FREEZE)?
    .at(0)
    .head(sign(&later, &key("director"))?, ACCEPTED)?
    .at(0)
    .desired_state(signed_desired_state(12)?, FREEZE)
    .map(|attack| attack.at(0))
}

fn clock_2038() -> Made<Attack> {
    // One millisecond after a signed 32-bit count of seconds ends.
    let beyond = 2_147_483_648_000;
    let long = |mut root: Root| {
        root.header.expires = beyond + 365 * DAY;
        root
    };
    let mut late = head_of(8)?;
    late.header.issued = beyond;
    late.header.expires = beyond + DAY;
    Ok(Attack::new(
        "clock-2038",
        "a clock that jumps ahead expires everything and leaves no trace; times beyond 2038 work",
    )
    .factory_root(sign(&long(root()), &key("root"))?)
    .head(signed_head(7)?, FREEZE)?
    .at(beyond)
    .head(signed_head(7)?, ACCEPTED)?
    .head(sign(&late, &key("director"))?, ACCEPTED)?
    .at(beyond + HOUR))
}

fn clock_backwards() -> Made<Attack> {
    let mut newer = head_of(8)?;
    newer.header.issued = ISSUED + 2 * DAY;
    newer.header.expires = ISSUED + 3 * DAY;
    Ok(Attack::on_device(
        "clock-backwards",
        "the clock is set back so that an expired desired state looks fresh: signed times do not go back",
    )?
    .head(sign(&newer, &key("director"))?, ACCEPTED)?
    .at(ISSUED + 2 * DAY)
    .desired_state(signed_desired_state(12)?, FREEZE)?
    .at(NOW))
}
