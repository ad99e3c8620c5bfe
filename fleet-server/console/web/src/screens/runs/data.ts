// What the run screens ask of the server.
import { useMutation, useQueries, useQuery, useQueryClient } from '@tanstack/preact-query';
import { useEffect } from 'preact/hooks';
import type { Schema } from '../../lib/client';
import { api, unwrap } from '../../lib/client';
import { can } from '../../lib/session';
import { useCursorRows } from './cursor';
import { isActive } from './words';
import type { RunQuestion } from './words';

export type Run = Schema<'Run'>;
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

export function useRunRows(question: RunQuestion, arrange?: (runs: readonly Run[]) => readonly Run[]) {
  return useCursorRows<Run>(
    [RESOURCE, 'rows', question],
    (cursor, limit, signal) => unwrap(api.GET('/api/v1/runs', { params: { query: { limit, ...question, ...(cursor === undefined ? {} : { cursor }) } }, signal })),
    arrange,
  );
}

const runQuery = (id: string) => ({
  queryKey: [RESOURCE, id],
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

export function useEvaluations(run: Run) {
  return useQuery({
    queryKey: [RESOURCE, run.id, 'evaluations'],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/runs/{id}/evaluations', { params: { path: { id: run.id }, query: { limit: EVALUATIONS } }, signal })),
    enabled: run.status === 'FINISHED',
  });
}

/**
 * The run's model measured on a split: asked for where it is not among what has been measured. The server keeps what it has
 * measured once.
 */
export function useEvaluation(run: Run, version: string, split: Split, wanted: boolean) {
  const client = useQueryClient();
  return useQuery({
    queryKey: ['run-evaluation', run.id, version, split],
    queryFn: async ({ signal }) => {
      const measured = await unwrap(api.POST('/api/v1/runs/{id}/evaluations', { params: { path: { id: run.id } }, body: { dataset_version: version, split }, signal }));
      void client.invalidateQueries({ queryKey: [RESOURCE, run.id, 'evaluations'] });
      return measured;
    },
    enabled: wanted && run.status === 'FINISHED' && can('build'),
    ...FOREVER,
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

/** Lines are few; a fleet with more than this is not searched line by line. */
const MAX_LINES = 8;

/** Packages made of a run, once known: line by line, because versions are listed by their line. */
export function usePackagesOf(run: string) {
  const lines = useQuery({
    queryKey: ['model', 'lines', MAX_LINES + 1],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/models', { params: { query: { limit: MAX_LINES + 1 } }, signal })),
  });
  const names = lines.data === undefined || lines.data.items.length > MAX_LINES ? [] : lines.data.items.map((line) => line.line);
  const versions = useQueries({
    queries: names.map((line) => ({
      queryKey: ['model', line, 'of-run', run],
      queryFn: ({ signal }: { signal: AbortSignal }) =>
        unwrap(api.GET('/api/v1/models/{line}/versions', { params: { path: { line }, query: { text: run, limit: 100 } }, signal })),
    })),
  });
  const known = lines.data !== undefined && lines.data.items.length <= MAX_LINES && versions.every((query) => query.data !== undefined);
  return known ? versions.flatMap((query) => query.data?.items.filter((version) => version.run === run) ?? []) : undefined;
}
