// One answer of the server that is made of several resources. A live event names one resource and makes every query under
// that name old; an answer can stand under one name only. So a query that holds nothing stands under each of the others, and
// when it is made old, it passes that on.
import { useQueries, useQueryClient } from '@tanstack/preact-query';
import { fetchAgain } from '../../lib/refetch';

/** Fetches `key` again whenever one of `resources` changes. */
export function useFollow(key: readonly unknown[], resources: readonly string[]): void {
  const client = useQueryClient();
  useQueries({
    queries: resources.map((resource) => ({
      queryKey: [resource, 'followed-by', ...key],
      queryFn: () => {
        fetchAgain(client, { queryKey: key });
        return Date.now();
      },
      initialData: 0,
      staleTime: Infinity,
      refetchOnWindowFocus: false,
      refetchOnReconnect: false,
    })),
  });
}
