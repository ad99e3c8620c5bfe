// What the rollout screens ask of the server, and the four orders they give.
import { keepPreviousData, useMutation, useQuery, useQueryClient } from '@tanstack/preact-query';
import type { Schema } from '../../lib/client';
import { api, unwrap } from '../../lib/client';
import { celToFilter } from './cel';

export type Rollout = Schema<'Rollout'>;
export type Spec = Schema<'CreateRollout'>;
export type PhaseSize = Schema<'PhaseSize'>;
export type ModelVersion = Schema<'ModelVersion'>;
export type Deployment = Schema<'Deployment'>;
export type Order = 'start' | 'pause' | 'resume' | 'abort';

/** As live events name them, and the first part of every key. */
export const RESOURCE = 'rollout';
export const DEPLOYMENT = 'deployment';

/** A page of the list. Older ones follow by cursor. */
const ROLLOUTS = 100;
/** Deployments come in pages of so many, the most the server gives at once … */
export const DEPLOYMENTS_PAGE = 1000;
/** … and so many pages at most are read: the list is not sorted or filtered by the server. */
const DEPLOYMENT_PAGES = 2;

export function useRollouts(cursor: string) {
  return useQuery({
    queryKey: [RESOURCE, 'list', cursor],
    queryFn: ({ signal }) =>
      unwrap(api.GET('/api/v1/rollouts', { params: { query: { limit: ROLLOUTS, ...(cursor === '' ? {} : { cursor }) } }, signal })),
    placeholderData: keepPreviousData,
  });
}

export function useRollout(id: string) {
  return useQuery({
    queryKey: [RESOURCE, id],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/rollouts/{id}', { params: { path: { id } }, signal })),
  });
}

export interface Deployments {
  items: Deployment[];
  /** There are more than were read. */
  more: boolean;
}

/** In the order of device names: all of a rollout's deployments, or the first thousands of a large one. */
export function useDeployments(id: string, enabled = true) {
  return useQuery({
    enabled,
    queryKey: [DEPLOYMENT, id],
    queryFn: async ({ signal }): Promise<Deployments> => {
      const items: Deployment[] = [];
      let cursor: string | undefined;
      for (let page = 0; page < DEPLOYMENT_PAGES; page += 1) {
        const answer = await unwrap(
          api.GET('/api/v1/rollouts/{id}/deployments', {
            params: { path: { id }, query: { limit: DEPLOYMENTS_PAGE, ...(cursor === undefined ? {} : { cursor }) } },
            signal,
          }),
        );
        items.push(...answer.items);
        cursor = answer.next_cursor ?? undefined;
        if (cursor === undefined) break;
      }
      return { items, more: cursor !== undefined };
    },
  });
}

/** The server's word on an order is what is shown: nothing changes on the screen before it has answered. */
export function useOrder(id: string) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: (order: Order) => {
      const params = { params: { path: { id } } };
      if (order === 'start') return unwrap(api.POST('/api/v1/rollouts/{id}/start', params));
      if (order === 'pause') return unwrap(api.POST('/api/v1/rollouts/{id}/pause', params));
      if (order === 'resume') return unwrap(api.POST('/api/v1/rollouts/{id}/resume', params));
      return unwrap(api.POST('/api/v1/rollouts/{id}/abort', params));
    },
    onSuccess: async (rollout) => {
      client.setQueryData([RESOURCE, id], rollout);
      await client.invalidateQueries({ queryKey: [RESOURCE] });
      await client.invalidateQueries({ queryKey: [DEPLOYMENT] });
    },
    // Refused because somebody else was faster: what holds now is asked for.
    onError: () => client.invalidateQueries({ queryKey: [RESOURCE, id] }),
  });
}

export function useCreate() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: (body: Spec) => unwrap(api.POST('/api/v1/rollouts', { body })),
    onSuccess: (rollout) => {
      client.setQueryData([RESOURCE, rollout.id], rollout);
      return client.invalidateQueries({ queryKey: [RESOURCE] });
    },
  });
}

export function useLines() {
  return useQuery({
    queryKey: ['model', 'lines'],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/models', { params: { query: { limit: 500 } }, signal })),
  });
}

/** The newest versions of a line. */
export function useVersions(line: string) {
  return useQuery({
    queryKey: ['model', 'versions', line],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/models/{line}/versions', { params: { path: { line }, query: { limit: 100 } }, signal })),
    enabled: line !== '',
  });
}

export function useVersion(id: string) {
  return useQuery({
    queryKey: ['model', 'version', id],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/model-versions/{id}', { params: { path: { id } }, signal })),
    enabled: id !== '',
  });
}

/** How many examples of matching devices are named. */
const EXAMPLES = 6;

/**
 * Devices that an expression selects. Only expressions that say what the device filter can say as well are counted; the rest
 * gives `undefined`, and is counted by the rollout itself.
 */
export function useMatching(target: string) {
  const filter = celToFilter(target);
  const asked = filter === undefined ? undefined : `${filter} -status:decommissioned`.trim();
  const answer = useQuery({
    queryKey: ['device', 'matching', asked],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/devices', { params: { query: { filter: asked ?? '', sort: 'id', limit: EXAMPLES } }, signal })),
    enabled: asked !== undefined,
    placeholderData: keepPreviousData,
  });
  return { filter: asked, answer, total: asked === undefined ? undefined : answer.data?.total };
}
