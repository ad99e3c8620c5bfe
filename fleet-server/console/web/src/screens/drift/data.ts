// What the drift screens ask of the server.
import { keepPreviousData, useQuery } from '@tanstack/preact-query';
import type { Schema } from '../../lib/client';
import { api, unwrap } from '../../lib/client';
import { usePagedRows } from '../../lib/rows';

export type DeviceDrift = Schema<'CountedPage_DeviceDrift'>['items'][number];
export type Feature = Schema<'Page_FeatureHistogram'>['items'][number];
export type Point = Schema<'Page_DriftPoint'>['items'][number];
export type ClassShare = Schema<'Page_ClassShare'>['items'][number];
export type Device = Schema<'Device'>;

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

/** The most judgements that one answer holds. */
const JUDGEMENTS = 1000;

/** The last judgements, and whether there are more than one answer holds. */
export function useJudgements(line: string, enabled = true) {
  return useQuery({
    enabled,
    queryKey: [RESOURCE, 'judgements', line],
    queryFn: ({ signal }) =>
      unwrap(api.GET('/api/v1/drift', { params: { query: { limit: JUDGEMENTS, ...(line === '' ? {} : { line }) } }, signal })),
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

/** Devices by the largest share of drifted features, sorted by the server: for fleets with more judgements than fit one answer. */
export function useWorstDevices(line: string, enabled: boolean) {
  const filter = `drift:>=0${line === '' ? '' : ` model:${line}`}`;
  return usePagedRows<Device>(['device', 'by-drift', filter, enabled], (offset, limit, signal) =>
    enabled ? unwrap(api.GET('/api/v1/devices', { params: { query: { filter, sort: '-drift', offset, limit } }, signal })) : Promise.resolve({ items: [], total: 0 }),
  );
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
