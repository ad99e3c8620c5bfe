// Labels on their way to the server, and those on their way back. They are held back for a moment, so that a label taken back
// at once leaves no trace, and then sent in batches; what cannot be sent is kept and said, and what is refused is set aside, so
// that it keeps nothing else from being sent. An outbox outlives the queue that fills it: one per person and dataset, and
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
  /** Of what the server does not know: what it has refused. It is kept, and sent again only when somebody asks for it. */
  aside: number;
  /** Why the last of them was refused. */
  refused: unknown;
  /** The server does not answer; it is tried again by itself. */
  waiting: boolean;
}

export interface OutboxDeps {
  /** `leaving`: the page goes, and the request has to outlive it. */
  send(marks: readonly Mark[], leaving: boolean): Promise<unknown>;
  /** Takes a label back that the server has; false: somebody else has labelled the item otherwise meanwhile. */
  remove(mark: Mark, leaving: boolean): Promise<boolean>;
  now(): number;
  /** Runs `run` later; returns how to call it off. */
  later(ms: number, run: () => void): () => void;
  /** Whether the person whose labels these are is signed in: nobody else sends them. */
  may(): boolean;
  /** What was kept when the page was last here. */
  kept(): readonly Kept[];
  keep(kept: readonly Kept[]): void;
  /** The server refused labels, and no queue shows it. */
  refusedUnseen(refused: number): void;
  /** Labels that were to be taken back are somebody else's by now, and stay. */
  overruled(items: number): void;
}

/** How long a label is held back: the time in which taking it back leaves no trace. */
export const HOLD_MS = 4000;
const RETRY_MS = 3000;

/** Longest body: requests that outlive their page may have 64 KiB, all that are under way together. */
export const MOST_BYTES = 48 * 1024;
/** `{"annotations":[]}` */
const FRAME_BYTES = 18;
const utf8 = new TextEncoder();

/** Bytes of a mark in a body, with its comma. */
function bytesOf(mark: Mark): number {
  return utf8.encode(JSON.stringify(mark)).length + 1;
}

/** Labels of which is known that the server has them: more than one can go back to. */
const MOST_STORED = 1000;

interface Held {
  /** Undefined: to be taken back. */
  label: string | undefined;
  at: number;
}

type Entry = readonly [string, Held];

/** In their order, so many at a time that the labels of one batch fit into one body. */
function* inBatches(entries: readonly Entry[]): Generator<Entry[]> {
  let batch: Entry[] = [];
  let bytes = FRAME_BYTES;
  for (const entry of entries) {
    // One that takes a label back has a request of its own; it counts all the same, so that there are not too many at once.
    const more = bytesOf({ sample: entry[0], label: entry[1].label ?? '' });
    if (batch.length > 0 && bytes + more > MOST_BYTES) {
      yield batch;
      batch = [];
      bytes = FRAME_BYTES;
    }
    batch.push(entry);
    bytes += more;
  }
  if (batch.length > 0) yield batch;
}

function marksOf(entries: readonly Entry[]): Mark[] {
  return entries.flatMap(([sample, { label }]) => (label === undefined ? [] : [{ sample, label }]));
}

export class Outbox {
  readonly state: Store<OutboxState> = createStore<OutboxState>({ unsent: 0, removals: 0, aside: 0, refused: undefined, waiting: false });
  private readonly held = new Map<string, Held>();
  private readonly sending = new Map<string, Held>();
  /** What the server has refused. */
  private readonly aside = new Map<string, Held>();
  private why: unknown = undefined;
  /** What the server has of this tab, the oldest first. */
  private readonly stored = new Map<string, string>();
  private timer: (() => void) | undefined;
  /** Batches are under way until then: one after the other, and never twice the same. */
  private going: Promise<void> | undefined;
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
      this.aside.delete(sample);
      this.put({});
    }
  }

  has(sample: string): boolean {
    return this.held.has(sample) || this.sending.has(sample) || this.aside.has(sample);
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

  /** Sends what has been held back long enough; `all`: everything, now, and what was refused once more. */
  flush(all = false): Promise<void> {
    const turn = this.going === undefined ? this.round(all) : this.going.then(() => this.round(all));
    const going = turn.then(() => {
      if (this.going === going) this.going = undefined;
    });
    this.going = going;
    return going;
  }

  /**
   * The page goes, and takes along what is under way: as much as may outlive it is sent in one request, the rest is kept. Gives the
   * bytes of `room` that it took.
   */
  leave(room: number): number {
    if (!this.deps.may()) return 0;
    const marks: Mark[] = [];
    let bytes = FRAME_BYTES;
    for (const [sample, { label }] of new Map([...this.sending, ...this.held])) {
      if (label === undefined) {
        const there = this.sending.get(sample)?.label ?? this.stored.get(sample);
        if (there !== undefined) this.deps.remove({ sample, label: there }, true).catch(() => undefined);
        continue;
      }
      const more = bytesOf({ sample, label });
      if (bytes + more > room) continue;
      marks.push({ sample, label });
      bytes += more;
    }
    if (marks.length === 0) return 0;
    // A page that comes back (by Back) goes on where it was: what is taken back there may have arrived.
    for (const { sample, label } of marks) this.note(sample, label);
    this.put({});
    this.deps.send(marks, true).then(
      () => {
        for (const { sample, label } of marks) if (this.held.get(sample)?.label === label) this.held.delete(sample);
        this.put({});
      },
      () => undefined,
    );
    return bytes;
  }

  /** Gives up what the server refuses, and nothing else. */
  discard(): void {
    this.aside.clear();
    this.put({});
  }

  private async round(all: boolean): Promise<void> {
    this.timer?.();
    this.timer = undefined;
    if (!this.deps.may()) return;
    if (all) {
      for (const [sample, held] of this.aside) this.held.set(sample, held);
      this.aside.clear();
    }
    const due = this.deps.now() - HOLD_MS;
    const wanted = [...this.held].filter(([, held]) => all || held.at <= due);
    const before = this.aside.size;
    let waiting = wanted.length === 0 && this.state.get().waiting;
    for (const some of inBatches(wanted)) {
      // What was said otherwise meanwhile waits for its own time.
      const batch = some.filter(([sample, held]) => this.held.get(sample) === held);
      for (const [sample, held] of batch) {
        this.held.delete(sample);
        this.sending.set(sample, held);
      }
      this.put({});
      const answered = await Promise.all([this.give(batch), this.removeAll(batch)]);
      for (const [sample] of batch) this.sending.delete(sample);
      waiting = answered.includes(false);
      if (waiting || !this.deps.may()) break;
    }
    this.put({ waiting });
    this.schedule(waiting ? RETRY_MS : 0);
    if (this.aside.size > before && this.watchers === 0) this.deps.refusedUnseen(this.aside.size);
  }

  /** Sends the labels of a batch. The server takes all of them or none: those that it names as wrong are left out then. False: it did not answer. */
  private async give(batch: readonly Entry[]): Promise<boolean> {
    let left = batch.filter(([, { label }]) => label !== undefined);
    while (left.length > 0) {
      const marks = marksOf(left);
      try {
        await this.deps.send(marks, false);
        for (const { sample, label } of marks) this.note(sample, label);
        return true;
      } catch (error) {
        if (!isRefusal(error)) {
          // Without an answer they may be there all the same: one that is taken back now is asked to be removed.
          for (const { sample, label } of marks) this.note(sample, label);
          return !this.restore(left);
        }
        const wrong = namedIn(error, marks);
        const refused = left.filter(([sample]) => wrong.size === 0 || wrong.has(sample));
        this.setAside(refused, error);
        left = left.filter((entry) => !refused.includes(entry) && !this.held.has(entry[0]));
      }
    }
    return true;
  }

  /** Takes back what a batch says. False: the server did not answer. */
  private async removeAll(batch: readonly Entry[]): Promise<boolean> {
    let overruled = 0;
    let answered = true;
    await Promise.all(
      batch.map(async (entry) => {
        const [sample, held] = entry;
        const label = this.stored.get(sample);
        if (held.label !== undefined || label === undefined) return;
        try {
          if (!(await this.deps.remove({ sample, label }, false))) overruled += 1;
          this.stored.delete(sample);
        } catch (error) {
          if (isRefusal(error)) this.setAside([entry], error);
          else if (this.restore([entry])) answered = false;
        }
      }),
    );
    if (overruled > 0) this.deps.overruled(overruled);
    return answered;
  }

  /** Kept for another try; false: something else is to happen to all of the items by now. */
  private restore(entries: readonly Entry[]): boolean {
    const still = entries.filter(([sample]) => !this.held.has(sample));
    for (const [sample, held] of still) this.held.set(sample, held);
    return still.length > 0;
  }

  private setAside(entries: readonly Entry[], why: unknown): void {
    const still = entries.filter(([sample]) => !this.held.has(sample));
    for (const [sample, held] of still) this.aside.set(sample, held);
    if (still.length > 0) this.why = why;
  }

  private note(sample: string, label: string): void {
    this.stored.delete(sample);
    this.stored.set(sample, label);
    const oldest = this.stored.keys().next();
    if (this.stored.size > MOST_STORED && oldest.done !== true) this.stored.delete(oldest.value);
  }

  private hold(sample: string, label: string | undefined): void {
    this.held.set(sample, { label, at: this.deps.now() });
    this.aside.delete(sample);
    this.put({});
    this.schedule();
  }

  private schedule(atLeast = 0): void {
    if (this.timer !== undefined || this.held.size === 0 || !this.deps.may()) return;
    let oldest = Infinity;
    for (const { at } of this.held.values()) oldest = Math.min(oldest, at);
    this.timer = this.deps.later(Math.max(atLeast, oldest + HOLD_MS - this.deps.now()), () => void this.flush());
  }

  private put(patch: { waiting?: boolean }): void {
    const all = new Map([...this.aside, ...this.sending, ...this.held]);
    this.deps.keep(
      [...all].map(([sample, { label }]) => {
        const stored = this.sending.get(sample)?.label ?? this.stored.get(sample);
        return { sample, ...(label === undefined ? {} : { label }), ...(stored === undefined ? {} : { stored }) };
      }),
    );
    const removals = [...all.values()].filter(({ label }) => label === undefined).length;
    if (this.aside.size === 0) this.why = undefined;
    this.state.set((before) => ({ ...before, ...patch, unsent: all.size, removals, aside: this.aside.size, refused: this.why }));
  }
}

function isRefusal(error: unknown): error is ApiError {
  return error instanceof ApiError && error.status < 500 && error.status !== 429;
}

/** The items that a refusal names: by their place in the request, or in its words. None: it is about all of them. */
function namedIn({ problem }: ApiError, marks: readonly Mark[]): Set<string> {
  const named = new Set<string>();
  for (const { place, message } of problem.errors ?? []) {
    const index = /^annotations\[(\d+)\]/.exec(place)?.[1];
    const words = new Set(message.split(/[\s'",;]+/));
    const mark = index === undefined ? marks.find(({ sample }) => words.has(sample)) : marks[Number(index)];
    if (mark !== undefined) named.add(mark.sample);
  }
  return named;
}
