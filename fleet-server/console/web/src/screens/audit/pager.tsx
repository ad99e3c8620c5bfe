// Paging of lists that the server cuts by a cursor: older entries one page at a time, and back to the newest. Which page it is
// stands in the address; Back goes one page back.
import type { JSX } from 'preact';
import { Button } from '../../ui/button';

export function Pager({
  cursor,
  next,
  onGo,
  label,
}: {
  /** Of the page shown; empty: the newest. */
  cursor: string;
  next: string | null | undefined;
  onGo(cursor: string): void;
  /** What is paged: `Audit log`. */
  label: string;
}): JSX.Element | null {
  const older = next ?? undefined;
  if (cursor === '' && older === undefined) return null;
  return (
    <nav class="pager" aria-label={`Pages: ${label}`}>
      <Button size="small" disabled={cursor === ''} onClick={() => onGo('')}>
        Newest
      </Button>
      <Button size="small" disabled={older === undefined} onClick={() => onGo(older ?? '')}>
        Older
      </Button>
    </nav>
  );
}
