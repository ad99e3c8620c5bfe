// The labeling queue as a person goes through it. A label counts at once: the next item is here already and nothing waits for
// the server. What was labelled is held back for a moment, so that taking it back needs no request, and then sent in batches;
// what cannot be sent is kept and said.
import { ApiError } from '../../lib/problem';
import { createStore } from '../../lib/store';
import type { Store } from '../../lib/store';
import type { Sample } from '../datasets/data';

export interface Mark {
  sample: string;
  label: string;
}

export interface Done {
  sample: Sample;
  /** Undefined: skipped. */
  label: string | undefined;
}

export interface LabelerState {
  /** The first one is shown; the others are prefetched. */
  items: readonly Sample[];
  /** Newest last. */
  done: readonly Done[];
  loading: boolean;
  /** Why items could not be fetched. */
  error: unknown;
  /** The server has no others. */
  exhausted: boolean;
  labelled: number;
  skipped: number;
  /** Labels that the server does not have yet. */
  unsent: number;
  /** Why labels were refused; they are kept. */
  refused: unknown;
  /** The server does not answer; it is tried again by itself. */
  waiting: boolean;
}

export interface LabelerDeps {
  /** The first `limit` of the queue, with values. */
  fetch(limit: number): Promise<Sample[]>;
  send(marks: readonly Mark[]): Promise<unknown>;
  now(): number;
  /** Runs `run` later; returns how to call it off. */
  later(ms: number, run: () => void): () => void;
  /** Items to have in hand. */
  batch: number;
}

/** How long a label is held back: the time in which taking it back leaves no trace. */
export const HOLD_MS = 4000;
const RETRY_MS = 3000;
/** Items that can be gone back to. */
const MOST_DONE = 100;
/** The most that the server gives at once. */
const MOST_ASKED = 1000;

interface Held {
  label: string;
  at: number;
}

export class Labeler {
  readonly state: Store<LabelerState> = createStore<LabelerState>({
    items: [],
    done: [],
    loading: false,
    error: undefined,
    exhausted: false,
    labelled: 0,
    skipped: 0,
    unsent: 0,
    refused: undefined,
    waiting: false,
  });
  private readonly held = new Map<string, Held>();
  private readonly sending = new Map<string, Held>();
  /** Labelled here: an answer that was on its way meanwhile may still list them. */
  private readonly labelled = new Set<string>();
  private readonly skipped = new Set<string>();
  private timer: (() => void) | undefined;
  private closed = false;

  constructor(private readonly deps: LabelerDeps) {}

  get current(): Sample | undefined {
    return this.state.get().items[0];
  }

  label(label: string): void {
    const sample = this.current;
    if (sample === undefined) return;
    this.held.set(sample.digest, { label, at: this.deps.now() });
    this.labelled.add(sample.digest);
    this.skipped.delete(sample.digest);
    this.advance({ sample, label });
    this.schedule();
  }

  skip(): void {
    const sample = this.current;
    if (sample === undefined) return;
    // One that is here again after its label was sent keeps that label.
    if (!this.labelled.has(sample.digest)) this.skipped.add(sample.digest);
    this.advance({ sample, label: undefined });
  }

  /** Back to the item before. Its label is taken back, or, once the server has it, can be replaced by another. */
  undo(): void {
    const { done, items } = this.state.get();
    const last = done.at(-1);
    if (last === undefined) return;
    const { digest } = last.sample;
    let sample = last.sample;
    if (last.label === undefined) this.skipped.delete(digest);
    else if (this.held.delete(digest)) {
      // A second label of an item whose first one was sent: that first one stands again.
      if (sample.label === undefined || sample.label === null) this.labelled.delete(digest);
    } else sample = { ...sample, label: { label: last.label, source: 'hand', confidence: 1 } };
    this.put({ items: [sample, ...items], done: done.slice(0, -1) });
  }

  /** Shows what was skipped once more. */
  showSkipped(): void {
    this.skipped.clear();
    this.put({ exhausted: false });
    void this.refill();
  }

  /** There may be more: asks again. */
  more(): void {
    this.put({ exhausted: false, error: undefined });
    void this.refill();
  }

  async refill(): Promise<void> {
    const now = this.state.get();
    if (this.closed || now.loading || now.exhausted || now.items.length > this.deps.batch / 2) return;
    this.put({ loading: true, error: undefined });
    const limit = Math.min(MOST_ASKED, now.items.length + this.held.size + this.sending.size + this.skipped.size + this.deps.batch);
    try {
      const fetched = await this.deps.fetch(limit);
      if (this.closed) return;
      const here = new Set(this.state.get().items.map((sample) => sample.digest));
      const fresh = fetched.filter((sample) => !here.has(sample.digest) && !this.labelled.has(sample.digest) && !this.skipped.has(sample.digest));
      this.put({ loading: false, items: [...this.state.get().items, ...fresh], exhausted: fetched.length < limit || fresh.length === 0 });
    } catch (error) {
      if (!this.closed) this.put({ loading: false, error });
    }
  }

  /** Sends what has been held back long enough; `all`: everything, now. */
  async flush(all = false): Promise<void> {
    this.timer?.();
    this.timer = undefined;
    const due = this.deps.now() - HOLD_MS;
    const batch = [...this.held].filter(([digest, held]) => (all || held.at <= due) && !this.sending.has(digest));
    if (batch.length === 0) {
      this.schedule();
      return;
    }
    for (const [digest, held] of batch) {
      this.held.delete(digest);
      this.sending.set(digest, held);
    }
    this.put({ refused: undefined });
    let again = 0;
    try {
      await this.deps.send(batch.map(([sample, { label }]) => ({ sample, label })));
      this.put({ waiting: false });
    } catch (error) {
      // Kept, unless the item has been labelled anew meanwhile.
      for (const [digest, held] of batch) if (!this.held.has(digest)) this.held.set(digest, held);
      if (error instanceof ApiError && error.status < 500 && error.status !== 429) this.put({ refused: error });
      else {
        this.put({ waiting: true });
        again = RETRY_MS;
      }
    }
    for (const [digest] of batch) this.sending.delete(digest);
    this.put({});
    if (this.state.get().refused === undefined) this.schedule(again);
  }

  /** Gives up labels that the server refuses. */
  discard(): void {
    this.held.clear();
    this.put({ refused: undefined });
  }

  /** Sends what is left, and tries again while the server does not answer; nothing is fetched any more. */
  close(): Promise<void> {
    this.closed = true;
    return this.flush(true);
  }

  private advance(last: Done): void {
    const { items, done } = this.state.get();
    this.put({ items: items.slice(1), done: [...done, last].slice(-MOST_DONE) });
    void this.refill();
  }

  private schedule(atLeast = 0): void {
    if (this.timer !== undefined || this.held.size === 0 || this.state.get().refused !== undefined) return;
    const oldest = Math.min(...[...this.held.values()].map((held) => held.at));
    this.timer = this.deps.later(Math.max(atLeast, oldest + HOLD_MS - this.deps.now()), () => void this.flush());
  }

  private put(patch: Partial<LabelerState>): void {
    this.state.set((before) => ({ ...before, ...patch, labelled: this.labelled.size, skipped: this.skipped.size, unsent: new Set([...this.held.keys(), ...this.sending.keys()]).size }));
  }
}
