// What the drift screens ask of the server.
import { keepPreviousData, useQueries, useQuery } from '@tanstack/preact-query';
import type { Schema } from '../../lib/client';
import { api, unwrap } from '../../lib/client';
import { quoteValue } from '../../lib/filter';
import { usePagedRows } from '../../lib/rows';
import { WORST } from './words';

export type DeviceDrift = Schema<'DeviceDrift'>;
export type Feature = Schema<'FeatureHistogram'>;
export type Package = Schema<'DriftPackage'>;
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

/** Rows of the list; the server filters, sorts and counts. */
export function useJudgementRows(filter: string, sort: string) {
  return usePagedRows<DeviceDrift>([RESOURCE, 'rows', filter, sort], (offset, limit, signal) =>
    unwrap(api.GET('/api/v1/drift', { params: { query: { filter, sort, offset, limit } }, signal })),
  );
}

/** How many judgements match, and the furthest of them. */
function countOf(filter: string) {
  return {
    queryKey: [RESOURCE, 'count', filter],
    queryFn: ({ signal }: { signal: AbortSignal }) => unwrap(api.GET('/api/v1/drift', { params: { query: { filter, sort: WORST, limit: 1 } }, signal })),
  };
}

/** Judgements of a line; of all of them where it is empty. */
function ofLine(line: string, more = ''): string {
  return [line === '' ? '' : `line:${quoteValue(line)}`, more].filter((term) => term !== '').join(' ');
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
    queries: lines.flatMap((line) => [countOf(ofLine(line)), countOf(ofLine(line, 'drifted:yes'))]),
    combine: (answers) =>
      lines.map((_line, index) => {
        const all = answers[2 * index]?.data;
        const drifted = answers[2 * index + 1]?.data;
        return all === undefined || drifted === undefined ? undefined : { all: all.total, drifted: drifted.total, worst: drifted.items[0] };
      }),
  });
}

/** Of one device and package, found by its digest; `null`: the device has not judged it yet. */
export function useJudgement(device: string, manifest: string | undefined) {
  return useQuery({
    queryKey: [RESOURCE, 'of', device, manifest],
    queryFn: async ({ signal }) => {
      const { items } = await unwrap(api.GET('/api/v1/drift', { params: { query: { device, filter: `manifest:${quoteValue(manifest ?? '')}`, limit: 1 } }, signal }));
      return items[0] ?? null;
    },
    enabled: device !== EVERY_DEVICE && manifest !== undefined,
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

/** The dataset that what devices running `line` keep is added to; `null`: there is none. */
export function useHarvest(line: string) {
  return useQuery({
    queryKey: ['dataset', 'harvest', line],
    queryFn: async ({ signal }) => {
      const { items } = await unwrap(api.GET('/api/v1/datasets', { params: { query: { harvest_line: line, limit: 1 } }, signal }));
      return items[0] ?? null;
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
