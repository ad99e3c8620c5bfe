import type { Screen } from '../../lib/router';

export const routes: readonly Screen[] = [{ path: '/devices', title: 'Devices', load: () => import('./devices') }];
