import { afterEach, describe, expect, it, vi } from 'vitest';
import { bytes, compact, count, duration, figure, fixed, micros, NOTHING, percent, plural, relative, timestamp, withTimes } from './format';

/** Every power of ten that a number can have, both signs, and what lies at the edges. */
const WHOLE_RANGE = [
  0, -0, Number.MAX_VALUE, -Number.MAX_VALUE, Number.MIN_VALUE, Number.MAX_SAFE_INTEGER, 2 ** 64, -(2 ** 63), 999.95, 1023.95, 59_999.5, 0.99995,
  ...Array.from({ length: 632 }, (_unused, index) => index - 323).flatMap((exponent) => [1, 1.2345678, 9.9996].flatMap((digits) => [Number(`${digits}e${exponent}`), -Number(`${digits}e${exponent}`)])),
].filter((value) => Number.isFinite(value));

const FORMATS: Record<string, (value: number) => string> = {
  bytes, compact, count, duration, micros, timestamp,
  figure,
  figure2: (value) => figure(value, 2),
  fixed: (value) => fixed(value, 2),
  percent,
  plural: (value) => plural(value, 'device'),
  relative: (value) => relative(value, Date.UTC(2026, 10, 23)),
};

describe('every number there is', () => {
  it.each(Object.entries(FORMATS))('is written for people by %s', (_name, format) => {
    const written = WHOLE_RANGE.map((value) => ({ value, text: format(value) }));
    expect(written.filter(({ text }) => /\de[+-]?\d|NaN|Infinity|undefined|null/.test(text) || text.length > 48)).toEqual([]);
  });
  it.each(Object.entries(FORMATS).filter(([name]) => name !== 'fixed'))('is nothing to %s when it is none', (_name, format) => {
    for (const value of [Number.NaN, Infinity, -Infinity]) expect(format(value)).toMatch(new RegExp(`^${NOTHING}( devices)?$`));
  });
  it('has a power of ten where it would not be read otherwise', () => {
    expect([figure(1.2e-7, 2), figure(1e-5), figure(-3.456e12, 3), figure(Number.MAX_VALUE, 3)]).toEqual(['1.2×10⁻⁷', '1×10⁻⁵', '-3.46×10¹²', '1.8×10³⁰⁸']);
    expect([fixed(0.5, 2), fixed(1e300, 2), percent(1e300), count(1e20)]).toEqual(['0.50', '1×10³⁰⁰', '1×10³⁰² %', '100,000,000,000,000,000,000']);
    expect([micros(120_000), micros(1024), micros(2897), micros(12)]).toEqual(['120 ms', '1 ms', '2.9 ms', '12 µs']);
  });
});

describe('an exact time', () => {
  afterEach(() => vi.unstubAllEnvs());
  const at = (zone: string, time: string): string => {
    vi.stubEnv('TZ', zone);
    return timestamp(time);
  };
  it('names the zone that it is in', () => {
    expect(at('UTC', '2026-11-23T04:41:32Z')).toBe('2026-11-23 04:41:32 UTC');
    expect(at('Europe/Oslo', '2026-11-23T04:41:32Z')).toBe('2026-11-23 05:41:32 UTC+01:00');
    expect(at('America/New_York', '2026-11-23T04:41:32Z')).toBe('2026-11-22 23:41:32 UTC−05:00');
    expect(at('Asia/Kolkata', '2026-11-23T04:41:32Z')).toBe('2026-11-23 10:11:32 UTC+05:30');
  });
  it('has the offset of its own day, not of today', () => {
    expect(at('Europe/Oslo', '2026-07-01T12:00:00Z')).toBe('2026-07-01 14:00:00 UTC+02:00');
    expect(at('Europe/Oslo', '2026-12-01T12:00:00Z')).toBe('2026-12-01 13:00:00 UTC+01:00');
  });
  it('inside a text as well', () => {
    vi.stubEnv('TZ', 'Europe/Oslo');
    expect(withTimes('lapses at 2026-11-23T02:00:00.000Z')).toBe('lapses at 2026-11-23 03:00:00 UTC+01:00');
  });
  it('is none where there are no dates', () => {
    expect(at('UTC', '0000-01-01T00:00:00Z')).toBe('0000-01-01 00:00:00 UTC');
    expect([timestamp(1e16), timestamp('the day before'), relative(1e300, 0)]).toEqual(['–', '–', '–']);
  });
});
