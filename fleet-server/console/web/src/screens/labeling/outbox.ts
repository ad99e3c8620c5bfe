// Labels on their way to the server. They are held back for a moment, so that taking one back needs no request, and then sent
// in batches; what cannot be sent is kept and said. An outbox outlives the queue that fills it: one per person and dataset, and
// what it holds is kept for this tab, so that neither leaving the screen, nor signing out, nor a reload loses a label.
import { ApiError } from '../../lib/problem';
import { createStore } from '../../lib/store';
import type { Store } from '../../lib/store';

export interface Mark {
  sample: string;
  label: string;
}

export interface OutboxState {
  /** Labels that the server does not have yet. */
  unsent: number;
  /** Why labels were refused; they are kept. */
  refused: unknown;
  /** The server does not answer; it is tried again by itself. */
  waiting: boolean;
}

export interface OutboxDeps {
  send(marks: readonly Mark[]): Promise<unknown>;
  now(): number;
  /** Runs `run` later; returns how to call it off. */
  later(ms: number, run: () => void): () => void;
  /** Whether the person whose labels these are is signed in: nobody else sends them. */
  may(): boolean;
  /** What was kept when the page was last here. */
  kept(): readonly Mark[];
  keep(marks: readonly Mark[]): void;
  /** The server refused labels, and no queue shows it. */
  refusedUnseen(unsent: number): void;
}

/** How long a label is held back: the time in which taking it back leaves no trace. */
export const HOLD_MS = 4000;
const RETRY_MS = 3000;

interface Held {
  label: string;
  at: number;
}

export class Outbox {
  readonly state: Store<OutboxState> = createStore<OutboxState>({ unsent: 0, refused: undefined, waiting: false });
  private readonly held = new Map<string, Held>();
  private readonly sending = new Map<string, Held>();
  private timer: (() => void) | undefined;
  private watchers = 0;

  constructor(private readonly deps: OutboxDeps) {
    for (const { sample, label } of deps.kept()) this.held.set(sample, { label, at: deps.now() });
    this.put({});
    this.schedule();
  }

  add({ sample, label }: Mark): void {
    this.held.set(sample, { label, at: this.deps.now() });
    this.put({});
    this.schedule();
  }

  /** Takes a label back; false: it is under way, or with the server. */
  takeBack(sample: string): boolean {
    const taken = this.held.delete(sample);
    this.put({});
    return taken;
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
    let again = 0;
    try {
      await this.deps.send(batch.map(([sample, { label }]) => ({ sample, label })));
      this.put({ waiting: false });
    } catch (error) {
      // Kept, unless the item has been labelled anew meanwhile.
      for (const [sample, held] of batch) if (!this.held.has(sample)) this.held.set(sample, held);
      if (error instanceof ApiError && error.status < 500 && error.status !== 429) this.put({ refused: error });
      else {
        this.put({ waiting: true });
        again = RETRY_MS;
      }
    }
    for (const [sample] of batch) this.sending.delete(sample);
    this.put({});
    const { refused, unsent } = this.state.get();
    if (refused === undefined) this.schedule(again);
    else if (this.watchers === 0) this.deps.refusedUnseen(unsent);
  }

  /** Gives up labels that the server refuses. */
  discard(): void {
    this.held.clear();
    this.put({ refused: undefined });
  }

  private schedule(atLeast = 0): void {
    if (this.timer !== undefined || this.held.size === 0 || this.state.get().refused !== undefined || !this.deps.may()) return;
    const oldest = Math.min(...[...this.held.values()].map((held) => held.at));
    this.timer = this.deps.later(Math.max(atLeast, oldest + HOLD_MS - this.deps.now()), () => void this.flush());
  }

  private put(patch: Partial<OutboxState>): void {
    const marks = new Map([...this.sending, ...this.held]);
    this.deps.keep([...marks].map(([sample, { label }]) => ({ sample, label })));
    this.state.set((before) => ({ ...before, ...patch, unsent: marks.size }));
  }
}
