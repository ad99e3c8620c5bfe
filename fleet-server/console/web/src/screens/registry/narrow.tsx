// The filter of the registry's lists: signature state and a word, both answered and counted by the server.
import type { JSX } from 'preact';
import { settled } from '../../lib/filter';
import { count, plural } from '../../lib/format';
import { useDebounced } from '../../lib/hooks';
import { text, useSearch } from '../../lib/router';
import { Button } from '../../ui/button';
import { CliLine } from '../../ui/cli';
import { FilterInput } from '../../ui/combobox';
import { Empty } from '../../ui/states';
import type { CursorRows } from '../runs/cursor';
import { FIELDS, narrowOf } from './words';
import type { Narrow } from './words';

const SEARCH = { filter: text() };

export interface Narrowing {
  /** As it is typed. */
  text: string;
  narrow: Narrow;
  wrong: string | undefined;
  set(filter: string): void;
}

export function useNarrowing(): Narrowing {
  const [view, setView] = useSearch(SEARCH);
  const { narrow, wrong } = narrowOf(useDebounced(settled(view.filter), 120));
  return { text: view.filter, narrow, wrong, set: (filter) => setView({ filter }) };
}

/** Nothing is shown for a question that the server cannot be asked. */
export function told<T>(rows: CursorRows<T>, { wrong }: Narrowing): CursorRows<T> {
  return wrong === undefined ? rows : { ...rows, status: 'error', error: new Error(wrong) };
}

export function noteOf<T>(rows: CursorRows<T>, { narrow }: Narrowing, noun: string): string | undefined {
  if (rows.status !== 'ready') return undefined;
  const total = rows.matching ?? rows.fetched.length;
  return Object.keys(narrow).length === 0 ? plural(total, noun) : `${count(total)} matching`;
}

export function NarrowBar({ by, label, placeholder, line }: { by: Narrowing; label: string; placeholder: string; line: string }): JSX.Element {
  return (
    <div class="list-bar">
      <FilterInput value={by.text} onChange={by.set} fields={FIELDS} label={label} placeholder={placeholder} />
      <CliLine line={line} />
    </div>
  );
}

export function NoneMatches({ by, line, children }: { by: Narrowing; line: string; children: string }): JSX.Element {
  return (
    <Empty action={<Button onClick={() => by.set('')}>Clear the filter</Button>} cli={line}>
      {children}
    </Empty>
  );
}
