// From bins and points to what is drawn.
import type { Line } from '../../charts/series';
import type { Point } from './data';

export interface Bin {
  from: number;
  to: number;
  /** Shares of all observations, in [0, 1]. */
  reference: number;
  live: number;
}

/** Bins that reference and live data share. Bounds that are not finite, and bins without width, go to a neighbour. */
export function binsOf(edges: readonly number[], reference: readonly number[], live: readonly number[]): Bin[] {
  const bins: Bin[] = [];
  let waiting = { reference: 0, live: 0 };
  for (let index = 0; index + 1 < edges.length; index += 1) {
    const from = edges[index] ?? Number.NaN;
    const to = edges[index + 1] ?? Number.NaN;
    const shares = { reference: positive(reference[index]), live: positive(live[index]) };
    const last = bins.at(-1);
    if (Number.isFinite(from) && Number.isFinite(to) && to > from) {
      bins.push({ from, to, reference: shares.reference + waiting.reference, live: shares.live + waiting.live });
      waiting = { reference: 0, live: 0 };
    } else if (last !== undefined) {
      last.reference += shares.reference;
      last.live += shares.live;
    } else waiting = { reference: waiting.reference + shares.reference, live: waiting.live + shares.live };
  }
  return bins;
}

function positive(value: number | undefined): number {
  return value !== undefined && Number.isFinite(value) && value > 0 ? value : 0;
}

/** The bin whose share changed most. */
export function furthest(bins: readonly Bin[]): Bin | undefined {
  return [...bins].sort((left, right) => Math.abs(right.live - right.reference) - Math.abs(left.live - left.reference))[0];
}

const HOUR_S = 3600;

/** Hours without observations are left out by the server, and are gaps in the lines. */
export function linesOf(points: readonly Point[], feature: string): { x: number[]; lines: Line[] } {
  const x: number[] = [];
  const share: (number | null)[] = [];
  const statistic: (number | null)[] = [];
  for (const point of points) {
    const at = Date.parse(point.at) / 1000;
    if (!Number.isFinite(at)) continue;
    const before = x.at(-1);
    if (before !== undefined && at - before > 1.5 * HOUR_S) {
      x.push(before + HOUR_S);
      share.push(null);
      statistic.push(null);
    }
    x.push(at);
    share.push(finite(point.share));
    statistic.push(finite(point.feature?.corrected));
  }
  return { x, lines: [{ label: 'Share of features drifted', y: share }, ...(feature === '' ? [] : [{ label: `PSI of ${feature}`, y: statistic }])] };
}

function finite(value: number | null | undefined): number | null {
  return value === null || value === undefined || !Number.isFinite(value) ? null : value;
}
