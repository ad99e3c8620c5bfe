// A rollout's plan as it is typed, what is wrong with it, and what it becomes; how the outcome of one is told.
import { duration, percent } from '../../lib/format';
import { cli } from '../../lib/shell';
import type { Tone } from '../../ui/status';
import { targetOf } from './cel';
import type { PhaseSize, Rollout, RolloutPreview, Spec } from './data';

export interface PhaseDraft {
  kind: 'devices' | 'percent';
  value: string;
}

/** Numbers as they are typed, so that nothing is lost while they are wrong. */
export interface Plan {
  slot: string;
  target: string;
  phases: PhaseDraft[];
  minSuccess: string;
  timeout: string;
  soak: string;
  spread: string;
  maxErrors: string;
  maxBytes: string;
  harvest: boolean;
  onDrift: boolean;
  below: string;
  maxSamples: string;
  /** What of the address the target was made from. */
  filter: string;
  /** The version that it was begun for, in words. */
  about: string;
}

export const NEW_PLAN: Plan = {
  slot: 'main',
  target: 'true',
  phases: [
    { kind: 'devices', value: '1' },
    { kind: 'percent', value: '100' },
  ],
  minSuccess: '100',
  timeout: '86400',
  soak: '60',
  spread: '0',
  maxErrors: '10',
  maxBytes: '0',
  harvest: true,
  onDrift: true,
  below: '0',
  maxSamples: '100',
  filter: '',
  about: '',
};

/** What the address says of a plan: a target, and whether devices shall keep inputs. */
export function beginning(address: { filter: string; target: string; harvest: boolean }): Partial<Plan> {
  const origin = address.target !== '' ? address.target : address.filter;
  return {
    ...(origin === '' ? {} : { target: address.target !== '' ? address.target : targetOf(address.filter), filter: origin }),
    ...(address.harvest ? { harvest: true, onDrift: true } : {}),
  };
}

/** Holds the draft something that neither the address says nor a new plan has? */
export function isBegun(plan: Plan, begin: Partial<Plan>): boolean {
  const fresh: Plan = { ...NEW_PLAN, ...begin };
  return (Object.keys(fresh) as (keyof Plan)[]).some((field) => field !== 'about' && field !== 'filter' && JSON.stringify(plan[field]) !== JSON.stringify(fresh[field]));
}

export type PlanField = Exclude<keyof Plan, 'filter' | 'about'> | 'version';
const MAX_PHASES = 20;
const DAY_S = 86_400;

function number(text: string): number {
  return text.trim() === '' ? Number.NaN : Number(text);
}

/** Between, the bounds included. */
function within(text: string, low: number, high: number, whole: boolean): boolean {
  const value = number(text);
  return value >= low && value <= high && (!whole || Number.isInteger(value));
}

/** The server's rules, said before it has to; the expression itself is the server's to judge. */
export function planProblems(plan: Plan, version: string): Partial<Record<PlanField, string>> {
  const wrong: Partial<Record<PlanField, string>> = {};
  if (version === '') wrong.version = 'Choose a signed version.';
  if (!/^[a-z0-9-]{1,64}$/.test(plan.slot)) wrong.slot = 'Small letters, digits and hyphens, such as main.';
  if (plan.target.trim() === '') wrong.target = 'Write an expression; true selects every device.';
  const phases = phaseProblem(plan.phases);
  if (phases !== undefined) wrong.phases = phases;
  if (!within(plan.minSuccess, 0, 100, false)) wrong.minSuccess = 'A percentage from 0 to 100.';
  if (!within(plan.timeout, 1, 365 * DAY_S, true)) wrong.timeout = 'Whole seconds, at least 1.';
  if (!within(plan.soak, 0, 30 * DAY_S, false)) wrong.soak = 'Seconds, at most 30 days.';
  if (!within(plan.spread, 0, DAY_S, true)) wrong.spread = 'Whole seconds, at most a day (86400).';
  if (!within(plan.maxErrors, 0, 1000, true)) wrong.maxErrors = 'A whole number from 0 to 1000.';
  if (!within(plan.maxBytes, 0, Number.MAX_SAFE_INTEGER, true)) wrong.maxBytes = 'Whole bytes per second; 0 is unlimited.';
  if (plan.harvest) {
    if (!within(plan.below, 0, 1, false)) wrong.below = 'A confidence from 0 to 1; 0 keeps none for this reason.';
    if (!within(plan.maxSamples, 1, 1_000_000, true)) wrong.maxSamples = 'A whole number, at least 1.';
    if (!plan.onDrift && number(plan.below) === 0) wrong.onDrift = 'Choose what is kept: on drift, below a confidence, or both.';
  }
  return wrong;
}

function phaseProblem(phases: readonly PhaseDraft[]): string | undefined {
  if (phases.length === 0 || phases.length > MAX_PHASES) return `A plan has 1 to ${MAX_PHASES} phases.`;
  for (const [index, phase] of phases.entries()) {
    if (phase.kind === 'devices' && !within(phase.value, 1, 1e9, true)) return `Phase ${index + 1}: a whole number of devices, at least 1.`;
    if (phase.kind === 'percent' && !(number(phase.value) > 0 && number(phase.value) <= 100)) return `Phase ${index + 1}: a percentage above 0, at most 100.`;
  }
  const last = phases.at(-1);
  return last?.kind === 'percent' && number(last.value) === 100 ? undefined : 'The last phase has to reach 100 %.';
}

export function sizeOf(phase: PhaseDraft): PhaseSize {
  return phase.kind === 'devices' ? { kind: 'count', devices: number(phase.value) } : { kind: 'percent', percent: number(phase.value) };
}

/** `seed`: of the preview that was shown, so that the rollout begins with the devices that it named. */
export function specOf(plan: Plan, version: string, seed?: number): Spec {
  return {
    model_version: version,
    slot: plan.slot,
    target: plan.target.trim(),
    phases: plan.phases.map(sizeOf),
    gates: { min_success: number(plan.minSuccess) / 100, device_timeout_s: number(plan.timeout) },
    soak_s: number(plan.soak),
    start_spread_s: number(plan.spread),
    max_error_permille: number(plan.maxErrors),
    max_bytes_per_s: number(plan.maxBytes),
    harvest: plan.harvest ? { on_drift: plan.onDrift, below_confidence: number(plan.below), max_samples: number(plan.maxSamples) } : null,
    ...(seed === undefined ? {} : { seed }),
  };
}

/** What a preview depends on; `undefined` while that cannot be asked. Mistakes elsewhere do not take the preview away. */
export function previewSpec(plan: Plan, version: string): Spec | undefined {
  const { version: none, slot, target, phases } = planProblems(plan, version);
  if (none !== undefined || slot !== undefined || target !== undefined || phases !== undefined) return undefined;
  return { model_version: version, slot: plan.slot, target: plan.target.trim(), phases: plan.phases.map(sizeOf) };
}

/** The same plan on the command line; what is as the command has it anyway is left out. */
export function createLine(spec: Spec, verb: 'create' | 'preview' = 'create'): string {
  const words: (string | number)[] = ['rollouts', verb, '--model-version', spec.model_version === '' ? 'ID' : spec.model_version];
  const unless = (usual: unknown, flag: string, value: string | number | undefined): void => {
    if (value !== undefined && value !== usual && !Number.isNaN(value)) words.push(flag, value);
  };
  unless('main', '--slot', spec.slot);
  unless('true', '--target', spec.target);
  const phases = (spec.phases ?? []).map((phase) => (phase.kind === 'count' ? String(phase.devices) : `${phase.percent}%`));
  if (phases.join(' ') !== '1 100%') for (const phase of phases) words.push('--phase', phase);
  unless(1, '--min-success', spec.gates?.min_success);
  unless(86_400, '--device-timeout-s', spec.gates?.device_timeout_s);
  unless(60, '--soak-s', spec.soak_s);
  unless(10, '--max-error-permille', spec.max_error_permille);
  unless(0, '--max-bytes-per-s', spec.max_bytes_per_s);
  unless(0, '--start-spread', spec.start_spread_s);
  unless(null, '--seed', spec.seed ?? undefined);
  if (spec.harvest !== null && spec.harvest !== undefined) {
    if (spec.harvest.on_drift) words.push('--harvest-on-drift');
    unless(0, '--harvest-below', spec.harvest.below_confidence);
    unless(100, '--harvest-max', spec.harvest.max_samples);
  }
  return cli(...words);
}

export function sizeText(size: PhaseSize): string {
  return size.kind === 'count' ? (size.devices === 1 ? '1 device' : `${size.devices.toLocaleString('en')} devices`) : percent(size.percent / 100);
}

/** How a deployment stands, for people who do not need to know all eleven states. */
export type Outcome = 'succeeded' | 'running' | 'failed' | 'withdrawn';
/** Which deployments are shown. */
export type Shown = 'all' | Outcome;
export const SHOWN: readonly Shown[] = ['all', 'running', 'succeeded', 'failed', 'withdrawn'];

const OUTCOMES: Readonly<Record<string, Outcome>> = {
  success: 'succeeded',
  'already-installed': 'succeeded',
  failure: 'failed',
  'rolled-back': 'failed',
  'no-longer-applicable': 'withdrawn',
  decommissioned: 'withdrawn',
};

export function outcomeOf(state: string): Outcome {
  return OUTCOMES[state] ?? 'running';
}

const TONES: Readonly<Record<Outcome, Tone>> = { succeeded: 'ok', running: 'busy', failed: 'bad', withdrawn: 'idle' };

export function deploymentTone(state: string): Tone {
  return state === 'pending' ? 'idle' : TONES[outcomeOf(state)];
}

export type Tally = Record<Outcome, number> & { deployed: number };

export function tally(counts: Readonly<Record<string, number>>): Tally {
  const sum: Tally = { succeeded: 0, running: 0, failed: 0, withdrawn: 0, deployed: 0 };
  for (const [state, number] of Object.entries(counts)) {
    sum[outcomeOf(state)] += number;
    sum.deployed += number;
  }
  return sum;
}

/** The states of an outcome, as the server narrows deployments by them. */
export const STATES_OF: Readonly<Record<Outcome, readonly string[]>> = {
  running: ['pending', 'downloading', 'installing', 'verifying', 'soaking'],
  succeeded: ['success', 'already-installed'],
  failed: ['failure', 'rolled-back'],
  withdrawn: ['no-longer-applicable', 'decommissioned'],
};

/** A canary, then all: what the server does when nobody said otherwise. */
const DEFAULT_PHASES: readonly PhaseSize[] = [
  { kind: 'count', devices: 1 },
  { kind: 'percent', percent: 100 },
];

export function sizesOf(spec: Pick<Spec, 'phases'>): readonly PhaseSize[] {
  return spec.phases === undefined || spec.phases.length === 0 ? DEFAULT_PHASES : spec.phases;
}

export interface PhaseView {
  name: string;
  size: string;
  state: 'passed' | 'current' | 'waiting' | 'skipped';
  /** Devices of this phase alone; `undefined`: not known before it begins. */
  total: number | undefined;
  tally: Tally;
}

/** Phase by phase, as the server counts them; of a draft, as its preview says. */
export function phasesOf(rollout: Pick<Rollout, 'spec' | 'state' | 'phase' | 'phases'>, preview?: RolloutPreview): PhaseView[] {
  const over = rollout.state === 'completed' || rollout.state === 'aborted';
  const sizes = sizesOf(rollout.spec);
  let before = 0;
  return rollout.phases.map(({ phase: index, reach, counts }) => {
    const size = sizes[index];
    const began = rollout.state !== 'draft' && index <= rollout.phase;
    const state = rollout.state === 'completed' || (began && index < rollout.phase) ? 'passed' : began ? 'current' : over ? 'skipped' : 'waiting';
    const known = reach ?? undefined;
    const total = known === undefined ? (state === 'skipped' ? 0 : preview?.phases[index]?.devices) : known - before;
    before = known ?? before;
    return { name: `Phase ${index + 1}`, size: size === undefined ? '' : sizeText(size), state, total, tally: tally(counts) };
  });
}

/** `1 min`, beside a field of seconds. */
export function secondsText(text: string): string {
  const value = number(text);
  return Number.isFinite(value) && value >= 0 ? (value === 0 ? '' : duration(value * 1000)) : '';
}
