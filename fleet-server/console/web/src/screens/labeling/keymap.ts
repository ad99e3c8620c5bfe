// Which key does what in the queue. Everybody may choose; this browser remembers, per dataset.
import { readJson, writeJson } from '../../lib/storage';

export const ACTIONS = [
  { id: 'accept', label: 'Take the guess', key: 'a' },
  { id: 'undo', label: 'Undo', key: 'u' },
  { id: 'skip', label: 'Skip', key: 's' },
] as const;

export type ActionId = (typeof ACTIONS)[number]['id'];

export interface Keymap {
  /** By label. */
  labels: Readonly<Record<string, string>>;
  actions: Readonly<Record<ActionId, string>>;
}

/** Begin chords or open the console's own overlays. */
const TAKEN = new Set(['g', '?', '/']);

export function defaultKeys(labels: readonly string[]): Keymap {
  return {
    labels: Object.fromEntries(labels.slice(0, 9).map((label, index) => [label, String(index + 1)])),
    actions: { accept: 'a', undo: 'u', skip: 's' },
  };
}

/** Messages by what the key is for: `label:walking`, `action:undo`. */
export function wrongKeys(keymap: Keymap): Record<string, string> {
  const wrong: Record<string, string> = {};
  const users = new Map<string, string>();
  const entries = [
    ...Object.entries(keymap.labels).map(([label, key]) => [`label:${label}`, key] as const),
    ...Object.entries(keymap.actions).map(([action, key]) => [`action:${action}`, key] as const),
  ];
  for (const [what, key] of entries) {
    if (key === '') continue;
    if (TAKEN.has(key)) wrong[what] = 'The console uses this key.';
    else if (users.has(key)) wrong[what] = 'This key is used twice.';
    users.set(key, what);
  }
  return wrong;
}

/** One character, as a key press gives it; empty for none. */
export function asKey(text: string): string {
  const last = [...text.trim()].at(-1) ?? '';
  return last.toLowerCase();
}

export function readKeys(dataset: string, labels: readonly string[]): Keymap {
  const standard = defaultKeys(labels);
  const kept = readJson<Partial<Keymap>>('local', `labeling.keys.${dataset}`);
  if (kept === undefined) return standard;
  const known = new Set(labels);
  const merged: Keymap = {
    labels: Object.fromEntries(Object.entries({ ...standard.labels, ...kept.labels }).filter(([label, key]) => known.has(label) && typeof key === 'string')),
    actions: { ...standard.actions, ...kept.actions },
  };
  // What is kept may be of an older form, or from a person's own hand.
  return Object.keys(wrongKeys(merged)).length === 0 ? merged : standard;
}

export function writeKeys(dataset: string, keymap: Keymap | undefined): void {
  writeJson('local', `labeling.keys.${dataset}`, keymap);
}
