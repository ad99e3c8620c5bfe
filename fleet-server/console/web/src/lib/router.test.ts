import { afterEach, describe, expect, it, vi } from 'vitest';
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
  it('takes a list as it stands where nobody can have written it so', () => {
    expect(parseSearch({ ids: list() }, '?ids=%25').ids).toEqual(['%']);
    expect(parseSearch({ ids: list() }, '?ids=a%252Cb,100%25,c').ids).toEqual(['a,b', '100%', 'c']);
  });
});

describe('the code of screens', () => {
  /** A browser at `/`, and three screens whose code comes when the check says so. */
  async function browser({ saveData = false } = {}) {
    vi.resetModules();
    const location = { pathname: '/', search: '' };
    vi.stubGlobal('location', location);
    vi.stubGlobal('history', { state: { key: 'k' }, pushState: (_state: unknown, _title: string, to: string) => (location.pathname = to) });
    vi.stubGlobal('scrollY', 0);
    vi.stubGlobal('addEventListener', () => undefined);
    vi.stubGlobal('navigator', { connection: { saveData } });
    vi.stubGlobal('requestIdleCallback', (run: () => void) => run());
    const asked: string[] = [];
    const answers: { come(): void; fail(): void }[] = [];
    const all: Screen[] = ['/', '/runs', '/runs/:id'].map((path) => ({
      path,
      title: '',
      load: () => {
        asked.push(path);
        return new Promise((resolve, reject) => answers.push({ come: () => resolve({ default: () => null }), fail: () => reject(new Error('gone')) }));
      },
    }));
    const router = await import('./router');
    router.startRouter(all);
    return { ...router, asked, answers };
  }
  const settle = () => new Promise((resolve) => setTimeout(resolve));
  afterEach(() => vi.unstubAllGlobals());

  it('is asked for by going there, once, and anew when it did not come', async () => {
    const { navigate, asked, answers } = await browser();
    expect(asked).toEqual(['/']);
    navigate('/runs/7');
    navigate('/runs/8');
    expect(asked).toEqual(['/', '/runs/:id']);
    answers[1]?.fail();
    await settle();
    navigate('/runs/7');
    expect(asked).toEqual(['/', '/runs/:id', '/runs/:id']);
    answers[2]?.come();
    await settle();
    navigate('/runs/8');
    expect(asked).toHaveLength(3);
  });
  it('of all others comes ahead, one after the other', async () => {
    const { loadAhead, asked, answers } = await browser();
    loadAhead();
    loadAhead();
    expect(asked).toEqual(['/', '/runs']);
    answers[1]?.come();
    await settle();
    expect(asked).toEqual(['/', '/runs', '/runs/:id']);
  });
  it('does not come ahead where data is dear, and stops where the server is gone', async () => {
    const dear = await browser({ saveData: true });
    dear.loadAhead();
    expect(dear.asked).toEqual(['/']);
    const gone = await browser();
    gone.loadAhead();
    gone.answers[1]?.fail();
    await settle();
    expect(gone.asked).toEqual(['/', '/runs']);
  });
});
