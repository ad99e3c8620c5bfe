// The sidebar: groups in the order of the loop. An entry shows when its screen exists.
import { findScreen } from '../lib/router';
import { screens } from '../screens/registry';
import type { IconName } from '../ui/icon';

export interface NavEntry {
  label: string;
  href: string;
  icon: IconName;
  /** Second key of `g …`. */
  key: string;
}

const GROUPS: readonly { label: string; entries: readonly NavEntry[] }[] = [
  {
    label: 'Fleet',
    entries: [
      { label: 'Overview', href: '/', icon: 'overview', key: 'o' },
      { label: 'Devices', href: '/devices', icon: 'devices', key: 'd' },
      { label: 'Provisioning', href: '/provisioning', icon: 'provisioning', key: 'p' },
    ],
  },
  {
    label: 'Data',
    entries: [
      { label: 'Labeling', href: '/labeling', icon: 'labeling', key: 'l' },
      { label: 'Datasets', href: '/datasets', icon: 'datasets', key: 't' },
    ],
  },
  {
    label: 'Models',
    entries: [
      { label: 'Runs', href: '/runs', icon: 'runs', key: 'r' },
      { label: 'Registry', href: '/models', icon: 'registry', key: 'm' },
    ],
  },
  { label: 'Delivery', entries: [{ label: 'Rollouts', href: '/rollouts', icon: 'rollouts', key: 'u' }] },
  { label: 'Insight', entries: [{ label: 'Drift', href: '/drift', icon: 'drift', key: 'f' }] },
  {
    label: 'Admin',
    entries: [
      { label: 'Audit', href: '/audit', icon: 'audit', key: 'a' },
      { label: 'Sessions', href: '/sessions', icon: 'sessions', key: 's' },
    ],
  },
];

export const navGroups = GROUPS.map((group) => ({
  ...group,
  entries: group.entries.filter((entry) => findScreen(screens, entry.href) !== undefined),
})).filter((group) => group.entries.length > 0);

export const navEntries: readonly NavEntry[] = navGroups.flatMap((group) => group.entries);

/** Where `/` goes while there is no overview. */
export const home = navEntries[0]?.href ?? '/';
