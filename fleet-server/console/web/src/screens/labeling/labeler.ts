// The labeling queue as a person goes through it. A label counts at once: the next item is here already and nothing waits for
// the server. The outbox sees to it that the server gets it.
import { createStore } from '../../lib/store';
import type { Store } from '../../lib/store';
import type { Sample } from '../datasets/data';
import type { Outbox, OutboxState } from './outbox';

export interface Done {
  sample: Sample;
  /** Undefined: skipped. */
  label: string | undefined;
}

export interface LabelerState extends OutboxState {
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
}

export interface LabelerDeps {
  /** The first `limit` of the queue, with values. */
  fetch(limit: number): Promise<Sample[]>;
  outbox: Outbox;
  /** Items to have in hand. */
  batch: number;
}

/** Items that can be gone back to. */
const MOST_DONE = 100;
/** The most that the server gives at once. */
const MOST_ASKED = 1000;

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
  /** Labelled here: an answer that was on its way meanwhile may still list them. */
  private readonly labelled = new Set<string>();
  private readonly skipped = new Set<string>();
  private stop: (() => void) | undefined;
  private closed = false;

  constructor(private readonly deps: LabelerDeps) {}

  /** Begins; what an earlier queue could not send shows too. */
  open(): void {
    this.closed = false;
    this.stop ??= this.deps.outbox.watch(() => this.put({}));
    this.put({});
    void this.refill();
  }

  get current(): Sample | undefined {
    return this.state.get().items[0];
  }

  label(label: string): void {
    const sample = this.current;
    if (sample === undefined) return;
    this.deps.outbox.add({ sample: sample.digest, label });
    this.labelled.add(sample.digest);
    this.skipped.delete(sample.digest);
    this.advance({ sample, label });
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
    else if (this.deps.outbox.takeBack(digest)) {
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
    const limit = Math.min(MOST_ASKED, now.items.length + this.state.get().unsent + this.skipped.size + this.deps.batch);
    try {
      const fetched = await this.deps.fetch(limit);
      if (this.closed) return;
      const here = new Set(this.state.get().items.map((sample) => sample.digest));
      const fresh = fetched.filter(({ digest }) => !here.has(digest) && !this.labelled.has(digest) && !this.skipped.has(digest) && !this.deps.outbox.has(digest));
      this.put({ loading: false, items: [...this.state.get().items, ...fresh], exhausted: fetched.length < limit || fresh.length === 0 });
    } catch (error) {
      if (!this.closed) this.put({ loading: false, error });
    }
  }

  /** Sends what is held back, now. */
  flush(): Promise<void> {
    return this.deps.outbox.flush(true);
  }

  /** Gives up labels that the server refuses. */
  discard(): void {
    this.deps.outbox.discard();
  }

  /** Sends what is left; nothing is fetched any more. What cannot be sent stays in the outbox. */
  close(): Promise<void> {
    this.closed = true;
    this.stop?.();
    this.stop = undefined;
    return this.flush();
  }

  private advance(last: Done): void {
    const { items, done } = this.state.get();
    this.put({ items: items.slice(1), done: [...done, last].slice(-MOST_DONE) });
    void this.refill();
  }

  private put(patch: Partial<LabelerState>): void {
    this.state.set((before) => ({ ...before, ...patch, ...this.deps.outbox.state.get(), labelled: this.labelled.size, skipped: this.skipped.size }));
  }
}
