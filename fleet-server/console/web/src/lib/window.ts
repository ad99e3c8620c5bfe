// Which rows of a long list are in the document. Rows have one height; never more than MAX_ROWS exist, whatever the screen.

export const MAX_ROWS = 60;
const OVERSCAN = 8;

export interface RowWindow {
  from: number;
  /** One past the last. */
  to: number;
}

export function rowWindow(scrollTop: number, height: number, rowHeight: number, total: number): RowWindow {
  if (total <= 0 || rowHeight <= 0) return { from: 0, to: 0 };
  const first = Math.max(0, Math.min(total - 1, Math.floor(scrollTop / rowHeight)));
  const visible = Math.min(MAX_ROWS, Math.ceil((scrollTop % rowHeight) / rowHeight + height / rowHeight));
  const over = Math.max(0, Math.min(OVERSCAN, Math.floor((MAX_ROWS - visible) / 2)));
  const from = Math.max(0, first - over);
  const to = Math.min(total, first + visible + over);
  return { from, to: Math.min(to, from + MAX_ROWS) };
}

/** Pages of `size` that cover rows `[from, to)`. */
export function pagesOf(range: RowWindow, size: number): number[] {
  if (range.to <= range.from) return [];
  const pages: number[] = [];
  for (let page = Math.floor(range.from / size); page <= Math.floor((range.to - 1) / size); page += 1) pages.push(page);
  return pages;
}

/** The scroll position that shows row `index` whole, moving as little as possible. `header` covers the top. */
export function scrollToRow(index: number, scrollTop: number, height: number, rowHeight: number, header: number): number {
  const top = index * rowHeight;
  if (top < scrollTop) return top;
  const bottom = top + rowHeight + header;
  return bottom > scrollTop + height ? bottom - height : scrollTop;
}

/** How far around its old place a row is looked for when the list has changed: about the pages that are here. */
const FAR = 200;

/**
 * Where the row `id` is now that was at `index`; `idAt` knows the rows that are here. One that is gone, or too far away, leaves
 * its place to the row that is there now.
 */
export function refind(index: number, id: string | undefined, total: number, idAt: (index: number) => string | undefined): number {
  if (id === undefined) return index;
  for (let away = 0; away <= FAR; away += 1) {
    if (index + away < total && idAt(index + away) === id) return index + away;
    if (index - away >= 0 && idAt(index - away) === id) return index - away;
  }
  return index;
}

/** Rows `[from, to)` between two, both included; of more than `most`, those next to where it began. */
export function rangeFrom(anchor: number, index: number, most: number): RowWindow & { cut: number } {
  const size = Math.abs(index - anchor) + 1;
  const length = Math.min(most, size);
  const from = index >= anchor ? anchor : anchor - length + 1;
  return { from, to: from + length, cut: size - length };
}
