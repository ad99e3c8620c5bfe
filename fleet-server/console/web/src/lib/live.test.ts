import { describe, expect, it, vi } from 'vitest';
import type { Ballot } from './election';
import { Election } from './election';
import type { Change, LivePlatform } from './live';
import { Live } from './live';
import { StreamRefused } from './sse';
import type { SseEvent } from './sse';

/** One browser: tabs share a channel and a lock, frames and streams are moved by hand. */
class Browser {
  private listeners: { tab: number; listener(message: never): void }[] = [];
  private queue: { tab: number; run(): void }[] = [];
  private holder: number | undefined;
  streams: { lastId: string | undefined; push(event: Partial<SseEvent>): void; end(error?: Error): void }[] = [];
  waits: { tab: number; end(): void }[] = [];
  /** Streams open only when told to. */
  slow = false;
  opens: (() => void)[] = [];
  hidden = new Set<number>();

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
          if (this.slow) this.opens.push(() => on.open());
          else on.open();
          this.streams.push({
            lastId,
            push: (event) => on.event({ id: undefined, event: 'change', data: '{}', ...event }),
            end: (error) => (error === undefined ? resolve() : reject(error)),
          });
        }),
      frame: (run) => frames.push(run),
      wait: (_ms, signal) =>
        new Promise((resolve) => {
          this.waits.push({ tab: index, end: resolve });
          signal.addEventListener('abort', () => resolve());
        }),
      visible: () => !this.hidden.has(index),
    };
    const live = new Live(platform, { changes: (changes) => got.push(changes), reset: () => (resets += 1) }, () => 1000);
    live.start();
    // What a tab missed before its stream began is fetched again, at once; the checks begin after that.
    if (!this.slow) frames.splice(0).forEach((run) => run());
    resets = 0;
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
    browser.waits[0]?.end();
    await settle();
    expect(follower.live.state.get()).toBe('live');
    browser.streams[1]?.end(new StreamRefused(401));
    await settle();
    expect(follower.live.state.get()).toBe('signed-out');
    // Signing in is what it waits for.
    leader.live.retry();
    await settle();
    expect([browser.streams.length, follower.live.state.get()]).toEqual([3, 'live']);
  });

  it('fetches everything again when the stream begins: what changed before is not in it', async () => {
    const browser = new Browser();
    browser.slow = true;
    const [leader, follower] = [browser.tab(0), browser.tab(1)];
    await settle();
    leader.frame();
    expect([leader.resets(), leader.live.state.get()]).toEqual([0, 'connecting']);
    browser.opens[0]?.();
    for (const tab of [leader, follower]) tab.frame();
    expect([leader.resets(), follower.resets()]).toEqual([1, 1]);
    // One that is taken up again after an event goes on from there.
    browser.streams[0]?.push({ id: '1-5', ...change('device', 'a') });
    browser.streams[0]?.end();
    await settle();
    browser.waits[0]?.end();
    await settle();
    browser.opens[1]?.();
    for (const tab of [leader, follower]) tab.frame();
    expect([browser.streams[1]?.lastId, leader.resets(), follower.resets()]).toEqual(['1-5', 1, 1]);
  });

  it('is not held back by a hidden leader: a tab that is seen keeps the time', async () => {
    const browser = new Browser();
    browser.hidden.add(0).add(2);
    browser.tab(0);
    const seen = browser.tab(1);
    browser.tab(2);
    await settle();
    browser.streams[0]?.end();
    await settle();
    // The leader waits, and so does the one tab that is seen.
    expect(browser.waits.map((wait) => wait.tab).sort()).toEqual([0, 1]);
    browser.waits.find((wait) => wait.tab === 1)?.end();
    await settle();
    expect([browser.streams.length, seen.live.state.get()]).toEqual([2, 'live']);
  });

  it('tries again when a tab is looked at, and does not cut a later pause short for an earlier one', async () => {
    const browser = new Browser();
    browser.tab(0);
    const seen = browser.tab(1);
    await settle();
    browser.streams[0]?.end();
    await settle();
    seen.live.retry();
    await settle();
    expect(browser.streams).toHaveLength(2);
    browser.streams[1]?.end();
    await settle();
    // The reminder of the first pause comes only now.
    browser.waits.find((wait) => wait.tab === 1)?.end();
    await settle();
    expect(browser.streams).toHaveLength(2);
    // While all is well nobody's wish ends a stream.
    seen.live.retry();
    await settle();
    seen.live.retry();
    await settle();
    expect(browser.streams).toHaveLength(3);
  });

  it('does not wait when somebody signed in while the old answer was under way', async () => {
    const browser = new Browser();
    browser.slow = true;
    const tab = browser.tab(0);
    await settle();
    tab.live.retry();
    browser.streams[0]?.end(new StreamRefused(401));
    await settle();
    expect([browser.streams.length, browser.waits.length]).toEqual([2, 0]);
  });

  it('begins anew for another person', async () => {
    const browser = new Browser();
    const tab = browser.tab(0);
    await settle();
    browser.streams[0]?.push({ id: '1-5', ...change('device', 'a', { status: 'alert' }) });
    tab.frame();
    tab.live.restart();
    tab.frame();
    await settle();
    expect(tab.live.patch('device', 'a', 0)).toBeUndefined();
    expect([browser.streams.length, browser.streams[1]?.lastId, tab.live.state.get()]).toEqual([2, undefined, 'live']);
  });
});

describe('the election without locks', () => {
  /** Tabs on one channel; messages arrive at once, timers are vitest's. */
  class Hall {
    tabs = new Map<string, { listener(ballot: Ballot): void; leads: boolean; election: Election; deaf: boolean }>();

    enter(id: string): Election {
      const election = new Election(
        id,
        {
          post: (ballot) => {
            if (this.tabs.get(id)?.deaf === true) return;
            for (const [other, tab] of this.tabs) if (other !== id && !tab.deaf) tab.listener(structuredClone(ballot));
          },
          onMessage: (listener) => this.tabs.set(id, { listener, leads: false, election: undefined as never, deaf: false }),
          later: (ms, run) => {
            const timer = setTimeout(run, ms);
            return () => clearTimeout(timer);
          },
          now: () => Date.now(),
        },
        (signal) => {
          this.set(id, true);
          signal.addEventListener('abort', () => this.set(id, false));
        },
      );
      election.start();
      return election;
    }

    private set(id: string, leads: boolean): void {
      const tab = this.tabs.get(id);
      if (tab !== undefined) tab.leads = leads;
    }

    leaders(): string[] {
      return [...this.tabs].filter(([, tab]) => tab.leads && !tab.deaf).map(([id]) => id);
    }

    /** Frozen, or on the other side of a torn channel. */
    deafen(id: string, deaf: boolean): void {
      const tab = this.tabs.get(id);
      if (tab !== undefined) tab.deaf = deaf;
    }
  }

  const ids = Array.from({ length: 8 }, (_unused, index) => `tab-${index}`);
  const hall = (): Hall => {
    vi.useFakeTimers();
    return new Hall();
  };

  it('one of eight tabs that open at once leads', () => {
    const room = hall();
    for (const id of ids) room.enter(id);
    expect(room.leaders()).toEqual([]);
    vi.advanceTimersByTime(10_000);
    expect(room.leaders()).toHaveLength(1);
    vi.useRealTimers();
  });

  it('one takes over when the leader closes, and when it falls silent', () => {
    const room = hall();
    const elections = new Map(ids.map((id) => [id, room.enter(id)]));
    vi.advanceTimersByTime(10_000);
    const [first = ''] = room.leaders();
    elections.get(first)?.stop();
    room.tabs.delete(first);
    expect(room.leaders()).toEqual([]);
    vi.advanceTimersByTime(300);
    expect(room.leaders()).toHaveLength(1);
    const [second = ''] = room.leaders();
    room.deafen(second, true);
    vi.advanceTimersByTime(10_000);
    expect(room.leaders()).toHaveLength(1);
    // Back, it learns that it was replaced, or goes on in the other's place: never two.
    room.deafen(second, false);
    vi.advanceTimersByTime(10_000);
    expect(room.leaders()).toHaveLength(1);
    vi.useRealTimers();
  });

  it('a tab that opens later does not take the stream away', () => {
    const room = hall();
    room.enter('z');
    vi.advanceTimersByTime(1000);
    room.enter('a');
    vi.advanceTimersByTime(10_000);
    expect(room.leaders()).toEqual(['z']);
    vi.useRealTimers();
  });
});
