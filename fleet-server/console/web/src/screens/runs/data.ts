// What the run screens ask of the server.
import { useMutation, useQueries, useQuery, useQueryClient } from '@tanstack/preact-query';
import { useEffect } from 'preact/hooks';
import type { Schema } from '../../lib/client';
import { api, unwrap } from '../../lib/client';
import { usePagedRows } from '../../lib/rows';
import { isActive } from './words';

export type Run = Schema<'Run'>;
export type DatasetVersionName = Schema<'DatasetVersionName'>;
export type CreateRun = Schema<'CreateRun'>;
export type Evaluation = Schema<'Evaluation'>;
export type StoredEvaluation = Schema<'StoredEvaluation'>;
export type Split = Schema<'Split'>;
export type DatasetVersion = Schema<'DatasetVersion'>;
export type Dataset = Schema<'Dataset'>;
export type MetricPoint = Schema<'MetricPoint'>;

export const RESOURCE = 'run';

/** What does not change once it is there needs no second look. */
const FOREVER = { staleTime: Infinity, gcTime: 30 * 60_000 } as const;

/** Rows of the list; the server filters, sorts and counts. */
export function useRunRows(filter: string, sort: string) {
  return usePagedRows<Run>([RESOURCE, 'rows', filter, sort], (offset, limit, signal) =>
    unwrap(api.GET('/api/v1/runs', { params: { query: { filter, sort, offset, limit } }, signal })),
  );
}

const runQuery = (id: string) => ({
  queryKey: [RESOURCE, id],
  meta: { id },
  queryFn: ({ signal }: { signal: AbortSignal }) => unwrap(api.GET('/api/v1/runs/{id}', { params: { path: { id } }, signal })),
});

/** One run, and while it goes on its job: events speak of the job until the run ends. */
export function useRun(id: string) {
  const run = useQuery(runQuery(id));
  const job = useJob(run.data !== undefined && isActive(run.data.status) ? run.data.job : undefined, id);
  return { run, job };
}

export function useRuns(ids: readonly string[]) {
  return useQueries({ queries: ids.map(runQuery) });
}

export function useJob(job: string | undefined, run: string) {
  const client = useQueryClient();
  const query = useQuery({
    queryKey: ['job', job],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/jobs/{id}', { params: { path: { id: job ?? '' } }, signal })),
    enabled: job !== undefined,
  });
  const state = query.data?.state;
  useEffect(() => {
    // The run says "scheduled" until somebody asks again.
    if (job !== undefined && state !== undefined && state !== 'queued') void client.invalidateQueries({ queryKey: [RESOURCE, run] });
  }, [client, job, run, state]);
  return query;
}

const METRIC_PAGE = 1000;
/** Twenty thousand points are more than any screen is wide; what is beyond is said, not fetched. */
const MAX_METRIC_PAGES = 20;

export interface Metrics {
  points: MetricPoint[];
  cut: boolean;
}

async function allMetrics(id: string, signal: AbortSignal): Promise<Metrics> {
  const points: MetricPoint[] = [];
  let cursor: string | undefined;
  for (let page = 0; page < MAX_METRIC_PAGES; page += 1) {
    const answer = await unwrap(api.GET('/api/v1/runs/{id}/metrics', { params: { path: { id }, query: { limit: METRIC_PAGE, ...(cursor === undefined ? {} : { cursor }) } }, signal }));
    points.push(...answer.items);
    cursor = answer.next_cursor ?? undefined;
    if (cursor === undefined) return { points, cut: false };
  }
  return { points, cut: true };
}

/**
 * Curves follow the job's events while the run goes on. A run that has ended keeps its curves under a name of its own, so
 * that the events of others do not fetch them again.
 */
const metricsQuery = (run: Pick<Run, 'id' | 'job' | 'status'>) => ({
  queryKey: isActive(run.status) ? ['job', run.job, 'metrics'] : ['run-metrics', run.id],
  queryFn: ({ signal }: { signal: AbortSignal }) => allMetrics(run.id, signal),
  ...(isActive(run.status) ? {} : FOREVER),
});

export function useMetrics(runs: readonly Run[]) {
  return useQueries({ queries: runs.map(metricsQuery) });
}

/** Immutable: asked once. */
const versionQuery = (id: string | undefined) => ({
  queryKey: ['dataset-version', id],
  queryFn: ({ signal }: { signal: AbortSignal }) =>
    unwrap(api.GET('/api/v1/dataset-versions/{id}', { params: { path: { id: id ?? '' } }, signal })),
  enabled: id !== undefined && id !== '',
  ...FOREVER,
});

export function useVersion(id: string | undefined) {
  return useQuery(versionQuery(id));
}

/** `motions v3`, from the two places where it stands. */
export function useVersionName(id: string | undefined): { version: DatasetVersion | undefined; dataset: Dataset | undefined; error: unknown } {
  const version = useVersion(id);
  const dataset = useDataset(version.data?.dataset);
  return { version: version.data, dataset: dataset.data, error: version.error };
}

export function useDataset(id: string | undefined) {
  return useQuery({
    queryKey: ['dataset', id],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/datasets/{id}', { params: { path: { id: id ?? '' } }, signal })),
    enabled: id !== undefined && id !== '',
  });
}

/** The newest of each, for choosing. */
const CHOICES = 200;

export function useDatasets() {
  return useQuery({
    queryKey: ['dataset', 'choices'],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/datasets', { params: { query: { limit: CHOICES } }, signal })),
  });
}

export function useVersions(dataset: string | undefined) {
  return useQuery({
    queryKey: ['dataset', dataset, 'version-choices'],
    queryFn: ({ signal }) =>
      unwrap(api.GET('/api/v1/datasets/{id}/versions', { params: { path: { id: dataset ?? '' }, query: { limit: CHOICES } }, signal })),
    enabled: dataset !== undefined && dataset !== '',
  });
}

/** Of the measurements that a run has: the newest, which are those to go back to. */
const EVALUATIONS = 50;

const evaluationsKey = (run: string) => [RESOURCE, run, 'evaluations'];

export function useEvaluations(run: Run) {
  return useQuery({
    queryKey: evaluationsKey(run.id),
    meta: { id: run.id },
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/runs/{id}/evaluations', { params: { path: { id: run.id }, query: { limit: EVALUATIONS } }, signal })),
    enabled: run.status === 'FINISHED',
  });
}

/** What the run's model was measured to be on a split, however long ago; `null`: nobody has measured it. Looking measures nothing. */
export function useEvaluation(run: Run, version: string, split: Split) {
  return useQuery({
    queryKey: [...evaluationsKey(run.id), version, split],
    meta: { id: run.id },
    queryFn: async ({ signal }) => {
      const { items } = await unwrap(
        api.GET('/api/v1/runs/{id}/evaluations', { params: { path: { id: run.id }, query: { dataset_version: version, split, limit: 1 } }, signal }),
      );
      return items[0] ?? null;
    },
    enabled: run.status === 'FINISHED',
  });
}

/** Measures the run's model: heavy work on the server, which keeps what it has measured once. */
export function useMeasure(run: Run) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: ({ version, split }: { version: string; split: Split }) =>
      unwrap(api.POST('/api/v1/runs/{id}/evaluations', { params: { path: { id: run.id } }, body: { dataset_version: version, split } })),
    onSuccess: () => client.invalidateQueries({ queryKey: evaluationsKey(run.id) }),
  });
}

export function useCancel(id: string) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: () => unwrap(api.POST('/api/v1/runs/{id}/cancel', { params: { path: { id } } })),
    onSuccess: (run) => {
      client.setQueryData([RESOURCE, id], run);
      void client.invalidateQueries({ queryKey: [RESOURCE] });
    },
  });
}

export function useStart() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: (body: CreateRun) => unwrap(api.POST('/api/v1/runs', { body })),
    onSuccess: () => client.invalidateQueries({ queryKey: [RESOURCE] }),
  });
}

/** Packages that are named on a run's screen: the newest. */
const PACKAGES = 10;

/** Packages made of a run, of whatever line; `undefined` until they are known. */
export function usePackagesOf(run: string) {
  const versions = useQuery({
    queryKey: ['model', 'of-run', run],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/model-versions', { params: { query: { run, limit: PACKAGES } }, signal })),
  });
  return versions.data?.items;
}
