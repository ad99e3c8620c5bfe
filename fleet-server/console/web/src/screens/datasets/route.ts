import type { Screen } from '../../lib/router';

export const routes: readonly Screen[] = [
  { path: '/datasets', title: 'Datasets', load: () => import('./datasets') },
  { path: '/datasets/new', title: 'New dataset', load: () => import('./create') },
  { path: '/datasets/:id', title: ({ id }) => `Dataset ${id ?? ''}`, load: () => import('./dataset') },
];
