// What the device list asks of the server.
import { useMutation, useQuery, useQueryClient } from '@tanstack/preact-query';
import type { Schema } from '../../lib/client';
import { api, unwrap } from '../../lib/client';
import type { Field } from '../../lib/filter';
import { quoteValue } from '../../lib/filter';
import { href } from '../../lib/router';
import { usePagedRows } from '../../lib/rows';
import type { Selection } from '../../lib/selection';
import { selectedCount } from '../../lib/selection';
import { namesToCel } from '../rollouts/cel';

export type Device = Schema<'Device'>;
export type BulkAction = Schema<'BulkDevices'>['action'];

/** As live events name it, and the first part of every key. */
export const RESOURCE = 'device';

/** Keys of the server's filter language; any other key is a tag's. */
export const FIELDS: readonly Field[] = [
  { name: 'status', help: 'online, offline, updating, alert', values: ['online', 'offline', 'updating', 'alert', 'decommissioned'] },
  { name: 'model', help: 'line, version or line@version' },
  { name: 'drift', help: 'share of drifted features: drift:>0.2', values: ['>0.1', '>0.2', '>0.5'] },
  { name: 'class', help: 'hardware class' },
  { name: 'arch', help: 'processor architecture', values: ['x86_64', 'aarch64', 'armv7'] },
  { name: 'agent', help: 'agent version' },
  { name: 'id', help: 'name; press-* for a beginning' },
];

export function useDeviceRows(filter: string, sort: string) {
  return usePagedRows<Device>([RESOURCE, 'rows', filter, sort], (offset, limit, signal) =>
    unwrap(api.GET('/api/v1/devices', { params: { query: { filter, sort, offset, limit } }, signal })),
  );
}

/** Of the whole fleet: the cards stay while a filter narrows the table. */
export function useDeviceCounts() {
  return useQuery({
    queryKey: [RESOURCE, 'counts'],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/device-counts', { signal })),
  });
}

/** One action on what is selected. The server refuses when the number is another by now. */
export function useBulk(filter: string, total: number) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: ({ selection, action }: { selection: Selection; action: BulkAction }) =>
      unwrap(
        api.POST('/api/v1/device-actions', {
          body: {
            ...target(selection, filter),
            action,
            expected_total: selectedCount(selection, total),
          },
        }),
      ),
    onSuccess: () => client.invalidateQueries({ queryKey: [RESOURCE] }),
  });
}

/**
 * Where a rollout to what is selected is planned, or to what the filter shows while nothing is. `undefined`: so many were chosen
 * one by one that no target names them all.
 */
export function rolloutHref(selection: Selection, filter: string): string | undefined {
  if (selection.mode === 'all' || selection.ids.size === 0) {
    return href('/rollouts/new', {}, { filter: selection.mode === 'all' ? allBut(selection.except, filter) : filter });
  }
  const named = namesToCel(selection.ids);
  return named === undefined ? undefined : href('/rollouts/new', {}, { target: named });
}

/** "All but these" is a filter too: the exceptions become terms. */
function allBut(except: ReadonlySet<string>, filter: string): string {
  return [filter, ...[...except].map((id) => `-id:${quoteValue(id)}`)].filter((part) => part !== '').join(' ');
}

export function target(selection: Selection, filter: string): { filter: string } | { ids: string[] } {
  if (selection.mode === 'some') return { ids: [...selection.ids] };
  return { filter: allBut(selection.except, filter) };
}
