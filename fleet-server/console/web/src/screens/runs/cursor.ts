// Rows of a list that the server gives page by page with a cursor, in its own order. What the list is asked beyond what the
// server can answer (sorting, terms) is answered here, over the newest rows up to a bound.
import type { QueryKey } from '@tanstack/preact-query';
import { useInfiniteQuery } from '@tanstack/preact-query';
import { useEffect, useMemo } from 'preact/hooks';
import type { RowSource } from '../../lib/rows';

const PAGE = 100;
/** Older rows are reached by narrowing what the server is asked. */
const MAX_PAGES = 20;

interface CursorPage<T> {
  items: T[];
  next_cursor?: string | null | undefined;
  /** What matches on all pages, where the server counts it. */
  total?: number | undefined;
}

export interface CursorRows<T> extends RowSource<T> {
  /** Everything fetched so far, as the server orders it. */
  fetched: readonly T[];
  /** The rows as they are shown. */
  shown: readonly T[];
  /** Nothing is missing from `fetched`. */
  complete: boolean;
  /** How many the server says there are of what it was asked, those not fetched counted in. */
  matching: number | undefined;
}

/** All but the last part of the key: which list it is. */
function listOf(key: QueryKey): string {
  return JSON.stringify(key.slice(0, -1));
}

/**
 * The last part of `key` is what is asked of the list: until the answer to another question is here, the rows before stay.
 * `arrange` filters and sorts; with it every page is fetched (up to the bound), because the best row may stand on the last
 * one. Without it pages come as the table is scrolled.
 */
export function useCursorRows<T>(
  key: QueryKey,
  fetch: (cursor: string | undefined, limit: number, signal: AbortSignal) => Promise<CursorPage<T>>,
  arrange?: (rows: readonly T[]) => readonly T[],
): CursorRows<T> {
  const query = useInfiniteQuery({
    queryKey: key,
    queryFn: ({ pageParam, signal }) => fetch(pageParam, PAGE, signal),
    initialPageParam: undefined as string | undefined,
    placeholderData: (before, query) => (query !== undefined && listOf(query.queryKey) === listOf(key) ? before : undefined),
    getNextPageParam: (last: CursorPage<T>, pages: CursorPage<T>[]) => (pages.length >= MAX_PAGES ? undefined : (last.next_cursor ?? undefined)),
  });
  const { hasNextPage, isFetching, fetchNextPage, isError } = query;
  const all = arrange !== undefined;
  useEffect(() => {
    if (all && hasNextPage && !isFetching && !isError) void fetchNextPage();
  }, [all, hasNextPage, isFetching, isError, fetchNextPage]);

  const pages = query.data?.pages;
  const fetched = useMemo(() => pages?.flatMap((page) => page.items) ?? [], [pages]);
  const shown = useMemo(() => arrange?.(fetched) ?? fetched, [arrange, fetched]);
  // Rows that are still to come are grey bars at the end; scrolling to them fetches them.
  const matching = pages?.at(-1)?.total;
  const coming = !all && hasNextPage ? Math.min(PAGE, Math.max(1, (matching ?? Infinity) - shown.length)) : 0;
  return {
    status: query.data !== undefined ? 'ready' : isError ? 'error' : 'loading',
    error: query.error,
    stale: query.isPlaceholderData || (all && hasNextPage && !isError),
    total: shown.length + coming,
    rowAt: (index) => shown[index],
    fetchedAt: () => query.dataUpdatedAt,
    load: (index) => Promise.resolve(shown[index]),
    want: (range) => {
      if (range.to > shown.length && hasNextPage && !isFetching && !isError) void fetchNextPage();
    },
    retry: () => void (query.data === undefined ? query.refetch() : fetchNextPage()),
    fetched,
    shown,
    matching,
    complete: query.data !== undefined && (pages?.at(-1)?.next_cursor ?? undefined) === undefined,
  };
}
