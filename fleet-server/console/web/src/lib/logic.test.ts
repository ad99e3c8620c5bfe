import { afterEach, describe, expect, it, vi } from 'vitest';
import { downsample, sampledNote } from './downsample';
import { bytes, count, duration, figure, isolate, percent, plural, relative, shortDigest, timestamp, withTimes } from './format';
import { ChordReader, isSingle, keyName } from './keys';
import { ALL, isSelected, NONE, selectedCount, toggled, withIds } from './selection';
import { cli, shellQuote } from './shell';
import { readSse, SILENCE_MS, SseParser } from './sse';
import { MAX_ROWS, pagesOf, rangeFrom, refind, rowWindow, scrollToRow } from './window';

describe('downsample', () => {
  const x = Array.from({ length: 10_000 }, (_unused, index) => index);
  const y = x.map((at) => Math.sin(at / 50));
  y[4321] = 99;
  y[7777] = -99;
  it('keeps spikes, ends and order', () => {
    const sampled = downsample(x, [y], 400);
    expect(sampled.shown).toBeLessThanOrEqual(400);
    expect(Math.max(...sampled.ys[0]!.map(Number))).toBe(99);
    expect(Math.min(...sampled.ys[0]!.map(Number))).toBe(-99);
    expect(sampled.x[0]).toBe(0);
    expect(sampled.x.at(-1)).toBe(9999);
    expect([...sampled.x].sort((left, right) => left - right)).toEqual(sampled.x);
  });
  it('says how much it left out', () => {
    expect(sampledNote(downsample(x, [y], 400))).toMatch(/^\d+ of 10,000 points/);
    expect(sampledNote(downsample([1, 2], [[1, 2]], 400))).toBeUndefined();
  });
  it('keeps gaps', () => {
    const gap = y.map((value, at) => (at > 2000 && at < 5000 ? null : value));
    expect(downsample(x, [gap], 400).ys[0]).toContain(null);
  });
  it('survives nonsense', () => {
    expect(downsample([], [], 100).shown).toBe(0);
    expect(downsample(x, [x.map(() => Number.NaN)], 100).shown).toBeGreaterThan(0);
  });
});

describe('format', () => {
  it('writes sizes and times', () => {
    expect([bytes(0), bytes(1023), bytes(1024), bytes(1536), bytes(5 * 1024 ** 3)]).toEqual(['0 B', '1023 B', '1.0 KiB', '1.5 KiB', '5.0 GiB']);
    expect([bytes(1024 * 1024 - 1), bytes(Number.NaN), bytes(undefined)]).toEqual(['1.0 MiB', '–', '–']);
    expect([duration(0.4), duration(840), duration(12_500), duration(7_500_000), duration(90_000_000)]).toEqual(['400 µs', '840 ms', '13 s', '2 h 5 min', '1 d 1 h']);
    expect(duration(9_999)).toBe('10 s');
    expect([count(100000), count(null), percent(0.125), percent(1), percent(Number.NaN), percent(Number.MAX_VALUE)]).toEqual(['100,000', '–', '12.5 %', '100 %', '–', '–']);
    expect([plural(1, 'device'), plural(0, 'device'), plural(2, 'entry', 'entries')]).toEqual(['1 device', '0 devices', '2 entries']);
    expect([figure(0.32141), figure(1.2e-7, 2), figure(0), figure(Infinity)]).toEqual(['0.3214', '1.2×10⁻⁷', '0', '–']);
  });
  it('tells ages in one unit', () => {
    const now = Date.parse('2026-11-23T12:00:00Z');
    const ages = [2, 47, 15 * 60, 3 * 3600 + 5, 9 * 86_400, 800 * 86_400].map((age) => relative(now - age * 1000, now));
    expect(ages).toEqual(['now', '47 s', '15 min', '3 h', '9 d', '2 y']);
    expect(relative(now + 180_000, now)).toBe('in 3 min');
    expect(relative('nonsense', now)).toBe('–');
  });
  it('shows the times in a text as all others', () => {
    const time = '2026-11-23T02:00:00.000Z';
    expect(withTimes(`root 1 lapses at ${time}`)).toBe(`root 1 lapses at ${timestamp(time)}`);
    expect(withTimes('2026-11-23T02:00:00Z')).toBe(timestamp(time));
    expect(withTimes('in 2026-11, at 02:00')).toBe('in 2026-11, at 02:00');
  });
  it('isolates foreign text and drops what would turn the rest round', () => {
    expect(isolate('a\u202eb')).toBe('\u2068ab\u2069');
    expect(shortDigest('sha256:0123456789abcdef')).toBe('0123456789ab…');
  });
});

describe('shell', () => {
  it('makes one word of anything', () => {
    expect(cli('devices', 'show', 'edge-01')).toBe('fleetctl devices show edge-01');
    expect(cli('devices', 'list', '--filter', 'status:alert -fw:1', false, undefined)).toBe("fleetctl devices list --filter 'status:alert -fw:1'");
    expect(shellQuote("it's; rm -rf $HOME `x`")).toBe("'it'\\''s; rm -rf $HOME `x`'");
    expect(shellQuote('')).toBe("''");
    expect(shellQuote('~root')).toBe("'~root'");
    expect(shellQuote('a\nb')).toBe("'a\nb'");
  });
});

describe('table window', () => {
  it('never holds more than sixty rows', () => {
    for (const height of [0, 300, 860, 1400, 2400, 9000])
      for (const top of [0, 17, 39_999, 3_999_000]) {
        const range = rowWindow(top, height, 40, 100_000);
        expect(range.to - range.from).toBeLessThanOrEqual(MAX_ROWS);
        expect(range.from).toBeGreaterThanOrEqual(0);
        expect(range.to).toBeLessThanOrEqual(100_000);
      }
  });
  it('covers what is visible', () => {
    const range = rowWindow(4010, 800, 40, 1000);
    expect(range.from).toBeLessThanOrEqual(100);
    expect(range.to).toBeGreaterThanOrEqual(121);
  });
  it('holds together when the list shrinks under it', () => {
    expect(rowWindow(400_000, 800, 40, 3)).toEqual({ from: 0, to: 3 });
    expect(rowWindow(0, 800, 40, 0)).toEqual({ from: 0, to: 0 });
  });
  it('names the pages', () => {
    expect(pagesOf({ from: 95, to: 130 }, 100)).toEqual([0, 1]);
    expect(pagesOf({ from: 100, to: 200 }, 100)).toEqual([1]);
    expect(pagesOf({ from: 5, to: 5 }, 100)).toEqual([]);
  });
  it('moves as little as possible', () => {
    expect(scrollToRow(3, 0, 836, 40, 36)).toBe(0);
    expect(scrollToRow(0, 400, 836, 40, 36)).toBe(0);
    expect(scrollToRow(20, 0, 836, 40, 36)).toBe(40);
  });
});

describe('selection', () => {
  it('counts and inverts "all but"', () => {
    const some = withIds(NONE, ['a', 'b'], true);
    expect(selectedCount(some, 10)).toBe(2);
    const all = toggled(ALL, 'a');
    expect([isSelected(all, 'a'), isSelected(all, 'z'), selectedCount(all, 100_000)]).toEqual([false, true, 99_999]);
    expect(selectedCount(toggled(all, 'a'), 100_000)).toBe(100_000);
  });
});

describe('keys', () => {
  const key = (name: string, ctrlKey = false) => ({ key: name, ctrlKey, metaKey: false, altKey: false });
  it('names keys', () => {
    expect([keyName(key('K', true)), keyName(key('J')), keyName({ ...key('x'), altKey: true })]).toEqual(['mod+k', 'j', undefined]);
  });
  it('reads chords within their time', () => {
    const bound = new Set(['g d', 'd', '/']);
    const reader = new ChordReader();
    expect([reader.read('g', 0, bound), reader.read('d', 500, bound)]).toEqual(['pending', 'g d']);
    expect([reader.read('g', 0, bound), reader.read('d', 5000, bound)]).toEqual(['pending', 'd']);
    expect([reader.read('g', 0, bound), reader.read('/', 10, bound)]).toEqual(['pending', '/']);
    expect(reader.read('q', 0, bound)).toBeUndefined();
  });
});

describe('sse', () => {
  it('puts pieces together', () => {
    const parser = new SseParser();
    expect(parser.push('id: 1-1\nevent: chan')).toEqual([]);
    expect(parser.push('ge\ndata: {"a":\ndata: 1}\n\n: comment\n')).toEqual([{ id: '1-1', event: 'change', data: '{"a":\n1}' }]);
    expect(parser.push('data:x\r\n\r\n')).toEqual([{ id: '1-1', event: 'message', data: 'x' }]);
  });
  it('takes no carriage return for an end before it knows what follows', () => {
    const parser = new SseParser();
    expect(parser.push('data: a\r')).toEqual([]);
    expect(parser.push('\n\r\n')).toEqual([{ id: undefined, event: 'message', data: 'a' }]);
  });
  it('refuses an endless line', () => {
    expect(() => new SseParser().push('x'.repeat(5 * 1024 * 1024))).toThrow();
  });
});

describe('a row in a list that changes', () => {
  const at = (list: readonly string[]) => (index: number) => list[index];
  it('is found where it went', () => {
    expect(refind(1, 'b', 4, at(['x', 'y', 'a', 'b']))).toBe(3);
    expect(refind(3, 'a', 4, at(['a', 'b', 'c', 'd']))).toBe(0);
    expect(refind(1, 'b', 3, at(['a', 'b', 'c']))).toBe(1);
  });
  it('leaves its place when it is gone, and nothing is looked for that nobody chose', () => {
    expect(refind(1, 'b', 3, at(['a', 'c', 'd']))).toBe(1);
    expect(refind(2, undefined, 3, at(['a', 'c', 'd']))).toBe(2);
    expect(refind(5, 'b', 0, at([]))).toBe(5);
  });
  it('a range that is too long keeps the end where it began, in both directions, and says how much is missing', () => {
    expect(rangeFrom(10, 12, 1000)).toEqual({ from: 10, to: 13, cut: 0 });
    expect(rangeFrom(12, 10, 1000)).toEqual({ from: 10, to: 13, cut: 0 });
    expect(rangeFrom(0, 1999, 1000)).toEqual({ from: 0, to: 1000, cut: 1000 });
    expect(rangeFrom(1999, 0, 1000)).toEqual({ from: 1000, to: 2000, cut: 1000 });
  });
});

describe('single keys', () => {
  it('are those without Ctrl that write a character', () => {
    const names = [{ key: 'x' }, { key: '?' }, { key: 'Enter' }, { key: 'k', ctrlKey: true }].map((event) => keyName({ ctrlKey: false, metaKey: false, altKey: false, ...event }) ?? '');
    expect(names.map(isSingle)).toEqual([true, true, false, false]);
  });
});

describe('a stream that goes silent', () => {
  afterEach(() => {
    vi.restoreAllMocks();
    vi.useRealTimers();
    vi.unstubAllGlobals();
  });
  it('is given up, comments counting as life', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const server = new TransformStream<Uint8Array, Uint8Array>();
    const writer = server.writable.getWriter();
    vi.stubGlobal('fetch', (_url: string, { signal }: { signal: AbortSignal }) => {
      const body = new ReadableStream<Uint8Array>({
        async start(controller) {
          signal.addEventListener('abort', () => controller.error(signal.reason));
          for await (const bytes of server.readable) controller.enqueue(bytes);
        },
      });
      return Promise.resolve(new Response(body));
    });
    const events: string[] = [];
    const armed = vi.spyOn(globalThis, 'setTimeout');
    let ended: unknown;
    const reading = readSse('/events', undefined, new AbortController().signal, { open: () => events.push('open'), event: ({ event }) => events.push(event) }).catch(
      (error: unknown) => (ended = error),
    );
    for (const text of ['event: hello\ndata: {}\n\n', ':\n\n', ':\n\n']) {
      const before = armed.mock.calls.length;
      await writer.write(new TextEncoder().encode(text));
      while (armed.mock.calls.length === before) await new Promise((resolve) => setImmediate(resolve));
      await vi.advanceTimersByTimeAsync(SILENCE_MS - 1);
      expect(ended).toBeUndefined();
    }
    await vi.advanceTimersByTimeAsync(SILENCE_MS);
    await reading;
    expect(String(ended)).toContain('silent');
    expect(events).toEqual(['open', 'hello']);
  });
});
