import { QueryClient, QueryObserver } from '@tanstack/preact-query';
import { describe, expect, it } from 'vitest';
import { fetchAgain } from './refetch';

const settle = () => new Promise((resolve) => setTimeout(resolve));

/** A question that somebody looks at; answers are given by hand. */
function slowQuery() {
  const client = new QueryClient({ defaultOptions: { queries: { retry: false } } });
  const asked: { aborted(): boolean; answer(value: number): void; fail(): void }[] = [];
  const observer = new QueryObserver<number>(client, {
    queryKey: ['device', 'rows'],
    staleTime: Infinity,
    queryFn: ({ signal }) =>
      new Promise((resolve, reject) => {
        signal.addEventListener('abort', () => reject(new Error('aborted')));
        asked.push({ aborted: () => signal.aborted, answer: resolve, fail: () => reject(new Error('gone')) });
      }),
  });
  const stop = observer.subscribe(() => undefined);
  return { client, asked, shown: () => observer.getCurrentResult().data, stop };
}

describe('fetching again', () => {
  it('does not cut off an answer under way, however often something changes, and asks once more', async () => {
    const { client, asked, shown, stop } = slowQuery();
    asked[0]?.answer(1);
    await settle();
    for (let event = 0; event < 5; event += 1) {
      fetchAgain(client, { queryKey: ['device'] });
      await settle();
    }
    expect([asked.length, asked[1]?.aborted()]).toEqual([2, false]);
    asked[1]?.answer(2);
    await settle();
    expect([shown(), asked.length]).toEqual([2, 3]);
    asked[2]?.answer(3);
    await settle();
    expect([shown(), asked.length]).toEqual([3, 3]);
    stop();
  });

  it('asks once more also when the answer under way was an error', async () => {
    const { client, asked, shown, stop } = slowQuery();
    fetchAgain(client, { queryKey: ['device'] });
    asked[0]?.fail();
    await settle();
    asked[1]?.answer(2);
    await settle();
    expect([shown(), asked.length]).toEqual([2, 2]);
    stop();
  });

  it('leaves other questions alone', async () => {
    const { client, asked, stop } = slowQuery();
    asked[0]?.answer(1);
    await settle();
    fetchAgain(client, { queryKey: ['rollout'] });
    await settle();
    expect(asked).toHaveLength(1);
    stop();
  });
});
