import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { hold, registerSaver, watchLeaving } from './unsaved';

/** The browser's window and its history. */
let listeners: { type: string; listener: (event: Event) => void; capture: boolean }[];
let pushed: unknown[][];

/** As the DOM standard has it, and Node's own events do not: listeners that capture come first, at the target as well. */
function dispatch(event: Event): void {
  let stopped = false;
  event.stopImmediatePropagation = () => (stopped = true);
  for (const { type, listener } of listeners.toSorted((left, right) => Number(right.capture) - Number(left.capture))) if (type === event.type && !stopped) listener(event);
}

beforeEach(() => {
  listeners = [];
  pushed = [];
  vi.stubGlobal('addEventListener', (type: string, listener: (event: Event) => void, options?: AddEventListenerOptions) => listeners.push({ type, listener, capture: options?.capture === true }));
  vi.stubGlobal('location', { href: 'http://fleet.test/provisioning?new=1' });
  vi.stubGlobal('history', { state: { key: 'here' }, pushState: (...how: unknown[]) => pushed.push(how) });
});
afterEach(() => vi.unstubAllGlobals());

/** Whether the browser asks before it closes the page. */
function closes(): boolean {
  const event = new Event('beforeunload', { cancelable: true });
  dispatch(event);
  return event.defaultPrevented;
}

describe('what only the screen has', () => {
  it('holds Back and the closing tab until it is saved, and says so', () => {
    const routed = vi.fn();
    // As the entry does it: the router listens first.
    addEventListener('popstate', routed);
    watchLeaving();
    const asks = vi.fn();
    const release = hold(asks);
    vi.stubGlobal('location', { href: 'http://fleet.test/devices' });
    dispatch(new Event('popstate'));
    expect([routed.mock.calls.length, asks.mock.calls.length]).toEqual([0, 1]);
    expect(pushed).toEqual([[{ key: 'here' }, '', 'http://fleet.test/provisioning?new=1']]);
    expect(closes()).toBe(true);
    release();
    dispatch(new Event('popstate'));
    expect([routed.mock.calls.length, asks.mock.calls.length, pushed.length]).toEqual([1, 1, 1]);
    expect(closes()).toBe(false);
  });

  it('is asked about as what is unsent is, which is sent meanwhile', () => {
    watchLeaving();
    expect(closes()).toBe(false);
    const save = vi.fn(() => Promise.resolve());
    const off = registerSaver({ save, unsent: () => 1 });
    expect([closes(), save.mock.calls.length]).toEqual([true, 1]);
    off();
    expect(closes()).toBe(false);
  });
});
