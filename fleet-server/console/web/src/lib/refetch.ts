// Fetching again what live events have made old. An answer that is under way is not cut off, or one that takes longer than
// events come apart would never arrive; but it may be older than the event, so its question is asked once more when it is here.
// Nobody looks at a hidden tab: there things only become old, and are fetched when it is shown (`refetchOnWindowFocus`).
import { focusManager } from '@tanstack/preact-query';
import type { InfiniteData, Query, QueryClient, QueryFilters, QueryKey } from '@tanstack/preact-query';
import type { Change } from './live';

/** Queries that will be asked once more. */
const owed = new WeakSet<Query>();

/** What is shown is fetched now, the rest when it is shown next. */
export function fetchAgain(client: QueryClient, filters: QueryFilters = {}): void {
  const underWay = client.getQueryCache().findAll(filters).filter((query) => query.state.fetchStatus !== 'idle');
  void client.invalidateQueries({ ...filters, refetchType: focusManager.isFocused() ? 'active' : 'none' }, { cancelRefetch: false });
  for (const query of underWay) {
    const { promise } = query;
    if (promise === undefined || owed.has(query)) continue;
    owed.add(query);
    const settled = (): void => {
      owed.delete(query);
      fetchAgain(client, { queryKey: query.queryKey, exact: true });
    };
    promise.then(settled, settled);
  }
}

/** How often events may have a question asked again, for each page that its answer has. */
const PACE_MS = 2000;

interface Pace {
  last: number;
  due?: ReturnType<typeof setTimeout>;
}

const paces = new WeakMap<Query, Pace>();

/** Of a list that has been scrolled through every page is asked for again: as many times less often. */
function pagesOf(query: Query): number {
  const { pages, pageParams } = (query.state.data ?? {}) as Partial<InfiniteData<unknown>>;
  return Array.isArray(pages) && Array.isArray(pageParams) ? Math.max(1, pages.length) : 1;
}

/** Fetches one again at its pace: at once, then after the pause, and never loses the last. */
function makeOld(client: QueryClient, query: Query): void {
  const again = (): void => fetchAgain(client, { queryKey: query.queryKey, exact: true });
  if (!query.isActive() || !focusManager.isFocused()) {
    again();
    return;
  }
  const pace = paces.get(query) ?? { last: -Infinity };
  paces.set(query, pace);
  const fetch = (): void => {
    delete pace.due;
    pace.last = performance.now();
    again();
  };
  const wait = pace.last + PACE_MS * pagesOf(query) - performance.now();
  if (pace.due === undefined && wait <= 0) {
    fetch();
    return;
  }
  // Whoever opens the screen anew meanwhile need not wait.
  query.invalidate();
  pace.due ??= setTimeout(fetch, wait);
}

/** What an answer holds of resources that its key does not name. Kept with the query, so that it holds while nobody looks too. */
const followed = new WeakMap<Query, readonly string[]>();

/** From now on events of `resources` make the answer under `key` old as well. */
export function follow(client: QueryClient, key: QueryKey, resources: readonly string[]): void {
  const query = client.getQueryCache().find({ queryKey: key, exact: true });
  if (query !== undefined) followed.set(query, resources);
}

/**
 * What events have made old: lists and sums of their resources, and what is about the very thing that an event names
 * (`meta: { id }`). What is about another one stays as it is. An event without an id may be about any.
 */
export function changed(client: QueryClient, changes: readonly Pick<Change, 'resource' | 'id'>[]): void {
  const ids = new Map<string, Set<string>>();
  for (const { resource, id } of changes) ids.set(resource, (ids.get(resource) ?? new Set()).add(id));
  for (const query of client.getQueryCache().getAll()) {
    const told = ids.get(String(query.queryKey[0]));
    const id = query.meta?.id;
    const concerned = told !== undefined && (typeof id !== 'string' || told.has(id) || told.has(''));
    if (concerned || followed.get(query)?.some((resource) => ids.has(resource)) === true) makeOld(client, query);
  }
}
