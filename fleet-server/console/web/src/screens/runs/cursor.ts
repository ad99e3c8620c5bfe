// Rows of a list that the server gives page by page with a cursor, in its own order. Pages come as the table is scrolled. Where
// the server also answers by number, `usePagedRows` is better: it reaches every row.
import type { QueryKey } from '@tanstack/preact-query';
import { useInfiniteQuery } from '@tanstack/preact-query';
import { useMemo } from 'preact/hooks';
import type { RowSource } from '../../lib/rows';

/** What is seen first comes quickly; who scrolls on gets as many as the server gives at once, because events have every page asked for again. */
const FIRST_PAGE = 100;
const PAGE = 1000;
/** A hundred thousand rows. Others are reached by narrowing what the server is asked. */
const MAX_PAGES = 101;

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
  /** How many the server says there are of what it was asked, those not fetched counted in. */
  matching: number | undefined;
}

/** All but the last part of the key: which list it is. */
function listOf(key: QueryKey): string {
  return JSON.stringify(key.slice(0, -1));
}

/** The last part of `key` is what is asked of the list: until the answer to another question is here, the rows before stay. */
export function useCursorRows<T>(key: QueryKey, fetch: (cursor: string | undefined, limit: number, signal: AbortSignal) => Promise<CursorPage<T>>): CursorRows<T> {
  const query = useInfiniteQuery({
    queryKey: key,
    queryFn: ({ pageParam, signal }) => fetch(pageParam, pageParam === undefined ? FIRST_PAGE : PAGE, signal),
    initialPageParam: undefined as string | undefined,
    placeholderData: (before, query) => (query !== undefined && listOf(query.queryKey) === listOf(key) ? before : undefined),
    getNextPageParam: (last: CursorPage<T>, pages: CursorPage<T>[]) => (pages.length >= MAX_PAGES ? undefined : (last.next_cursor ?? undefined)),
  });
  const { hasNextPage, isFetching, fetchNextPage, isError } = query;
  const pages = query.data?.pages;
  const fetched = useMemo(() => pages?.flatMap((page) => page.items) ?? [], [pages]);
  const matching = pages?.at(-1)?.total;
  // Rows that are still to come are grey bars at the end; scrolling to them fetches them.
  const coming = hasNextPage ? Math.min(PAGE, Math.max(1, (matching ?? Infinity) - fetched.length)) : 0;
  return {
    status: query.data !== undefined ? 'ready' : isError ? 'error' : 'loading',
    error: query.error,
    stale: query.isPlaceholderData,
    total: fetched.length + coming,
    rowAt: (index) => fetched[index],
    fetchedAt: () => query.dataUpdatedAt,
    load: (index) => Promise.resolve(fetched[index]),
    want: (range) => {
      if (range.to > fetched.length && hasNextPage && !isFetching && !isError) void fetchNextPage();
    },
    retry: () => (query.data === undefined || !hasNextPage ? query.refetch() : fetchNextPage()),
    fetched,
    shown: fetched,
    matching,
  };
}
