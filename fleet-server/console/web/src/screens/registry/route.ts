import { isolate } from '../../lib/format';
import type { Screen } from '../../lib/router';

export const routes: readonly Screen[] = [
  { path: '/models', title: 'Registry', load: () => import('./lines') },
  { path: '/models/:line', title: ({ line }) => `${isolate(line ?? '')} · Registry`, load: () => import('./versions') },
  { path: '/model-versions/new', title: 'New package', section: '/models', load: () => import('./package') },
  { path: '/model-versions/:id', title: ({ id }) => `Model version ${isolate(id ?? '')}`, section: '/models', load: () => import('./version') },
];
