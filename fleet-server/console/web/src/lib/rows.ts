// Rows of a long list, fetched page by page as the table shows them. The server filters, sorts and counts; at most the pages
// around what is visible are kept.
import { keepPreviousData, useQueries, useQuery, useQueryClient } from '@tanstack/preact-query';
import { useCallback, useMemo, useState } from 'preact/hooks';
import { plural } from './format';
import type { RowWindow } from './window';
import { pagesOf } from './window';

export interface RowPage<T> {
  items: T[];
  total: number;
}

export interface RowSource<T> {
  status: 'loading' | 'error' | 'ready';
  error: unknown;
  /** What is shown belongs to the question before: the answer to the new one is under way. */
  stale: boolean;
  total: number;
  /** The rows that are here, where `total` holds a place for some that are still to come. */
  shown?: readonly T[];
  /** How many match, where the server says so of a list whose rows come one page after the other. */
  matching?: number | undefined;
  rowAt(index: number): T | undefined;
  /** When the row was fetched, Unix ms: live patches that are older than this are in it already. */
  fetchedAt(index: number): number;
  /** Fetches the row if it is not here: for keys that act on a row before it has been painted. */
  load(index: number): Promise<T | undefined>;
  /** The table says what it shows. */
  want(range: RowWindow): void;
  /** The promise that it gives, if it gives one, ends when the answer is here or has failed again. */
  retry(): unknown;
}

/** How many rows match: `1,234 rows`, `no rows`. */
export function countWords({ total, shown, matching }: Pick<RowSource<unknown>, 'total' | 'shown' | 'matching'>): string {
  if (total === 0) return 'no rows';
  if (shown === undefined || shown.length >= total) return plural(total, 'row');
  return matching === undefined ? `more than ${plural(shown.length, 'row')}` : plural(matching, 'row');
}

export const PAGE = 100;

/**
 * `key` begins with the resource (`['device', 'rows', filter, sort]`) and says all that `fetch` asks; `fetch` gives rows
 * `[offset, offset + limit)` and how many match in all. Requests that nobody waits for any more are aborted through `signal`.
 */
export function usePagedRows<T>(
  key: readonly unknown[],
  fetch: (offset: number, limit: number, signal: AbortSignal) => Promise<RowPage<T>>,
): RowSource<T> {
  const client = useQueryClient();
  const identity = JSON.stringify(key);
  const page = useCallback(
    // With this question's own `fetch`: one that is tried again later would put the answer to another question in its place.
    (index: number) => ({
      queryKey: [...key, index],
      queryFn: ({ signal }: { signal: AbortSignal }) => fetch(index * PAGE, PAGE, signal),
    }),
    // The key is compared by what it says, not by which array says it.
    [identity],
  );
  const first = useQuery({ ...page(0), placeholderData: keepPreviousData });
  const [range, setRange] = useState<RowWindow>({ from: 0, to: 1 });
  const pages = useMemo(() => pagesOf(range, PAGE), [range]);
  const total = first.data?.total ?? 0;
  const inside = pages.filter((index) => index > 0 && index * PAGE < total);
  const others = useQueries({ queries: inside.map(page) });

  const want = useCallback((next: RowWindow) => {
    setRange((before) => (before.from === next.from && before.to === next.to ? before : next));
  }, []);
  const pageOf = (index: number) => {
    const wanted = Math.floor(index / PAGE);
    if (wanted === 0) return first;
    const position = inside.indexOf(wanted);
    return position < 0 ? undefined : others[position];
  };
  const rowAt = (index: number): T | undefined => pageOf(index)?.data?.items[index % PAGE];
  return {
    status: first.data !== undefined ? 'ready' : first.isError ? 'error' : 'loading',
    error: first.error ?? others.find((other) => other.isError)?.error,
    stale: first.isPlaceholderData,
    total,
    rowAt,
    fetchedAt: (index) => pageOf(index)?.dataUpdatedAt ?? 0,
    load: async (index) => {
      if (index < 0 || index >= total) return undefined;
      const here = rowAt(index);
      if (here !== undefined) return here;
      const fetched = await client.fetchQuery(page(Math.floor(index / PAGE)));
      return fetched.items[index % PAGE];
    },
    want,
    retry: () => Promise.all([first, ...others.filter((other) => other.isError)].map((query) => query.refetch())),
  };
}

/** The same interface for a list that is here in full (tens of rows: runs of a comparison, features of a model). */
export function useStaticRows<T>(items: readonly T[] | undefined, state?: { error?: unknown; retry?(): unknown; fetchedAt?: number }): RowSource<T> {
  return {
    status: items !== undefined ? 'ready' : state?.error !== undefined && state.error !== null ? 'error' : 'loading',
    error: state?.error,
    stale: false,
    total: items?.length ?? 0,
    rowAt: (index) => items?.[index],
    fetchedAt: () => state?.fetchedAt ?? 0,
    load: (index) => Promise.resolve(items?.[index]),
    want: () => undefined,
    retry: () => state?.retry?.(),
  };
}
