// How labeling functions vote against each other, as pairs and as shares.
import type { FunctionConflicts } from './data';

type Voting = FunctionConflicts['functions'][number];

export interface Pair {
  first: Voting;
  second: Voting;
  /** Samples on which both vote. */
  overlap: number;
  /** Of these, those on which they vote for different labels. */
  conflict: number;
}

/** The two functions of a cell. */
export function pairAt(found: FunctionConflicts, row: number, column: number): Pair | undefined {
  const first = found.functions[row];
  const second = found.functions[column];
  if (first === undefined || second === undefined) return undefined;
  return { first, second, overlap: found.overlaps[row]?.[column] ?? 0, conflict: found.conflicts[row]?.[column] ?? 0 };
}

/** Every two functions that vote together somewhere, most conflicts first; of as many, those that meet more often. */
export function pairsOf(found: FunctionConflicts): Pair[] {
  const pairs: Pair[] = [];
  for (let row = 0; row < found.functions.length; row += 1)
    for (let column = row + 1; column < found.functions.length; column += 1) {
      const pair = pairAt(found, row, column);
      if (pair !== undefined && pair.overlap > 0) pairs.push(pair);
    }
  return pairs.sort((left, right) => right.conflict - left.conflict || right.overlap - left.overlap);
}

/** In [0, 1], of the samples on which both vote. */
export function shareOf({ overlap, conflict }: Pair): number {
  return overlap === 0 ? 0 : conflict / overlap;
}

/** Functions have been added or removed since they were counted. */
export function isOutdated(found: FunctionConflicts, now: readonly { id: string }[]): boolean {
  return found.functions.length !== now.length || found.functions.some((one) => !now.some(({ id }) => id === one.id));
}
