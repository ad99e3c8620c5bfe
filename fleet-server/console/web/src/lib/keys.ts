// Keyboard shortcuts: single keys and chords (`g d`). They are off while a dialog is open and inside inputs,
// Ctrl+K excepted. The table of what is bound is what the `?` overlay shows.
import { useLayoutEffect } from 'preact/hooks';
import { place } from './router';
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
  // Once all of the screen is bound: the last one bound wins.
  if (kept !== undefined) queueMicrotask(replay);
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

/** How long a key waits for what answers to it. */
const KEPT_MS = 1000;

/** How many parts of the screen are on their way. */
let awaited = 0;
/** A key that was pressed before the screen that it is meant for was there. */
let kept: { name: string; event: KeyboardEvent; at: number } | undefined;

function forget(): void {
  kept = undefined;
}

/**
 * Until what it gives back is called, the code of what is shown is on its way: a key that nothing answers to is kept for it.
 * Who goes somewhere and presses the next key at once need not know which of them is faster.
 */
export function awaitKeys(): () => void {
  awaited += 1;
  return () => {
    awaited -= 1;
  };
}

/** Keys mean the dialog that is open, or what is being written. */
function isOff(name: string, target: EventTarget | null): boolean {
  return (isSingle(name) && !singleKeys.get()) || document.querySelector('dialog[open]') !== null || (isTyping(target) && name !== ANYWHERE);
}

/** What has been bound since may be what the kept key is for. */
function replay(): void {
  if (kept === undefined) return;
  const { name, event, at } = kept;
  const shortcut = shortcuts.get().findLast((candidate) => candidate.keys === name);
  const late = performance.now() - at > KEPT_MS;
  if (shortcut === undefined && !late) return;
  forget();
  if (!late && !isOff(name, document.activeElement)) shortcut?.run(event);
}

/** The first one, and no space, which scrolls: what is pressed after it is meant for what it leads to. */
function keep(name: string, event: KeyboardEvent): void {
  if (awaited === 0 || !isSingle(name) || name === ' ') return;
  // Firefox looks for text with some of them.
  event.preventDefault();
  const at = performance.now();
  if (kept === undefined || at - kept.at > KEPT_MS) kept = { name, event, at };
}

export function listen(): void {
  const reader = new ChordReader();
  addEventListener('keydown', (event) => {
    if (event.defaultPrevented || event.isComposing || event.repeat) return;
    const name = keyName(event);
    if (name === undefined || isOff(name, event.target)) return;
    if (name === 'Escape') forget();
    const bound = shortcuts.get();
    const found = reader.read(name, event.timeStamp, new Set(bound.map((shortcut) => shortcut.keys)));
    if (found === undefined) {
      keep(name, event);
      return;
    }
    forget();
    // The last one bound wins: a screen may take a key from the shell.
    const shortcut = bound.findLast((candidate) => candidate.keys === found);
    if (shortcut === undefined) return;
    event.preventDefault();
    shortcut.run(event);
  });
  // Whoever does something else meanwhile no longer waits for what the key would have done.
  addEventListener('pointerdown', forget, { capture: true, passive: true });
  addEventListener('focusin', (event) => {
    if (isTyping(event.target)) forget();
  });
  let { path } = place.get();
  place.subscribe((now) => {
    if (now.path !== path) forget();
    ({ path } = now);
  });
}

/** For people: `mod+k` becomes `Ctrl K`, or `⌘ K` on a Mac. */
export function keyLabels(keys: string): string[] {
  const mac = typeof navigator !== 'undefined' && /Mac|iPhone|iPad/.test(navigator.platform);
  return keys.split(' ').flatMap((part) => (part.startsWith('mod+') ? [mac ? '⌘' : 'Ctrl', part.slice(4).toUpperCase()] : [part]));
}
