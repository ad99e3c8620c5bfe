import { describe, expect, it } from 'vitest';
import { chartsOf, diffOf, withGaps } from './data';
import type { Device, Hour, TimelineEvent } from './data';
import { detailWords, eventWords } from './events';
import { applied, changeOf, clashes, isNothing } from './tag-change';

function target(slot: string, manifest: string): Device['desired'][number] {
  return { slot, line: 'motions', semver: '1.1.0', manifest, deployment: 'd' };
}

function model(slot: string, manifest: string, committed = true): Device['models'][number] {
  return { slot, line: 'motions', semver: '1.0.0', release_counter: 1, manifest, committed };
}

describe('desired against reported', () => {
  it('says what each difference means', () => {
    const states = diffOf({
      desired: [target('a', 'm1'), target('b', 'm2'), target('c', 'm3'), target('d', 'm4')],
      models: [model('a', 'm1'), model('b', 'm1'), model('c', 'm3', false), model('e', 'm5')],
    }).map((slot) => [slot.slot, slot.state]);
    expect(states).toEqual([
      ['a', 'same'],
      ['b', 'behind'],
      ['c', 'soaking'],
      ['d', 'missing'],
      ['e', 'unasked'],
    ]);
  });
});

function hour(at: number, manifest: string, inferences: number, p50_us = 1000, p95_us = 2000): Hour {
  return { hour: new Date(Date.UTC(2026, 0, 1, at)).toISOString(), line: 'motions', manifest, inferences, failures: 1, p50_us, p95_us };
}

describe('hours as charts', () => {
  it('are nothing without hours', () => {
    expect(chartsOf([], () => '')).toBeUndefined();
  });
  it('fill hours in which nothing was sent with zero, and sum up failures', () => {
    const charts = chartsOf([hour(0, 'a', 10), hour(3, 'a', 5), hour(3, 'b', 50, 400, 9000)], (row) => row.manifest);
    expect(charts?.x.length).toBe(4);
    expect(charts?.inferences).toEqual([
      { label: 'b', y: [0, 0, 0, 50] },
      { label: 'a', y: [10, 0, 0, 5] },
    ]);
    expect(charts?.failures).toBe(3);
    expect(charts?.latency[0]?.y).toEqual([1, 0.4]);
    expect(charts?.latency[1]?.y).toEqual([2, 9]);
  });
  it('reach over the whole span asked for', () => {
    const charts = chartsOf([hour(5, 'a', 10)], () => 'a', { from: new Date(Date.UTC(2026, 0, 1, 2, 30)).toISOString(), to: new Date(Date.UTC(2026, 0, 1, 7, 30)).toISOString() });
    expect(charts?.inferences[0]?.y).toEqual([0, 0, 0, 10, 0, null]);
    expect(charts?.latency[0]?.y).toEqual([null, 1, null]);
    expect(charts?.latencyX).toEqual([charts?.x[0], charts?.x[3], charts?.x[5]]);
  });
  it('leave out an hour of a clock that is wrong: the axis would reach from there to now', () => {
    const span = { from: new Date(Date.UTC(2026, 0, 1, 2)).toISOString(), to: new Date(Date.UTC(2026, 0, 1, 7, 30)).toISOString() };
    const wrong = ['0000-01-01T00:00:00Z', '1970-01-01T00:00:00Z', '9999-12-31T23:00:00Z', 'the day before'].map((at) => ({ ...hour(0, 'a', 7), hour: at }));
    const charts = chartsOf([...wrong.slice(0, 2), hour(5, 'a', 10), ...wrong.slice(2)], () => 'a', span);
    expect(charts?.inferences[0]?.y).toEqual([0, 0, 0, 10, 0, null]);
    expect(chartsOf(wrong, () => 'a', span)).toBeUndefined();
  });
  it('never draw more than five lines', () => {
    const charts = chartsOf(
      Array.from({ length: 9 }, (_unused, index) => hour(0, `m${index}`, index + 1)),
      (row) => row.manifest,
    );
    expect(charts?.inferences.map((line) => line.label)).toEqual(['m8', 'm7', 'm6', 'm5', 'other packages']);
    expect(charts?.inferences.at(-1)?.y).toEqual([1 + 2 + 3 + 4 + 5]);
  });
  it('break a line only between runs', () => {
    expect(withGaps([0, 1, 5, 6]).map(({ gap }) => gap)).toEqual([false, false, true, false, false]);
    expect(withGaps([0, 5, 9]).some(({ gap }) => gap)).toBe(false);
  });
});

describe('events in words', () => {
  const event: TimelineEvent = { at: '', actor: 'agent', kind: 'device', event: 'model.committed', detail: { line: 'motions', manifest: 'm1', deployment: 'd', release_counter: '2', bank: 'a' } };
  it('name the version, not the manifest', () => {
    expect(detailWords(event, () => '1.1.0')).toBe('motions 1.1.0 · bank a');
    expect(detailWords(event, () => undefined)).toBe('motions · package m1 · bank a');
  });
  it('read values as people do', () => {
    const drift = { ...event, detail: { share: '0.875', certificate_expires: 'soon', thumbprint: `sha256:${'a'.repeat(64)}`, previous_hash: 'x' } };
    expect(detailWords(drift, () => undefined)).toBe('share 87.5 % · certificate expires soon · thumbprint aaaaaaaaaaaa…');
  });
  it('leave what is unknown as it is', () => {
    expect(eventWords('model.committed')).toEqual({ tone: 'ok', title: 'Model committed' });
    expect(eventWords('deployment.rolled_back').tone).toBe('bad');
    expect(eventWords('<b>new</b>')).toEqual({ tone: 'info', title: '<b>new</b>' });
  });
});

describe('a change of tags', () => {
  const base = { site: 'oslo', hall: 'A', old: '1' };
  const change = changeOf(base, { site: 'bergen', hall: 'A', wave: '2' });
  it('is what differs from the tags that it was begun with', () => {
    expect(change).toEqual({ set: { site: 'bergen', wave: '2' }, remove: ['old'] });
    expect(isNothing(changeOf(base, { ...base }))).toBe(true);
  });
  it('leaves alone what somebody else did to other tags', () => {
    expect(applied({ site: 'oslo', hall: 'B', old: '1', theirs: 'x' }, change)).toEqual({ site: 'bergen', hall: 'B', theirs: 'x', wave: '2' });
    expect(clashes(base, { ...base, hall: 'B', theirs: 'x' }, change)).toEqual([]);
  });
  it('says what is not any more as its author saw it', () => {
    expect(clashes(base, { site: 'rome', hall: 'A', wave: '1', old: '2' }, change)).toEqual([
      { name: 'site', now: 'rome' },
      { name: 'wave', now: '1' },
      { name: 'old', now: '2' },
    ]);
    expect(clashes(base, applied(base, change), change), 'what was sent is no clash with itself').toEqual([]);
  });
});
