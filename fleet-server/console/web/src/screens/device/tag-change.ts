// Tags are edited as a whole text and sent as a change: what somebody else did to other tags meanwhile stays.
import type { Schema } from '../../lib/client';

export type Tags = Readonly<Record<string, string>>;
export type TagChange = Required<Schema<'TagChange'>>;

/** What makes `wanted` of `base`. */
export function changeOf(base: Tags, wanted: Tags): TagChange {
  return {
    set: Object.fromEntries(Object.entries(wanted).filter(([name, value]) => base[name] !== value)),
    remove: Object.keys(base).filter((name) => wanted[name] === undefined),
  };
}

export function applied(tags: Tags, change: TagChange): Record<string, string> {
  const kept = Object.entries(tags).filter(([name]) => !change.remove.includes(name));
  return { ...Object.fromEntries(kept), ...change.set };
}

export function isNothing(change: TagChange): boolean {
  return Object.keys(change.set).length === 0 && change.remove.length === 0;
}

export interface Clash {
  name: string;
  /** `undefined`: it is gone. */
  now: string | undefined;
}

/** Tags that the change is about and that somebody else has changed otherwise since it was begun. */
export function clashes(base: Tags, now: Tags, change: TagChange): Clash[] {
  return [...Object.keys(change.set), ...change.remove].filter((name) => base[name] !== now[name] && change.set[name] !== now[name]).map((name) => ({ name, now: now[name] }));
}
