// What the drift screens ask of the server.
import { keepPreviousData, useQueries, useQuery } from '@tanstack/preact-query';
import type { Schema } from '../../lib/client';
import { api, unwrap } from '../../lib/client';
import { useCursorRows } from '../runs/cursor';

export type DeviceDrift = Schema<'CountedPage_DeviceDrift'>['items'][number];
export type Feature = Schema<'Page_FeatureHistogram'>['items'][number];
export type Point = Schema<'Page_DriftPoint'>['items'][number];
export type ClassShare = Schema<'Page_ClassShare'>['items'][number];

/** As live events name it, and the first part of every key. */
export const RESOURCE = 'drift';
/** Stands for all devices, in addresses of the API and of the console. */
export const EVERY_DEVICE = '*';

export const RANGES = ['24h', '7d', '30d'] as const;
export type Range = (typeof RANGES)[number];
const HOURS: Record<Range, number> = { '24h': 24, '7d': 168, '30d': 720 };
export const RANGE_WORDS: Record<Range, string> = { '24h': 'Last 24 hours', '7d': 'Last 7 days', '30d': 'Last 30 days' };
const HOUR_MS = 3_600_000;

/** Where a range begins: whole hours, as the server keeps them. `undefined`: the server's own day. */
export function beginOf(range: Range, now: number): string | undefined {
  return range === '24h' ? undefined : new Date(Math.floor(now / HOUR_MS) * HOUR_MS - HOURS[range] * HOUR_MS).toISOString();
}

function since(range: Range): { from?: string } {
  const from = beginOf(range, Date.now());
  return from === undefined ? {} : { from };
}

export type Show = 'all' | 'drifted' | 'calm';

interface JudgementsPage {
  items: DeviceDrift[];
  next_cursor?: string | null;
  /** What matches, on all pages. */
  total: number;
}

/** A page of judgements, the furthest first; the server narrows, orders and counts. */
async function judgements(line: string, show: Show, limit: number, cursor: string | undefined, signal: AbortSignal): Promise<JudgementsPage> {
  const query = {
    order: 'severity',
    limit,
    ...(line === '' ? {} : { line }),
    ...(show === 'all' ? {} : { drifted: show === 'drifted' }),
    ...(cursor === undefined ? {} : { cursor }),
  };
  return (await unwrap(api.GET('/api/v1/drift', { params: { query }, signal }))) as JudgementsPage;
}

/** Rows of the list, page by page as it is scrolled. */
export function useJudgementRows(line: string, show: Show) {
  return useCursorRows<DeviceDrift>([RESOURCE, 'judgements', line, show], (cursor, limit, signal) => judgements(line, show, limit, cursor, signal));
}

function countOf(line: string, show: Show) {
  return { queryKey: [RESOURCE, 'count', line, show], queryFn: ({ signal }: { signal: AbortSignal }) => judgements(line, show, 1, undefined, signal) };
}

export interface DriftCounts {
  /** Judgements there are, and those of drift. */
  all: number;
  drifted: number;
  /** The furthest of those of drift. */
  worst: DeviceDrift | undefined;
}

/** Of every line that is asked for (`''`: of all), in one order; `undefined` where the answer is not here yet. */
export function useDriftCounts(lines: readonly string[]): readonly (DriftCounts | undefined)[] {
  return useQueries({
    queries: lines.flatMap((line) => [countOf(line, 'all'), countOf(line, 'drifted')]),
    combine: (answers) =>
      lines.map((_line, index) => {
        const all = answers[2 * index]?.data;
        const drifted = answers[2 * index + 1]?.data;
        return all === undefined || drifted === undefined ? undefined : { all: all.total, drifted: drifted.total, worst: drifted.items[0] };
      }),
  });
}

/** The most judgements that one answer holds. */
const JUDGEMENTS = 1000;

/** Judgements, among which the line and version of a package are looked for. */
export function useJudgements(enabled: boolean) {
  return useQuery({
    enabled,
    queryKey: [RESOURCE, 'judgements'],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/drift', { params: { query: { limit: JUDGEMENTS } }, signal })),
    placeholderData: keepPreviousData,
  });
}

/** Of one device: a package each. */
export function useDeviceJudgements(device: string) {
  return useQuery({
    queryKey: [RESOURCE, 'device', device],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/drift', { params: { query: { device, limit: 100 } }, signal })),
    enabled: device !== EVERY_DEVICE,
  });
}

export function useFeatures(device: string, manifest: string, range: Range) {
  return useQuery({
    queryKey: [RESOURCE, 'features', device, manifest, range],
    queryFn: ({ signal }) =>
      unwrap(api.GET('/api/v1/drift/{device}/{manifest}/features', { params: { path: { device, manifest }, query: since(range) }, signal })),
    placeholderData: keepPreviousData,
  });
}

export function useClasses(device: string, manifest: string, range: Range) {
  return useQuery({
    queryKey: [RESOURCE, 'classes', device, manifest, range],
    queryFn: ({ signal }) =>
      unwrap(api.GET('/api/v1/drift/{device}/{manifest}/classes', { params: { path: { device, manifest }, query: since(range) }, signal })),
    placeholderData: keepPreviousData,
  });
}

export function useSeries(device: string, manifest: string, range: Range, feature: string) {
  return useQuery({
    queryKey: [RESOURCE, 'series', device, manifest, range, feature],
    queryFn: ({ signal }) =>
      unwrap(
        api.GET('/api/v1/drift/{device}/{manifest}/series', {
          params: { path: { device, manifest }, query: { ...since(range), ...(feature === '' ? {} : { feature }) } },
          signal,
        }),
      ),
    placeholderData: keepPreviousData,
  });
}

export function useVersions(line: string) {
  return useQuery({
    queryKey: ['model', 'versions', line],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/models/{line}/versions', { params: { path: { line }, query: { limit: 100 } }, signal })),
    enabled: line !== '',
  });
}

/** The dataset that what devices running `line` keep is added to. */
export function useHarvest(line: string) {
  return useQuery({
    queryKey: ['dataset', 'harvest', line],
    queryFn: async ({ signal }) => {
      const { items } = await unwrap(api.GET('/api/v1/datasets', { params: { query: { limit: 1000 } }, signal }));
      return items.find((dataset) => dataset.harvest_line === line) ?? null;
    },
    enabled: line !== '',
  });
}

/** Samples of one device that are looked at to say how many wait for a label. */
const KEPT = 100;

export interface Kept {
  /** Of this device, in this slice. */
  samples: number;
  unlabelled: number;
  /** There are more than were looked at. */
  more: boolean;
}

/** What one device kept for labeling. */
export function useKept(dataset: string | undefined, slice: string, device: string) {
  return useQuery({
    queryKey: ['dataset', 'kept', dataset, slice, device],
    queryFn: async ({ signal }): Promise<Kept> => {
      const { items, next_cursor } = await unwrap(
        api.GET('/api/v1/datasets/{id}/samples', { params: { path: { id: dataset ?? '' }, query: { slice, device, limit: KEPT } }, signal }),
      );
      return { samples: items.length, unlabelled: items.filter((sample) => sample.label?.source !== 'hand').length, more: next_cursor != null };
    },
    enabled: dataset !== undefined && device !== EVERY_DEVICE,
  });
}
