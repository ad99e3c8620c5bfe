import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ALL, toggled, withIds, NONE } from '../../lib/selection';
import { parseTagChange } from '../provisioning/tags';
import { line } from './bulk';
import { rolloutHref, target } from './data';

describe('bulk actions', () => {
  it('names devices, or a filter for all but some', () => {
    expect(target(withIds(NONE, ['a', 'b'], true), 'status:alert')).toEqual({ ids: ['a', 'b'] });
    expect(target(ALL, 'status:alert')).toEqual({ filter: 'status:alert' });
    expect(target(toggled(ALL, 'edge 1'), 'status:alert')).toEqual({ filter: 'status:alert -id:"edge 1"' });
  });
  it('plan a rollout to what is selected, and to nothing wider', () => {
    expect(rolloutHref(withIds(NONE, ['b', 'a'], true), 'status:alert')).toBe(`/rollouts/new?${new URLSearchParams({ target: 'device.id in ["a", "b"]' })}`);
    expect(rolloutHref(NONE, 'site:oslo')).toBe('/rollouts/new?filter=site%3Aoslo');
    expect(rolloutHref(toggled(ALL, 'a'), 'site:oslo')).toBe(`/rollouts/new?${new URLSearchParams({ filter: 'site:oslo -id:a' })}`);
    expect(rolloutHref(withIds(NONE, Array.from({ length: 500 }, (_unused, index) => `d${index}`), true), '')).toBeUndefined();
  });
  it('show tags on the command line as the shell has to read them', () => {
    const { set, remove } = parseTagChange("site=Oslo 1\nnote=it's\n-old hall");
    const tag = { tag: { set, remove } };
    const tags = "'site=Oslo 1' 'note=it'\\''s' --remove 'old hall'";
    expect(line(tag, ALL, 'site:"Oslo 1"', 7)).toBe(`fleetctl devices tag ${tags} --filter 'site:"Oslo 1"' --expect 7 --yes`);
    expect(line(tag, withIds(NONE, ['a'], true), '', 7)).toBe(`fleetctl devices tag ${tags} --filter id:a --expect 1 --yes`);
    expect(line(tag, withIds(NONE, ['a', '-b'], true), '', 7)).toBe(`for d in a '"-b"'; do fleetctl devices tag ${tags} --filter "id:$d" --expect 1 --yes; done`);
    expect(line('decommission', withIds(NONE, ['a', 'b'], true), '', 7)).toBe('for d in a b; do fleetctl devices decommission --filter "id:$d" --expect 1 --yes; done');
  });
});

describe('saved views', () => {
  const KEY = 'flotilla.devices.views';
  const view = (name: string) => ({ name, filter: `site:${name}`, sort: 'id' });
  let text: Map<string, string>;
  let full: boolean;
  beforeEach(() => {
    text = new Map();
    full = false;
    vi.stubGlobal('localStorage', {
      getItem: (key: string) => text.get(key) ?? null,
      setItem: (key: string, value: string) => {
        if (full) throw new DOMException('', 'QuotaExceededError');
        text.set(key, value);
      },
    });
    const tab = new EventTarget();
    vi.stubGlobal('addEventListener', tab.addEventListener.bind(tab));
    vi.stubGlobal('removeEventListener', tab.removeEventListener.bind(tab));
    vi.stubGlobal('dispatchEvent', tab.dispatchEvent.bind(tab));
  });
  afterEach(() => vi.unstubAllGlobals());
  /** Each tab has the module for itself. */
  const open = async () => {
    vi.resetModules();
    return import('./views-store');
  };
  const names = (views: readonly { name: string }[]): string[] => views.map(({ name }) => name);
  const changed = (key: string | null): void => void dispatchEvent(Object.assign(new Event('storage'), { key }));

  it('of two tabs are both kept', async () => {
    const one = await open();
    const two = await open();
    expect([one.saveView(view('oslo')), two.saveView(view('turin'))]).toEqual([true, true]);
    expect(names(JSON.parse(text.get(KEY) ?? ''))).toEqual(['oslo', 'turin']);
    expect(one.forgetView('turin')).toBe(true);
    expect(names(JSON.parse(text.get(KEY) ?? ''))).toEqual(['oslo']);
  });
  it('of the other tab are shown in this one', async () => {
    const one = await open();
    const stop = one.watchViews();
    const two = await open();
    two.saveView(view('turin'));
    changed('flotilla.theme');
    expect(names(one.ownViews.get())).toEqual([]);
    changed(KEY);
    expect(names(one.ownViews.get())).toEqual(['turin']);
    stop();
    two.saveView(view('oslo'));
    changed(KEY);
    expect(names(one.ownViews.get())).toEqual(['turin']);
    one.watchViews();
    expect(names(one.ownViews.get()), 'what came while nobody watched').toEqual(['turin', 'oslo']);
    text.clear();
    changed(null);
    expect(one.ownViews.get()).toEqual([]);
  });
  it('are read out of whatever stands there', async () => {
    for (const wrong of ['{"name":"a"}', '7', 'null', '"views"', 'no JSON', '[null, 1, "x", [], {"name":"", "filter":"", "sort":""}, {"name":"a","filter":7,"sort":"id"}]']) {
      text.set(KEY, wrong);
      const store = await open();
      expect(store.ownViews.get(), wrong).toEqual([]);
      expect(store.saveView(view('oslo'))).toBe(true);
      expect(names(store.ownViews.get())).toEqual(['oslo']);
    }
    text.set(KEY, JSON.stringify([{ ...view('oslo'), more: 1 }, { name: 'half' }]));
    expect((await open()).ownViews.get()).toEqual([view('oslo')]);
  });
  it('that cannot be kept are there in this tab, and it says so', async () => {
    const store = await open();
    store.saveView(view('oslo'));
    full = true;
    expect(store.saveView(view('turin'))).toBe(false);
    expect(store.saveView(view('bergen'))).toBe(false);
    expect(names(store.ownViews.get())).toEqual(['oslo', 'turin', 'bergen']);
    full = false;
    expect(store.forgetView('oslo')).toBe(true);
    expect(names(JSON.parse(text.get(KEY) ?? ''))).toEqual(['turin', 'bergen']);
  });
});
