import type { Screen } from '../../lib/router';

export const routes: readonly Screen[] = [{ path: '/provisioning', title: 'Provisioning', load: () => import('./provisioning') }];
