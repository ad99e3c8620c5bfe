import { focusManager, InfiniteQueryObserver, QueryClient, QueryObserver } from '@tanstack/preact-query';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { deviceQuery, driftQuery, hoursQuery, timelineQuery } from '../screens/device/data';
import { changed, fetchAgain, follow } from './refetch';

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

describe('what events make old', () => {
  let client: QueryClient;
  let asked: Record<string, number>;
  const stops: (() => void)[] = [];
  /** A question that somebody looks at. */
  const shows = (queryKey: readonly unknown[], meta?: { id: string }) => {
    const name = queryKey.join(' ');
    asked[name] = 0;
    const queryFn = (): number => (asked[name] = (asked[name] ?? 0) + 1);
    stops.push(new QueryObserver(client, { queryKey, queryFn, staleTime: Infinity, ...(meta === undefined ? {} : { meta }) }).subscribe(() => undefined));
  };
  const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);
  const tell = (...changes: [resource: string, id: string][]) => changed(client, changes.map(([resource, id]) => ({ resource, id })));
  beforeEach(() => {
    vi.useFakeTimers();
    client = new QueryClient({ defaultOptions: { queries: { retry: false } } });
    client.mount();
    asked = {};
  });
  afterEach(() => {
    for (const stop of stops.splice(0)) stop();
    focusManager.setFocused(undefined);
    client.unmount();
    client.clear();
    vi.useRealTimers();
    vi.unstubAllGlobals();
  });

  it('is the lists of a resource, and of what is about one thing the thing itself', async () => {
    shows(['device', 'rows']);
    shows(['device', 'detail', 'a'], { id: 'a' });
    shows(['device', 'detail', 'b'], { id: 'b' });
    shows(['rollout', 'list']);
    await pass(0);
    tell(['device', 'b'], ['audit', '7']);
    await pass(0);
    expect(asked).toEqual({ 'device rows': 2, 'device detail a': 1, 'device detail b': 2, 'rollout list': 1 });
    // One that names nothing may be about any.
    await pass(2000);
    tell(['device', '']);
    await pass(0);
    expect(asked).toEqual({ 'device rows': 3, 'device detail a': 2, 'device detail b': 3, 'rollout list': 1 });
  });

  it('is nothing on the page of one device when another one speaks, and everything when it does itself', async () => {
    const requests: string[] = [];
    vi.stubGlobal('fetch', (request: Request) => {
      requests.push(new URL(request.url).pathname);
      return Promise.resolve(Response.json({ items: [] }));
    });
    for (const query of [deviceQuery('a'), hoursQuery('a', '24h'), driftQuery('a'), timelineQuery('a', '')])
      stops.push(new QueryObserver<unknown>(client, { ...(query as { queryKey: readonly unknown[]; queryFn: (context: { signal: AbortSignal }) => Promise<unknown>; meta: { id: string } }), staleTime: Infinity }).subscribe(() => undefined));
    for (const key of [deviceQuery('a').queryKey, timelineQuery('a', '').queryKey]) follow(client, key, ['deployment']);
    await pass(10);
    expect(requests.toSorted()).toEqual(['/api/v1/devices/a', '/api/v1/devices/a/telemetry', '/api/v1/devices/a/timeline', '/api/v1/drift']);
    requests.length = 0;
    // As the server tells of a device that reports, is tagged, judges its data and harvests.
    for (let time = 0; time < 20; time += 1) {
      tell(['device', 'b'], ['drift', ''], ['dataset', ''], ['audit', String(time)]);
      await pass(500);
    }
    expect(requests).toEqual([]);
    tell(['device', 'a']);
    await pass(10);
    expect(requests).toHaveLength(4);
    // A rollout may have given it something: its deployments name the rollout alone.
    await pass(2000);
    requests.length = 0;
    tell(['deployment', 'r']);
    await pass(10);
    expect(requests.toSorted()).toEqual(['/api/v1/devices/a', '/api/v1/devices/a/timeline']);
  });

  it('is fetched at once, then once per pause, and never loses the last', async () => {
    shows(['device', 'rows']);
    await pass(0);
    for (let hit = 0; hit < 100; hit += 1) tell(['device', String(hit)]);
    await pass(0);
    expect(asked).toEqual({ 'device rows': 2 });
    await pass(1900);
    expect(asked).toEqual({ 'device rows': 2 });
    await pass(200);
    expect(asked).toEqual({ 'device rows': 3 });
    await pass(20_000);
    expect(asked).toEqual({ 'device rows': 3 });
  });

  it('is fetched once where it holds several resources', async () => {
    shows(['device', 'overview']);
    follow(client, ['device', 'overview'], ['rollout', 'run']);
    await pass(0);
    tell(['device', 'a'], ['rollout', 'r'], ['run', 'n']);
    await pass(0);
    expect(asked).toEqual({ 'device overview': 2 });
    await pass(2000);
    tell(['run', 'n']);
    await pass(0);
    tell(['model', 'm']);
    await pass(5000);
    expect(asked).toEqual({ 'device overview': 3 });
  });

  it('is only marked in a hidden tab, and fetched when it is shown', async () => {
    shows(['device', 'rows']);
    shows(['device', 'detail', 'b'], { id: 'b' });
    await pass(0);
    tell(['device', 'a']);
    await pass(0);
    // Due when the tab is hidden already.
    tell(['device', 'a']);
    focusManager.setFocused(false);
    for (let time = 0; time < 10; time += 1) {
      tell(['device', 'a']);
      await pass(3000);
    }
    expect(asked).toEqual({ 'device rows': 2, 'device detail b': 1 });
    focusManager.setFocused(true);
    await pass(0);
    expect(asked).toEqual({ 'device rows': 3, 'device detail b': 1 });
  });

  it('costs at most a page every two seconds, however many pages a list has', async () => {
    let requests = 0;
    const observer = new InfiniteQueryObserver(client, {
      queryKey: ['run', 'rows'],
      staleTime: Infinity,
      initialPageParam: 0,
      queryFn: ({ pageParam }) => {
        requests += 1;
        return pageParam;
      },
      getNextPageParam: (last: number) => (last < 9 ? last + 1 : undefined),
    });
    stops.push(observer.subscribe(() => undefined));
    await pass(0);
    for (let page = 1; page < 10; page += 1) await observer.fetchNextPage();
    expect([requests, observer.getCurrentResult().data?.pages.length]).toEqual([10, 10]);
    requests = 0;
    for (let second = 0; second < 55; second += 1) {
      tell(['run', String(second)]);
      await pass(1000);
    }
    // At once, after 20 s and after 40 s.
    expect(requests).toBe(30);
    // Nothing is lost: the last event is followed by an answer.
    await pass(20_000);
    expect(requests).toBe(40);
    expect(observer.getCurrentResult().isStale).toBe(false);
  });

  it('is what nobody looks at as well, fetched when somebody comes back to it', async () => {
    shows(['device', 'overview']);
    follow(client, ['device', 'overview'], ['run']);
    await pass(0);
    for (const stop of stops.splice(0)) stop();
    tell(['run', 'n']);
    await pass(0);
    expect([asked['device overview'], client.getQueryState(['device', 'overview'])?.isInvalidated]).toEqual([1, true]);
  });
});
