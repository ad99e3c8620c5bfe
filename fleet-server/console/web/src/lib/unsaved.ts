// What people did and the server does not have yet (labels). Signing out and closing the tab look here first.

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

/** Asks before the tab closes over something unsent, and sends it meanwhile. */
export function watchLeaving(): void {
  addEventListener('beforeunload', (event) => {
    if (unsent() === 0) return;
    void saveAll();
    event.preventDefault();
  });
}
