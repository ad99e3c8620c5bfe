import type { Screen } from '../../lib/router';

export const routes: readonly Screen[] = [{ path: '/', title: 'Overview', load: () => import('./overview') }];
