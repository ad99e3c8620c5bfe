import { isolate } from '../../lib/format';
import type { Screen } from '../../lib/router';

export const routes: readonly Screen[] = [
  { path: '/drift', title: 'Drift', load: () => import('./drift') },
  {
    path: '/drift/:device/:manifest',
    title: ({ device = '' }) => (device === '*' ? 'Drift of the whole fleet' : `Drift of ${isolate(device)}`),
    load: () => import('./detail'),
  },
];
