import type { Screen } from '../../lib/router';

export const routes: readonly Screen[] = [{ path: '/audit', title: 'Audit', load: () => import('./audit') }];
