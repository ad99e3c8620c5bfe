import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import type { Session } from '../lib/session';
import { abandon, sessionState } from '../lib/session';
import { draftOf } from './form';

const comes = (actor: string): void => sessionState.set({ state: 'in', session: { actor, name: actor, roles: [], capabilities: [], csrf: '', expires_at: '' } satisfies Session });

beforeEach(() => {
  const kept = new Map<string, string>();
  vi.stubGlobal('sessionStorage', {
    getItem: (key: string) => kept.get(key) ?? null,
    setItem: (key: string, value: string) => void kept.set(key, value),
    removeItem: (key: string) => void kept.delete(key),
  });
});
afterEach(() => vi.unstubAllGlobals());

it('keeps a draft for who wrote it, and shows nothing of it to who signs in next', () => {
  comes('ada');
  const hers = draftOf<{ note: string }>('freeze');
  hers.keep({ note: 'before the move' });
  abandon();
  comes('bob');
  expect(draftOf('freeze').read()).toBeUndefined();
  draftOf<{ note: string }>('freeze').keep({ note: 'mine' });
  // A form of hers that is still sending keeps to her draft, too.
  hers.keep({ note: 'after the move' });
  expect(draftOf('freeze').read()).toEqual({ note: 'mine' });
  abandon();
  comes('ada');
  expect(draftOf('freeze').read()).toEqual({ note: 'after the move' });
  draftOf('freeze').keep(undefined);
  expect(hers.read()).toBeUndefined();
});
