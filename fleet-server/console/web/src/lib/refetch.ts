// Fetching again what live events have made old. An answer that is under way is not cut off, or one that takes longer than
// events come apart would never arrive; but it may be older than the event, so its question is asked once more when it is here.
import type { Query, QueryClient, QueryFilters } from '@tanstack/preact-query';

/** Queries that will be asked once more. */
const owed = new WeakSet<Query>();

/** What is shown is fetched now, the rest when it is shown next. */
export function fetchAgain(client: QueryClient, filters: QueryFilters = {}): void {
  const underWay = client.getQueryCache().findAll({ ...filters, predicate: (query) => query.state.fetchStatus !== 'idle' });
  void client.invalidateQueries(filters, { cancelRefetch: false });
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
