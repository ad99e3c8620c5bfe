// Rows of a long list, fetched page by page as the table shows them. The server filters, sorts and counts; at most the pages
// around what is visible are kept.
import { keepPreviousData, useQueries, useQuery, useQueryClient } from '@tanstack/preact-query';
import { useCallback, useMemo, useRef, useState } from 'preact/hooks';
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
  rowAt(index: number): T | undefined;
  /** When the row was fetched, Unix ms: live patches that are older than this are in it already. */
  fetchedAt(index: number): number;
  /** Fetches the row if it is not here: for keys that act on a row before it has been painted. */
  load(index: number): Promise<T | undefined>;
  /** The table says what it shows. */
  want(range: RowWindow): void;
  retry(): void;
}

export const PAGE = 100;

/**
 * `key` begins with the resource (`['device', 'rows', filter, sort]`); `fetch` gives rows `[offset, offset + limit)` and how
 * many match in all. Requests that nobody waits for any more are aborted through `signal`.
 */
export function usePagedRows<T>(
  key: readonly unknown[],
  fetch: (offset: number, limit: number, signal: AbortSignal) => Promise<RowPage<T>>,
): RowSource<T> {
  const client = useQueryClient();
  const fetchNow = useRef(fetch);
  fetchNow.current = fetch;
  const identity = JSON.stringify(key);
  const page = useCallback(
    (index: number) => ({
      queryKey: [...key, index],
      queryFn: ({ signal }: { signal: AbortSignal }) => fetchNow.current(index * PAGE, PAGE, signal),
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
    retry: () => {
      void first.refetch();
      for (const other of others) if (other.isError) void other.refetch();
    },
  };
}

/** The same interface for a list that is here in full (tens of rows: runs of a comparison, features of a model). */
export function useStaticRows<T>(items: readonly T[] | undefined, state?: { error?: unknown; retry?(): void; fetchedAt?: number }): RowSource<T> {
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
