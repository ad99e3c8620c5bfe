import { describe, expect, it } from 'vitest';
import { beginOf } from './data';
import { binsOf, furthest, linesOf } from './shapes';
import { fieldsOf, filterOf, lineOf, listLine, SHOW, showing, shownBy, WORST } from './words';

describe('histograms', () => {
  it('give shares of open and empty bins to a neighbour, and survive nonsense', () => {
    expect(binsOf([Number.NEGATIVE_INFINITY, 0, 1, 1, 3, Number.POSITIVE_INFINITY], [0.1, 0.2, 0.3, 0.2, 0.2], [0, 0.5, Number.NaN, -1, 0.5])).toEqual([
      { from: 0, to: 1, reference: expect.closeTo(0.6), live: 0.5 },
      { from: 1, to: 3, reference: expect.closeTo(0.4), live: 0.5 },
    ]);
    expect(binsOf([], [], [])).toEqual([]);
    expect(furthest([])).toBeUndefined();
  });
  it('name the bin that changed most', () => {
    expect(furthest(binsOf([0, 1, 2, 3], [0.3, 0.3, 0.4], [0.1, 0.7, 0.2]))?.from).toBe(1);
  });
});

describe('series', () => {
  it('leave gaps where hours have no observations', () => {
    const point = (at: string, share: number | null) => ({ at, count: 1, nearest_slice: 'import', share });
    const { x, lines } = linesOf([point('2026-11-23T01:00:00Z', 0.1), point('2026-11-23T02:00:00Z', null), point('2026-11-23T06:00:00Z', 0.5)], '');
    expect(x).toHaveLength(4);
    expect(lines.map((line) => line.y)).toEqual([[0.1, null, null, 0.5]]);
    expect(linesOf([], 'f').lines.map((line) => line.label)).toEqual(['Share of features drifted', 'PSI of f']);
  });
  it('begin at whole hours', () => {
    expect(beginOf('24h', 0)).toBeUndefined();
    expect(beginOf('7d', Date.parse('2026-11-23T06:59:00Z'))).toBe('2026-11-16T06:00:00.000Z');
  });
});

describe('the list', () => {
  it('takes what the links of other screens mean into its filter', () => {
    expect(filterOf({ filter: '', line: '', show: 'all' })).toBe('');
    expect(filterOf({ filter: 'press-* ', line: 'motions', show: 'drifted' })).toBe('line:motions drifted:yes press-* ');
    expect(filterOf({ filter: '', line: 'two words', show: 'calm' })).toBe('line:"two words" drifted:no');
  });
  it('shows all, those of drift, or the others, and leaves the other terms as they were written', () => {
    for (const show of SHOW) expect(shownBy(showing('device:press-* -drifted:no', show))).toBe(show);
    expect(showing('device:press-* drifted:yes "a b"', 'calm')).toBe('device:press-* "a b" drifted:no');
    expect(showing('device:press-* drifted:yes', 'all')).toBe('device:press-*');
  });
  it('knows the line that it is about', () => {
    expect(lineOf('drifted:yes line:motions')).toBe('motions');
    for (const filter of ['', '-line:a', 'line:a*', 'line:a line:b']) expect(lineOf(filter)).toBe('');
  });
  it('is the same on the command line, and suggests what its rows say', () => {
    expect(listLine('', WORST)).toBe('fleetctl drift list --sort=-severity');
    expect(listLine('-version:1.0.0 drifted:yes', 'device')).toBe("fleetctl drift list --filter '-version:1.0.0 drifted:yes'");
    expect(fieldsOf([]).find((field) => field.name === 'drifted')?.values).toEqual(['yes', 'no']);
  });
});
