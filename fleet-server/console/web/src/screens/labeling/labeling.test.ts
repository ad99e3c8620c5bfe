import { describe, expect, it, vi } from 'vitest';
import { ApiError, Unreachable } from '../../lib/problem';
import type { ProblemItem } from '../../lib/problem';
import type { Sample } from '../datasets/data';
import { isOutdated, pairAt, pairsOf, shareOf } from './conflict-pairs';
import { annotate } from './data';
import type { FunctionConflicts } from './data';
import { asKey, defaultKeys, wrongKeys } from './keymap';
import { Labeler } from './labeler';
import { HOLD_MS, MOST_BYTES, Outbox } from './outbox';
import type { Kept, Mark } from './outbox';

function sample(digest: string): Sample {
  return { digest, key: digest, slice: 'import', split: 'train', created_at: '2026-01-01T00:00:00Z' };
}

/** A queue as the server keeps it, a clock that is moved by hand, and what was asked for. */
class Bench {
  time = 0;
  timers: { at: number; run: () => void }[] = [];
  sent: Mark[][] = [];
  /** Cursors that pages were asked with. */
  asked: (string | undefined)[] = [];
  removed: Mark[] = [];
  overruled = 0;
  fail: unknown = undefined;
  /** Samples that the server does not take, and what it says of them. */
  wrong = new Set<string>();
  says: (wrong: readonly string[], marks: readonly Mark[]) => ProblemItem[] = (wrong) => wrong.map((sample) => ({ place: 'annotations', message: `dataset 'd' has no sample ${sample}` }));
  /** What was sent by a page that goes. */
  left: Mark[][] = [];
  goneFor: Mark[] = [];
  labels = new Map<string, string>();
  queue: string[];
  /** What the tab keeps, and whether the person is signed in. */
  kept: readonly Kept[] = [];
  signedIn = true;
  unseen: number[] = [];
  outbox: Outbox;
  labeler: Labeler;

  constructor(
    size: number,
    private readonly batch = 4,
  ) {
    this.queue = Array.from({ length: size }, (_unused, index) => `s${index}`);
    this.outbox = this.newOutbox();
    this.labeler = this.newLabeler();
  }

  /** The tab loads again: all that is left is what was kept. */
  reload(): void {
    this.timers = [];
    this.outbox = this.newOutbox();
    this.labeler = this.newLabeler();
  }

  newLabeler(): Labeler {
    const labeler = new Labeler({
      batch: this.batch,
      outbox: this.outbox,
      fetch: (limit, cursor) => {
        this.asked.push(cursor);
        if (this.fail !== undefined) return Promise.reject(this.fail as Error);
        const beyond = cursor === undefined ? this.queue : this.queue.slice(this.queue.indexOf(cursor) + 1);
        const items = beyond.filter((digest) => !this.labels.has(digest)).slice(0, limit);
        return Promise.resolve({ items: items.map(sample), next: items.length < limit ? undefined : items.at(-1) });
      },
    });
    labeler.open();
    return labeler;
  }

  private newOutbox(): Outbox {
    return new Outbox({
      now: () => this.time,
      may: () => this.signedIn,
      kept: () => this.kept,
      keep: (marks) => (this.kept = marks),
      refusedUnseen: (unsent) => this.unseen.push(unsent),
      overruled: (items) => (this.overruled += items),
      remove: (mark, leaving) => {
        if (leaving) this.goneFor.push(mark);
        this.removed.push(mark);
        if (this.fail !== undefined) return Promise.reject(this.fail as Error);
        const now = this.labels.get(mark.sample);
        if (now !== undefined && now !== mark.label) return Promise.resolve(false);
        this.labels.delete(mark.sample);
        return Promise.resolve(true);
      },
      send: (marks, leaving) => {
        this.sent.push([...marks]);
        if (leaving) this.left.push([...marks]);
        if (this.fail !== undefined) return Promise.reject(this.fail as Error);
        const wrong = marks.map((mark) => mark.sample).filter((one) => this.wrong.has(one));
        // As the server names them: not all of them at once.
        if (wrong.length > 0) return Promise.reject(new ApiError({ title: 'Refused', status: 422, detail: 'nothing was labelled', errors: this.says(wrong.slice(0, 20), marks) }));
        for (const mark of marks) this.labels.set(mark.sample, mark.label);
        return Promise.resolve();
      },
      later: (ms, run) => {
        const timer = { at: this.time + ms, run };
        this.timers.push(timer);
        return () => (this.timers = this.timers.filter((other) => other !== timer));
      },
    });
  }

  async pass(ms: number): Promise<void> {
    this.time += ms;
    const due = this.timers.filter((timer) => timer.at <= this.time);
    this.timers = this.timers.filter((timer) => timer.at > this.time);
    for (const timer of due) timer.run();
    await settle();
  }

  get shown(): string | undefined {
    return this.labeler.current?.digest;
  }
}

/** Lets everything that waits for nothing but each other happen. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
}

describe('the queue', () => {
  it('shows the next item at once and keeps items in hand', async () => {
    const bench = new Bench(12);
    await bench.labeler.refill();
    expect(bench.shown).toBe('s0');
    for (let index = 1; index < 12; index += 1) {
      bench.labeler.label('a');
      expect(bench.shown, `after ${index} labels, without waiting`).toBe(`s${index}`);
      await settle();
    }
    expect(bench.sent).toEqual([]);
    await bench.pass(HOLD_MS);
    expect(bench.labels.size).toBe(11);
  });

  it('takes a label back without a trace while it is held, and from the server afterwards', async () => {
    const bench = new Bench(6);
    await bench.labeler.refill();
    bench.labeler.label('a');
    bench.labeler.undo();
    expect(bench.shown).toBe('s0');
    await bench.pass(HOLD_MS * 2);
    expect([bench.sent, bench.removed]).toEqual([[], []]);
    bench.labeler.label('a');
    await bench.pass(HOLD_MS);
    expect(bench.labels.get('s0')).toBe('a');
    bench.labeler.undo();
    expect(bench.labeler.current).toEqual(sample('s0'));
    expect(bench.labeler.state.get()).toMatchObject({ labelled: 0, unsent: 1, removals: 1 });
    await bench.pass(HOLD_MS);
    expect(bench.removed).toEqual([{ sample: 's0', label: 'a' }]);
    expect([bench.labels.size, bench.labeler.state.get().unsent]).toEqual([0, 0]);
  });

  it('replaces a stored label in one go when the item is labelled anew at once, and takes that back too', async () => {
    const bench = new Bench(6);
    await settle();
    bench.labeler.label('a');
    await bench.pass(HOLD_MS);
    bench.labeler.undo();
    bench.labeler.label('b');
    await bench.pass(HOLD_MS);
    expect([bench.labels.get('s0'), bench.removed]).toEqual(['b', []]);
    bench.labeler.undo();
    bench.labeler.label('a');
    bench.labeler.undo();
    await bench.pass(HOLD_MS);
    expect([bench.labels.has('s0'), bench.removed]).toEqual([false, [{ sample: 's0', label: 'b' }]]);
  });

  it('takes a label back that is under way once it has arrived', async () => {
    const bench = new Bench(6);
    await settle();
    bench.labeler.label('a');
    const sending = bench.labeler.flush();
    bench.labeler.undo();
    expect(bench.kept).toEqual([{ sample: 's0', stored: 'a' }]);
    await sending;
    expect(bench.labels.get('s0')).toBe('a');
    await bench.pass(HOLD_MS);
    expect(bench.labels.has('s0')).toBe(false);
  });

  it('leaves a label that is somebody else’s by now, and says so', async () => {
    const bench = new Bench(6);
    await settle();
    bench.labeler.label('a');
    await bench.pass(HOLD_MS);
    bench.labels.set('s0', 'theirs');
    bench.labeler.undo();
    await bench.pass(HOLD_MS);
    expect([bench.labels.get('s0'), bench.overruled, bench.outbox.state.get().unsent]).toEqual(['theirs', 1, 0]);
  });

  it('takes a label back when the server is there again, also after a reload', async () => {
    const bench = new Bench(6);
    await settle();
    bench.labeler.label('a');
    await bench.pass(HOLD_MS);
    bench.fail = new Unreachable();
    bench.labeler.undo();
    await bench.pass(HOLD_MS);
    expect(bench.labeler.state.get()).toMatchObject({ waiting: true, removals: 1 });
    expect(bench.kept).toEqual([{ sample: 's0', stored: 'a' }]);
    bench.fail = undefined;
    bench.reload();
    await bench.pass(HOLD_MS);
    expect([bench.labels.size, bench.kept]).toEqual([0, []]);
  });

  it('says nothing of a refused label that was taken back meanwhile', async () => {
    const bench = new Bench(6);
    await settle();
    bench.labeler.label('a');
    bench.fail = new ApiError({ title: 'No', status: 422, detail: 'unknown label' });
    const sending = bench.labeler.flush();
    bench.labeler.undo();
    await sending;
    expect(bench.labeler.state.get().refused).toBeUndefined();
    await bench.pass(HOLD_MS);
    expect(bench.labeler.state.get()).toMatchObject({ refused: undefined, unsent: 0, removals: 0 });
    expect([bench.labels.size, bench.kept]).toEqual([0, []]);
  });

  it('goes on behind its cursor: no page is asked twice, and nothing is shown twice or left out', async () => {
    const bench = new Bench(40, 8);
    await settle();
    const seen: string[] = [];
    while (bench.shown !== undefined) {
      seen.push(bench.shown);
      if (seen.length % 4 === 0) bench.labeler.skip();
      else bench.labeler.label('a');
      await bench.pass(seen.length % 7 === 0 ? HOLD_MS : 1);
    }
    expect(seen).toEqual(bench.queue);
    const first = bench.asked.slice(0, bench.asked.lastIndexOf(undefined));
    expect(first).toEqual([undefined, 's7', 's15', 's23', 's31', 's39']);
    expect(bench.labeler.state.get()).toMatchObject({ exhausted: true, skipped: 10, labelled: 30 });
  });

  it('finds what came in before the place that it has reached', async () => {
    const bench = new Bench(10);
    await settle();
    for (let index = 0; index < 6; index += 1) {
      bench.labeler.label('a');
      await settle();
    }
    await bench.pass(HOLD_MS);
    bench.queue.unshift('new');
    const seen: string[] = [];
    while (bench.shown !== undefined) {
      seen.push(bench.shown);
      bench.labeler.label('b');
      await settle();
    }
    expect(seen).toEqual(['s6', 's7', 's8', 's9', 'new']);
  });

  it('skips, comes back to what was skipped, and says when nothing else is left', async () => {
    const bench = new Bench(3);
    await bench.labeler.refill();
    bench.labeler.skip();
    bench.labeler.label('a');
    bench.labeler.label('a');
    await settle();
    expect(bench.shown).toBeUndefined();
    expect(bench.labeler.state.get()).toMatchObject({ exhausted: true, skipped: 1, labelled: 2 });
    bench.labeler.showSkipped();
    await settle();
    expect(bench.shown).toBe('s0');
    bench.labeler.skip();
    bench.labeler.undo();
    expect(bench.shown).toBe('s0');
    expect(bench.labeler.state.get().skipped).toBe(0);
  });

  it('never shows an item twice because its label was still under way', async () => {
    const bench = new Bench(40, 8);
    await bench.labeler.refill();
    const seen: string[] = [];
    while (bench.shown !== undefined) {
      seen.push(bench.shown);
      bench.labeler.label('a');
      await bench.pass(seen.length % 3 === 0 ? HOLD_MS : 1);
    }
    expect(seen).toEqual(bench.queue);
  });

  it('keeps labels while the server is gone and sends them when it is back', async () => {
    const bench = new Bench(6);
    await bench.labeler.refill();
    bench.labeler.label('a');
    bench.fail = new Unreachable();
    await bench.pass(HOLD_MS);
    expect(bench.labeler.state.get()).toMatchObject({ waiting: true, unsent: 1 });
    bench.fail = undefined;
    await bench.pass(HOLD_MS);
    expect(bench.labeler.state.get()).toMatchObject({ waiting: false, unsent: 0 });
    expect(bench.labels.get('s0')).toBe('a');
  });

  it('keeps what the server refuses until somebody decides, and asks it nothing meanwhile', async () => {
    const bench = new Bench(6);
    await bench.labeler.refill();
    bench.labeler.label('a');
    bench.fail = new ApiError({ title: 'No', status: 422, detail: 'unknown label' });
    await bench.pass(HOLD_MS);
    expect(bench.labeler.state.get().refused).toBe(bench.fail);
    const tries = bench.sent.length;
    await bench.pass(HOLD_MS * 10);
    expect(bench.sent.length).toBe(tries);
    bench.fail = undefined;
    await bench.labeler.flush();
    expect(bench.labels.get('s0')).toBe('a');
  });

  it('sends what is left when the queue is left', async () => {
    const bench = new Bench(6);
    await bench.labeler.refill();
    bench.labeler.label('a');
    await bench.labeler.close();
    expect(bench.labels.get('s0')).toBe('a');
    expect(bench.kept).toEqual([]);
  });

  it('keeps what is unsent over a reload, and does not ask for it again', async () => {
    const bench = new Bench(6);
    await settle();
    bench.labeler.label('a');
    bench.labeler.label('b');
    bench.labeler.undo();
    expect(bench.kept).toEqual([{ sample: 's0', label: 'a' }]);
    bench.reload();
    await settle();
    expect([bench.shown, bench.labeler.state.get().unsent]).toEqual(['s1', 1]);
    await bench.pass(HOLD_MS);
    expect(bench.labels).toEqual(new Map([['s0', 'a']]));
    expect(bench.kept).toEqual([]);
  });

  it('sends nothing for another person, and all of it when the person is back', async () => {
    const bench = new Bench(6);
    await settle();
    bench.labeler.label('a');
    bench.signedIn = false;
    await bench.labeler.close();
    await bench.pass(HOLD_MS * 10);
    expect(bench.sent).toEqual([]);
    expect(bench.kept).toEqual([{ sample: 's0', label: 'a' }]);
    bench.signedIn = true;
    bench.outbox.resume();
    await bench.pass(HOLD_MS);
    expect(bench.labels.get('s0')).toBe('a');
  });

  it('says a refusal that comes after the queue was left, and the next queue shows it', async () => {
    const bench = new Bench(6);
    await settle();
    bench.labeler.label('a');
    bench.fail = new ApiError({ title: 'No', status: 403, detail: 'this needs label' });
    await bench.labeler.close();
    expect([bench.unseen, bench.kept]).toEqual([[1], [{ sample: 's0', label: 'a' }]]);
    const next = bench.newLabeler();
    expect(next.state.get()).toMatchObject({ unsent: 1, refused: bench.fail });
    next.discard();
    expect([next.state.get().unsent, bench.kept]).toEqual([0, []]);
    await settle();
    // One who looks at the queue is not told twice.
    bench.labeler = next;
    bench.fail = undefined;
    next.more();
    await settle();
    next.label('a');
    bench.fail = new ApiError({ title: 'No', status: 422, detail: 'unknown label' });
    await bench.pass(HOLD_MS);
    expect([next.state.get().refused, bench.unseen]).toEqual([bench.fail, [1]]);
  });

  it('keeps a label that was taken back in another view of the queue taken back', async () => {
    const bench = new Bench(6);
    await settle();
    bench.fail = new Unreachable();
    bench.labeler.label('a');
    await bench.labeler.close();
    const next = bench.newLabeler();
    await settle();
    bench.labeler = next;
    bench.fail = undefined;
    next.more();
    await settle();
    expect(bench.shown).toBe('s1');
    next.label('b');
    next.undo();
    await bench.pass(HOLD_MS * 2);
    expect(bench.labels).toEqual(new Map([['s0', 'a']]));
  });
});

describe('a backlog', () => {
  const digest = (index: number): string => `sha256:${index.toString(16).padStart(64, '0')}`;
  const bytes = (marks: readonly Mark[]): number => new TextEncoder().encode(JSON.stringify({ annotations: marks })).length;

  /** So many labels that could not be sent until now. */
  async function backlog(size: number): Promise<Bench> {
    const bench = new Bench(0);
    bench.kept = Array.from({ length: size }, (_unused, index) => ({ sample: digest(index), label: `läuft "${index % 3}"` }));
    bench.reload();
    await settle();
    return bench;
  }

  it('of thousands is sent in bodies that are small enough, each label once', async () => {
    const bench = await backlog(5000);
    await bench.outbox.flush(true);
    expect(bench.sent.length).toBeGreaterThan(10);
    expect(Math.max(...bench.sent.map(bytes))).toBeLessThanOrEqual(MOST_BYTES);
    expect(bench.sent.flat().map(({ sample: of }) => of)).toEqual(Array.from({ length: 5000 }, (_unused, index) => digest(index)));
    expect([bench.labels.size, bench.kept, bench.outbox.state.get()]).toEqual([5000, [], { unsent: 0, removals: 0, aside: 0, refused: undefined, waiting: false }]);
  });

  it('stops at the first body that is not answered, loses nothing, and goes on by itself', async () => {
    const bench = await backlog(3000);
    bench.fail = new Unreachable();
    await bench.outbox.flush(true);
    expect([bench.sent.length, bench.kept.length, bench.outbox.state.get().waiting]).toEqual([1, 3000, true]);
    bench.fail = undefined;
    await bench.pass(HOLD_MS);
    await bench.outbox.flush();
    expect([bench.labels.size, bench.outbox.state.get().unsent]).toEqual([3000, 0]);
  });

  it('is sent but for what the server names as wrong, and only that is given up', async () => {
    const bench = await backlog(2000);
    for (let index = 100; index < 150; index += 1) bench.wrong.add(digest(index));
    await bench.outbox.flush(true);
    expect([bench.labels.size, bench.outbox.state.get()]).toMatchObject([1950, { unsent: 50, aside: 50, waiting: false }]);
    expect(bench.outbox.state.get().refused).toBeInstanceOf(ApiError);
    expect(bench.kept).toHaveLength(50);
    // What is given meanwhile goes its way, and what was refused is not asked again by itself.
    const tries = bench.sent.length;
    bench.outbox.add({ sample: digest(9000), label: 'a' });
    await bench.pass(HOLD_MS);
    expect([bench.labels.get(digest(9000)), bench.sent.slice(tries)]).toEqual(['a', [[{ sample: digest(9000), label: 'a' }]]]);
    bench.outbox.add({ sample: digest(9001), label: 'b' });
    bench.outbox.discard();
    expect(bench.outbox.state.get()).toMatchObject({ unsent: 1, aside: 0, refused: undefined });
    await bench.pass(HOLD_MS);
    expect([bench.labels.get(digest(9001)), bench.kept]).toEqual(['b', []]);
  });

  it('leaves out labels that are named by their place, too; tries what was refused again when asked to', async () => {
    const bench = await backlog(12);
    bench.wrong.add(digest(3)).add(digest(11));
    bench.says = (wrong, marks) => wrong.map((one) => ({ place: `annotations[${marks.findIndex((mark) => mark.sample === one)}].label`, message: "'x' is none of a, b" }));
    await bench.outbox.flush(true);
    expect([bench.labels.size, bench.kept.map(({ sample: of }) => of)]).toEqual([10, [digest(3), digest(11)]]);
    // Said otherwise, it is another label.
    bench.wrong.clear();
    bench.outbox.add({ sample: digest(3), label: 'b' });
    expect(bench.outbox.state.get()).toMatchObject({ unsent: 2, aside: 1 });
    await bench.outbox.flush(true);
    expect([bench.labels.size, bench.labels.get(digest(3)), bench.outbox.state.get()]).toMatchObject([12, 'b', { unsent: 0, aside: 0, refused: undefined }]);
  });

  it('that is refused as a whole is set aside as a whole', async () => {
    const bench = await backlog(1000);
    bench.fail = new ApiError({ title: 'No', status: 403, detail: 'this needs label' });
    await bench.outbox.flush(true);
    expect(bench.outbox.state.get()).toMatchObject({ unsent: 1000, aside: 1000, refused: bench.fail, waiting: false });
    expect(bench.timers).toEqual([]);
  });

  it('goes along with a page that closes as far as it may, also what is under way; the rest is kept', async () => {
    const bench = await backlog(2000);
    const sending = bench.outbox.flush(true);
    const underWay = bench.sent[0] ?? [];
    const took = bench.outbox.leave(MOST_BYTES);
    expect(bench.left).toHaveLength(1);
    expect([bench.left[0]?.slice(0, underWay.length), bytes(bench.left[0] ?? []) <= took, took <= MOST_BYTES, bench.kept.length]).toEqual([underWay, true, true, 2000]);
    await sending;
    expect([bench.labels.size, bench.kept]).toEqual([2000, []]);
  });

  it('takes no more of the room than another outbox has left, and nothing for another person', async () => {
    const bench = await backlog(100);
    expect(bench.outbox.leave(600)).toBeLessThanOrEqual(600);
    expect(bench.left[0]?.length).toBeGreaterThan(2);
    expect(bench.outbox.leave(50)).toBe(0);
    bench.signedIn = false;
    expect(bench.outbox.leave(MOST_BYTES)).toBe(0);
    expect(bench.left).toHaveLength(1);
  });

  it('knows what left with a page that came back: taken back there, it is removed', async () => {
    const bench = new Bench(6);
    await settle();
    bench.labeler.label('a');
    bench.outbox.leave(MOST_BYTES);
    bench.labeler.undo();
    await bench.pass(HOLD_MS);
    expect([bench.removed, bench.labels.size, bench.kept]).toEqual([[{ sample: 's0', label: 'a' }], 0, []]);
    bench.labeler.label('a');
    await bench.pass(HOLD_MS);
    bench.labeler.undo();
    bench.outbox.leave(MOST_BYTES);
    expect(bench.goneFor).toEqual([{ sample: 's0', label: 'a' }]);
  });
});

it('sends labels in a request that outlives the page only when the page goes, and without a key that an old answer hangs on', async () => {
  const asked: Request[] = [];
  vi.stubGlobal('fetch', (request: Request) => {
    asked.push(request);
    return Promise.resolve(Response.json({ new: 1, changed: 0, unchanged: 0 }));
  });
  const marks = [{ sample: 's0', label: 'läuft' }];
  await annotate('d', marks);
  await annotate('d', marks, true);
  vi.unstubAllGlobals();
  expect(asked.map((request) => [request.keepalive, request.headers.get('idempotency-key')])).toEqual([[false, null], [true, null]]);
  expect(await asked[0]?.json()).toEqual({ annotations: marks });
});

describe('keys', () => {
  it('are the digits first', () => {
    const labels = Array.from({ length: 12 }, (_unused, index) => `l${index}`);
    expect(defaultKeys(labels).labels).toMatchObject({ l0: '1', l8: '9' });
    expect(defaultKeys(labels).labels['l9']).toBeUndefined();
    expect(wrongKeys(defaultKeys(labels))).toEqual({});
  });
  it('are not used twice, nor taken from the console', () => {
    const keymap = defaultKeys(['a', 'b']);
    expect(wrongKeys({ ...keymap, labels: { a: 'x', b: 'x' } })).toEqual({ 'label:b': expect.any(String) as string });
    expect(wrongKeys({ ...keymap, labels: { a: 'g', b: '' } })).toEqual({ 'label:a': expect.any(String) as string });
    expect(asKey('1W')).toBe('w');
    expect(asKey(' ')).toBe('');
  });
});

describe('conflicts between functions', () => {
  const found: FunctionConflicts = {
    samples: 100,
    fitted_at: '2026-01-01T00:00:00Z',
    functions: ['calm', 'lively', 'hot', 'never'].map((name, index) => ({ id: String(index), name, label: index === 0 ? 'still' : 'moving' })),
    overlaps: [[60, 20, 40, 0], [20, 50, 30, 0], [40, 30, 70, 0], [0, 0, 0, 0]],
    conflicts: [[0, 20, 20, 0], [20, 0, 0, 0], [20, 0, 0, 0], [0, 0, 0, 0]],
  };
  it('are pairs that vote together, the worst first', () => {
    expect(pairsOf(found).map(({ first, second, conflict, overlap }) => [first.name, second.name, conflict, overlap])).toEqual([
      ['calm', 'hot', 20, 40],
      ['calm', 'lively', 20, 20],
      ['lively', 'hot', 0, 30],
    ]);
  });
  it('are shares of what both vote on, never of nothing', () => {
    expect(pairsOf(found).map(shareOf)).toEqual([0.5, 1, 0]);
    const apart = pairAt(found, 0, 3);
    expect(apart === undefined ? undefined : shareOf(apart)).toBe(0);
    expect(pairAt(found, 0, 4)).toBeUndefined();
  });
  it('are of the functions that were there when they were counted', () => {
    expect(isOutdated(found, found.functions)).toBe(false);
    expect(isOutdated(found, found.functions.slice(1))).toBe(true);
    expect(isOutdated(found, [...found.functions.slice(1), { id: 'other' }])).toBe(true);
  });
});
