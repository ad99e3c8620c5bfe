import { describe, expect, it } from 'vitest';
import { splitWords } from './data';
import { newImportId } from './importing';
import { createLine, EMPTY, headerOf, missingColumns, specOf, toggleWord, words, wrongWith } from './spec';
import { groupChannels, ticks } from './window';

describe('the form of a new dataset', () => {
  it('says what is wrong before it is sent', () => {
    expect(wrongWith(EMPTY)).toEqual({ name: expect.any(String) as string, labels: expect.any(String) as string });
    expect(wrongWith({ ...EMPTY, name: 'a', labels: 'x, y, x' }).labels).toContain('x');
    const series = wrongWith({ ...EMPTY, name: 'a', labels: 'x, y', kind: 'series', window: '0' });
    expect(Object.keys(series).sort()).toEqual(['cases', 'channels', 'order', 'window']);
    const modulo = { ...EMPTY, name: 'a', labels: 'x,y', split: 'modulo' as const, modulus: '4' };
    expect(wrongWith({ ...modulo, trainResidues: '0 1', holdoutResidues: '4' }).holdoutResidues).toContain('below 4');
    expect(wrongWith({ ...modulo, trainResidues: '0 1', holdoutResidues: '1' }).holdoutResidues).toContain('1 is in both');
    expect(wrongWith({ ...modulo, trainResidues: '0 1', holdoutResidues: '2' })).toEqual({});
  });
  it('makes the specification', () => {
    const spec = specOf({ ...EMPTY, name: 'm', labels: 'still, moving\nfast', kind: 'series', cases: 'split,case', order: 'step', channels: 'ax, ay', holdout: '25', group: 'case', drop: 'truth' });
    expect(spec).toEqual({
      name: 'm',
      labels: ['still', 'moving', 'fast'],
      shape: { kind: 'series', case_columns: ['split', 'case'], order_column: 'step', channels: ['ax', 'ay'], window: 50, hop: 50, rate_hz: 10, statistics: ['mean', 'std', 'spectral_energy_low', 'spectral_energy_high'] },
      drop_columns: ['truth'],
      split: { kind: 'hash', holdout: 0.25, column: 'case' },
    });
  });
  it('quotes the specification for a shell', () => {
    expect(createLine(specOf({ ...EMPTY, name: 'm', labels: "it's, not" }))).toContain(`"it'\\''s"`);
  });
  it('adds and removes words', () => {
    expect(toggleWord('a, b', 'c')).toBe('a, b, c');
    expect(toggleWord('a, b', 'a')).toBe('b');
    expect(words(' a ,, b\nc ')).toEqual(['a', 'b', 'c']);
  });
});

describe('a file’s first line', () => {
  it('is read as CSV has it', () => {
    expect(headerOf('a,b\n1,2')).toEqual(['a', 'b']);
    expect(headerOf('\uFEFF"a, ""b""",c\r\n')).toEqual(['a, "b"', 'c']);
    expect(headerOf('')).toEqual([]);
  });
  it('lacks columns or not', () => {
    const dataset = { shape: { kind: 'series' as const, case_columns: ['case'], order_column: 'step', channels: ['x', 'y'], window: 5, hop: 5, rate_hz: 1, statistics: [] }, split: { kind: 'hash' as const, holdout: 0.2, column: 'machine' } };
    expect(missingColumns(dataset, ['case', 'step', 'x', 'extra'])).toEqual(['y', 'machine']);
    expect(missingColumns({ shape: { kind: 'row', columns: [] }, split: { kind: 'all', split: 'train' } }, ['a'])).toEqual([]);
  });
});

describe('a window', () => {
  it('is taken apart by channel, and channels of one kind share a chart', () => {
    const groups = groupChannels(['accel_x', 'accel_y', 'temp'], [1, 10, 100, 3, 30, 100]);
    expect(groups.map((group) => [group.name, group.channels.map((channel) => channel.short)])).toEqual([['accel', ['x', 'y']], ['temp', ['temp']]]);
    expect(groups[0]?.channels[1]).toMatchObject({ values: [10, 30], mean: 20, std: 10 });
  });
  it('never draws more lines in a chart than there are colours', () => {
    const names = Array.from({ length: 16 }, (_unused, index) => `ch_${index}`);
    expect(groupChannels(names, names.map(() => 0)).map((group) => group.channels.length)).toEqual([7, 7, 2]);
  });
  it('has round marks', () => {
    expect(ticks(-3.4, 5.1)).toEqual([-2, 0, 2, 4]);
    expect(ticks(0, 0.07)).toEqual([0, 0.02, 0.04, 0.06]);
    expect(ticks(1, 1)).toEqual([]);
  });
});

it('calls imports by UUIDs in the order of time', () => {
  expect(newImportId(0x0123456789ab, new Uint8Array(10).fill(0xff))).toBe('01234567-89ab-7fff-bfff-ffffffffffff');
  expect(newImportId(1_000_000) < newImportId(1_000_001)).toBe(true);
});

it('says a split rule in words', () => {
  expect(splitWords({ kind: 'modulo', column: 'case', modulus: 10, train: [0, 1], holdout: [4] })).toBe('case mod 10: train 0 1, holdout 4, 7 of 10 left out');
  expect(splitWords({ kind: 'hash', holdout: 0.2 })).toContain('20 % held out');
});
