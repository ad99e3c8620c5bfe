import type { Screen } from '../../lib/router';

export const routes: readonly Screen[] = [
  { path: '/rollouts', title: 'Rollouts', load: () => import('./rollouts') },
  { path: '/rollouts/new', title: 'New rollout', load: () => import('./new') },
  { path: '/rollouts/:id', title: 'Rollout', load: () => import('./rollout') },
];
