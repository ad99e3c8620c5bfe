// What the registry asks of the server.
import { useMutation, useQuery, useQueryClient } from '@tanstack/preact-query';
import type { Schema } from '../../lib/client';
import { api, unwrap } from '../../lib/client';
import { useFollow } from '../overview/follow';
import { useCursorRows } from '../runs/cursor';
import { modelTerm } from './words';
import type { Narrow } from './words';

export type Model = Schema<'Model'>;
export type ModelVersion = Schema<'ModelVersion'>;
export type ManifestDocument = Schema<'ManifestDocument'>;
export type CreateModelVersion = Schema<'CreateModelVersion'>;
export type Run = Schema<'Run'>;

export const RESOURCE = 'model';

export function useLineRows(narrow: Narrow) {
  const key = [RESOURCE, 'lines', narrow];
  // Which devices run what stands in the answer.
  useFollow(key, ['device']);
  return useCursorRows<Model>(key, (cursor, limit, signal) =>
    unwrap(api.GET('/api/v1/models', { params: { query: { limit, ...narrow, ...(cursor === undefined ? {} : { cursor }) } }, signal })),
  );
}

export function useVersionRows(line: string, narrow: Narrow) {
  const key = [RESOURCE, line, 'versions', narrow];
  useFollow(key, ['device']);
  return useCursorRows<ModelVersion>(key, (cursor, limit, signal) =>
    unwrap(
      api.GET('/api/v1/models/{line}/versions', {
        params: { path: { line }, query: { limit, ...narrow, ...(cursor === undefined ? {} : { cursor }) } },
        signal,
      }),
    ),
  );
}

export function useModelVersion(id: string) {
  return useQuery({
    queryKey: [RESOURCE, 'version', id],
    meta: { id },
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/model-versions/{id}', { params: { path: { id } }, signal })),
  });
}

export function useManifest(id: string) {
  return useQuery({
    queryKey: [RESOURCE, 'manifest', id],
    meta: { id },
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/model-versions/{id}/manifest', { params: { path: { id } }, signal })),
  });
}

export function useDevicesOn(line: string, semver: string) {
  return useQuery({
    queryKey: ['device', 'on', line, semver],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/device-counts', { params: { query: { filter: modelTerm(line, semver) } }, signal })),
  });
}

/** The newest rollout of a version, and how many there are. */
export function useRolloutsOf(version: string) {
  return useQuery({
    queryKey: ['rollout', 'of', version],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/rollouts', { params: { query: { limit: 1, model_version: version } }, signal })),
  });
}

/** Finished runs to choose from, the newest first. */
export function useFinishedRuns() {
  return useQuery({
    queryKey: ['run', 'choices'],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/runs', { params: { query: { status: 'FINISHED', limit: 200 } }, signal })),
    select: (page) => page.items,
  });
}

export function useRunById(id: string | undefined) {
  return useQuery({
    queryKey: ['run', id],
    meta: { id },
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/runs/{id}', { params: { path: { id: id ?? '' } }, signal })),
    enabled: id !== undefined && id !== '',
  });
}

export function useLines() {
  return useQuery({
    queryKey: [RESOURCE, 'line-choices'],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/models', { params: { query: { limit: 200 } }, signal })),
  });
}

export function usePackage() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: ({ line, body }: { line: string; body: CreateModelVersion }) =>
      unwrap(api.POST('/api/v1/models/{line}/versions', { params: { path: { line } }, body })),
    onSuccess: () => client.invalidateQueries({ queryKey: [RESOURCE] }),
  });
}

export function useSign(id: string) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: (envelope: string) => unwrap(api.POST('/api/v1/model-versions/{id}/signatures', { params: { path: { id } }, body: { envelope } })),
    onSuccess: (version) => {
      client.setQueryData([RESOURCE, 'version', id], version);
      void client.invalidateQueries({ queryKey: [RESOURCE] });
    },
  });
}
