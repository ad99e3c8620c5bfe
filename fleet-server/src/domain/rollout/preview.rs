//! A rollout before it exists: whom it would reach, who could not take the package and why, who would be first. Pure: it is
//! shown one device after another, and holds counts and a few names however many it is shown.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_api_types::rollouts::{Obstacle, ObstacleGroup, PhasePlan, PhaseSize};
use flotilla_protocol::ids::{DeviceId, Digest};
use flotilla_protocol::manifest::{Manifest, Misfit};
use flotilla_protocol::trust::DeviceFacts;

use super::plan::{Order, reaches};
use super::{TargetExpression, TargetFacts};

/// Devices named per obstacle.
const EXAMPLES: usize = 5;
/// Devices named as the first.
const FIRST: usize = 10;

/// A device as a preview looks at it.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    pub id: &'a DeviceId,
    pub tags: &'a BTreeMap<String, String>,
    pub facts: &'a DeviceFacts,
    /// The package that answers in the rollout's slot.
    pub installed: Option<&'a Digest>,
    /// A deployment to the rollout's slot has not ended.
    pub is_busy: bool,
}

/// What would be rolled out to whom.
#[derive(Debug)]
pub struct Plan<'a> {
    pub target: &'a TargetExpression,
    pub manifest: &'a Manifest,
    /// The manifest's own digest.
    pub digest: Digest,
    pub order: &'a Order,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Preview {
    pub fleet: u64,
    pub selected: u64,
    obstacles: BTreeMap<Obstacle, (u64, Vec<DeviceId>)>,
    first: BTreeSet<(i64, DeviceId)>,
}

impl Preview {
    /// Takes one active device into account. Devices come in order of id.
    pub fn look_at(&mut self, plan: &Plan<'_>, candidate: &Candidate<'_>) {
        self.fleet += 1;
        if !plan
            .target
            .selects(&TargetFacts::of(candidate.id, candidate.tags, candidate.facts))
        {
            return;
        }
        self.selected += 1;
        self.first.insert((plan.order.rank(candidate.id), candidate.id.clone()));
        if self.first.len() > FIRST {
            self.first.pop_last();
        }
        if let Some(obstacle) = obstacle(plan, candidate) {
            let (count, devices) = self.obstacles.entry(obstacle).or_default();
            *count += 1;
            if devices.len() < EXAMPLES {
                devices.push(candidate.id.clone());
            }
        }
    }

    /// Devices selected that have no obstacle.
    pub fn ready(&self) -> u64 {
        let held_up: u64 = self.obstacles.values().map(|(count, _)| count).sum();
        self.selected - held_up
    }

    /// Devices that would fetch the package: those that fit and have not got it.
    pub fn fetching(&self) -> u64 {
        let busy = self.obstacles.get(&Obstacle::Busy).map_or(0, |(count, _)| *count);
        self.ready() + busy
    }

    pub fn obstacles(&self, manifest: &Manifest) -> Vec<ObstacleGroup> {
        let group = |(obstacle, (count, devices)): (&Obstacle, &(u64, Vec<DeviceId>))| ObstacleGroup {
            obstacle: *obstacle,
            misfit: obstacle.is_misfit(),
            count: *count,
            needs: needs(manifest, *obstacle),
            devices: devices.clone(),
        };
        self.obstacles.iter().map(group).collect()
    }

    pub fn phases(&self, sizes: &[PhaseSize]) -> Vec<PhasePlan> {
        let mut before = 0;
        (0..)
            .zip(sizes.iter().zip(reaches(sizes, self.selected)))
            .map(|(phase, (size, reach))| {
                let devices = reach - before;
                before = reach;
                PhasePlan {
                    phase,
                    size: *size,
                    reach,
                    devices,
                }
            })
            .collect()
    }

    /// Whom it would begin with.
    pub fn first(&self) -> Vec<DeviceId> {
        self.first.iter().map(|(_, device)| device.clone()).collect()
    }
}

fn obstacle(plan: &Plan<'_>, candidate: &Candidate<'_>) -> Option<Obstacle> {
    if let Some(misfit) = plan.manifest.misfit(candidate.facts) {
        return Some(match misfit {
            Misfit::HardwareClass => Obstacle::HardwareClass,
            Misfit::Arch => Obstacle::Arch,
            Misfit::Agent => Obstacle::Agent,
            Misfit::Ram => Obstacle::Memory,
            Misfit::Disk => Obstacle::Disk,
        });
    }
    if candidate.installed == Some(&plan.digest) {
        return Some(Obstacle::AlreadyInstalled);
    }
    candidate.is_busy.then_some(Obstacle::Busy)
}

fn needs(manifest: &Manifest, obstacle: Obstacle) -> String {
    match obstacle {
        Obstacle::HardwareClass => format!("hardware class {}", manifest.hardware_classes.join(" or ")),
        Obstacle::Arch => format!("architecture {}", manifest.arch.join(" or ")),
        Obstacle::Agent => format!("agent {} or newer", manifest.min_agent),
        Obstacle::Memory => format!("{} bytes of memory", manifest.min_ram_bytes),
        Obstacle::Disk => format!("{} bytes of free disk", manifest.min_disk_bytes),
        Obstacle::AlreadyInstalled | Obstacle::Busy => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::manifest;

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn every_obstacle_is_counted_once_and_named() {
        let good = DeviceFacts {
            hardware_class: "pi-5".into(),
            arch: "aarch64".into(),
            agent_version: "0.1.0".into(),
            ram_bytes: 100,
            disk_free_bytes: 10,
        };
        let with = |change: fn(&mut DeviceFacts)| {
            let mut facts = good.clone();
            change(&mut facts);
            facts
        };
        let digest = Digest::of(b"package");
        let other = Digest::of(b"another");
        let oslo = BTreeMap::from([("site".to_owned(), "oslo".to_owned())]);
        let elsewhere = BTreeMap::new();
        // Facts, tags, package in the slot, busy, what is expected.
        let cases = [
            (good.clone(), &oslo, None, false, None),
            (good.clone(), &oslo, Some(&other), false, None),
            (good.clone(), &elsewhere, None, false, None),
            (
                good.clone(),
                &oslo,
                Some(&digest),
                true,
                Some(Obstacle::AlreadyInstalled),
            ),
            (good.clone(), &oslo, Some(&other), true, Some(Obstacle::Busy)),
            (
                with(|f| f.hardware_class = "nuc".into()),
                &oslo,
                Some(&digest),
                true,
                Some(Obstacle::HardwareClass),
            ),
            (
                with(|f| f.arch = "x86_64".into()),
                &oslo,
                None,
                false,
                Some(Obstacle::Arch),
            ),
            (
                with(|f| f.agent_version = "0.0.9".into()),
                &oslo,
                None,
                false,
                Some(Obstacle::Agent),
            ),
            (with(|f| f.ram_bytes = 99), &oslo, None, false, Some(Obstacle::Memory)),
            (
                with(|f| f.disk_free_bytes = 9),
                &oslo,
                None,
                false,
                Some(Obstacle::Disk),
            ),
        ];
        let (manifest, order) = (manifest(), Order::seeded(1));
        let target = TargetExpression::compile("device.tags.site == 'oslo'").unwrap();
        let plan = Plan {
            target: &target,
            manifest: &manifest,
            digest,
            order: &order,
        };
        let mut preview = Preview::default();
        let mut expected: BTreeMap<Obstacle, Vec<DeviceId>> = BTreeMap::new();
        for (n, (facts, tags, installed, is_busy, obstacle)) in cases.iter().enumerate() {
            let id = DeviceId::new(format!("d-{n}")).unwrap();
            preview.look_at(
                &plan,
                &Candidate {
                    id: &id,
                    tags,
                    facts,
                    installed: *installed,
                    is_busy: *is_busy,
                },
            );
            if let Some(obstacle) = obstacle {
                expected.entry(*obstacle).or_default().push(id);
            }
        }
        let groups = preview.obstacles(&manifest);
        let named: BTreeMap<_, _> = groups.iter().map(|g| (g.obstacle, g.devices.clone())).collect();
        assert_eq!(named, expected);
        assert!(groups.iter().all(|group| group.count == 1));
        assert_eq!(groups[0].needs, "hardware class pi-5 or jetson");
        assert_eq!((preview.fleet, preview.selected, preview.ready()), (10, 9, 2));
        assert_eq!(preview.fetching(), 3, "whoever is busy fetches it next");
        assert_eq!(preview.first().len(), 9);
    }

    #[test]
    fn many_devices_take_no_more_memory_than_few() {
        let (manifest, order) = (manifest(), Order::seeded(3));
        let target = TargetExpression::compile("true").unwrap();
        let plan = Plan {
            target: &target,
            manifest: &manifest,
            digest: Digest::of(b"package"),
            order: &order,
        };
        let facts = DeviceFacts {
            hardware_class: "nuc".into(),
            arch: "aarch64".into(),
            agent_version: "0.1.0".into(),
            ram_bytes: 100,
            disk_free_bytes: 10,
        };
        let ids: Vec<DeviceId> = (0..500).map(|n| DeviceId::new(format!("d-{n:03}")).unwrap()).collect();
        let mut preview = Preview::default();
        for id in &ids {
            let candidate = Candidate {
                id,
                tags: &BTreeMap::new(),
                facts: &facts,
                installed: None,
                is_busy: false,
            };
            preview.look_at(&plan, &candidate);
        }
        let mut sorted = ids.clone();
        sorted.sort_by_key(|id| (order.rank(id), id.clone()));
        assert_eq!(preview.first(), sorted[..FIRST]);
        let groups = preview.obstacles(&manifest);
        assert_eq!((groups[0].count, &groups[0].devices[..]), (500, &ids[..EXAMPLES]));
        assert_eq!(preview.fetching(), 0, "who refuses it fetches nothing");
        let phases = preview.phases(&[PhaseSize::Count { devices: 1 }, PhaseSize::Percent { percent: 100.0 }]);
        let planned: Vec<_> = phases.iter().map(|phase| (phase.reach, phase.devices)).collect();
        assert_eq!(planned, [(1, 1), (500, 499)]);
    }
}
