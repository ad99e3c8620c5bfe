// Live updates: one event stream for all tabs of a browser. The tab that holds a Web Lock reads the stream and passes the
// events on over a BroadcastChannel; when it closes, the lock goes to another tab, which continues after the last event
// that it has seen. Changes are gathered and applied once per animation frame.
import { useEffect, useState } from 'preact/hooks';
import type { SseEvent } from './sse';
import { StreamRefused } from './sse';
import { createStore } from './store';

export type LiveState = 'connecting' | 'live' | 'reconnecting' | 'offline' | 'signed-out';

export interface Change {
  resource: string;
  id: string;
  at?: string;
  patch?: Record<string, unknown>;
}

/** How long the leader waits before it tries again, and which try that is. */
interface Pause {
  ms: number;
  attempt: number;
}

type Message =
  | { kind: 'state'; state: LiveState; lastId: string | undefined; pause?: Pause }
  | { kind: 'changes'; changes: Change[]; lastId: string | undefined }
  | { kind: 'reset'; lastId: string | undefined }
  /** A new tab asks the leader how things are. */
  | { kind: 'hello' }
  /** There is a reason to try again at once; with `attempt`, if that is the one being waited for. */
  | { kind: 'retry'; attempt?: number };

/** What the browser gives; tests give their own. */
export interface LivePlatform {
  channel: { post(message: Message): void; onMessage(listener: (message: Message) => void): void } | undefined;
  /** Runs `lead` when this tab becomes the leader; it leads for as long as the promise is pending. */
  lead(lead: (signal: AbortSignal) => Promise<void>): void;
  read(lastId: string | undefined, signal: AbortSignal, on: { open(): void; event(event: SseEvent): void }): Promise<void>;
  frame(run: () => void): void;
  wait(ms: number, signal: AbortSignal): Promise<void>;
  /** Whether somebody can see this tab. The timers of a hidden one run late, by up to a minute. */
  visible(): boolean;
}

export interface LiveHandlers {
  /** Changes of one frame, one per resource and id, the newest patch fields on top. */
  changes(changes: Change[]): void;
  /** Something was missed: everything shown has to be fetched again. */
  reset(): void;
}

/** Patches kept for rows that are shown. The oldest go first when it is full; lists are fetched again anyway. */
const MAX_PATCHES = 4096;
/** After so many failures in a row the state is "offline" rather than "reconnecting". */
const OFFLINE_AFTER = 3;
const NEVER = new AbortController().signal;
/** Changes waiting for a frame (a hidden tab has none). Beyond that, fetching again is cheaper. */
const MAX_PENDING = 2000;

export class Live {
  readonly state = createStore<LiveState>('connecting');
  private lastId: string | undefined;
  private leading = false;
  /** Ends the read that is going on. */
  private reading: AbortController | undefined;
  /** Ends the pause before the next try. */
  private waiting: AbortController | undefined;
  private attempt = 0;
  /** The next pause is left out: what was tried last was asked for before there was a reason to try again. */
  private hurry = false;
  private pending = new Map<string, Change>();
  private framed = false;
  private resetting = false;
  private readonly patches = new Map<string, { at: number; patch: Record<string, unknown> }>();
  private readonly rows = new Map<string, Set<() => void>>();
  private readonly platform: LivePlatform;
  private readonly handlers: LiveHandlers;
  private readonly now: () => number;

  constructor(platform: LivePlatform, handlers: LiveHandlers, now: () => number = () => Date.now()) {
    this.platform = platform;
    this.handlers = handlers;
    this.now = now;
  }

  start(): void {
    this.platform.channel?.onMessage((message) => this.heard(message));
    this.platform.channel?.post({ kind: 'hello' });
    this.platform.lead((signal) => this.lead(signal));
  }

  /** Something has changed (somebody signed in, looks at this tab again): whoever reads the stream tries again at once. */
  retry(): void {
    if (this.state.get() === 'live') return;
    if (this.leading) this.wake();
    else this.say({ kind: 'retry' });
  }

  /** Somebody else is signed in: what was told to the person before is forgotten, and the stream read anew. */
  restart(): void {
    this.lastId = undefined;
    this.reset();
    if (!this.leading) return;
    this.wake();
    this.reading?.abort();
  }

  private wake(): void {
    this.hurry = true;
    this.waiting?.abort();
  }

  /** The leader's timers may be late; those of a tab that is seen are not. */
  private async remind({ ms, attempt }: Pause): Promise<void> {
    await this.platform.wait(ms, NEVER);
    this.say({ kind: 'retry', attempt });
  }

  private heard(message: Message): void {
    if (message.kind === 'hello') {
      if (this.leading) this.say({ kind: 'state', state: this.state.get(), lastId: this.lastId });
      return;
    }
    if (message.kind === 'retry') {
      if (message.attempt === this.attempt) this.waiting?.abort();
      else if (message.attempt === undefined && this.leading) this.retry();
      return;
    }
    this.lastId = message.lastId ?? this.lastId;
    if (message.kind === 'state') {
      this.state.set(message.state);
      if (message.pause !== undefined && this.platform.visible()) void this.remind(message.pause);
    } else if (message.kind === 'changes') for (const change of message.changes) this.gather(change);
    else this.reset();
  }

  private say(message: Message): void {
    this.platform.channel?.post(message);
  }

  private tell(state: LiveState, pause?: Pause): void {
    this.state.set(state);
    this.say({ kind: 'state', state, lastId: this.lastId, ...(pause === undefined ? {} : { pause }) });
  }

  private async lead(signal: AbortSignal): Promise<void> {
    this.leading = true;
    try {
      await this.follow(signal);
    } finally {
      this.leading = false;
      // Another tab leads now: how are things there?
      this.say({ kind: 'hello' });
    }
  }

  private async follow(signal: AbortSignal): Promise<void> {
    let failures = 0;
    while (!signal.aborted) {
      const reading = new AbortController();
      this.reading = reading;
      let signedOut = false;
      try {
        await this.platform.read(this.lastId, AbortSignal.any([signal, reading.signal]), {
          open: () => {
            failures = 0;
            this.hurry = false;
            this.opened();
          },
          event: (event) => this.received(event),
        });
      } catch (error) {
        signedOut = error instanceof StreamRefused && error.status === 401;
      }
      this.reading = undefined;
      if (signal.aborted) return;
      if (!this.hurry) {
        // Signed out: a new stream makes sense only with a new session; signing in wakes us.
        failures = (signedOut ? Math.max(failures, OFFLINE_AFTER) : failures) + 1;
        await this.pause(signedOut ? 'signed-out' : failures > OFFLINE_AFTER ? 'offline' : 'reconnecting', failures, signal);
      }
      this.hurry = false;
    }
  }

  private async pause(state: LiveState, failures: number, signal: AbortSignal): Promise<void> {
    const ms = Math.min(15_000, 500 * 2 ** Math.min(failures, 5));
    this.attempt += 1;
    this.waiting = new AbortController();
    this.tell(state, { ms, attempt: this.attempt });
    await this.platform.wait(ms, AbortSignal.any([signal, this.waiting.signal]));
    this.waiting = undefined;
  }

  private opened(): void {
    this.tell('live');
    if (this.lastId !== undefined) return;
    // The stream begins here. What changed since the screens were fetched is not in it.
    this.say({ kind: 'reset', lastId: undefined });
    this.reset();
  }

  private received(event: SseEvent): void {
    if (event.id !== undefined && event.id !== '') this.lastId = event.id;
    if (event.event === 'reset') {
      this.say({ kind: 'reset', lastId: this.lastId });
      this.reset();
      return;
    }
    if (event.event !== 'change') return;
    let change: Change;
    try {
      change = JSON.parse(event.data) as Change;
    } catch {
      // Not an event of this version of the server: the snapshot is the truth.
      this.reset();
      return;
    }
    if (typeof change.resource !== 'string') return;
    this.say({ kind: 'changes', changes: [change], lastId: this.lastId });
    this.gather(change);
  }

  private gather(change: Change): void {
    const key = `${change.resource}/${change.id}`;
    const before = this.pending.get(key);
    this.pending.set(
      key,
      before?.patch !== undefined && change.patch !== undefined ? { ...change, patch: { ...before.patch, ...change.patch } } : change,
    );
    if (this.pending.size > MAX_PENDING) {
      this.reset();
      return;
    }
    this.schedule();
  }

  private reset(): void {
    this.pending.clear();
    this.resetting = true;
    this.schedule();
  }

  private schedule(): void {
    if (this.framed) return;
    this.framed = true;
    this.platform.frame(() => {
      this.framed = false;
      const changes = [...this.pending.values()];
      this.pending.clear();
      if (this.resetting) {
        this.resetting = false;
        this.patches.clear();
        this.handlers.reset();
        return;
      }
      for (const change of changes) this.keep(change);
      this.handlers.changes(changes);
    });
  }

  private keep(change: Change): void {
    if (change.patch === undefined) return;
    const key = `${change.resource}/${change.id}`;
    const before = this.patches.get(key);
    this.patches.delete(key);
    this.patches.set(key, { at: this.now(), patch: { ...before?.patch, ...change.patch } });
    if (this.patches.size > MAX_PATCHES) {
      const oldest = this.patches.keys().next();
      if (oldest.done !== true) this.patches.delete(oldest.value);
    }
    for (const listener of this.rows.get(key) ?? []) listener();
  }

  /** The patch of a row that is newer than what was fetched at `since`. */
  patch(resource: string, id: string, since: number): Record<string, unknown> | undefined {
    const kept = this.patches.get(`${resource}/${id}`);
    return kept !== undefined && kept.at >= since ? kept.patch : undefined;
  }

  watch(resource: string, id: string, listener: () => void): () => void {
    const key = `${resource}/${id}`;
    const listeners = this.rows.get(key) ?? new Set();
    this.rows.set(key, listeners);
    listeners.add(listener);
    return () => {
      listeners.delete(listener);
      if (listeners.size === 0) this.rows.delete(key);
    };
  }
}

let instance: Live | undefined;

/** Set once, by `main.tsx`. */
export function setLive(live: Live): void {
  instance = live;
}

/** A row with what live events have changed since it was fetched at `fetchedAt` (Unix ms). */
export function usePatched<T extends object>(resource: string, id: string | undefined, row: T, fetchedAt: number): T;
export function usePatched<T extends object>(resource: string, id: string | undefined, row: T | undefined, fetchedAt: number): T | undefined;
export function usePatched<T extends object>(resource: string, id: string | undefined, row: T | undefined, fetchedAt: number): T | undefined {
  const [, render] = useState(0);
  useEffect(() => (id === undefined ? undefined : instance?.watch(resource, id, () => render((version) => version + 1))), [resource, id]);
  const patch = id === undefined ? undefined : instance?.patch(resource, id, fetchedAt);
  return row === undefined || patch === undefined ? row : { ...row, ...patch };
}
