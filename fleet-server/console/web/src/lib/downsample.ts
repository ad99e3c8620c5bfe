// Fewer points for a chart without losing what matters: every bucket keeps its smallest and its largest value, in order.

export interface Sampled {
  x: number[];
  /** One per series; `null` is a gap. */
  ys: (number | null)[][];
  shown: number;
  of: number;
}

/**
 * At most `limit` points of series that share `x` (ascending). Each bucket keeps, for every series, the positions of the
 * minimum and the maximum; first and last points always stay.
 */
export function downsample(x: readonly number[], ys: readonly (readonly (number | null)[])[], limit: number): Sampled {
  const total = x.length;
  if (total <= limit || limit < 4) return { x: [...x], ys: ys.map((y) => [...y]), shown: total, of: total };
  const kept = new Set<number>([0, total - 1]);
  const buckets = Math.max(1, Math.floor((limit - 2) / (2 * Math.max(1, ys.length))));
  const width = (total - 2) / buckets;
  for (let bucket = 0; bucket < buckets; bucket += 1) {
    const from = 1 + Math.floor(bucket * width);
    const to = Math.min(total - 1, 1 + Math.floor((bucket + 1) * width));
    for (const y of ys) {
      let low = -1;
      let high = -1;
      for (let index = from; index < to; index += 1) {
        const value = y[index];
        if (value === null || value === undefined || !Number.isFinite(value)) continue;
        if (low < 0 || value < (y[low] ?? 0)) low = index;
        if (high < 0 || value > (y[high] ?? 0)) high = index;
      }
      if (low >= 0) kept.add(low);
      if (high >= 0) kept.add(high);
      // A bucket of gaps alone stays a gap.
      if (low < 0 && from < to) kept.add(from);
    }
  }
  const order = [...kept].sort((left, right) => left - right);
  return {
    x: order.map((index) => x[index] ?? 0),
    ys: ys.map((y) => order.map((index) => y[index] ?? null)),
    shown: order.length,
    of: total,
  };
}

/** What a chart says under itself when points were left out; undefined when none were. */
export function sampledNote(sampled: Pick<Sampled, 'shown' | 'of'>): string | undefined {
  if (sampled.shown >= sampled.of) return undefined;
  return `${sampled.shown.toLocaleString('en')} of ${sampled.of.toLocaleString('en')} points, minima and maxima kept`;
}
