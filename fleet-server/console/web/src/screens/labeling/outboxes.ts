// The outboxes of this tab.
import { plural } from '../../lib/format';
import { navigate } from '../../lib/router';
import { actor, sessionState } from '../../lib/session';
import { readJson, writeJson } from '../../lib/storage';
import { registerSaver } from '../../lib/unsaved';
import { toast } from '../../ui/toast';
import { labelingHref } from '../datasets/data';
import type { Dataset } from '../datasets/data';
import { annotate, removeAnnotation } from './data';
import type { Kept } from './outbox';
import { MOST_BYTES, Outbox } from './outbox';

const outboxes = new Map<string, Outbox>();

/** What may outlive a page is little, and all outboxes share it. */
function leave(): void {
  let room = MOST_BYTES;
  for (const outbox of outboxes.values()) room -= outbox.leave(room);
}

/** Where the labels that this person gives in this dataset wait. */
export function outboxOf(dataset: Dataset): Outbox {
  const person = actor() ?? '';
  const name = `unsent.${person}.${dataset.id}`;
  const known = outboxes.get(name);
  if (known !== undefined) return known;
  const outbox = new Outbox({
    send: (marks, leaving) => annotate(dataset.id, marks, leaving),
    remove: (mark, leaving) => removeAnnotation(dataset.id, mark, leaving),
    now: () => performance.now(),
    later: (ms, run) => {
      const timer = setTimeout(run, ms);
      return () => clearTimeout(timer);
    },
    may: () => actor() === person,
    kept: () => keptIn(readJson<unknown>('session', name)),
    keep: (kept) => void writeJson('session', name, kept.length === 0 ? undefined : kept),
    refusedUnseen: (refused) =>
      toast(`${plural(refused, 'label')} in ${dataset.name} not taken by the server, and kept`, {
        label: 'Open the queue',
        run: () => navigate(labelingHref(dataset)),
      }),
    overruled: (items) => toast(`Somebody else has labelled ${plural(items, 'item')} of ${dataset.name} meanwhile: that label stands`),
  });
  if (outboxes.size === 0) addEventListener('pagehide', leave);
  outboxes.set(name, outbox);
  // Of no concern to another person who is signed in; to whoever closes the tab, yes.
  registerSaver({ save: () => outbox.flush(true), unsent: () => (actor() === person || actor() === undefined ? outbox.state.get().unsent : 0) });
  sessionState.subscribe((now) => {
    if (now.state === 'in') outbox.resume();
  });
  return outbox;
}

/** Storage is shared with whatever else runs at this origin, and with older versions. */
function keptIn(stored: unknown): Kept[] {
  if (!Array.isArray(stored)) return [];
  return stored.filter((one: Partial<Kept> | null): one is Kept => typeof one?.sample === 'string' && isText(one.label) && isText(one.stored) && (one.label ?? one.stored) !== undefined);
}

function isText(value: unknown): boolean {
  return value === undefined || typeof value === 'string';
}
