import { describe, expect, it, vi } from 'vitest';
import type { Change, LivePlatform } from './live';
import { Live, Throttle } from './live';
import { StreamRefused } from './sse';
import type { SseEvent } from './sse';

/** One browser: tabs share a channel and a lock, frames and streams are moved by hand. */
class Browser {
  private listeners: { tab: number; listener(message: never): void }[] = [];
  private queue: { tab: number; run(): void }[] = [];
  private holder: number | undefined;
  streams: { lastId: string | undefined; push(event: Partial<SseEvent>): void; end(error?: Error): void }[] = [];
  waits: (() => void)[] = [];

  tab(index: number) {
    const frames: (() => void)[] = [];
    const got: Change[][] = [];
    const controller = new AbortController();
    let resets = 0;
    const platform: LivePlatform = {
      channel: {
        post: (message) => {
          for (const other of [...this.listeners]) if (other.tab !== index) other.listener(structuredClone(message) as never);
        },
        onMessage: (listener) => this.listeners.push({ tab: index, listener: listener as never }),
      },
      lead: (run) => {
        this.queue.push({
          tab: index,
          run: () => {
            this.holder = index;
            void run(controller.signal);
          },
        });
        this.grant();
      },
      read: (lastId, signal, on) =>
        new Promise((resolve, reject) => {
          signal.addEventListener('abort', () => reject(new Error('aborted')));
          on.open();
          this.streams.push({
            lastId,
            push: (event) => on.event({ id: undefined, event: 'change', data: '{}', ...event }),
            end: (error) => (error === undefined ? resolve() : reject(error)),
          });
        }),
      frame: (run) => frames.push(run),
      wait: () => new Promise((resolve) => this.waits.push(resolve)),
    };
    const live = new Live(platform, { changes: (changes) => got.push(changes), reset: () => (resets += 1) }, () => 1000);
    live.start();
    return {
      live,
      got,
      resets: () => resets,
      frame: () => frames.splice(0).forEach((run) => run()),
      frames,
      close: () => {
        controller.abort();
        this.listeners = this.listeners.filter((entry) => entry.tab !== index);
        this.queue = this.queue.filter((entry) => entry.tab !== index);
        if (this.holder === index) this.holder = undefined;
        this.grant();
      },
    };
  }

  private grant(): void {
    if (this.holder === undefined) this.queue.shift()?.run();
  }
}

const change = (resource: string, id: string, patch?: object): Partial<SseEvent> => ({ data: JSON.stringify({ resource, id, patch }) });
const settle = () => new Promise((resolve) => setTimeout(resolve));

describe('live', () => {
  it('has one stream for eight tabs, and all of them live', async () => {
    const browser = new Browser();
    const tabs = Array.from({ length: 8 }, (_unused, index) => browser.tab(index));
    await settle();
    expect(browser.streams).toHaveLength(1);
    expect(tabs.map((tab) => tab.live.state.get())).toEqual(tabs.map(() => 'live'));
    browser.streams[0]?.push({ id: '1-5', ...change('device', 'a') });
    tabs.forEach((tab) => tab.frame());
    expect(tabs.every((tab) => tab.got[0]?.[0]?.id === 'a')).toBe(true);
  });

  it('hands over to another tab, which goes on after the last event it saw', async () => {
    const browser = new Browser();
    const [first, second] = [browser.tab(0), browser.tab(1)];
    await settle();
    browser.streams[0]?.push({ id: '1-7', ...change('device', 'a') });
    first.close();
    await settle();
    expect(browser.streams).toHaveLength(2);
    expect(browser.streams[1]?.lastId).toBe('1-7');
    expect(second.live.state.get()).toBe('live');
  });

  it('gathers the changes of a frame and merges patches', async () => {
    const browser = new Browser();
    const tab = browser.tab(0);
    await settle();
    for (let cpu = 0; cpu < 500; cpu += 1) browser.streams[0]?.push(change('device', 'a', { cpu }));
    browser.streams[0]?.push(change('device', 'a', { status: 'offline' }));
    expect(tab.frames).toHaveLength(1);
    tab.frame();
    expect(tab.got).toEqual([[{ resource: 'device', id: 'a', patch: { cpu: 499, status: 'offline' } }]]);
    expect(tab.live.patch('device', 'a', 900)).toEqual({ cpu: 499, status: 'offline' });
    // What was fetched later has it already.
    expect(tab.live.patch('device', 'a', 1001)).toBeUndefined();
  });

  it('wakes only the rows that changed', async () => {
    const browser = new Browser();
    const tab = browser.tab(0);
    await settle();
    const [a, b] = [vi.fn(), vi.fn()];
    tab.live.watch('device', 'a', a);
    const stop = tab.live.watch('device', 'b', b);
    browser.streams[0]?.push(change('device', 'a', { x: 1 }));
    tab.frame();
    expect([a.mock.calls.length, b.mock.calls.length]).toEqual([1, 0]);
    stop();
    browser.streams[0]?.push(change('device', 'b', { x: 1 }));
    tab.frame();
    expect(b).not.toHaveBeenCalled();
  });

  it('asks for everything again on reset, on nonsense and on a flood', async () => {
    const browser = new Browser();
    const [leader, follower] = [browser.tab(0), browser.tab(1)];
    await settle();
    browser.streams[0]?.push({ event: 'reset', data: '{}' });
    leader.frame();
    follower.frame();
    expect([leader.resets(), follower.resets()]).toEqual([1, 1]);
    browser.streams[0]?.push({ data: 'not json' });
    leader.frame();
    expect(leader.resets()).toBe(2);
    for (let id = 0; id < 2100; id += 1) browser.streams[0]?.push(change('device', String(id)));
    leader.frame();
    expect(leader.resets()).toBe(3);
    expect(leader.got).toEqual([]);
  });

  it('says when it reconnects, and when the session is over', async () => {
    const browser = new Browser();
    const [leader, follower] = [browser.tab(0), browser.tab(1)];
    await settle();
    browser.streams[0]?.end();
    await settle();
    expect([leader.live.state.get(), follower.live.state.get()]).toEqual(['reconnecting', 'reconnecting']);
    browser.waits.shift()?.();
    await settle();
    expect(follower.live.state.get()).toBe('live');
    browser.streams[1]?.end(new StreamRefused(401));
    await settle();
    expect(follower.live.state.get()).toBe('offline');
  });
});

describe('throttle', () => {
  it('fires at once, then once per pause, and never loses the last', () => {
    vi.useFakeTimers();
    const run = vi.fn();
    const throttle = new Throttle(run, 2000, () => Date.now());
    for (let hit = 0; hit < 100; hit += 1) throttle.hit('device');
    throttle.hit('rollout');
    expect(run.mock.calls).toEqual([['device'], ['rollout']]);
    vi.advanceTimersByTime(2000);
    expect(run.mock.calls.filter(([resource]) => resource === 'device')).toHaveLength(2);
    vi.advanceTimersByTime(10_000);
    expect(run).toHaveBeenCalledTimes(3);
    vi.useRealTimers();
  });
});
