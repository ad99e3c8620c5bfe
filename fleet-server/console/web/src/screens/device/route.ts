import { isolate } from '../../lib/format';
import type { Screen } from '../../lib/router';

export const routes: readonly Screen[] = [{ path: '/devices/:id', title: ({ id }) => isolate(id ?? ''), load: () => import('./device') }];
