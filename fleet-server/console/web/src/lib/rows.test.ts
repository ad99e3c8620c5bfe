import { describe, expect, it } from 'vitest';
import { countWords } from './rows';
import { NONE, whileAsked, withIds } from './selection';
import type { Selection } from './selection';

describe('how many rows there are', () => {
  const rows = (length: number): unknown[] => Array.from({ length });
  it('is what the server counted', () => {
    expect([countWords({ total: 0 }), countWords({ total: 1 }), countWords({ total: 20_000 })]).toEqual(['no rows', '1 row', '20,000 rows']);
  });
  it('is not what a list keeps places for', () => {
    expect(countWords({ total: 200, shown: rows(100), matching: 250 })).toBe('250 rows');
    expect(countWords({ total: 200, shown: rows(100), matching: undefined })).toBe('more than 100 rows');
    expect(countWords({ total: 3, shown: rows(3), matching: 250 }), 'narrowed in the browser').toBe('3 rows');
  });
});

describe('a range that is still being fetched', () => {
  /** A list as the screen has it: another question takes the selection away. */
  const list = () => {
    const now = { question: 'status:alert', selection: NONE as Selection };
    let arrive: (ids: string[]) => void = () => undefined;
    const select = async (): Promise<void> => {
      const ids = await whileAsked(() => now.question, () => new Promise<string[]>((resolve) => (arrive = resolve)));
      if (ids !== undefined) now.selection = withIds(now.selection, ids, true);
    };
    return { now, select, arrive: (ids: string[]) => arrive(ids) };
  };
  it('is selected when it is here', async () => {
    const { now, select, arrive } = list();
    const selecting = select();
    arrive(['a', 'b']);
    await selecting;
    expect(now.selection).toEqual({ mode: 'some', ids: new Set(['a', 'b']) });
  });
  it('is not selected once another question is asked', async () => {
    const { now, select, arrive } = list();
    const selecting = select();
    now.question = 'status:online';
    now.selection = NONE;
    arrive(['a', 'b']);
    await selecting;
    expect(now.selection).toEqual(NONE);
  });
});
