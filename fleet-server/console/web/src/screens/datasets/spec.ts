// The form of a new dataset: what is typed, what is wrong with it, and the specification that comes of it.
import type { Schema } from '../../lib/client';
import { shellQuote } from '../../lib/shell';

export type Spec = Schema<'CreateDataset'>;

/** Of a channel of a window; what the server computes features from. */
export const STATISTICS = [
  { name: 'mean', help: 'average' },
  { name: 'std', help: 'standard deviation' },
  { name: 'min', help: 'smallest' },
  { name: 'max', help: 'largest' },
  { name: 'range', help: 'largest minus smallest' },
  { name: 'median', help: 'middle value' },
  { name: 'iqr', help: 'middle half' },
  { name: 'rms', help: 'root mean square' },
  { name: 'mean_abs_diff', help: 'step to step' },
  { name: 'zero_crossing_rate', help: 'sign changes around the mean' },
  { name: 'dominant_frequency', help: 'strongest frequency' },
  { name: 'spectral_energy_low', help: 'energy of slow parts' },
  { name: 'spectral_energy_high', help: 'energy of fast parts' },
  { name: 'mean_abs_deviation', help: 'distance from the mean' },
] as const;

export interface Draft {
  name: string;
  labels: string;
  kind: 'row' | 'series';
  columns: string;
  cases: string;
  order: string;
  channels: string;
  window: string;
  hop: string;
  rate: string;
  statistics: readonly string[];
  drop: string;
  split: 'hash' | 'modulo' | 'all';
  /** Column that groups are made of; empty: every row or case by itself. */
  group: string;
  holdout: string;
  modulus: string;
  trainResidues: string;
  holdoutResidues: string;
  all: 'train' | 'holdout';
  harvest: string;
}

export const EMPTY: Draft = {
  name: '',
  labels: '',
  kind: 'row',
  columns: '',
  cases: '',
  order: '',
  channels: '',
  window: '50',
  hop: '50',
  rate: '10',
  statistics: ['mean', 'std', 'spectral_energy_low', 'spectral_energy_high'],
  drop: '',
  split: 'hash',
  group: '',
  holdout: '20',
  modulus: '10',
  trainResidues: '0 1 2 3 4 5 6 7',
  holdoutResidues: '8 9',
  all: 'train',
  harvest: '',
};

/** Words of a list, separated by commas or line ends. */
export function words(text: string): string[] {
  return text
    .split(/[,\n]/)
    .map((word) => word.trim())
    .filter((word) => word !== '');
}

/** The list with `word` added, or taken out when it was there. */
export function toggleWord(text: string, word: string): string {
  const all = words(text);
  return (all.includes(word) ? all.filter((other) => other !== word) : [...all, word]).join(', ');
}

function numbers(text: string): number[] {
  return text
    .split(/[\s,]+/)
    .filter((word) => word !== '')
    .map(Number);
}

export type Wrong = Partial<Record<keyof Draft, string>>;

/** Only what is plain to see here; the server looks at all of it. */
export function wrongWith(draft: Draft): Wrong {
  const wrong: Wrong = {};
  const whole = (text: string): boolean => /^\d{1,9}$/.test(text.trim()) && Number(text) > 0;
  if (!/^[a-z0-9-]{1,64}$/.test(draft.name)) wrong.name = 'Write 1 to 64 of a-z, 0-9 and -.';
  const labels = words(draft.labels);
  if (labels.length < 2) wrong.labels = 'Write at least two classes.';
  else if (new Set(labels).size < labels.length) wrong.labels = `“${labels.find((label, index) => labels.indexOf(label) !== index) ?? ''}” stands twice.`;
  if (draft.kind === 'series') {
    if (words(draft.cases).length === 0) wrong.cases = 'Name the columns that tell one recording from another.';
    if (words(draft.order).length !== 1) wrong.order = 'Name the one column that counts steps.';
    if (words(draft.channels).length === 0) wrong.channels = 'Name the measured columns.';
    if (!whole(draft.window)) wrong.window = 'A whole number of steps is needed.';
    if (!whole(draft.hop)) wrong.hop = 'A whole number of steps is needed.';
    if (!(Number(draft.rate) > 0)) wrong.rate = 'Steps per second, above 0.';
    if (draft.statistics.length === 0) wrong.statistics = 'Choose at least one.';
  }
  if (draft.split === 'hash' && !(draft.holdout.trim() !== '' && Number(draft.holdout) >= 0 && Number(draft.holdout) < 100)) wrong.holdout = 'A share from 0 to below 100.';
  if (draft.split === 'modulo') {
    const modulus = Number(draft.modulus);
    if (!whole(draft.modulus)) wrong.modulus = 'A whole number above 0.';
    const train = numbers(draft.trainResidues);
    const holdout = numbers(draft.holdoutResidues);
    const odd = (values: number[]): number | undefined => values.find((value) => !Number.isInteger(value) || value < 0 || value >= modulus);
    if (odd(train) !== undefined) wrong.trainResidues = `Whole numbers from 0 to below ${draft.modulus}.`;
    if (odd(holdout) !== undefined) wrong.holdoutResidues = `Whole numbers from 0 to below ${draft.modulus}.`;
    const both = train.find((value) => holdout.includes(value));
    if (both !== undefined) wrong.holdoutResidues = `${both} is in both.`;
  }
  return wrong;
}

export function specOf(draft: Draft): Spec {
  const group = words(draft.group)[0];
  const by = group === undefined ? {} : { column: group };
  return {
    name: draft.name,
    labels: words(draft.labels),
    shape:
      draft.kind === 'row'
        ? { kind: 'row', columns: words(draft.columns) }
        : {
            kind: 'series',
            case_columns: words(draft.cases),
            order_column: words(draft.order)[0] ?? '',
            channels: words(draft.channels),
            window: Number(draft.window),
            hop: Number(draft.hop),
            rate_hz: Number(draft.rate),
            statistics: [...draft.statistics],
          },
    drop_columns: words(draft.drop),
    split:
      draft.split === 'all'
        ? { kind: 'all', split: draft.all }
        : draft.split === 'hash'
          ? { kind: 'hash', holdout: Number(draft.holdout) / 100, ...by }
          : { kind: 'modulo', modulus: Number(draft.modulus), train: numbers(draft.trainResidues), holdout: numbers(draft.holdoutResidues), ...by },
    ...(draft.harvest.trim() === '' ? {} : { harvest_line: draft.harvest.trim() }),
  };
}

/** The command reads a file; this line needs none. */
export function createLine(spec: Spec): string {
  return `echo ${shellQuote(JSON.stringify(spec))} | fleetctl datasets create --file /dev/stdin`;
}

/** Column names of a CSV file's first line, quotes and doubled quotes as RFC 4180 has them. */
export function headerOf(text: string): string[] {
  const columns: string[] = [];
  let word = '';
  let quoted = false;
  const start = text.startsWith('\uFEFF') ? 1 : 0;
  for (let at = start; at < text.length; at += 1) {
    const character = text[at] ?? '';
    if (quoted) {
      if (character !== '"') word += character;
      else if (text[at + 1] === '"') {
        word += '"';
        at += 1;
      } else quoted = false;
    } else if (character === '"' && word === '') quoted = true;
    else if (character === ',') {
      columns.push(word);
      word = '';
    } else if (character === '\n' || character === '\r') break;
    else word += character;
  }
  columns.push(word);
  return columns.length === 1 && word === '' ? [] : columns;
}

/** Longest first line that is looked at. */
const HEADER_BYTES = 256 * 1024;

export async function readHeader(file: Blob): Promise<string[]> {
  return headerOf(await file.slice(0, HEADER_BYTES).text());
}

/** Columns that a dataset reads and a file lacks. */
export function missingColumns(dataset: { shape: Spec['shape']; split: Spec['split'] }, header: readonly string[]): string[] {
  const { shape, split } = dataset;
  const needed = shape.kind === 'row' ? (shape.columns ?? []) : [...shape.case_columns, shape.order_column, ...shape.channels];
  const group = split.kind === 'all' || split.column === undefined || split.column === null ? [] : [split.column];
  return [...new Set([...needed, ...group])].filter((column) => !header.includes(column));
}
