// Runs in words and figures: states, fields of the list's filter, curves, differences. No markup, no server.
import type { Field } from '../../lib/filter';
import { duration, figure, percent } from '../../lib/format';
import { cli } from '../../lib/shell';
import type { Tone } from '../../ui/status';
import type { MetricPoint, Run } from './data';

/** How many runs are laid side by side: as many as there are ways to draw a line. */
export const MAX_COMPARED = 7;

export const STATES = ['scheduled', 'running', 'finished', 'failed', 'cancelled'] as const;
export type State = (typeof STATES)[number];

const STATE_OF: Record<Run['status'], State> = { SCHEDULED: 'scheduled', RUNNING: 'running', FINISHED: 'finished', FAILED: 'failed', KILLED: 'cancelled' };
const TONE_OF: Record<State, Tone> = { scheduled: 'idle', running: 'busy', finished: 'ok', failed: 'bad', cancelled: 'idle' };

export function stateOf(status: Run['status']): State {
  return STATE_OF[status];
}

export function stateTone(status: Run['status']): Tone {
  return TONE_OF[STATE_OF[status]];
}

export function isActive(status: Run['status']): boolean {
  return status === 'SCHEDULED' || status === 'RUNNING';
}

export function runName(run: Pick<Run, 'experiment' | 'seed'>): string {
  return `${run.experiment}, seed ${run.seed}`;
}

/** How long the training took; the server measures it. */
export function runDuration(run: Run): number | undefined {
  const seconds = run.metrics.duration_s;
  return seconds === undefined ? undefined : seconds * 1000;
}

/** How the list is ordered unless somebody says otherwise. */
export const NEWEST = '-started';

/** Fields that take a few words and no others. */
export const CLOSED = { status: STATES } as const;

const VALUES = 20;

/** Keys of the server's filter language; what the rows that are here say is worth suggesting. Any metric is a key too. */
export function fieldsOf(runs: readonly Run[]): readonly Field[] {
  const some = (pick: (run: Run) => string | undefined): string[] => [...new Set(runs.map(pick))].filter((value) => value !== undefined).slice(0, VALUES);
  return [
    { name: 'experiment', help: 'name; motions-* for a beginning', values: some((run) => run.experiment) },
    { name: 'status', help: STATES.join(', '), values: STATES },
    { name: 'accuracy', help: 'on the holdout: accuracy:>0.95', values: ['>0.9', '>0.95', '>0.99'] },
    { name: 'loss', help: 'holdout log loss: loss:<0.1' },
    { name: 'dataset', help: 'name, or name@3 for a version', values: some((run) => run.dataset_version_name?.name) },
    { name: 'version', help: 'id of the dataset version' },
    { name: 'cause', help: 'why it was started', values: some((run) => run.cause) },
    { name: 'hidden', help: 'units of the layers: hidden:64,32' },
    { name: 'epochs', help: 'epochs:>100' },
    { name: 'seed', help: 'seed of the random numbers' },
    { name: 'duration', help: 'seconds: duration:>60' },
    { name: 'holdout.ece', help: 'any metric by its name: holdout.ece:<0.05' },
  ];
}

/** The same list on the command line. */
export function listLine(filter: string, sort: string): string {
  return cli('runs', 'list', ...(filter === '' ? [] : ['--filter', filter]), ...(sort === NEWEST ? [] : [`--sort=${sort}`]));
}

export interface Curve {
  /** `train.loss` */
  name: string;
  steps: number[];
  values: number[];
}

/** Points by name, each in the order of its steps. */
export function curves(points: readonly MetricPoint[]): Curve[] {
  const byName = new Map<string, MetricPoint[]>();
  for (const point of points) {
    const list = byName.get(point.name);
    if (list === undefined) byName.set(point.name, [point]);
    else list.push(point);
  }
  return [...byName.entries()]
    .sort(([left], [right]) => left.localeCompare(right))
    .map(([name, list]) => {
      list.sort((left, right) => left.step - right.step);
      // Pages that are read while points are added can bring the same point twice.
      const once = list.filter((point, index) => point.step !== list[index - 1]?.step);
      return { name, steps: once.map((point) => point.step), values: once.map((point) => point.value) };
    });
}

/** Curves over one x axis: where one has no value at a step there is a gap. */
export function overlay(parts: readonly { label: string; curve: Curve }[]): { x: number[]; lines: { label: string; y: (number | null)[] }[] } {
  const x = [...new Set(parts.flatMap(({ curve }) => curve.steps))].sort((left, right) => left - right);
  return {
    x,
    lines: parts.map(({ label, curve }) => {
      const at = new Map(curve.steps.map((step, index) => [step, curve.values[index] ?? null]));
      return { label, y: x.map((step) => at.get(step) ?? null) };
    }),
  };
}

export interface Extent {
  min: number;
  minAt: number;
  max: number;
  maxAt: number;
  last: number;
}

export function extent(curve: Curve): Extent | undefined {
  let found: Extent | undefined;
  for (const [index, value] of curve.values.entries()) {
    const step = curve.steps[index] ?? index;
    if (!Number.isFinite(value)) continue;
    found ??= { min: value, minAt: step, max: value, maxAt: step, last: value };
    if (value < found.min) Object.assign(found, { min: value, minAt: step });
    if (value > found.max) Object.assign(found, { max: value, maxAt: step });
    found.last = value;
  }
  return found;
}

/** Whether a larger value of a metric is the better one; undefined where neither is. */
export function better(name: string): 'more' | 'less' | undefined {
  const last = name.split('.').at(-1) ?? name;
  if (last === 'accuracy' || last === 'f1') return 'more';
  if (last === 'loss' || last === 'log_loss' || last === 'ece') return 'less';
  return undefined;
}

const METRIC_WORDS: Record<string, string> = { loss: 'loss', accuracy: 'accuracy', log_loss: 'log loss', ece: 'calibration error', duration_s: 'duration' };

/** `Holdout log loss` */
export function metricName(name: string): string {
  const words = name.split('.').map((part) => METRIC_WORDS[part] ?? part.replaceAll('_', ' ')).join(' ');
  return words.charAt(0).toUpperCase() + words.slice(1);
}

export function metricValue(name: string, value: number | undefined): string {
  if (value === undefined) return '–';
  if (name.endsWith('accuracy')) return percent(value);
  if (name === 'duration_s') return duration(value * 1000);
  return figure(value, 3);
}

/** What a run was started with, as rows that can be compared. */
export function settings(run: Run): [string, string][] {
  const { trainer } = run;
  return [
    ['Experiment', run.experiment],
    ['Dataset version', run.dataset_version],
    ['Trainer', trainer.kind],
    ['Hidden layers', trainer.hidden.join(', ')],
    ['Epochs', String(trainer.epochs)],
    ['Learning rate', figure(trainer.learning_rate)],
    ['Weight decay', figure(trainer.weight_decay)],
    ['Batch size', String(trainer.batch_size)],
    ['Class weights', trainer.class_weights ?? 'none'],
    ['Seed', String(run.seed)],
    ['Cause', run.cause],
  ];
}

/** As the server bounds them. */
const MAX_LAYERS = 8;
const MAX_UNITS = 4096;

/** `32, 16` as whole numbers; undefined when it is not a list of such. */
export function parseHidden(text: string): number[] | undefined {
  const parts = text.split(/[\s,]+/).filter((part) => part !== '');
  const units = parts.map(Number);
  const fits = units.length > 0 && units.length <= MAX_LAYERS && units.every((unit) => Number.isInteger(unit) && unit > 0 && unit <= MAX_UNITS);
  return fits ? units : undefined;
}

/** A decimal number as people type it, and nothing else (`Number('')` is 0). */
export function parseNumber(text: string): number | undefined {
  const trimmed = text.trim();
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(trimmed) ? Number(trimmed) : undefined;
}

/** Confusions off the diagonal, the most frequent first. */
export function confusions(matrix: readonly (readonly number[])[], labels: readonly string[]): { truth: string; predicted: string; count: number }[] {
  return matrix
    .flatMap((row, truth) => row.map((count, predicted) => ({ truth: labels[truth] ?? '', predicted: labels[predicted] ?? '', count, off: truth !== predicted })))
    .filter((cell) => cell.off && cell.count > 0)
    .sort((left, right) => right.count - left.count)
    .map(({ truth, predicted, count }) => ({ truth, predicted, count }));
}

/** The command that starts such a run. */
export function startLine(run: Pick<Run, 'experiment' | 'dataset_version' | 'trainer' | 'seed'>): string {
  const { trainer } = run;
  return cli(
    'runs',
    'create',
    `--experiment=${run.experiment}`,
    '--dataset-version',
    run.dataset_version === '' ? 'ID' : run.dataset_version,
    '--hidden',
    trainer.hidden.join(','),
    `--learning-rate=${trainer.learning_rate}`,
    `--weight-decay=${trainer.weight_decay}`,
    '--epochs',
    trainer.epochs,
    '--batch-size',
    trainer.batch_size,
    ...(trainer.class_weights === 'balanced' ? ['--class-weights', 'balanced'] : []),
    '--seed',
    run.seed,
  );
}
