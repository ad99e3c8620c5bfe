// Runs: what was trained on what, how good it is, and which to lay side by side.
import type { JSX } from 'preact';
import { useMemo, useState } from 'preact/hooks';
import { count, duration, figure, NOTHING, percent, plural } from '../../lib/format';
import { settled } from '../../lib/filter';
import type { Field } from '../../lib/filter';
import { useDebounced } from '../../lib/hooks';
import { useShortcuts } from '../../lib/keys';
import { href, Link, navigate, text, useSearch } from '../../lib/router';
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
import type { CursorRows } from './cursor';
import { useRunRows } from './data';
import type { Run } from './data';
import { RunState, VersionLink } from './parts';
import { listLine, matches, MAX_COMPARED, questionOf, runDuration, runName, sorted, STATES, unknownField } from './words';
import './runs.css';

const NEWEST = '-created';
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
  { id: 'status', header: 'Status', width: 'minmax(116px, .9fr)', sort: 'state', cell: (run) => <RunState run={run} /> },
  { id: 'version', header: 'Dataset version', width: 'minmax(120px, 1.1fr)', priority: 2, cell: (run) => <VersionLink id={run.dataset_version} tabIndex={-1} /> },
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
    sort: 'created',
    priority: 2,
    cell: (run) => (
      <span class="muted">
        <Ago time={run.created_at} />
      </span>
    ),
  },
];

function fieldsOf(runs: readonly Run[]): readonly Field[] {
  const some = (pick: (run: Run) => string): string[] => [...new Set(runs.map(pick))].slice(0, 20);
  return [
    { name: 'experiment', help: 'name; motions-* for a beginning', values: some((run) => run.experiment) },
    { name: 'status', help: STATES.join(', '), values: STATES },
    { name: 'accuracy', help: 'on the holdout: accuracy:>0.95', values: ['>0.9', '>0.95', '>0.99'] },
    { name: 'loss', help: 'holdout log loss: loss:<0.1' },
    { name: 'cause', help: 'why it was started', values: some((run) => run.cause) },
    { name: 'version', help: 'id of the dataset version', values: some((run) => run.dataset_version) },
    { name: 'hidden', help: 'units of the layers: hidden:64,32' },
    { name: 'epochs', help: 'epochs:>100' },
    { name: 'seed', help: 'seed of the random numbers' },
    { name: 'duration', help: 'seconds: duration:>60' },
  ];
}

/** What is selected, in the order of the list. */
function chosen(shown: readonly Run[], selection: Selection): string[] {
  return shown.filter((run) => isSelected(selection, run.id)).map((run) => run.id);
}

export default function Runs(): JSX.Element {
  const [view, setView] = useSearch(SEARCH);
  const filter = useDebounced(settled(view.filter), 120);
  const unknown = unknownField(filter);
  const { question, left } = useMemo(() => questionOf(filter), [filter]);
  const served = left.length === 0 && view.sort === NEWEST;
  const arrange = useMemo(() => (served ? undefined : (runs: readonly Run[]) => sorted(runs.filter((run) => matches(run, left)), view.sort)), [served, left, view.sort]);
  const answer = useRunRows(question, arrange);
  const rows = unknown === undefined ? answer : { ...answer, status: 'error' as const, error: new Error(`Runs have no field “${unknown}”.`) };
  const [selection, setSelection] = useState<Selection>(NONE);
  const [asked, setAsked] = useState(filter);
  if (asked !== filter) {
    setAsked(filter);
    setSelection(NONE);
  }
  const fields = useMemo(() => fieldsOf(answer.fetched), [answer.fetched]);
  const ids = chosen(answer.shown, selection);
  const compare = (): void => {
    if (ids.length >= 2) navigate(href('/runs/compare', {}, { ids: ids.slice(0, MAX_COMPARED).join(',') }));
  };
  useShortcuts(() => [{ keys: 'c', label: 'Compare the selected runs', group: 'Runs', run: compare }], [ids.join(',')]);
  useShortcuts(() => (can('build') ? [{ keys: 'n', label: 'New run', group: 'Runs', run: () => navigate('/runs/new') }] : []), []);
  useCommands(
    () => [
      ...(can('build') ? [{ label: 'New run', group: 'Runs list', icon: 'plus' as const, keys: 'n', run: () => navigate('/runs/new') }] : []),
      { label: 'Best runs first', group: 'Runs list', icon: 'filter', run: () => setView({ sort: '-accuracy' }) },
      { label: 'Failed runs', group: 'Runs list', icon: 'filter', run: () => setView({ filter: 'status:failed' }) },
    ],
    [setView],
  );
  const line = listLine(question);
  return (
    <Page
      title="Runs"
      note={rows.status === 'ready' ? noteOf(answer, filter !== '', left.length > 0, view.sort !== NEWEST) : undefined}
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
        <Button size="small" kind="primary" disabled={ids.length < 2} onClick={compare}>
          {ids.length > MAX_COMPARED ? `Compare the first ${MAX_COMPARED}` : selectedCount(selection, answer.total) < 2 ? 'Compare: choose another' : 'Compare'}
        </Button>
      </BulkBar>
    </Page>
  );
}

/** How many there are, in the server's words; where terms or an order are left to this list, how far it has looked. */
function noteOf(rows: CursorRows<Run>, filtered: boolean, left: boolean, sorted: boolean): string {
  const matching = rows.matching ?? rows.fetched.length;
  if (left) return rows.complete ? `${count(rows.shown.length)} matching` : `${count(rows.shown.length)} among the newest ${count(rows.fetched.length)} of ${count(matching)}`;
  const all = filtered ? `${count(matching)} matching` : plural(matching, 'run');
  return sorted && !rows.complete ? `${all}, the newest ${count(rows.fetched.length)} in this order` : all;
}
