import { describe, expect, it } from 'vitest';
import type { Screen } from './router';
import { findScreen, href, integer, list, matchPath, oneOf, parseSearch, patchSearch, text } from './router';

const load = () => Promise.reject(new Error('not loaded in this test'));
const screens: Screen[] = [
  { path: '/runs/compare', title: '', load },
  { path: '/runs/:id', title: '', load },
  { path: '/', title: '', load },
];

describe('router', () => {
  it('matches and decodes', () => {
    expect(matchPath('/devices/:id', '/devices/a%2Fb%20c')).toEqual({ id: 'a/b c' });
    expect(matchPath('/devices/:id', '/devices')).toBeUndefined();
    expect(matchPath('/devices/:id', '/devices/%E0%A4%A')).toBeUndefined();
    expect(matchPath('/', '/')).toEqual({});
  });
  it('prefers fixed parts, in the order given', () => {
    expect(findScreen(screens, '/runs/compare')?.screen.path).toBe('/runs/compare');
    expect(findScreen(screens, '/runs/7')?.params).toEqual({ id: '7' });
    expect(findScreen(screens, '/nowhere')).toBeUndefined();
  });
  it('makes addresses that match again, whatever the name', () => {
    for (const id of ['a/b', 'مصنع', '<b>', '50%', '?x#y', '🏭']) {
      const made = href('/devices/:id', { id }, { tab: 'drift', none: undefined });
      expect(matchPath('/devices/:id', made.split('?')[0] ?? '')).toEqual({ id });
      expect(made.endsWith('?tab=drift')).toBe(true);
    }
  });
  it('keeps state in the query: defaults are not written, strangers stay', () => {
    const schema = { filter: text(), sort: oneOf(['id', '-id'], 'id'), size: integer(50), runs: list() };
    expect(parseSearch(schema, '?filter=status%3Aalert&sort=nonsense&size=x')).toEqual({ filter: 'status:alert', sort: 'id', size: 50, runs: [] });
    const search = patchSearch(schema, '?other=1', { filter: 'a b', sort: '-id', runs: ['x,y', 'z'] });
    expect(parseSearch(schema, search)).toEqual({ filter: 'a b', sort: '-id', size: 50, runs: ['x,y', 'z'] });
    expect(search).toContain('other=1');
    expect(patchSearch(schema, '?filter=a', { filter: '' })).toBe('');
  });
});
