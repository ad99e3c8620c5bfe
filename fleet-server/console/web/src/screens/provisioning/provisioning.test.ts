import { encode } from 'uqr';
import { describe, expect, it } from 'vitest';
import type { ClaimToken } from './data';
import { qrText, stateOf } from './data';
import { parseTagChange, parseTagLines, printTagLines } from './tags';

describe('claim tokens', () => {
  const token: ClaimToken = { id: 't', uses: 2, used: 0, expires_at: '2030-01-01T00:00:00Z', created_at: '2029-12-31T00:00:00Z', revoked: false, tags: {} };
  const now = Date.parse('2029-12-31T12:00:00Z');
  it('are active until they are revoked, used up or expired, and say the strongest reason', () => {
    expect(stateOf(token, now)).toBe('active');
    expect(stateOf({ ...token, used: 2 }, now)).toBe('used');
    expect(stateOf(token, Date.parse(token.expires_at))).toBe('expired');
    expect(stateOf({ ...token, used: 2, revoked: true }, now)).toBe('revoked');
  });
});

describe('the QR code of a bundle', () => {
  const bundle = { fleet: 'f', device_api: 'https://h', ca_pem: 'x'.repeat(600), root: 'y'.repeat(1200), claim_token: 'flt_1' };
  it('holds the whole bundle while it fits', () => {
    expect(qrText(bundle).whole).toBe(true);
    expect(JSON.parse(qrText(bundle).text)).toEqual(bundle);
  });
  it('holds the secret alone when it does not, and can always be drawn', () => {
    const large = { ...bundle, root: 'é'.repeat(1300) };
    expect(qrText(large)).toEqual({ whole: false, text: '{"fleet":"f","device_api":"https://h","claim_token":"flt_1"}' });
    const length = JSON.stringify({ ...bundle, root: '' }).length;
    const full = { ...bundle, root: 'y'.repeat(2331 - length) };
    expect(qrText(full).whole).toBe(true);
    expect(() => encode(qrText(full).text, { ecc: 'M', border: 2 })).not.toThrow();
  });
});

describe('tags', () => {
  it('stand one per line, with spaces and further equals signs in values', () => {
    const { tags, wrong } = parseTagLines(' site = Oslo 1 \n\nnote=a=b\nempty=');
    expect(wrong).toBeUndefined();
    expect(tags).toEqual({ site: 'Oslo 1', note: 'a=b', empty: '' });
    expect(parseTagLines(printTagLines(tags)).tags).toEqual(tags);
  });
  it('say what is wrong', () => {
    expect(parseTagLines('oslo').wrong).toContain('oslo=value');
    expect(parseTagLines('=x').wrong).toContain('no name');
    expect(parseTagLines('a=1\na=2').wrong).toContain('twice');
  });
  it('of many devices change by the same lines, with others that remove', () => {
    expect(parseTagChange('site=Oslo 1\n -old hall \nnote=a=b\n-x=1')).toEqual({ set: { site: 'Oslo 1', note: 'a=b', '-x': '1' }, remove: ['old hall'] });
    expect(parseTagChange(' \n').wrong).toBe('Write at least one tag.');
    expect(parseTagChange('oslo').wrong).toBe(parseTagLines('oslo').wrong);
    expect(parseTagChange('-').wrong).toContain('no value');
    expect([parseTagChange('a=1\n-a').wrong, parseTagChange('-a\n-a').wrong, parseTagChange('a=1\na=2').wrong]).toEqual(['a stands twice.', 'a stands twice.', 'a stands twice.']);
  });
});
