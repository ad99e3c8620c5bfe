// Keyboard shortcuts: single keys and chords (`g d`). They are off while a dialog is open and inside inputs,
// Ctrl+K excepted. The table of what is bound is what the `?` overlay shows.
import { useLayoutEffect } from 'preact/hooks';
import { readJson, writeJson } from './storage';
import { createStore } from './store';

export interface Shortcut {
  /** `?`, `/`, `g d`, `mod+k` (Ctrl, or Command on a Mac). */
  keys: string;
  /** What it does, as the overlay says it. */
  label: string;
  group: string;
  run(event: KeyboardEvent): void;
}

/** The one shortcut that works inside inputs too; Ctrl+A and the like are the input's there. */
const ANYWHERE = 'mod+k';

/** How long the second key of a chord may take. */
const CHORD_MS = 1200;

export interface KeyLike {
  key: string;
  ctrlKey: boolean;
  metaKey: boolean;
  altKey: boolean;
}

/** `a` for a plain key, `mod+k` with Ctrl or Command; undefined for anything that is not ours. */
export function keyName(event: KeyLike): string | undefined {
  if (event.altKey || event.key === 'Dead' || event.key === 'Unidentified') return undefined;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  return event.ctrlKey || event.metaKey ? `mod+${key}` : key;
}

/** Keeps the first half of a chord. Given the keys bound, says which binding a key completes. */
export class ChordReader {
  private first: { key: string; at: number } | undefined;

  /** `pending`: the key begins a chord, wait for the next. */
  read(key: string, at: number, bound: ReadonlySet<string>): string | 'pending' | undefined {
    const first = this.first;
    this.first = undefined;
    if (first !== undefined && at - first.at <= CHORD_MS) {
      const chord = `${first.key} ${key}`;
      if (bound.has(chord)) return chord;
    }
    for (const keys of bound) {
      if (keys.startsWith(`${key} `)) {
        this.first = { key, at };
        return 'pending';
      }
    }
    return bound.has(key) ? key : undefined;
  }
}

/** Whether keys typed here are text. */
export function isTyping(target: EventTarget | null): boolean {
  if (!(target instanceof HTMLElement)) return false;
  if (target.isContentEditable) return true;
  if (target instanceof HTMLInputElement) return !['checkbox', 'radio', 'button', 'range', 'file'].includes(target.type);
  return target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement;
}

export const shortcuts = createStore<readonly Shortcut[]>([]);

export function bind(added: readonly Shortcut[]): () => void {
  shortcuts.set((before) => [...before, ...added]);
  return () => shortcuts.set((before) => before.filter((shortcut) => !added.includes(shortcut)));
}

/** Shortcuts while the component is mounted. `dependencies` as for an effect. Bound before the screen is painted: what a person
 *  sees answers to its keys. */
export function useShortcuts(make: () => readonly Shortcut[], dependencies: readonly unknown[]): void {
  // eslint-disable-next-line -- the caller's dependencies are the effect's
  useLayoutEffect(() => bind(make()), [...dependencies]);
}

/**
 * Whether keys without Ctrl or Command do anything outside the list that has the focus. Who speaks to the computer, or whose
 * hand trembles, switches them off (WCAG 2.1.4); kept for this browser.
 */
const SINGLE = 'single-keys';
export const singleKeys = createStore(stored());

function stored(): boolean {
  return readJson<boolean>('local', SINGLE) !== false;
}

export function setSingleKeys(on: boolean): void {
  writeJson('local', SINGLE, on ? undefined : false);
  singleKeys.set(on);
}

/** Other tabs of this browser follow. */
export function watchSingleKeys(): void {
  addEventListener('storage', (event) => {
    if (event.key === `flotilla.${SINGLE}`) singleKeys.set(stored());
  });
}

/** Whether `name` is a character by itself: a chord begins with one. */
export function isSingle(name: string): boolean {
  return name.length === 1;
}

export function listen(): void {
  const reader = new ChordReader();
  addEventListener('keydown', (event) => {
    if (event.defaultPrevented || event.isComposing || event.repeat) return;
    const name = keyName(event);
    if (name === undefined || (isSingle(name) && !singleKeys.get())) return;
    if (document.querySelector('dialog[open]') !== null || (isTyping(event.target) && name !== ANYWHERE)) return;
    const bound = shortcuts.get();
    const found = reader.read(name, event.timeStamp, new Set(bound.map((shortcut) => shortcut.keys)));
    if (found === undefined) return;
    // The last one bound wins: a screen may take a key from the shell.
    const shortcut = bound.findLast((candidate) => candidate.keys === found);
    if (shortcut === undefined) return;
    event.preventDefault();
    shortcut.run(event);
  });
}

/** For people: `mod+k` becomes `Ctrl K`, or `⌘ K` on a Mac. */
export function keyLabels(keys: string): string[] {
  const mac = typeof navigator !== 'undefined' && /Mac|iPhone|iPad/.test(navigator.platform);
  return keys.split(' ').flatMap((part) => (part.startsWith('mod+') ? [mac ? '⌘' : 'Ctrl', part.slice(4).toUpperCase()] : [part]));
}
