// TanStack Query for the whole console. Keys begin with the resource as live events name it (`['device', …]`), so that one
// event knows what to fetch again.
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
