// What the dataset screens ask of the server, and datasets in words.
import { keepPreviousData, useQuery } from '@tanstack/preact-query';
import type { Schema } from '../../lib/client';
import { api, unwrap } from '../../lib/client';
import { count, figure, percent, plural } from '../../lib/format';
import { usePatched } from '../../lib/live';
import { queryClient } from '../../lib/query';
import { href } from '../../lib/router';

export type Dataset = Schema<'Dataset'>;
export type DatasetVersion = Schema<'DatasetVersion'>;
export type Import = Schema<'Import'>;
export type ImportReport = Schema<'ImportReport'>;
export type Sample = Schema<'Page_Sample'>['items'][number];
export type Shape = Schema<'SampleShape'>;
export type SplitRule = Schema<'SplitRule'>;
export type Split = Schema<'Split'>;

/** As live events name it, and the first part of every key. */
export const RESOURCE = 'dataset';
/** Imports have events of their own, which bring their rows along. */
export const IMPORT = 'import';

/** Rows of one page of a list. */
export const PAGE_SIZE = 100;

/** By name, which is what people know it by. A dataset called "new" is reached by its id. */
export function datasetHref(dataset: Pick<Dataset, 'id' | 'name'>, query: Record<string, string | number | undefined> = {}): string {
  return href('/datasets/:id', { id: dataset.name === 'new' ? dataset.id : dataset.name }, query);
}

export function labelingHref(dataset: Pick<Dataset, 'id' | 'name'>, query: Record<string, string | number | undefined> = {}): string {
  return href('/datasets/:id/labeling', { id: dataset.name }, query);
}

export function useDatasets(cursor: string) {
  return useQuery({
    queryKey: [RESOURCE, 'list', cursor],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/datasets', { params: { query: { limit: PAGE_SIZE, ...after(cursor) } }, signal })),
    placeholderData: keepPreviousData,
  });
}

export function useDataset(id: string) {
  return useQuery({
    queryKey: [RESOURCE, 'one', id],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/datasets/{id}', { params: { path: { id } }, signal })),
  });
}

export interface SampleFilter {
  slice: string;
  split: '' | Split;
  labelled: '' | 'yes' | 'no';
}

function sampleQuery(filter: SampleFilter) {
  return {
    ...(filter.slice === '' ? {} : { slice: filter.slice }),
    ...(filter.split === '' ? {} : { split: filter.split }),
    ...(filter.labelled === '' ? {} : { labelled: filter.labelled === 'yes' }),
  };
}

export function useSamples(id: string, filter: SampleFilter, cursor: string) {
  return useQuery({
    queryKey: [RESOURCE, 'samples', id, filter, cursor],
    queryFn: ({ signal }) =>
      unwrap(api.GET('/api/v1/datasets/{id}/samples', { params: { path: { id }, query: { ...sampleQuery(filter), limit: PAGE_SIZE, ...after(cursor) } }, signal })),
    placeholderData: keepPreviousData,
  });
}

/** One sample with its raw values, on whatever page of the list it stands. */
export function useSample(id: string, digest: string) {
  return useQuery({
    queryKey: [RESOURCE, 'sample', id, digest],
    enabled: digest !== '',
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/datasets/{id}/samples/{digest}', { params: { path: { id, digest }, query: { values: true } }, signal })),
  });
}

export function useVersions(id: string, cursor: string) {
  return useQuery({
    queryKey: [RESOURCE, 'versions', id, cursor],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/datasets/{id}/versions', { params: { path: { id }, query: { limit: PAGE_SIZE, ...after(cursor) } }, signal })),
    placeholderData: keepPreviousData,
  });
}

/** Runs that are named beside a version; how many there are is told. */
const RUNS_SHOWN = 20;

/** The newest runs that learnt from a version, and how many there are in all. */
export function useRunsOf(version: string | undefined) {
  return useQuery({
    queryKey: ['run', 'of-version', version],
    enabled: version !== undefined,
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/runs', { params: { query: { dataset_version: version ?? '', limit: RUNS_SHOWN } }, signal })),
  });
}

export function useImports(id: string, cursor: string) {
  return useQuery({
    queryKey: [IMPORT, 'list', id, cursor],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/datasets/{id}/imports', { params: { path: { id }, query: { limit: PAGE_SIZE, ...after(cursor) } }, signal })),
    placeholderData: keepPreviousData,
  });
}

/** One import as it stands; live events move it on. */
export function useImport(id: string, enabled: boolean) {
  const asked = useQuery({
    queryKey: [IMPORT, 'one', id],
    enabled,
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/imports/{id}', { params: { path: { id } }, signal })),
  });
  return usePatched(IMPORT, id, asked.data, asked.dataUpdatedAt);
}

export function isUnderWay(one: Pick<Import, 'state'>): boolean {
  return one.state === 'receiving' || one.state === 'reading';
}

function after(cursor: string): { cursor?: string } {
  return cursor === '' ? {} : { cursor };
}

/** Everything about datasets is asked again: after what this tab has done itself, without waiting for the event. */
export async function changed(): Promise<void> {
  await Promise.all([RESOURCE, IMPORT].map((resource) => queryClient.invalidateQueries({ queryKey: [resource] })));
}

/** `windows of 50 steps × 6 channels at 10 Hz`. */
export function shapeWords(dataset: Pick<Dataset, 'shape' | 'feature_names'>): string {
  const { shape } = dataset;
  if (shape.kind === 'row') return dataset.feature_names.length === 0 ? 'table rows' : `rows of ${plural(dataset.feature_names.length, 'column')}`;
  return `windows of ${plural(shape.window, 'step')} × ${plural(shape.channels.length, 'channel')} at ${figure(shape.rate_hz)} Hz`;
}

export function splitWords(rule: SplitRule): string {
  if (rule.kind === 'all') return `everything is ${rule.split}`;
  if (rule.kind === 'hash') {
    const group = rule.column === undefined || rule.column === null ? 'every row or case by itself' : `grouped by ${rule.column}`;
    return `${percent(rule.holdout)} held out by hash, ${group}`;
  }
  const what = rule.column === undefined || rule.column === null ? 'data row' : rule.column;
  const named = new Set([...rule.train, ...rule.holdout]).size;
  const rest = rule.modulus - named;
  return `${what} mod ${count(rule.modulus)}: train ${residues(rule.train)}, holdout ${residues(rule.holdout)}${rest > 0 ? `, ${count(rest)} of ${count(rule.modulus)} left out` : ''}`;
}

function residues(values: readonly number[]): string {
  if (values.length === 0) return 'none';
  return values.length > 12 ? `${values.slice(0, 12).join(' ')} … (${values.length})` : values.join(' ');
}
