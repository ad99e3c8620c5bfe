// All screens. Each lives in a folder of its own with a `route.ts` that exports `routes`; nothing here changes when one is
// added. Their code loads when they are opened.
import type { Screen } from '../lib/router';

const found = import.meta.glob<{ routes: readonly Screen[] }>('./*/route.ts', { eager: true });

/** Fixed parts before parameters: `/runs/compare` is not the run "compare". */
function specific(left: Screen, right: Screen): number {
  return left.path.split(':').length - right.path.split(':').length || left.path.localeCompare(right.path);
}

export const screens: readonly Screen[] = Object.values(found)
  .flatMap((module) => module.routes)
  .sort(specific);
