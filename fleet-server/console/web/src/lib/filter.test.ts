import { describe, expect, it } from 'vitest';
import { hasTerm, parseFilter, problems, settled, suggest, termText, terms, toggleTerm } from './filter';

const FIELDS = [
  { name: 'status', help: '', values: ['online', 'offline', 'updating'] },
  { name: 'site', help: '', values: ['Oslo 1', 'Austin'] },
  { name: 'tag', help: '' },
];

describe('filter', () => {
  it('splits fields, signs, quotes and free text', () => {
    expect(terms('status:alert -fw:1.4.2 tag.site:"Oslo 1" NOT model:motions edge')).toEqual([
      { kind: 'term', negated: false, field: 'status', value: 'alert', start: 0, end: 12 },
      { kind: 'term', negated: true, field: 'fw', value: '1.4.2', start: 13, end: 22 },
      { kind: 'term', negated: false, field: 'tag.site', value: 'Oslo 1', start: 23, end: 40 },
      { kind: 'term', negated: true, field: 'model', value: 'motions', start: 41, end: 58 },
      { kind: 'term', negated: false, value: 'edge', start: 59, end: 63 },
    ]);
  });
  it('takes a minus after NOT as a second negation', () => {
    expect(terms('NOT -status:online')[0]?.negated).toBe(false);
  });
  it('reads escapes in quotes', () => {
    expect(terms('site:"a \\"b\\" \\\\c"')[0]?.value).toBe('a "b" \\c');
  });
  it('says what is wrong, but not about what is still being typed', () => {
    expect(problems('status: edge').map((problem) => problem.message)).toEqual(['status: needs a value']);
    expect(problems('edge status:')).toEqual([]);
    expect(problems('site:"Oslo')).toEqual([]);
    expect(problems('NOT NOT a')[0]?.message).toContain('twice');
  });
  it('leaves the unfinished part out of what is sent', () => {
    expect(settled('status:online site:')).toBe('status:online');
    expect(settled('site:"Os')).toBe('');
    expect(settled('  a   NOT')).toBe('a');
    expect(settled('NOT status:online NOT -x -y')).toBe('-status:online x -y');
    expect(settled('id:"press*" id:press*')).toBe('id:"press*" id:press*');
  });
  it('never loops or loses text on anything', () => {
    for (const text of ['', ' ', ':', '-', '--', '"', '""', 'a:b:c', '-"x y"', 'NOT', '\u202e:x', 'مصنع:٣', 'a:"']) {
      const tokens = parseFilter(text);
      for (const token of tokens) expect(token.end).toBeLessThanOrEqual(text.length);
    }
  });
  it('prints what it reads', () => {
    for (const text of ['status:alert', '-site:"Oslo 1"', 'id:"ab*"', '"two words"', '-x']) expect(terms(text).map(termText).join(' ')).toBe(text);
  });
  it('puts a term in and takes it out', () => {
    const on = toggleTerm('site:Austin status:online', 'status', 'alert');
    expect(on).toBe('site:Austin status:alert');
    expect(hasTerm(on, 'status', 'alert')).toBe(true);
    expect(toggleTerm(on, 'status', 'alert')).toBe('site:Austin');
    expect(toggleTerm('-status:online', 'status', 'alert')).toBe('-status:online status:alert');
  });
  it('suggests fields, then values, quoted where needed', () => {
    expect(suggest('st', 2, FIELDS).map((option) => option.insert)).toEqual(['status:']);
    expect(suggest('a -site:o', 9, FIELDS)).toEqual([{ insert: '-site:"Oslo 1" ', label: '-site:"Oslo 1"', from: 2, to: 9 }]);
    expect(suggest('nothing:x', 9, FIELDS)).toEqual([]);
  });
});
