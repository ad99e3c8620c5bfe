import { QueryClient, QueryObserver } from '@tanstack/preact-query';
import { expect, it } from 'vitest';
import { keepErrors } from './query';

const settle = () => new Promise((resolve) => setTimeout(resolve));

it('keeps an error on the screen while the question is asked again', async () => {
  const client = new QueryClient({ defaultOptions: { queries: { retry: false } } });
  const stop = keepErrors(client);
  const answers: { give(value: number): void; fail(): void }[] = [];
  const observer = new QueryObserver<number>(client, {
    queryKey: ['drift'],
    queryFn: () => new Promise((resolve, reject) => answers.push({ give: resolve, fail: () => reject(new Error(`refused ${answers.length}`)) })),
  });
  const seen: string[] = [];
  // As a component does, which renders once after all notifications of one change.
  const unsubscribe = observer.subscribe(() =>
    queueMicrotask(() => {
      const result = observer.getCurrentResult();
      const said = `${result.status} ${result.error?.message ?? ''}`;
      if (seen.at(-1) !== said) seen.push(said);
    }),
  );
  answers[0]?.fail();
  await settle();
  void observer.refetch();
  await settle();
  expect(observer.getCurrentResult().fetchStatus).toBe('fetching');
  answers[1]?.fail();
  await settle();
  void observer.refetch();
  await settle();
  answers[2]?.give(7);
  await settle();
  expect(seen).toEqual(['pending ', 'error refused 1', 'error refused 2', 'success ']);
  unsubscribe();
  stop();
});
