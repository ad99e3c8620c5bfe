import type { Screen } from '../../lib/router';

export const routes: readonly Screen[] = [
  { path: '/labeling', title: 'Labeling', load: () => import('./pick') },
  { path: '/datasets/:id/labeling', title: ({ id }) => `Labeling ${id ?? ''}`, section: '/labeling', load: () => import('./labeling') },
];
