// What `Live` needs of a browser: one reader among the tabs, a channel between them, frames, timers.
import type { Ballot } from './election';
import { Election } from './election';
import type { LivePlatform } from './live';
import { readSse } from './sse';

export function browserPlatform(url: string): LivePlatform {
  const channel = open('flotilla-live');
  return {
    channel: channel && {
      post: (message) => channel.postMessage(message),
      onMessage: (listener) => channel.addEventListener('message', (event) => listener(event.data)),
    },
    lead: leader(),
    read: (lastId, signal, on) => readSse(url, lastId, signal, on),
    // A hidden tab gets no frames, but what it hears must not pile up: a timer stands in. Nothing is fetched there (refetch.ts).
    frame: (run) => {
      if (document.hidden) setTimeout(run, 250);
      else requestAnimationFrame(run);
    },
    wait,
    visible: () => !document.hidden,
  };
}

function open(name: string): BroadcastChannel | undefined {
  return typeof BroadcastChannel === 'undefined' ? undefined : new BroadcastChannel(name);
}

/** By a Web Lock, else by election, else every tab for itself. */
function leader(): LivePlatform['lead'] {
  const { locks } = navigator as { locks?: LockManager };
  const booth = locks === undefined ? open('flotilla-election') : undefined;
  if (booth !== undefined) return (run) => elect(booth, (signal) => void run(signal));
  return (run) => {
    const controller = new AbortController();
    addEventListener('pagehide', (event) => {
      if (!event.persisted) controller.abort();
    });
    if (locks === undefined) void run(controller.signal);
    else void locks.request('flotilla-live', () => run(controller.signal));
  };
}

function elect(booth: BroadcastChannel, lead: (signal: AbortSignal) => void): void {
  const id = [...crypto.getRandomValues(new Uint32Array(2))].map((part) => part.toString(36)).join('');
  const election = new Election(
    id,
    {
      post: (ballot) => booth.postMessage(ballot),
      onMessage: (listener) => booth.addEventListener('message', (event: MessageEvent<Ballot>) => listener(event.data)),
      later: (ms, run) => {
        const timer = setTimeout(run, ms);
        return () => clearTimeout(timer);
      },
      now: () => Date.now(),
    },
    lead,
  );
  election.start();
  // Also when the page is only put aside: it answers nobody there.
  addEventListener('pagehide', () => election.stop());
  addEventListener('pageshow', (event) => {
    if (event.persisted) election.start();
  });
}

function wait(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = new AbortController();
    const end = (): void => {
      clearTimeout(timer);
      done.abort();
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener('abort', end, { signal: done.signal });
    // Coming back online is a reason to try at once.
    addEventListener('online', end, { signal: done.signal });
    if (signal.aborted) end();
  });
}
