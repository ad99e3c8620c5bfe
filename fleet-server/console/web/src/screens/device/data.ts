// What the screen of one device asks of the server, and what it makes of it.
import { keepPreviousData, useMutation, useQuery, useQueryClient } from '@tanstack/preact-query';
import { useMemo } from 'preact/hooks';
import type { Line } from '../../charts/series';
import type { Schema } from '../../lib/client';
import { api, unwrap } from '../../lib/client';
import { shortDigest } from '../../lib/format';
import { useFollow } from '../overview/follow';
import type { TagChange } from './tag-change';
import { applied } from './tag-change';

export type Device = Schema<'DeviceDetail'>;
export type Hour = Schema<'TelemetryHour'>;
export type DeviceDrift = Schema<'DeviceDrift'>;
export type TimelineEvent = Schema<'TimelineEvent'>;

const RESOURCE = 'device';
const HOUR_MS = 3_600_000;
/** Events on one page of the timeline. */
const EVENTS = 25;

export type Span = '24h' | '7d' | '30d';
const SPANS: Record<Span, number> = { '24h': 24, '7d': 7 * 24, '30d': 30 * 24 };

/**
 * Everything here is about one device: events of others leave it alone. Where a judgement of it or an entry of its audit changes,
 * the server tells of the device as well; of deployments it names the rollout alone.
 */
const deviceKey = (id: string) => [RESOURCE, 'detail', id] as const;
const DEPLOYMENTS = ['deployment'] as const;

export const deviceQuery = (id: string) => ({
  queryKey: deviceKey(id),
  queryFn: ({ signal }: { signal: AbortSignal }) => unwrap(api.GET('/api/v1/devices/{id}', { params: { path: { id } }, signal })),
  meta: { id },
});

export function useDevice(id: string) {
  useFollow(deviceKey(id), DEPLOYMENTS);
  return useQuery(deviceQuery(id));
}

export const hoursQuery = (id: string, span: Span) => ({
  queryKey: [RESOURCE, 'hours', id, span],
  queryFn: ({ signal }: { signal: AbortSignal }) => {
    const to = Date.now();
    const from = new Date(to - SPANS[span] * HOUR_MS).toISOString();
    return unwrap(api.GET('/api/v1/devices/{id}/telemetry', { params: { path: { id }, query: { from, to: new Date(to).toISOString() } }, signal }));
  },
  meta: { id },
});

export function useHours(id: string, span: Span) {
  return useQuery({ ...hoursQuery(id, span), placeholderData: keepPreviousData });
}

/** Under the device and not under `drift`: events of that name no device. */
export const driftQuery = (id: string) => ({
  queryKey: [RESOURCE, 'drift', id],
  queryFn: ({ signal }: { signal: AbortSignal }) => unwrap(api.GET('/api/v1/drift', { params: { query: { device: id, limit: 20 } }, signal })),
  meta: { id },
});

export function useDrift(id: string) {
  return useQuery(driftQuery(id));
}

export const timelineQuery = (id: string, cursor: string) => ({
  queryKey: [RESOURCE, 'timeline', id, cursor],
  queryFn: ({ signal }: { signal: AbortSignal }) =>
    unwrap(api.GET('/api/v1/devices/{id}/timeline', { params: { path: { id }, query: { limit: EVENTS, ...(cursor === '' ? {} : { cursor }) } }, signal })),
  meta: { id },
});

export function useTimeline(id: string, cursor: string) {
  const query = timelineQuery(id, cursor);
  useFollow(query.queryKey, DEPLOYMENTS);
  return useQuery({ ...query, placeholderData: keepPreviousData });
}

/** Packages that are named at a time; what is beyond is shown by its digest. */
const MOST_NAMES = 50;
const DIGEST = /^sha256:[0-9a-f]{64}$/;

/** Versions by manifest, which is what devices name packages by. What is no digest is a device's word, and names nothing. */
export function useVersionNames(manifests: readonly string[]): ReadonlyMap<string, string> {
  const named = [...new Set(manifests)].filter((one) => DIGEST.test(one));
  const manifest = named.slice(0, MOST_NAMES).sort().join(',');
  const { data } = useQuery({
    queryKey: ['model', 'names', manifest],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/model-versions', { params: { query: { manifest, limit: MOST_NAMES } }, signal })),
    enabled: manifest !== '',
    staleTime: 300_000,
    placeholderData: keepPreviousData,
  });
  return useMemo(() => new Map(data?.items.map((version) => [version.manifest, version.semver] as const) ?? []), [data]);
}

/** Tags show at once and go back when the server refuses them. */
export function useTagChange(id: string) {
  const client = useQueryClient();
  const key = deviceKey(id);
  return useMutation({
    mutationFn: (body: { change: TagChange; seen: Record<string, string> }) => unwrap(api.PATCH('/api/v1/devices/{id}', { params: { path: { id } }, body })),
    onMutate: async ({ change }) => {
      await client.cancelQueries({ queryKey: key });
      const before = client.getQueryData<Device>(key);
      if (before !== undefined) client.setQueryData<Device>(key, { ...before, tags: applied(before.tags, change) });
      return before;
    },
    onError: (_error, _change, before) => {
      if (before !== undefined) client.setQueryData<Device>(key, before);
    },
    onSettled: () => client.invalidateQueries({ queryKey: [RESOURCE] }),
  });
}

export function useDecommission() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: (id: string) => unwrap(api.POST('/api/v1/devices/{id}/decommission', { params: { path: { id } } })),
    onSuccess: () => client.invalidateQueries({ queryKey: [RESOURCE] }),
  });
}

export interface SlotDiff {
  slot: string;
  desired?: { name: string; manifest: string; deployment: string };
  reported?: { name: string; manifest: string; committed: boolean; counter: number };
  /** What the difference means. */
  state: 'same' | 'soaking' | 'behind' | 'missing' | 'unasked';
}

/** What the server wants in each slot against what the device says is there. */
export function diffOf(device: Pick<Device, 'desired' | 'models'>): SlotDiff[] {
  const slots = [...new Set([...device.desired.map((target) => target.slot), ...device.models.map((model) => model.slot)])].sort();
  return slots.map((slot) => {
    const wanted = device.desired.find((target) => target.slot === slot);
    const held = device.models.find((model) => model.slot === slot);
    const state =
      wanted === undefined ? 'unasked' : held === undefined ? 'missing' : wanted.manifest !== held.manifest ? 'behind' : held.committed ? 'same' : 'soaking';
    return {
      slot,
      ...(wanted === undefined ? {} : { desired: { name: `${wanted.line} ${wanted.semver}`, manifest: wanted.manifest, deployment: wanted.deployment } }),
      ...(held === undefined ? {} : { reported: { name: `${held.line} ${held.semver}`, manifest: held.manifest, committed: held.committed, counter: held.release_counter } }),
      state,
    };
  });
}

export interface Charts {
  /** Unix seconds; every hour of the span. */
  x: number[];
  inferences: Line[];
  failures: number;
  /** Hours with inferences alone, a gap where at least one hour is missing between longer runs. */
  latencyX: number[];
  latency: Line[];
}

/** Packages with a line of their own; the rest is one line. */
const MOST_LINES = 5;

/** `span`: the whole time asked for, so that the axis shows it all; hours without a bundle had no inference. */
export function chartsOf(given: readonly Hour[], name: (hour: Hour) => string, span?: { from: string; to: string }): Charts | undefined {
  // An hour that was not asked for comes from a clock that is wrong; the axis would reach from there to now, hour by hour.
  const asked = (at: number): boolean => Number.isFinite(at) && (span === undefined || (at >= Date.parse(span.from) - HOUR_MS && at <= Date.parse(span.to)));
  const hours = given.filter((hour) => asked(Date.parse(hour.hour)));
  const first = hours[0];
  const last = hours.at(-1);
  if (first === undefined || last === undefined) return undefined;
  const begin = Math.floor(Date.parse(span?.from ?? first.hour) / HOUR_MS) * HOUR_MS;
  const from = Math.min(begin, Date.parse(first.hour));
  const slots = Math.max(Math.round((Date.parse(last.hour) - from) / HOUR_MS) + 1, Math.floor((Date.parse(span?.to ?? last.hour) - from) / HOUR_MS) + 1);
  const slotOf = (hour: Hour): number => Math.round((Date.parse(hour.hour) - from) / HOUR_MS);
  const totals = new Map<string, number>();
  for (const hour of hours) totals.set(hour.manifest, (totals.get(hour.manifest) ?? 0) + hour.inferences);
  const shown = [...totals].sort((left, right) => right[1] - left[1]).slice(0, totals.size > MOST_LINES ? MOST_LINES - 1 : MOST_LINES).map(([manifest]) => manifest);
  const labels = new Map(hours.map((hour) => [hour.manifest, name(hour)]));
  // The hour that is not over yet is not known to be idle.
  const blank = (): (number | null)[] => Array.from({ length: slots }, (_unused, at) => (at === slots - 1 && at > slotOf(last) ? null : 0));
  const lines = new Map(shown.map((manifest) => [manifest, blank()]));
  const others = blank();
  const weight = new Array<number>(slots).fill(0);
  const p50 = new Array<number>(slots).fill(0);
  const p95 = new Array<number>(slots).fill(0);
  let failures = 0;
  for (const hour of hours) {
    const at = slotOf(hour);
    const y = lines.get(hour.manifest) ?? others;
    y[at] = (y[at] ?? 0) + hour.inferences;
    failures += hour.failures;
    // The median of the package that did most of the hour's work; the 95th percentile of the slowest.
    if (hour.inferences > (weight[at] ?? 0)) {
      weight[at] = hour.inferences;
      p50[at] = hour.p50_us;
    }
    if (hour.inferences > 0) p95[at] = Math.max(p95[at] ?? 0, hour.p95_us);
  }
  const worked = weight.flatMap((inferences, at) => (inferences > 0 ? [at] : []));
  const second = (at: number): number => (from + at * HOUR_MS) / 1000;
  const kept = withGaps(worked);
  // Empty ends, so that both charts share their axis.
  if (kept[0] !== undefined && kept[0].at > 0) kept.unshift({ at: 0, gap: true });
  const end = kept.at(-1);
  if (end !== undefined && end.at < slots - 1) kept.push({ at: slots - 1, gap: true });
  return {
    x: Array.from({ length: slots }, (_unused, at) => second(at)),
    inferences: [...shown.map((manifest) => ({ label: labels.get(manifest) ?? shortDigest(manifest), y: lines.get(manifest) ?? [] })), ...(totals.size > MOST_LINES ? [{ label: 'other packages', y: others }] : [])],
    failures,
    latencyX: kept.map(({ at }) => second(at)),
    latency: [
      { label: 'p50', y: kept.map(({ at, gap }) => (gap ? null : (p50[at] ?? 0) / 1000)) },
      { label: 'p95', y: kept.map(({ at, gap }) => (gap ? null : (p95[at] ?? 0) / 1000)) },
    ],
  };
}

/** Gaps break the line only between runs of several hours: a lone hour between two gaps would not be drawn at all. */
export function withGaps(worked: readonly number[]): { at: number; gap: boolean }[] {
  const kept: { at: number; gap: boolean }[] = [];
  worked.forEach((at, index) => {
    const before = worked[index - 1];
    if (before !== undefined && at - before > 1 && worked[index - 2] === before - 1 && worked[index + 1] === at + 1) kept.push({ at: before + 1, gap: true });
    kept.push({ at, gap: false });
  });
  return kept;
}
