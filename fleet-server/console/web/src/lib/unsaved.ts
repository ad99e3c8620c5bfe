// What people did and the server does not have yet (labels), and what only the screen has (a secret that is shown once). Signing
// out, going back and closing the tab look here first.

export interface Saver {
  /** Sends all of it now; settles when the server has answered, or cannot. */
  save(): Promise<unknown>;
  unsent(): number;
}

const savers = new Set<Saver>();

/** How long signing out waits for a server that does not answer. */
const PATIENCE_MS = 5000;

export function registerSaver(saver: Saver): () => void {
  savers.add(saver);
  return () => savers.delete(saver);
}

export function unsent(): number {
  return [...savers].reduce((sum, saver) => sum + saver.unsent(), 0);
}

/** Sends everything; gives how much is left. */
export async function saveAll(patience = PATIENCE_MS): Promise<number> {
  const busy = [...savers].filter((saver) => saver.unsent() > 0).map((saver) => saver.save());
  if (busy.length > 0) {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const enough = new Promise((resolve) => {
      timer = setTimeout(resolve, patience);
    });
    await Promise.race([Promise.allSettled(busy), enough]);
    clearTimeout(timer);
  }
  return unsent();
}

interface Hold {
  /** Somebody wanted to leave: says what there is to do first. */
  asks(): void;
  /** Where it is shown. */
  href: string;
  state: unknown;
}

const holds = new Set<Hold>();

/** Holds the person on this page until the returned function is called: what it shows is nowhere else. */
export function hold(asks: () => void): () => void {
  const one: Hold = { asks, href: location.href, state: history.state };
  holds.add(one);
  return () => holds.delete(one);
}

/** Back and Forward cannot be refused: the address is put back, under the same name of the entry, before the router looks at it. */
function holdBack(event: Event): void {
  const last = [...holds].at(-1);
  if (last === undefined) return;
  event.stopImmediatePropagation();
  history.pushState(last.state, '', last.href);
  last.asks();
}

/**
 * Asks before the tab closes over something unsent, and sends it meanwhile. To be called before the router starts: on a window
 * Chromium calls those who listen to `popstate` in the order of their coming, captured or not.
 */
export function watchLeaving(): void {
  addEventListener('beforeunload', (event) => {
    if (unsent() === 0 && holds.size === 0) return;
    void saveAll();
    event.preventDefault();
  });
  addEventListener('popstate', holdBack, { capture: true });
}
