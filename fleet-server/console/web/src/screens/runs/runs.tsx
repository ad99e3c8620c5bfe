// Runs: what was trained on what, how good it is, and which to lay side by side. The server filters, sorts and counts.
import type { JSX } from 'preact';
import { useMemo, useState } from 'preact/hooks';
import { count, duration, figure, NOTHING, percent, plural } from '../../lib/format';
import { useDebounced } from '../../lib/hooks';
import { useShortcuts } from '../../lib/keys';
import { href, Link, navigate, text, useSearch } from '../../lib/router';
import type { RowSource } from '../../lib/rows';
import { PAGE } from '../../lib/rows';
import type { Selection } from '../../lib/selection';
import { isSelected, NONE, selectedCount } from '../../lib/selection';
import { can } from '../../lib/session';
import { Meter } from '../../charts/shapes';
import { Button } from '../../ui/button';
import { CliLine } from '../../ui/cli';
import { FilterInput } from '../../ui/combobox';
import { useCommands } from '../../ui/palette';
import { Page } from '../../ui/page';
import { Empty } from '../../ui/states';
import { BulkBar, Table } from '../../ui/table';
import type { Column } from '../../ui/table';
import { Ago, Name } from '../../ui/text';
import { useRunRows } from './data';
import type { Run } from './data';
import { RunState, VersionLink } from './parts';
import { askable } from './typing';
import { CLOSED, fieldsOf, listLine, MAX_COMPARED, NEWEST, runDuration, runName } from './words';
import './runs.css';

const SEARCH = { filter: text(), sort: text(NEWEST) };

const COLUMNS: readonly Column<Run>[] = [
  {
    id: 'run',
    header: 'Run',
    width: 'minmax(150px, 1.6fr)',
    sort: 'experiment',
    cell: (run) => (
      <Link class="row-link runs-name" tabIndex={-1} href={href('/runs/:id', { id: run.id })}>
        <Name value={run.experiment} strong /> <span class="muted num">seed {run.seed}</span>
      </Link>
    ),
  },
  { id: 'status', header: 'Status', width: 'minmax(116px, .9fr)', sort: 'status', cell: (run) => <RunState run={run} /> },
  {
    id: 'version',
    header: 'Dataset version',
    width: 'minmax(120px, 1.1fr)',
    priority: 2,
    cell: (run) => <VersionLink id={run.dataset_version} name={run.dataset_version_name ?? null} tabIndex={-1} />,
  },
  {
    id: 'trainer',
    header: 'Hidden layers',
    width: 'minmax(100px, .8fr)',
    priority: 3,
    mono: true,
    cell: (run) => run.trainer.hidden.join(', '),
  },
  { id: 'epochs', header: 'Epochs', width: 'minmax(72px, .5fr)', priority: 3, align: 'end', sort: 'epochs', cell: (run) => count(run.trainer.epochs) },
  {
    id: 'accuracy',
    header: 'Holdout accuracy',
    width: 'minmax(140px, .9fr)',
    align: 'end',
    sort: 'accuracy',
    cell: (run) => {
      const accuracy = run.metrics['holdout.accuracy'];
      return accuracy === undefined ? <span class="muted">{NOTHING}</span> : <Meter value={accuracy} text={percent(accuracy)} />;
    },
  },
  {
    id: 'loss',
    header: 'Holdout log loss',
    width: 'minmax(124px, .7fr)',
    align: 'end',
    priority: 3,
    sort: 'loss',
    cell: (run) => figure(run.metrics['holdout.log_loss'], 3),
  },
  { id: 'cause', header: 'Cause', width: 'minmax(80px, .6fr)', priority: 3, sort: 'cause', cell: (run) => <Name value={run.cause} /> },
  { id: 'duration', header: 'Duration', width: 'minmax(80px, .6fr)', align: 'end', priority: 2, sort: 'duration', cell: (run) => duration(runDuration(run)) },
  {
    id: 'created',
    header: 'Started',
    width: 'minmax(84px, .6fr)',
    align: 'end',
    sort: 'started',
    priority: 2,
    cell: (run) => (
      <span class="muted">
        <Ago time={run.created_at} />
      </span>
    ),
  },
];

/** What is selected, as far as it can be laid side by side; of "all that match", the first ones. */
async function chosen(rows: RowSource<Run>, selection: Selection): Promise<string[]> {
  if (selection.mode === 'some') return [...selection.ids].slice(0, MAX_COMPARED);
  const ids: string[] = [];
  for (let index = 0; index < rows.total && ids.length < MAX_COMPARED; index += 1) {
    const run = await rows.load(index);
    if (run !== undefined && isSelected(selection, run.id)) ids.push(run.id);
  }
  return ids;
}

/** The rows of the first page that are here: what they say is worth suggesting. */
function firstOf(rows: RowSource<Run>): Run[] {
  return Array.from({ length: Math.min(PAGE, rows.total) }, (_unused, index) => rows.rowAt(index)).filter((run) => run !== undefined);
}

export default function Runs(): JSX.Element {
  const [view, setView] = useSearch(SEARCH);
  const wanted = askable(view.filter, CLOSED);
  const filter = useDebounced(wanted, 120);
  const answer = useRunRows(filter, view.sort);
  // What is typed is not asked yet: the rows belong to the question before.
  const rows = { ...answer, stale: answer.stale || wanted !== filter };
  const [selection, setSelection] = useState<Selection>(NONE);
  const [asked, setAsked] = useState(filter);
  if (asked !== filter) {
    setAsked(filter);
    setSelection(NONE);
  }
  const fields = useMemo(() => fieldsOf(firstOf(answer)), [answer.fetchedAt(0)]);
  const selected = selectedCount(selection, answer.total);
  const compare = async (): Promise<void> => {
    if (selected < 2) return;
    const ids = await chosen(answer, selection);
    navigate(href('/runs/compare', {}, { ids: ids.join(',') }));
  };
  useShortcuts(() => [{ keys: 'c', label: 'Compare the selected runs', group: 'Runs', run: () => void compare() }], [selection, filter, view.sort, answer.total]);
  useShortcuts(() => (can('build') ? [{ keys: 'n', label: 'New run', group: 'Runs', run: () => navigate('/runs/new') }] : []), []);
  useCommands(
    () => [
      ...(can('build') ? [{ label: 'New run', group: 'Runs list', icon: 'plus' as const, keys: 'n', run: () => navigate('/runs/new') }] : []),
      { label: 'Best runs first', group: 'Runs list', icon: 'filter', run: () => setView({ sort: '-accuracy' }) },
      { label: 'Failed runs', group: 'Runs list', icon: 'filter', run: () => setView({ filter: 'status:failed' }) },
    ],
    [setView],
  );
  const line = listLine(filter, view.sort);
  return (
    <Page
      title="Runs"
      note={rows.status === 'ready' ? (filter === '' ? plural(rows.total, 'run') : `${count(rows.total)} matching`) : undefined}
      fill
      actions={
        can('build') ? (
          <Link class="button primary" href="/runs/new">
            New run
          </Link>
        ) : undefined
      }
    >
      <div class="list-bar">
        <FilterInput
          value={view.filter}
          onChange={(next) => setView({ filter: next })}
          fields={fields}
          label="Filter runs"
          placeholder="Filter: accuracy:>0.95 -status:failed"
        />
        <CliLine line={line} />
      </div>
      <Table
        label="Runs"
        rows={rows}
        columns={COLUMNS}
        rowId={(run) => run.id}
        rowName={(run: Run) => runName(run)}
        sort={view.sort}
        onSort={(sort) => setView({ sort })}
        onOpen={(run) => navigate(href('/runs/:id', { id: run.id }))}
        selection={selection}
        onSelect={setSelection}
        question={`${filter} ${view.sort}`}
        empty={
          view.filter.trim() !== '' ? (
            <Empty action={<Button onClick={() => setView({ filter: '' })}>Clear the filter</Button>} cli={line}>
              No run matches this filter.
            </Empty>
          ) : (
            <Empty
              action={
                can('build') ? (
                  <Link class="button primary" href="/runs/new">
                    Start the first run
                  </Link>
                ) : undefined
              }
              cli="fleetctl runs create --dataset-version ID --wait"
            >
              There are no runs yet: a run trains a model on a dataset version.
            </Empty>
          )
        }
      />
      <BulkBar selection={selection} onSelect={setSelection} total={answer.total} noun="run">
        <Button size="small" kind="primary" disabled={selected < 2} onClick={() => void compare()}>
          {selected > MAX_COMPARED ? `Compare the first ${MAX_COMPARED}` : selected < 2 ? 'Compare: choose another' : 'Compare'}
        </Button>
      </BulkBar>
    </Page>
  );
}
