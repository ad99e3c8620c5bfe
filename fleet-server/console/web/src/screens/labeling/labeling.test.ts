import { describe, expect, it } from 'vitest';
import { ApiError, Unreachable } from '../../lib/problem';
import type { Sample } from '../datasets/data';
import { asKey, defaultKeys, wrongKeys } from './keymap';
import { HOLD_MS, Labeler } from './labeler';
import type { Mark } from './labeler';

function sample(digest: string): Sample {
  return { digest, key: digest, slice: 'import', split: 'train', created_at: '2026-01-01T00:00:00Z' };
}

/** A queue as the server keeps it, a clock that is moved by hand, and what was asked for. */
class Bench {
  time = 0;
  timers: { at: number; run: () => void }[] = [];
  sent: Mark[][] = [];
  asked: number[] = [];
  fail: unknown = undefined;
  labels = new Map<string, string>();
  queue: string[];
  readonly labeler: Labeler;

  constructor(size: number, batch = 4) {
    this.queue = Array.from({ length: size }, (_unused, index) => `s${index}`);
    this.labeler = new Labeler({
      batch,
      now: () => this.time,
      fetch: (limit) => {
        this.asked.push(limit);
        if (this.fail !== undefined) return Promise.reject(this.fail as Error);
        return Promise.resolve(this.queue.filter((digest) => !this.labels.has(digest)).slice(0, limit).map(sample));
      },
      send: (marks) => {
        this.sent.push([...marks]);
        if (this.fail !== undefined) return Promise.reject(this.fail as Error);
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

  it('takes a label back without a trace while it is held, and lets it be replaced afterwards', async () => {
    const bench = new Bench(6);
    await bench.labeler.refill();
    bench.labeler.label('a');
    bench.labeler.undo();
    expect(bench.shown).toBe('s0');
    await bench.pass(HOLD_MS * 2);
    expect(bench.sent).toEqual([]);
    bench.labeler.label('a');
    await bench.pass(HOLD_MS);
    expect(bench.labels.get('s0')).toBe('a');
    bench.labeler.undo();
    expect(bench.labeler.current).toMatchObject({ digest: 's0', label: { label: 'a', source: 'hand' } });
    bench.labeler.label('b');
    await bench.pass(HOLD_MS);
    expect(bench.labels.get('s0')).toBe('b');
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
    await bench.labeler.flush(true);
    expect(bench.labels.get('s0')).toBe('a');
  });

  it('sends what is left when the queue is left', async () => {
    const bench = new Bench(6);
    await bench.labeler.refill();
    bench.labeler.label('a');
    await bench.labeler.close();
    expect(bench.labels.get('s0')).toBe('a');
  });
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
