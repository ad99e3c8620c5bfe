// What the rollout screens ask of the server, and the four orders they give.
import { keepPreviousData, useMutation, useQuery, useQueryClient } from '@tanstack/preact-query';
import { useRef } from 'preact/hooks';
import type { Schema } from '../../lib/client';
import { api, unwrap } from '../../lib/client';
import { useCursorRows } from '../runs/cursor';

export type Rollout = Schema<'Rollout'>;
export type Spec = Schema<'CreateRollout'>;
export type PhaseSize = Schema<'PhaseSize'>;
export type ModelVersion = Schema<'ModelVersion'>;
export type Deployment = Schema<'Deployment'>;
export type RolloutPreview = Schema<'RolloutPreview'>;
export type Order = 'start' | 'pause' | 'resume' | 'abort';

/** As live events name them, and the first part of every key. */
export const RESOURCE = 'rollout';
export const DEPLOYMENT = 'deployment';

/** A page of the list. Older ones follow by cursor. */
const ROLLOUTS = 100;
/** Causes of failures that are shown. */
export const CAUSES = 12;

/** `states`: in any of them; none: in all. `version`: of this model version alone. `total` counts what matches on all pages. */
export function useRollouts(states: readonly Rollout['state'][], { cursor = '', limit = ROLLOUTS, version = '' } = {}) {
  const state = states.join(',');
  return useQuery({
    queryKey: [RESOURCE, 'list', state, cursor, limit, version],
    queryFn: ({ signal }) =>
      unwrap(
        api.GET('/api/v1/rollouts', {
          params: { query: { limit, ...(state === '' ? {} : { state }), ...(version === '' ? {} : { model_version: version }), ...(cursor === '' ? {} : { cursor }) } },
          signal,
        }),
      ),
    placeholderData: keepPreviousData,
  });
}

export function useRollout(id: string) {
  return useQuery({
    queryKey: [RESOURCE, id],
    meta: { id },
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/rollouts/{id}', { params: { path: { id } }, signal })),
  });
}

/** In the order of device names, narrowed and counted by the server; `cause` as the failures name it. */
export function useDeploymentRows(id: string, states: readonly string[], cause: string) {
  const state = states.join(',');
  return useCursorRows<Deployment>([DEPLOYMENT, id, 'rows', { state, cause }], (cursor, limit, signal) =>
    unwrap(
      api.GET('/api/v1/rollouts/{id}/deployments', {
        params: {
          path: { id },
          query: { limit, ...(state === '' ? {} : { state }), ...(cause === '' ? {} : { cause }), ...(cursor === undefined ? {} : { cursor }) },
        },
        signal,
      }),
    ),
  );
}

export function useFailures(id: string) {
  return useQuery({
    queryKey: [DEPLOYMENT, id, 'failures'],
    meta: { id },
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/rollouts/{id}/failures', { params: { path: { id }, query: { limit: CAUSES } }, signal })),
  });
}

/**
 * What a rollout would do if it were started now. The server looks at the whole fleet for it, so it is asked when somebody
 * changes the plan or asks again, and not whenever a device has said something. What has no seed keeps the first one that the
 * server took: the devices that are named stay the same while the plan is edited.
 */
export function usePreview(spec: Spec | undefined) {
  const seed = useRef<number | undefined>(undefined);
  return useQuery({
    enabled: spec !== undefined,
    queryKey: ['rollout-preview', spec],
    queryFn: async ({ signal }) => {
      if (spec === undefined) throw new Error('nothing to preview');
      const taken = spec.seed ?? seed.current;
      const preview = await unwrap(api.POST('/api/v1/rollouts/preview', { body: taken === undefined ? spec : { ...spec, seed: taken }, signal }));
      seed.current ??= preview.seed;
      return preview;
    },
    placeholderData: keepPreviousData,
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

/** The newest versions of a line that can be rolled out. */
export function useSignedVersions(line: string) {
  return useQuery({
    queryKey: ['model', 'versions', line, 'signed'],
    queryFn: ({ signal }) =>
      unwrap(api.GET('/api/v1/models/{line}/versions', { params: { path: { line }, query: { signature: 'signed', limit: 100 } }, signal })),
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
