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
