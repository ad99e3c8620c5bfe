// Saved views of the device list, as this browser keeps them: all its tabs read and write the same text.
import { readJson, writeJson } from '../../lib/storage';
import { createStore } from '../../lib/store';

export interface View {
  name: string;
  filter: string;
  sort: string;
}

const KEY = 'devices.views';

function isView(value: unknown): value is View {
  if (typeof value !== 'object' || value === null) return false;
  const { name, filter, sort } = value as Record<string, unknown>;
  return typeof name === 'string' && name !== '' && typeof filter === 'string' && typeof sort === 'string';
}

/** Whatever stands there: an older console, another program or a person may have written it. */
function stored(): readonly View[] {
  const found = readJson<unknown>('local', KEY);
  return Array.isArray(found) ? found.filter(isView).map(({ name, filter, sort }) => ({ name, filter, sort })) : [];
}

export const ownViews = createStore(stored());

/** Whether what was written last is kept; views that are not are only known to this tab. */
let kept = true;

/** On top of what is stored now, not of what this tab has read: another one may have saved a view meanwhile. Says whether it is kept. */
function change(make: (views: readonly View[]) => readonly View[]): boolean {
  const views = make(kept ? stored() : ownViews.get());
  ownViews.set(views);
  kept = writeJson('local', KEY, views);
  return kept;
}

export function saveView(view: View): boolean {
  return change((views) => [...views.filter((other) => other.name !== view.name), view]);
}

export function forgetView(name: string): boolean {
  return change((views) => views.filter((view) => view.name !== name));
}

/** Follows other tabs; gives back how to stop. */
export function watchViews(): () => void {
  // What was written while nobody watched.
  if (kept) ownViews.set(stored());
  const changed = (event: StorageEvent): void => {
    // Without a key: all of the storage was cleared.
    if (event.key === `flotilla.${KEY}` || event.key === null) ownViews.set(stored());
  };
  addEventListener('storage', changed);
  return () => removeEventListener('storage', changed);
}
