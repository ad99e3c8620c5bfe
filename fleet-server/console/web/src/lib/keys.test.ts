import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

/** A page in which keys are pressed, as much of it as the listener looks at. */
async function page() {
  vi.resetModules();
  vi.useFakeTimers({ toFake: ['performance'] });
  const target = new EventTarget();
  class Field {
    isContentEditable = false;
    type = 'text';
  }
  class None {}
  const seen = { dialog: null as unknown, active: null as unknown };
  vi.stubGlobal('addEventListener', target.addEventListener.bind(target));
  vi.stubGlobal('document', { querySelector: () => seen.dialog, get activeElement() { return seen.active; } });
  vi.stubGlobal('HTMLElement', Field);
  vi.stubGlobal('HTMLInputElement', Field);
  vi.stubGlobal('HTMLTextAreaElement', None);
  vi.stubGlobal('HTMLSelectElement', None);
  const [keys, router] = [await import('./keys'), await import('./router')];
  keys.listen();
  const send = (kind: string, more: object): Event => {
    const event = Object.assign(new Event(kind, { cancelable: true }), { key: '', ctrlKey: false, metaKey: false, altKey: false, isComposing: false, repeat: false, ...more });
    target.dispatchEvent(event);
    return event;
  };
  const ran: string[] = [];
  return {
    ...keys,
    ran,
    seen,
    Field,
    press: (key: string) => send('keydown', { key }),
    send,
    /** What a screen binds when it comes. */
    comes: async (...names: string[]) => {
      const off = keys.bind(names.map((name) => ({ keys: name, label: name, group: 'Screen', run: () => ran.push(name) })));
      await Promise.resolve();
      return off;
    },
    goes: (path: string) => router.place.set({ path, search: '', key: path }),
  };
}

describe('a key pressed before its screen is there', () => {
  let on: Awaited<ReturnType<typeof page>>;
  let here: () => void;
  beforeEach(async () => {
    on = await page();
    await on.comes('g r', '?');
    on.press('g');
    on.press('r');
    on.ran.length = 0;
    on.goes('/runs');
    here = on.awaitKeys();
  });
  afterEach(() => {
    vi.useRealTimers();
    vi.unstubAllGlobals();
  });

  it('is kept, and does what it says as soon as the screen binds it, once', async () => {
    expect(on.press('n').defaultPrevented).toBe(true);
    await on.comes('j');
    expect(on.ran).toEqual([]);
    await on.comes('n');
    here();
    await on.comes('n');
    expect(on.ran).toEqual(['n']);
  });
  it('waits a second and no longer', async () => {
    on.press('n');
    vi.advanceTimersByTime(1001);
    await on.comes('n');
    expect(on.ran).toEqual([]);
    // The next one waits anew.
    on.press('x');
    vi.advanceTimersByTime(900);
    await on.comes('x');
    expect(on.ran).toEqual(['x']);
  });
  it('is the first of several: the others are meant for what it leads to', async () => {
    on.press('n');
    on.press('x');
    await on.comes('x', 'n');
    expect(on.ran).toEqual(['n']);
  });
  it('finds the last that was bound, as any key does', async () => {
    on.press('n');
    const first = vi.fn();
    on.bind([{ keys: 'n', label: '', group: '', run: first }]);
    await on.comes('n');
    expect([first.mock.calls.length, on.ran]).toEqual([0, ['n']]);
  });
  it.each([
    ['a pointer', () => on.send('pointerdown', {})],
    ['another place', () => on.goes('/devices')],
    ['another key that does something', () => on.press('?')],
    ['Escape', () => on.press('Escape')],
    // The event's target is the page itself, which the page takes for a field here.
    ['the focus in a field', () => on.send('focusin', {}), true],
  ])('is dropped on %s', async (_what, happens, field = false) => {
    on.press('n');
    if (field) vi.stubGlobal('HTMLElement', EventTarget);
    if (field) vi.stubGlobal('HTMLTextAreaElement', EventTarget);
    happens();
    if (field) vi.stubGlobal('HTMLElement', on.Field);
    on.ran.length = 0;
    await on.comes('n');
    expect(on.ran).toEqual([]);
  });
  it('does nothing under a dialog, nor while somebody writes', async () => {
    on.press('n');
    on.seen.dialog = {};
    await on.comes('n');
    on.seen.dialog = null;
    on.press('x');
    on.seen.active = new on.Field();
    await on.comes('x');
    expect(on.ran).toEqual([]);
  });
  it('is lost where nothing is on its way, and a space always scrolls', async () => {
    expect(on.press(' ').defaultPrevented).toBe(false);
    here();
    expect(on.press('n').defaultPrevented).toBe(false);
    await on.comes('n', ' ');
    expect(on.ran).toEqual([]);
  });
});
