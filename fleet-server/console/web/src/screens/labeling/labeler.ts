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

export interface QueuePage {
  items: readonly Sample[];
  /** Where the next page begins; undefined: this was the last. */
  next: string | undefined;
}

export interface LabelerDeps {
  /** The next `limit` of the queue beyond a cursor, with values. */
  fetch(limit: number, cursor: string | undefined): Promise<QueuePage>;
  outbox: Outbox;
  /** Items to have in hand. */
  batch: number;
}

/** Items that can be gone back to. */
const MOST_DONE = 100;

/** One way through the queue, page by page. */
interface Pass {
  cursor: string | undefined;
  /** It has brought something that had not been seen. */
  found: boolean;
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
    removals: 0,
    aside: 0,
    refused: undefined,
    waiting: false,
  });
  /** Labelled here: an answer that was on its way meanwhile may still list them. */
  private readonly labelled = new Set<string>();
  private readonly skipped = new Set<string>();
  private pass: Pass = { cursor: undefined, found: false };
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
    this.skipped.add(sample.digest);
    this.advance({ sample, label: undefined });
  }

  /** Back to the item before, as if nothing had been said of it. */
  undo(): void {
    const { done, items } = this.state.get();
    const last = done.at(-1);
    if (last === undefined) return;
    const { digest } = last.sample;
    this.skipped.delete(digest);
    this.labelled.delete(digest);
    if (last.label !== undefined) this.deps.outbox.takeBack(digest);
    this.put({ items: [last.sample, ...items], done: done.slice(0, -1) });
  }

  /** Shows what was skipped once more. */
  showSkipped(): void {
    this.skipped.clear();
    this.again();
  }

  /** There may be more: asks again. */
  more(): void {
    if (this.state.get().exhausted) this.again();
    else void this.refill();
  }

  async refill(): Promise<void> {
    if (this.state.get().loading || !this.wantsMore()) return;
    this.put({ loading: true, error: undefined });
    try {
      while (this.wantsMore()) await this.page();
    } catch (error) {
      this.put({ error });
    }
    this.put({ loading: false });
  }

  private wantsMore(): boolean {
    const { exhausted, items } = this.state.get();
    return !this.closed && !exhausted && items.length <= this.deps.batch / 2;
  }

  /** Goes a page on. */
  private async page(): Promise<void> {
    const { pass } = this;
    const { items, next } = await this.deps.fetch(this.deps.batch, pass.cursor);
    if (this.closed) return;
    const here = new Set(this.state.get().items.map((sample) => sample.digest));
    // The cursor leaves behind what has been shown. But guesses change, and an item goes to another place in the queue with them.
    const fresh = items.filter(({ digest }) => !here.has(digest) && !this.labelled.has(digest) && !this.skipped.has(digest) && !this.deps.outbox.has(digest));
    pass.found ||= fresh.length > 0;
    pass.cursor = next;
    this.put({ items: [...this.state.get().items, ...fresh] });
    if (next !== undefined || pass !== this.pass) return;
    // Something may have come in before the place that has been reached: the end is where a whole pass finds nothing.
    if (pass.found) this.pass = { cursor: undefined, found: false };
    else this.put({ exhausted: true });
  }

  /** Goes through the queue from its start. */
  private again(): void {
    this.pass = { cursor: undefined, found: false };
    this.put({ exhausted: false, error: undefined });
    void this.refill();
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
