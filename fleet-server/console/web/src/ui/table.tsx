// The table of long lists: only the rows near the screen exist, the server filters, sorts and counts. A WAI-ARIA grid with one
// tab stop: arrows or j/k move, x selects, Shift extends, Enter opens, Ctrl+A takes all that match.
import type { ComponentChildren, JSX } from 'preact';
import { memo } from 'preact/compat';
import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
import { count } from '../lib/format';
import { useAfter, useLatest, useMedia, useUid, useWidth } from '../lib/hooks';
import { useShortcuts } from '../lib/keys';
import { usePatched } from '../lib/live';
import { place, recallScroll, rememberScroll } from '../lib/router';
import { countWords } from '../lib/rows';
import type { RowSource } from '../lib/rows';
import type { Selection } from '../lib/selection';
import { ALL, isSelected, NONE, selectedCount, toggled, whileAsked, withIds } from '../lib/selection';
import { rangeFrom, refind, rowWindow, scrollToRow } from '../lib/window';
import { ErrorNote } from './states';
import { toast } from './toast';

export interface Column<T> {
  id: string;
  header: string;
  /** Track of the CSS grid: `minmax(160px, 2fr)`. */
  width: string;
  cell(row: T): ComponentChildren;
  /** Numbers stand at the end, with digits of one width. */
  align?: 'end';
  mono?: boolean;
  /** The server's name for sorting by it; absent: not sortable. */
  sort?: string;
  /** 1 always shown (default), 2 from 640 px, 3 from 960 px of table width. */
  priority?: 1 | 2 | 3;
}

export interface TableProps<T extends object> {
  /** Name for assistive technology, and of the kept scroll position. */
  label: string;
  rows: RowSource<T>;
  columns: readonly Column<T>[];
  rowId(row: T): string;
  /** How a row is called: `Select edge-01`. Defaults to its id. */
  rowName?(row: T): string;
  /** Resource of live patches (`device`). */
  resource?: string;
  /** `id` or `-id`. */
  sort?: string;
  onSort?(sort: string): void;
  onOpen?(row: T): void;
  selection?: Selection;
  onSelect?(selection: Selection): void;
  /** Shown instead of rows when nothing matches: an `<Empty>`. */
  empty: ComponentChildren;
  /** Changes when the question changes (filter, sort): the table goes back to the top, and says how many rows the answer has. */
  question?: string;
}

const HEADER = 36;
const SELECT_WIDTH = '40px';
/** Rows that Shift selects at once: each is fetched. Beyond that, "all matching" is the tool. */
const MOST_IN_RANGE = 1000;
/** Whoever types asks one question after the other: only the last answer is said aloud. */
const SAID_AFTER_MS = 500;

/** What keys do in a grid that are pressed outside of it. */
interface GridKeys {
  step(by: number): void;
  select(): void;
  selectAll(): void;
}

const grids = new WeakMap<Element, GridKeys>();

/** Of several grids on a screen, keys belong to the one that has the focus in it, else to the first one that has rows. */
function keysOfGrid(): GridKeys | undefined {
  const grid = document.activeElement?.closest('.table-scroll') ?? document.querySelector('.table[data-state="full"] > .table-scroll');
  return grid === null ? undefined : grids.get(grid);
}

/**
 * What is said aloud of the answer to another question, for those who do not see the rows change. A list that is new says nothing:
 * it is read where it stands. Nor does one that changes while its question stays: live events would never let it be quiet.
 */
function useSaid(question: string | undefined, answered: boolean, words: () => string): string {
  const [said, setSaid] = useState('');
  const heard = useRef(question);
  const latest = useLatest(words);
  useEffect(() => {
    if (heard.current === question) return undefined;
    // Emptied first: the same words again are said again.
    setSaid('');
    if (!answered) return undefined;
    const timer = setTimeout(() => {
      heard.current = question;
      setSaid(latest.current());
    }, SAID_AFTER_MS);
    return () => clearTimeout(timer);
  }, [question, answered, latest]);
  return said;
}

interface RowProps<T extends object> {
  row: T | undefined;
  index: number;
  gridId: string;
  columns: readonly Column<T>[];
  id: string | undefined;
  name: string;
  resource: string | undefined;
  fetchedAt: number;
  height: number;
  current: boolean;
  selected: boolean | undefined;
  onToggle(index: number, extend: boolean): void;
  onActivate(index: number): void;
}

function RowView<T extends object>(props: RowProps<T>): JSX.Element {
  const { index, gridId, columns, height, current, selected } = props;
  const row = usePatched(props.resource ?? '', props.resource === undefined ? undefined : props.id, props.row, props.fetchedAt);
  return (
    <div
      role="row"
      id={`${gridId}-row-${index}`}
      aria-rowindex={index + 2}
      aria-selected={selected}
      class={`tr${current ? ' current' : ''}${selected === true ? ' selected' : ''}`}
      style={{ transform: `translateY(${index * height}px)`, height: `${height}px` }}
      onClick={(event) => {
        if (event.target instanceof Element && event.target.closest('a, button, input, label') !== null) return;
        if (getSelection()?.isCollapsed === false) return;
        props.onActivate(index);
      }}
    >
      {selected === undefined ? null : (
        <div role="gridcell" class="td select">
          <label class="check-target">
            <input
              type="checkbox"
              tabIndex={-1}
              checked={selected}
              disabled={row === undefined}
              aria-label={`Select ${props.name}`}
              onClick={(event) => props.onToggle(index, event.shiftKey)}
            />
          </label>
        </div>
      )}
      {columns.map((column) => (
        <div key={column.id} role="gridcell" class={`td${column.align === 'end' ? ' end' : ''}${column.mono === true ? ' mono' : ''}`}>
          {row === undefined ? <span class="bone" /> : column.cell(row)}
        </div>
      ))}
    </div>
  );
}

const Row = memo(RowView) as typeof RowView;

export function Table<T extends object>(props: TableProps<T>): JSX.Element {
  const { rows, columns, rowId, selection, label, question } = props;
  const scroller = useRef<HTMLDivElement>(null);
  const gridId = useUid('grid');
  const width = useWidth(scroller);
  const coarse = useMedia('(pointer: coarse)');
  const rowHeight = coarse ? 44 : 40;
  const selectable = selection !== undefined && props.onSelect !== undefined;
  const shown = useMemo(
    () => columns.filter((column) => width === 0 || (column.priority ?? 1) === 1 || width >= (column.priority === 2 ? 640 : 960)),
    [columns, width],
  );
  const tracks = `${selectable ? `${SELECT_WIDTH} ` : ''}${shown.map((column) => column.width).join(' ')}`;
  const total = rows.total;

  const [visible, setVisible] = useState({ from: 0, to: 0 });
  const [cursor, setCursor] = useState(0);
  const anchor = useRef(0);
  const latest = useLatest({ rows, props, total, cursor });
  // Which rows the cursor and the anchor stand on, once somebody has put them there: they stay on them when the list is
  // fetched again and comes in another order.
  const held = useRef<{ placed: boolean; cursor?: string | undefined; anchor?: string | undefined }>({ placed: false });
  const idAt = useCallback(
    (index: number) => {
      const row = latest.current.rows.rowAt(index);
      return row === undefined ? undefined : latest.current.props.rowId(row);
    },
    [latest],
  );
  const hold = useCallback(
    (index: number) => {
      setCursor(index);
      held.current.placed = true;
      held.current.cursor = idAt(index);
    },
    [idAt],
  );
  useLayoutEffect(() => {
    if (rows.stale) return;
    const at = refind(cursor, held.current.cursor, total, idAt);
    if (at !== cursor) setCursor(at);
    // A row that is gone: the one in its place. One that was not here yet when the cursor came: it, now.
    if (held.current.placed) held.current.cursor = idAt(at) ?? held.current.cursor;
    anchor.current = refind(anchor.current, held.current.anchor, total, idAt);
  });

  const measure = useCallback(() => {
    const box = scroller.current;
    if (box === null) return;
    const next = rowWindow(box.scrollTop, box.clientHeight - HEADER, rowHeight, latest.current.total);
    setVisible((before) => (before.from === next.from && before.to === next.to ? before : next));
    latest.current.rows.want(next);
  }, [rowHeight, latest]);

  useLayoutEffect(measure, [measure, total]);
  useEffect(() => {
    const box = scroller.current;
    if (box === null) return undefined;
    const entry = place.get().key;
    const scrolled = (): void => {
      measure();
      rememberScroll(entry, label, box.scrollTop);
    };
    box.addEventListener('scroll', scrolled, { passive: true });
    const observer = new ResizeObserver(measure);
    observer.observe(box);
    return () => {
      box.removeEventListener('scroll', scrolled);
      observer.disconnect();
    };
  }, [measure, label]);

  // Back to where the reader was, once there are rows; to the top when the question changes.
  const restored = useRef(false);
  useLayoutEffect(() => {
    if (restored.current || total === 0 || scroller.current === null) return;
    restored.current = true;
    const top = recallScroll(place.get().key, label);
    if (top !== undefined) scroller.current.scrollTop = top;
  }, [total, label]);
  const asked = useRef(question);
  useEffect(() => {
    if (asked.current === question) return;
    asked.current = question;
    setCursor(0);
    anchor.current = 0;
    held.current = { placed: false };
    if (scroller.current !== null) scroller.current.scrollTop = 0;
  }, [question]);
  useEffect(() => {
    if (cursor >= total && total > 0) setCursor(total - 1);
  }, [total, cursor]);

  const move = useCallback(
    (to: number) => {
      const box = scroller.current;
      const target = Math.max(0, Math.min(latest.current.total - 1, to));
      hold(target);
      if (box !== null) box.scrollTop = scrollToRow(target, box.scrollTop, box.clientHeight, rowHeight, HEADER);
    },
    [rowHeight, latest, hold],
  );

  const toggle = useCallback(
    async (index: number, extend: boolean) => {
      const { rows: source, props: now } = latest.current;
      if (now.selection === undefined || now.onSelect === undefined) return;
      const question = (): string | undefined => latest.current.props.question;
      if (extend && index !== anchor.current) {
        // A range is fetched, not guessed: rows between may never have been shown.
        const { from, to, cut } = rangeFrom(anchor.current, index, MOST_IN_RANGE);
        const loaded = await whileAsked(question, () => Promise.all(Array.from({ length: to - from }, (_unused, step) => source.load(from + step))));
        if (loaded === undefined) return;
        if (cut > 0) toast(`Only ${count(to - from)} rows are selected at once, not ${count(to - from + cut)}: “Select all matching” takes every row`);
        const ids = loaded.filter((row) => row !== undefined).map((row) => now.rowId(row));
        const selected = latest.current.props.selection ?? NONE;
        latest.current.props.onSelect?.(withIds(selected, ids, true));
      } else {
        const row = await whileAsked(question, () => source.load(index));
        if (row === undefined) return;
        latest.current.props.onSelect?.(toggled(latest.current.props.selection ?? NONE, now.rowId(row)));
      }
      anchor.current = index;
      held.current.anchor = idAt(index);
    },
    [latest, idAt],
  );
  const activate = useCallback(
    async (index: number) => {
      hold(index);
      const row = await latest.current.rows.load(index);
      if (row !== undefined) latest.current.props.onOpen?.(row);
    },
    [latest, hold],
  );

  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.target !== scroller.current || event.altKey) return;
    const box = scroller.current;
    const page = Math.max(1, Math.floor(((box?.clientHeight ?? 0) - HEADER) / rowHeight) - 1);
    if (event.ctrlKey || event.metaKey) {
      if (event.key.toLowerCase() !== 'a' || !selectable) return;
      event.preventDefault();
      props.onSelect?.(ALL);
      return;
    }
    const steps: Record<string, number> = {
      ArrowDown: cursor + 1, j: cursor + 1, J: cursor + 1, ArrowUp: cursor - 1, k: cursor - 1, K: cursor - 1,
      PageDown: cursor + page, PageUp: cursor - page, Home: 0, End: total - 1,
    };
    const to = steps[event.key];
    if (to !== undefined) {
      event.preventDefault();
      move(to);
      if (event.shiftKey && selectable && event.key !== 'Home' && event.key !== 'End') void toggle(Math.max(0, Math.min(total - 1, to)), true);
    } else if ((event.key === 'x' || event.key === 'X' || event.key === ' ') && selectable) {
      event.preventDefault();
      void toggle(cursor, event.shiftKey);
    } else if (event.key === 'Enter' && props.onOpen !== undefined) {
      event.preventDefault();
      void activate(cursor);
    } else if (event.key === 'Escape' && selectable && selectedCount(selection, total) > 0) {
      event.preventDefault();
      props.onSelect?.(NONE);
    }
  };

  // j and k reach the rows from anywhere on the page; Enter and the rest belong to the focused grid.
  useLayoutEffect(() => {
    if (scroller.current === null) return;
    grids.set(scroller.current, {
      step: (by) => {
        scroller.current?.focus({ preventScroll: true });
        move(latest.current.cursor + by);
      },
      select: () => void toggle(latest.current.cursor, false),
      selectAll: () => latest.current.props.onSelect?.(ALL),
    });
  }, [move, toggle, latest]);
  // The last one bound is the one that is called, whichever table that is of.
  useShortcuts(
    () => [
      { keys: 'j', label: 'Next row', group: 'List', run: () => keysOfGrid()?.step(1) },
      { keys: 'k', label: 'Previous row', group: 'List', run: () => keysOfGrid()?.step(-1) },
      ...(selectable
        ? [
            { keys: 'x', label: 'Select the row (Shift: up to here)', group: 'List', run: () => keysOfGrid()?.select() },
            { keys: 'mod+a', label: 'Select all that match, in the list', group: 'List', run: () => keysOfGrid()?.selectAll() },
          ]
        : []),
    ],
    [selectable],
  );

  const loading = rows.status === 'loading';
  const skeleton = useAfter(150, loading);
  const dimmed = useAfter(150, rows.stale);
  const state = loading ? 'loading' : rows.status === 'error' ? 'error' : total === 0 ? 'empty' : 'full';
  const indices = Array.from({ length: Math.max(0, Math.min(visible.to, total) - visible.from) }, (_unused, step) => visible.from + step);
  const allSelected = selectable && total > 0 && selectedCount(selection, total) === total;
  const someSelected = selectable && selectedCount(selection, total) > 0;
  // What failed says so itself (ErrorNote).
  const said = useSaid(question, !rows.stale && (state === 'full' || state === 'empty'), () => `${label}: ${countWords(rows)}`);

  return (
    <div class={`table card${dimmed ? ' stale' : ''}`} data-state={state}>
      <p class="visually-hidden" role="status">
        {said}
      </p>
      <div
        ref={scroller}
        class="table-scroll"
        role="grid"
        aria-label={label}
        aria-rowcount={total + 1}
        aria-multiselectable={selectable ? 'true' : undefined}
        aria-busy={loading || rows.stale}
        aria-activedescendant={state === 'full' && indices.includes(cursor) ? `${gridId}-row-${cursor}` : undefined}
        tabIndex={0}
        onFocus={(event) => {
          if (event.target === event.currentTarget) hold(cursor);
        }}
        onKeyDown={onKeyDown}
        style={{ '--tracks': tracks } as JSX.CSSProperties}
      >
        <div role="rowgroup" class="thead">
          <div role="row" aria-rowindex={1} class="tr">
            {selectable ? (
              <div role="columnheader" class="th select">
                <label class="check-target">
                  <input
                    type="checkbox"
                    tabIndex={-1}
                    aria-label={`Select all ${count(total)} that match`}
                    checked={allSelected}
                    disabled={total === 0}
                    ref={(box) => {
                      if (box !== null) box.indeterminate = someSelected && !allSelected;
                    }}
                    onClick={() => props.onSelect?.(allSelected ? NONE : ALL)}
                  />
                </label>
              </div>
            ) : null}
            {shown.map((column) => (
              <Header key={column.id} column={column} sort={props.sort} onSort={props.onSort} />
            ))}
          </div>
        </div>
        {state === 'full' ? (
          <div role="rowgroup" class="tbody" style={{ height: `${total * rowHeight}px` }}>
            {indices.map((index) => {
              const row = rows.rowAt(index);
              const id = row === undefined ? undefined : rowId(row);
              return (
                <Row
                  key={index}
                  row={row}
                  index={index}
                  gridId={gridId}
                  columns={shown}
                  id={id}
                  name={row === undefined ? 'row' : (props.rowName?.(row) ?? id ?? '')}
                  resource={props.resource}
                  fetchedAt={rows.fetchedAt(index)}
                  height={rowHeight}
                  current={index === cursor}
                  selected={selectable ? id !== undefined && isSelected(selection, id) : undefined}
                  onToggle={toggle}
                  onActivate={activate}
                />
              );
            })}
          </div>
        ) : null}
      </div>
      {state === 'full' ? null : (
        <div class="table-state">
          {state === 'empty' ? props.empty : null}
          {state === 'error' ? <ErrorNote error={rows.error} onRetry={rows.retry} /> : null}
          {skeleton ? (
            <div role="status" aria-label={`Loading ${label}`} class="table-bones">
              {Array.from({ length: 8 }, (_unused, index) => (
                <span key={index} class={`bone w${index % 3}`} />
              ))}
            </div>
          ) : null}
        </div>
      )}
      {state === 'full' && rows.error !== null && rows.error !== undefined ? (
        <div class="table-foot">
          <ErrorNote error={rows.error} title="Some rows could not be loaded" onRetry={rows.retry} />
        </div>
      ) : null}
    </div>
  );
}

function Header<T>({ column, sort, onSort }: { column: Column<T>; sort: string | undefined; onSort: ((sort: string) => void) | undefined }): JSX.Element {
  const name = column.sort;
  const direction = name !== undefined && sort === name ? 'ascending' : name !== undefined && sort === `-${name}` ? 'descending' : undefined;
  const sortable = name !== undefined && onSort !== undefined;
  return (
    <div role="columnheader" class={`th${column.align === 'end' ? ' end' : ''}`} aria-sort={sortable ? (direction ?? 'none') : undefined}>
      {sortable ? (
        <button type="button" class="sort" onClick={() => onSort(direction === 'ascending' ? `-${name}` : name)}>
          {column.header}
          <i aria-hidden="true">{direction === 'ascending' ? '↑' : direction === 'descending' ? '↓' : ''}</i>
        </button>
      ) : (
        column.header
      )}
    </div>
  );
}

/** Below a table while something is selected: how much, "all matching", and what can be done with it. */
export function BulkBar({
  selection,
  onSelect,
  total,
  noun,
  children,
}: {
  selection: Selection;
  onSelect(selection: Selection): void;
  total: number;
  /** `device`; the plural takes an s. */
  noun: string;
  children: ComponentChildren;
}): JSX.Element | null {
  const selected = selectedCount(selection, total);
  if (selected === 0) return null;
  return (
    <div class="bulk" role="region" aria-label="Selection">
      <strong aria-live="polite">
        {count(selected)} {selected === 1 ? noun : `${noun}s`} selected
      </strong>
      {selection.mode === 'some' && selected < total ? (
        <button type="button" class="link" onClick={() => onSelect(ALL)}>
          Select all {count(total)} matching
        </button>
      ) : null}
      <button type="button" class="link" onClick={() => onSelect(NONE)}>
        Clear
      </button>
      <div class="bulk-actions">{children}</div>
    </div>
  );
}
