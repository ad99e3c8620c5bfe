// TanStack Query for the whole console. Keys begin with the resource as live events name it (`['device', …]`), so that one
// event knows what to fetch again.
import type { Query } from '@tanstack/preact-query';
import { QueryClient } from '@tanstack/preact-query';
import { ApiError } from './problem';

export const queryClient = new QueryClient({
  defaultOptions: {
    queries: {
      // Live events invalidate; without them a list is at most this old when somebody comes back to it.
      staleTime: 15_000,
      gcTime: 60_000,
      refetchOnWindowFocus: 'always',
      // A refusal stays a refusal. A server that is gone may come back.
      retry: (failures, error) => failures < 3 && !(error instanceof ApiError && error.status < 500),
      retryDelay: (attempt) => Math.min(8000, 500 * 2 ** attempt),
    },
    mutations: { retry: false },
  },
});

/**
 * What failed stays failed on the screen until an answer comes. TanStack goes back to "pending" whenever a query without data
 * is asked again, and with live events asking again at any moment, the error would give way to a skeleton under the reader's eyes.
 * Gives back how to stop.
 */
export function keepErrors(client: QueryClient): () => void {
  const failed = new WeakMap<Query, Error>();
  return client.getQueryCache().subscribe((event) => {
    if (event.type !== 'updated') return;
    const { query, action } = event;
    if (action.type === 'error') failed.set(query, query.state.error ?? action.error);
    else if (action.type === 'success') failed.delete(query);
    else if (action.type === 'fetch' && query.state.data === undefined) {
      const error = failed.get(query);
      if (error !== undefined) query.setState({ status: 'error', error });
    }
  });
}
