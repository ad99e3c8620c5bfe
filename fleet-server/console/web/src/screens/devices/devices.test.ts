import { describe, expect, it } from 'vitest';
import { ALL, toggled, withIds, NONE } from '../../lib/selection';
import { parseTags } from './bulk';
import { target } from './data';

describe('bulk actions', () => {
  it('names devices, or a filter for all but some', () => {
    expect(target(withIds(NONE, ['a', 'b'], true), 'status:alert')).toEqual({ ids: ['a', 'b'] });
    expect(target(ALL, 'status:alert')).toEqual({ filter: 'status:alert' });
    expect(target(toggled(ALL, 'edge 1'), 'status:alert')).toEqual({ filter: 'status:alert -id:"edge 1"' });
  });
  it('reads tags', () => {
    expect(parseTags('site=oslo note=a=b -old')).toEqual({ set: { site: 'oslo', note: 'a=b' }, remove: ['old'] });
    expect(parseTags('oslo').wrong).toContain('name=value');
    expect(parseTags(' ').wrong).toBeDefined();
  });
});
