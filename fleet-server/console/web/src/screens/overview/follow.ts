// One answer of the server that is made of several resources. A live event names one resource and makes every query under
// that name old; an answer can stand under one name only, and says here which others it follows.
import { useQueryClient } from '@tanstack/preact-query';
import { useEffect } from 'preact/hooks';
import { follow } from '../../lib/refetch';

/** The query under `key`, of the same component, is made old whenever one of `resources` changes as well. */
export function useFollow(key: readonly unknown[], resources: readonly string[]): void {
  const client = useQueryClient();
  // By what they say: callers make them anew at every render. Effects run after the query is there, whichever hook stands first.
  useEffect(() => follow(client, key, resources), [client, JSON.stringify(key), resources.join(' ')]);
}
