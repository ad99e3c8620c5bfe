import { isolate } from '../../lib/format';
import type { Screen } from '../../lib/router';

export const routes: readonly Screen[] = [
  { path: '/runs', title: 'Runs', load: () => import('./runs') },
  { path: '/runs/new', title: 'New run', load: () => import('./start') },
  { path: '/runs/compare', title: 'Compare runs', load: () => import('./compare') },
  { path: '/runs/:id', title: ({ id }) => `Run ${isolate(id ?? '')}`, load: () => import('./run') },
];
