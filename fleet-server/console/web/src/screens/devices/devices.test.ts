import { describe, expect, it } from 'vitest';
import { ALL, toggled, withIds, NONE } from '../../lib/selection';
import { parseTags } from './bulk';
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
  it('reads tags', () => {
    expect(parseTags('site=oslo note=a=b -old')).toEqual({ set: { site: 'oslo', note: 'a=b' }, remove: ['old'] });
    expect(parseTags('oslo').wrong).toContain('name=value');
    expect(parseTags(' ').wrong).toBeDefined();
  });
});
