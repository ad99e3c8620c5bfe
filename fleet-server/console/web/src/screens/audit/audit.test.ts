import { describe, expect, it } from 'vitest';
import { timestamp } from '../../lib/format';
import { fieldsOf, questionOf, questionWords, removable, shortened, verdictOf, withTerm } from './data';
import type { Verification } from './data';

describe('the filter of the audit log', () => {
  it('is what happened, by whom, to what, when, and in whose chain', () => {
    expect(questionOf('')).toEqual({ question: {} });
    expect(questionOf('event:rollout.* device:"press 1"')).toEqual({ question: { event: 'rollout.*', device: 'press 1' } });
    const { question } = questionOf('actor:token:admin subject:"device:press-07" from:2026-11-23T02:00:00+02:00 to:2026-11-24');
    expect(question).toEqual({ actor: 'token:admin', subject: 'device:press-07', from: '2026-11-23T00:00:00.000Z', to: new Date('2026-11-24T00:00:00').toISOString() });
    expect(questionWords({ event: 'rollout.*', from: '2026-11-23T00:00:00.000Z' })).toEqual(['--event', 'rollout.*', '--from', '2026-11-23T00:00:00.000Z']);
  });
  it('says what it cannot do instead of leaving it out', () => {
    expect(questionOf('-event:a').wrong).toContain('NOT');
    expect(questionOf('hello').wrong).toContain('hello');
    expect(questionOf('who:me').wrong).toContain('who');
    expect(questionOf('event:a event:b').wrong).toContain('twice');
    for (const bad of ['from:yesterday', 'to:2026-13-40', 'from:3']) expect(questionOf(bad).wrong, bad).toContain('needs a day');
  });
  it('loses one term at a time, as they are written', () => {
    expect(removable('event:a  actor:"b c" ')).toEqual([{ text: 'event:a', without: 'actor:"b c"' }, { text: 'actor:"b c"', without: 'event:a' }]);
    expect(removable('from:')).toEqual([]);
  });
  it('takes what an entry says', () => {
    expect(withTerm('event:a actor:x', 'actor', 'device:press-07')).toBe('event:a actor:device:press-07');
    expect(questionOf(withTerm('', 'subject', 'device:press "7"')).question).toEqual({ subject: 'device:press "7"' });
  });
  it('offers days that it understands itself', () => {
    for (const { name, values } of fieldsOf(Date.parse('2026-11-23T12:00:00Z'))) for (const value of name === 'from' || name === 'to' ? (values ?? []) : []) expect(questionOf(`${name}:${value}`).wrong).toBeUndefined();
  });
});

describe('the verdict', () => {
  const good = { ok: true, entries: 3, head: 'sha256:aa' };
  const whole: Verification = { ok: true, server: good, devices: 1, device_entries: 3, broken_devices: 0, broken: [] };
  it('holds with all entries counted', () => {
    expect(verdictOf(whole)).toEqual({ ok: true, entries: 6, broken: [], brokenCount: 0, devices: 1 });
  });
  it('names the exact break, in the server’s words', () => {
    const broken = { ...good, ok: false, problem: 'entry 1 does not hash to what was recorded after it' };
    const verdict = verdictOf({ ...whole, ok: false, server: broken, broken_devices: 1, broken: [{ device: 'a', epochs: 1, chain: { ...broken, problem: 'entry 2 is missing' } }] });
    expect(verdict.ok).toBe(false);
    expect(verdict.brokenCount).toBe(2);
    expect(verdict.broken).toEqual([
      { chain: 'The server’s log', problem: 'entry 1 does not hash to what was recorded after it' },
      { chain: 'a', device: 'a', problem: 'entry 2 is missing' },
    ]);
  });
  it('never holds because of one flag alone', () => {
    expect(verdictOf({ ...whole, ok: true, server: { ...good, ok: false } }).ok).toBe(false);
  });
});

describe('ids in rows', () => {
  it('are short, and nothing else is', () => {
    expect(shortened('01a2071a-ca98-7158-9419-204619cf7b95')).toBe('…204619cf7b95');
    expect(shortened(`sha256:${'b'.repeat(64)}`)).toBe('bbbbbbbbbbbb…');
    expect(shortened('2026-11-23T02:00:00.000Z')).toBe(timestamp('2026-11-23T02:00:00.000Z'));
    expect(shortened('press 01a2071a-ca98-7158-9419-204619cf7b95')).toBe('press 01a2071a-ca98-7158-9419-204619cf7b95');
  });
});
