// Which rows of a list are selected: some by id, or all that match but for a few. A selection of "all matching" stays an
// instruction to the server; ids of a hundred thousand rows never exist here.

export type Selection = { mode: 'some'; ids: ReadonlySet<string> } | { mode: 'all'; except: ReadonlySet<string> };

export const NONE: Selection = { mode: 'some', ids: new Set() };
export const ALL: Selection = { mode: 'all', except: new Set() };

export function isSelected(selection: Selection, id: string): boolean {
  return selection.mode === 'all' ? !selection.except.has(id) : selection.ids.has(id);
}

export function selectedCount(selection: Selection, total: number): number {
  return selection.mode === 'all' ? Math.max(0, total - selection.except.size) : selection.ids.size;
}

/** Sets every id to `on`. */
export function withIds(selection: Selection, ids: Iterable<string>, on: boolean): Selection {
  const changed = new Set(selection.mode === 'all' ? selection.except : selection.ids);
  for (const id of ids) {
    if ((selection.mode === 'all') === on) changed.delete(id);
    else changed.add(id);
  }
  return selection.mode === 'all' ? { mode: 'all', except: changed } : { mode: 'some', ids: changed };
}

export function toggled(selection: Selection, id: string): Selection {
  return withIds(selection, [id], !isSelected(selection, id));
}

/**
 * What `load` gives; nothing when by then another question is asked of the list than before. Its rows are not those that were
 * chosen from, and what was selected with the question before is selected no more.
 */
export async function whileAsked<T>(question: () => string | undefined, load: () => Promise<T>): Promise<T | undefined> {
  const before = question();
  const loaded = await load();
  return question() === before ? loaded : undefined;
}
