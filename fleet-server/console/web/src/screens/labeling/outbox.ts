// Labels on their way to the server, and those on their way back. They are held back for a moment, so that a label taken back
// at once leaves no trace, and then sent in batches; what cannot be sent is kept and said. An outbox outlives the queue that fills it: one per person and dataset, and
// what it holds is kept for this tab, so that neither leaving the screen, nor signing out, nor a reload loses a label.
import { ApiError } from '../../lib/problem';
import { createStore } from '../../lib/store';
import type { Store } from '../../lib/store';

export interface Mark {
  sample: string;
  label: string;
}

/** What is kept of one item: the label to give, or to take back. */
export interface Kept {
  sample: string;
  /** Absent: the one that the server has is to go. */
  label?: string;
  /** The label that the server has of this tab. */
  stored?: string;
}

export interface OutboxState {
  /** What the server does not know yet. */
  unsent: number;
  /** Of these, labels to be taken back. */
  removals: number;
  /** Why labels were refused; they are kept. */
  refused: unknown;
  /** The server does not answer; it is tried again by itself. */
  waiting: boolean;
}

export interface OutboxDeps {
  send(marks: readonly Mark[]): Promise<unknown>;
  /** Takes a label back that the server has; false: somebody else has labelled the item otherwise meanwhile. */
  remove(mark: Mark): Promise<boolean>;
  now(): number;
  /** Runs `run` later; returns how to call it off. */
  later(ms: number, run: () => void): () => void;
  /** Whether the person whose labels these are is signed in: nobody else sends them. */
  may(): boolean;
  /** What was kept when the page was last here. */
  kept(): readonly Kept[];
  keep(kept: readonly Kept[]): void;
  /** The server refused labels, and no queue shows it. */
  refusedUnseen(unsent: number): void;
  /** Labels that were to be taken back are somebody else's by now, and stay. */
  overruled(items: number): void;
}

/** How long a label is held back: the time in which taking it back leaves no trace. */
export const HOLD_MS = 4000;
const RETRY_MS = 3000;

/** Labels of which is known that the server has them: more than one can go back to. */
const MOST_STORED = 1000;

interface Held {
  /** Undefined: to be taken back. */
  label: string | undefined;
  at: number;
}

type Batch = readonly (readonly [string, Held])[];

export class Outbox {
  readonly state: Store<OutboxState> = createStore<OutboxState>({ unsent: 0, removals: 0, refused: undefined, waiting: false });
  private readonly held = new Map<string, Held>();
  private readonly sending = new Map<string, Held>();
  /** What the server has of this tab, the oldest first. */
  private readonly stored = new Map<string, string>();
  private timer: (() => void) | undefined;
  private watchers = 0;

  constructor(private readonly deps: OutboxDeps) {
    for (const { sample, label, stored } of deps.kept()) {
      this.held.set(sample, { label, at: deps.now() });
      if (stored !== undefined) this.stored.set(sample, stored);
    }
    this.put({});
    this.schedule();
  }

  add({ sample, label }: Mark): void {
    this.hold(sample, label);
  }

  /** Takes a label back: one that has not left yet leaves no trace, any other is removed from the server. */
  takeBack(sample: string): void {
    const underWay = this.sending.get(sample);
    // A label that is under way may arrive; one that is being removed will be gone.
    const there = underWay === undefined ? this.stored.has(sample) : underWay.label !== undefined;
    if (there) this.hold(sample, undefined);
    else {
      this.held.delete(sample);
      this.put({});
    }
  }

  has(sample: string): boolean {
    return this.held.has(sample) || this.sending.has(sample);
  }

  /** Somebody sees what becomes of the labels, until the returned function is called. */
  watch(listener: () => void): () => void {
    this.watchers += 1;
    const stop = this.state.subscribe(listener);
    return () => {
      this.watchers -= 1;
      stop();
    };
  }

  /** The person is here again. */
  resume(): void {
    this.schedule();
  }

  /** Sends what has been held back long enough; `all`: everything, now. */
  async flush(all = false): Promise<void> {
    this.timer?.();
    this.timer = undefined;
    if (!this.deps.may()) return;
    const due = this.deps.now() - HOLD_MS;
    const batch = [...this.held].filter(([sample, held]) => (all || held.at <= due) && !this.sending.has(sample));
    if (batch.length === 0) {
      this.schedule();
      return;
    }
    for (const [sample, held] of batch) {
      this.held.delete(sample);
      this.sending.set(sample, held);
    }
    this.put({ refused: undefined });
    // All at once: a page that closes has no time for one after the other.
    const failures = (await Promise.all([this.give(batch), this.removeAll(batch)])).flat();
    for (const [sample] of batch) this.sending.delete(sample);
    const refused = failures.find(isRefusal);
    this.put({ waiting: refused === undefined && failures.some((error) => !isRefusal(error)), ...(refused === undefined ? {} : { refused }) });
    const now = this.state.get();
    if (now.refused === undefined) this.schedule(now.waiting ? RETRY_MS : 0);
    else if (this.watchers === 0) this.deps.refusedUnseen(now.unsent);
  }

  /** Gives up what the server refuses. */
  discard(): void {
    this.held.clear();
    this.put({ refused: undefined });
  }

  /** Sends the labels of a batch: all of them are taken, or none. Gives what went wrong. */
  private async give(batch: Batch): Promise<unknown[]> {
    const marks = batch.flatMap(([sample, { label }]) => (label === undefined ? [] : [{ sample, label }]));
    if (marks.length === 0) return [];
    try {
      await this.deps.send(marks);
      for (const { sample, label } of marks) this.note(sample, label);
      return [];
    } catch (error) {
      // Without an answer they may be there all the same: one that is taken back now is asked to be removed.
      if (!isRefusal(error)) for (const { sample, label } of marks) this.note(sample, label);
      const left = batch.filter(([sample, held]) => held.label !== undefined && this.restore(sample, held));
      return left.length === 0 ? [] : [error];
    }
  }

  /** Takes back what a batch says. Gives what went wrong. */
  private async removeAll(batch: Batch): Promise<unknown[]> {
    let overruled = 0;
    const failures = await Promise.all(
      batch.map(async ([sample, held]) => {
        const label = this.stored.get(sample);
        if (held.label !== undefined || label === undefined) return undefined;
        try {
          if (!(await this.deps.remove({ sample, label }))) overruled += 1;
          this.stored.delete(sample);
          return undefined;
        } catch (error) {
          return this.restore(sample, held) ? error : undefined;
        }
      }),
    );
    if (overruled > 0) this.deps.overruled(overruled);
    return failures.filter((error) => error !== undefined);
  }

  /** Kept after all; false: something else is to happen to the item by now. */
  private restore(sample: string, held: Held): boolean {
    if (this.held.has(sample)) return false;
    this.held.set(sample, held);
    return true;
  }

  private note(sample: string, label: string): void {
    this.stored.delete(sample);
    this.stored.set(sample, label);
    const oldest = this.stored.keys().next();
    if (this.stored.size > MOST_STORED && oldest.done !== true) this.stored.delete(oldest.value);
  }

  private hold(sample: string, label: string | undefined): void {
    this.held.set(sample, { label, at: this.deps.now() });
    this.put({});
    this.schedule();
  }

  private schedule(atLeast = 0): void {
    if (this.timer !== undefined || this.state.get().refused !== undefined || !this.deps.may()) return;
    // What waits for its own first request is looked at again when that is over.
    const ready = [...this.held].filter(([sample]) => !this.sending.has(sample));
    if (ready.length === 0) return;
    const oldest = Math.min(...ready.map(([, held]) => held.at));
    this.timer = this.deps.later(Math.max(atLeast, oldest + HOLD_MS - this.deps.now()), () => void this.flush());
  }

  private put(patch: Partial<OutboxState>): void {
    const all = new Map([...this.sending, ...this.held]);
    this.deps.keep(
      [...all].map(([sample, { label }]) => {
        const stored = this.sending.get(sample)?.label ?? this.stored.get(sample);
        return { sample, ...(label === undefined ? {} : { label }), ...(stored === undefined ? {} : { stored }) };
      }),
    );
    const removals = [...all.values()].filter(({ label }) => label === undefined).length;
    this.state.set((before) => ({ ...before, ...patch, unsent: all.size, removals }));
  }
}

function isRefusal(error: unknown): boolean {
  return error instanceof ApiError && error.status < 500 && error.status !== 429;
}
