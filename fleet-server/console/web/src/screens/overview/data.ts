// What the overview asks of the server, and what it makes of it.
import { useQuery } from '@tanstack/preact-query';
import type { Phase } from '../../charts/shapes';
import type { Schema } from '../../lib/client';
import { api, unwrap } from '../../lib/client';
import { percent, plural } from '../../lib/format';
import { href } from '../../lib/router';
import { useFollow } from './follow';

export type Overview = Schema<'Overview'>;
export type Attention = Schema<'Attention'>;
export type AttentionKind = Attention['kind'];
export type Rollout = Schema<'Rollout'>;
export type FirstSteps = Schema<'FirstSteps'>;

/** Devices change most often; what else is in the answer is followed. */
const KEY = ['device', 'overview'] as const;
const PARTS = ['rollout', 'deployment', 'drift', 'model', 'token', 'dataset', 'labels', 'run'] as const;

export function useOverview() {
  useFollow(KEY, PARTS);
  return useQuery({ queryKey: KEY, queryFn: ({ signal }) => unwrap(api.GET('/api/v1/overview', { signal })) });
}

const DONE = ['success', 'already-installed', 'no-longer-applicable', 'decommissioned'];
const FAILED = ['failure', 'rolled-back'];

function sum(counts: Record<string, number>, states: readonly string[]): number {
  return states.reduce((total, state) => total + (counts[state] ?? 0), 0);
}

type PhaseSize = Schema<'PhaseSize'>;

function phaseName(size: PhaseSize): string {
  return size.kind === 'count' ? plural(size.devices, 'device') : percent(size.percent / 100);
}

/** The rollout's phases as the server counts them, each alone. One whose reach is not known yet has no devices. */
export function phasesOf(rollout: Pick<Rollout, 'spec' | 'phases'>): Phase[] {
  let before = 0;
  return rollout.phases.map(({ phase, reach, counts }) => {
    const size = rollout.spec.phases?.[phase];
    const total = Math.max(0, (reach ?? before) - before);
    before = reach ?? before;
    const done = sum(counts, DONE);
    const failed = sum(counts, FAILED);
    return { label: size === undefined ? `Phase ${phase + 1}` : phaseName(size), total, done, failed, running: sum(counts, Object.keys(counts)) - done - failed };
  });
}

/** Where somebody goes to do something about it. */
export function placeOf(item: Attention): string {
  switch (item.kind) {
    case 'drift':
    case 'attack':
    case 'failed-deployment':
    case 'device-error':
      return href('/devices/:id', { id: item.id });
    case 'unsigned-version':
      return href('/model-versions/:id', { id: item.id });
    case 'expiring-token':
      return href('/provisioning', {}, { token: item.id });
    case 'halted-rollout':
      return href('/rollouts/:id', { id: item.id });
    case 'expiring-document':
      return '/audit';
  }
}

/** Whose name stands before what is wrong: a device's, where it is one. */
export function nameOf(item: Pick<Attention, 'kind' | 'id'>): string | undefined {
  return DEVICE_KINDS.has(item.kind) ? item.id : undefined;
}

const DEVICE_KINDS: ReadonlySet<AttentionKind> = new Set(['attack', 'failed-deployment', 'device-error', 'drift']);

/** Where all of a kind are listed. */
export function listOf(kind: AttentionKind): string {
  switch (kind) {
    case 'drift':
      return href('/drift', {}, { show: 'drifted' });
    case 'attack':
    case 'failed-deployment':
    case 'device-error':
      return href('/devices', {}, { filter: 'status:alert' });
    case 'unsigned-version':
      return href('/models', {}, { filter: 'signature:unsigned' });
    case 'expiring-token':
      return '/provisioning';
    case 'halted-rollout':
      return href('/rollouts', {}, { state: 'halted' });
    case 'expiring-document':
      return '/audit';
  }
}

/** The first `most` to show: of every kind its worst, as many of each as there is room for, in their order. */
export function fewOf(items: readonly Attention[], most: number): Attention[] {
  const chosen = new Set<Attention>();
  for (let round = 0; chosen.size < Math.min(most, items.length); round += 1) {
    const taken = new Map<AttentionKind, number>();
    for (const item of items) {
      const place = taken.get(item.kind) ?? 0;
      taken.set(item.kind, place + 1);
      if (place === round && chosen.size < most) chosen.add(item);
    }
  }
  return items.filter((item) => chosen.has(item));
}

export function isNewcomer(steps: FirstSteps): boolean {
  return !(steps.has_devices && steps.has_datasets && steps.has_models && steps.has_rollouts);
}
