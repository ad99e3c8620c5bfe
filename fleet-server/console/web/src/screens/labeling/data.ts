// What the labeling screens ask of the server.
import { useMutation, useQuery } from '@tanstack/preact-query';
import type { Schema } from '../../lib/client';
import { api, ApiError, unwrap } from '../../lib/client';
import { queryClient } from '../../lib/query';
import type { Dataset, Split } from '../datasets/data';
import { RESOURCE as DATASET } from '../datasets/data';
import type { QueuePage } from './labeler';
import type { Mark } from './outbox';

export type LabelingFunction = Schema<'LabelingFunction'>;
export type LabelModel = Schema<'LabelModel'>;
export type LabelModelKind = Schema<'LabelModelKind'>;
export type FunctionConflicts = Schema<'LabelingFunctionConflicts'>;

/** As live events name it, and the first part of every key. */
export const RESOURCE = 'labels';

export const ORDERS = ['uncertainty', 'newest'] as const;
export type Order = (typeof ORDERS)[number];

export interface QueueAsk {
  order: Order;
  slice: string;
  split: '' | Split;
  /** Only what this device sent. */
  device: string;
}

/** The next of the queue beyond `cursor`, with values; without one, from its start. */
export async function fetchQueue(dataset: string, ask: QueueAsk, limit: number, cursor: string | undefined): Promise<QueuePage> {
  const page = await unwrap(
    api.GET('/api/v1/datasets/{id}/queue', {
      params: {
        path: { id: dataset },
        query: { order: ask.order, values: true, limit, ...(cursor === undefined ? {} : { cursor }), ...(ask.slice === '' ? {} : { slice: ask.slice }), ...(ask.split === '' ? {} : { split: ask.split }), ...(ask.device === '' ? {} : { device: ask.device }) },
      },
    }),
  );
  return { items: page.items, next: page.next_cursor ?? undefined };
}

/** `leaving`: the request outlives the page that sends it. Browsers let only small ones do that (64 KiB of body, all of them together). */
export async function annotate(dataset: string, marks: readonly Mark[], leaving = false): Promise<void> {
  await unwrap(
    api.POST('/api/v1/datasets/{id}/annotations', {
      params: { path: { id: dataset } },
      body: { annotations: [...marks] },
      keepalive: leaving,
    }),
  );
}

/** Takes a label back that is still the one given here; false: it is another by now, which stays. */
export async function removeAnnotation(dataset: string, { sample, label }: Mark, leaving = false): Promise<boolean> {
  try {
    await unwrap(api.DELETE('/api/v1/datasets/{id}/annotations/{sample}', { params: { path: { id: dataset, sample }, query: { label } }, keepalive: leaving }));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 409) return false;
    // It has no label, which is what was asked for.
    if (error.status !== 404) throw error;
  }
  return true;
}

export function useFunctions(dataset: string) {
  return useQuery({
    queryKey: [RESOURCE, 'functions', dataset],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/datasets/{id}/labeling-functions', { params: { path: { id: dataset } }, signal })),
  });
}

/** The last label model; `null` while there is none. */
export function useLabelModel(dataset: string) {
  return useQuery({
    queryKey: [RESOURCE, 'model', dataset],
    queryFn: ({ signal }) => orNone(unwrap(api.GET('/api/v1/datasets/{id}/label-model', { params: { path: { id: dataset } }, signal }))),
  });
}

/** How the functions vote against each other; `null` while no label model is fitted. */
export function useConflicts(dataset: string) {
  return useQuery({
    queryKey: [RESOURCE, 'conflicts', dataset],
    queryFn: ({ signal }) => orNone(unwrap(api.GET('/api/v1/datasets/{id}/labeling-function-conflicts', { params: { path: { id: dataset } }, signal }))),
  });
}

async function orNone<T>(answer: Promise<T>): Promise<T | null> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return null;
    throw error;
  }
}

export function relabelled(): Promise<unknown> {
  return Promise.all([queryClient.invalidateQueries({ queryKey: [RESOURCE] }), queryClient.invalidateQueries({ queryKey: [DATASET] })]);
}

export function useRemoveFunction(dataset: string) {
  return useMutation({
    mutationFn: (id: string) => unwrap(api.DELETE('/api/v1/datasets/{id}/labeling-functions/{lf}', { params: { path: { id: dataset, lf: id } } })),
    onSuccess: relabelled,
  });
}

/** Items of the queue in hand at a time: fewer when each is large, so that a batch stays below a megabyte or so. */
export function batchSize(dataset: Pick<Dataset, 'shape' | 'feature_names'>): number {
  const values = dataset.shape.kind === 'series' ? dataset.shape.window * dataset.shape.channels.length : Math.max(1, dataset.feature_names.length);
  return Math.max(4, Math.min(24, Math.floor(100_000 / Math.max(1, values))));
}
