// Lists that the server gives out by cursor: one page is here at a time, its cursor stands in the URL.
import type { JSX } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { count } from '../../lib/format';
import { Button } from '../../ui/button';

/** `cursor` is the page that is shown; what led to it is remembered, so that one can go back. */
export function Pager({
  cursor,
  next,
  shown,
  onChange,
  list,
}: {
  cursor: string;
  next: string | null | undefined;
  shown: number;
  onChange(cursor: string): void;
  /** Changes when another list is shown. */
  list: string;
}): JSX.Element | null {
  const [before, setBefore] = useState<readonly string[]>([]);
  useEffect(() => setBefore([]), [list]);
  if (cursor === '' && (next === null || next === undefined)) return null;
  const number = before.length + 1;
  // After a reload only the start is known.
  const known = cursor === '' || before.length > 0;
  return (
    <nav class="datasets-pager" aria-label="Pages">
      <span class="muted num">{known ? `Page ${count(number)}, ${count(shown)} rows` : `${count(shown)} rows`}</span>
      <Button size="small" disabled={cursor === ''} onClick={() => { setBefore([]); onChange(''); }}>
        First
      </Button>
      <Button
        size="small"
        disabled={before.length === 0}
        onClick={() => {
          onChange(before.at(-1) ?? '');
          setBefore(before.slice(0, -1));
        }}
      >
        Previous
      </Button>
      <Button
        size="small"
        disabled={next === null || next === undefined}
        onClick={() => {
          if (next === null || next === undefined) return;
          // Bounded: further back than this leads to the start.
          setBefore([...before, cursor].slice(-1000));
          onChange(next);
        }}
      >
        Next
      </Button>
    </nav>
  );
}
