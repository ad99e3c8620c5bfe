import type { Screen } from '../../lib/router';

export const routes: readonly Screen[] = [{ path: '/sessions', title: 'Sessions', load: () => import('./sessions') }];
