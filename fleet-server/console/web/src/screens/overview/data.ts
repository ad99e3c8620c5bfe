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
  return states.reduce((total, state) => total + (counts[state] ?? counts[state.replaceAll('-', '_')] ?? 0), 0);
}

type PhaseSize = Schema<'PhaseSize'>;

/** How many of `matching` devices a phase reaches in all, rounded as the planner rounds; undefined: nobody can say yet. */
function reach(size: PhaseSize, matching: number | undefined): number | undefined {
  if (size.kind === 'count') return matching === undefined ? size.devices : Math.min(size.devices, matching);
  return matching === undefined ? undefined : Math.min(matching, Math.max(1, Math.ceil((matching * size.percent) / 100)));
}

function phaseName(size: PhaseSize): string {
  return size.kind === 'count' ? plural(size.devices, 'device') : percent(size.percent / 100);
}

/** A canary, then all: what the server does when nobody said otherwise. */
const DEFAULT_PHASES: readonly PhaseSize[] = [
  { kind: 'count', devices: 1 },
  { kind: 'percent', percent: 100 },
];

/**
 * The rollout's phases with their devices by outcome. The server counts what the whole rollout has reached and how it ended
 * there; a phase begins when the one before has ended, so that outcomes fill the phases in their order, and failures show
 * where they are dealt with: in the last phase that has begun. How many devices match in all follows from what a phase of a
 * percentage has reached; before there is one, phases to come have no number.
 */
export function phasesOf(rollout: Pick<Rollout, 'spec' | 'counts' | 'targeted' | 'phase'>): Phase[] {
  const sizes = rollout.spec.phases === undefined || rollout.spec.phases.length === 0 ? DEFAULT_PHASES : rollout.spec.phases;
  const reached = rollout.targeted;
  const current = Math.min(rollout.phase, sizes.length - 1);
  const now = sizes[current];
  const matching = now?.kind === 'percent' && reached > 0 ? Math.round((reached * 100) / now.percent) : undefined;
  const failed = sum(rollout.counts, FAILED);
  let done = sum(rollout.counts, DONE);
  let running = Object.values(rollout.counts).reduce((total, each) => total + each, 0) - done - failed;
  let before = 0;
  return sizes.map((size, index) => {
    const wanted = index === current ? reached : (reach(size, matching) ?? before);
    const end = Math.max(before, index < current ? Math.min(wanted, reached) : wanted);
    const total = end - before;
    before = end;
    const failedHere = index === current ? Math.min(failed, total) : 0;
    const doneHere = Math.min(done, total - failedHere);
    done -= doneHere;
    const runningHere = Math.min(running, total - doneHere - failedHere);
    running -= runningHere;
    return { label: phaseName(size), total, done: doneHere, running: runningHere, failed: failedHere };
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
      return '/models';
    case 'expiring-token':
      return '/provisioning';
    case 'halted-rollout':
      return '/rollouts';
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
