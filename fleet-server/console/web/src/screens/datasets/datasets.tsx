// All datasets: what is in them, how much of it is labelled.
import type { JSX } from 'preact';
import { count, percent, plural } from '../../lib/format';
import { Link, navigate, text, useSearch } from '../../lib/router';
import { useStaticRows } from '../../lib/rows';
import { can } from '../../lib/session';
import { cli } from '../../lib/shell';
import { Meter } from '../../charts/shapes';
import { CliLine } from '../../ui/cli';
import { useCommands } from '../../ui/palette';
import { Page } from '../../ui/page';
import { Empty } from '../../ui/states';
import { Table } from '../../ui/table';
import type { Column } from '../../ui/table';
import { Ago, Name } from '../../ui/text';
import { datasetHref, labelingHref, shapeWords, useDatasets } from './data';
import type { Dataset } from './data';
import { Pager } from './pages';
import './datasets.css';

const SEARCH = { after: text() };

const COLUMNS: readonly Column<Dataset>[] = [
  {
    id: 'name',
    header: 'Dataset',
    width: 'minmax(120px, 1.2fr)',
    cell: (dataset) => (
      <Link class="row-link" tabIndex={-1} href={datasetHref(dataset)}>
        <Name value={dataset.name} strong />
      </Link>
    ),
  },
  { id: 'shape', header: 'Samples are', width: 'minmax(200px, 2.4fr)', priority: 2, cell: (dataset) => <span class="muted">{shapeWords(dataset)}</span> },
  {
    id: 'classes',
    header: 'Classes',
    width: 'minmax(160px, 2.2fr)',
    priority: 3,
    cell: (dataset) => <Name value={dataset.labels.slice(0, 40).join(', ')} />,
  },
  { id: 'samples', header: 'Samples', width: 'minmax(80px, .7fr)', align: 'end', cell: (dataset) => count(dataset.samples) },
  {
    id: 'labelled',
    header: 'By hand',
    width: 'minmax(136px, .9fr)',
    align: 'end',
    priority: 2,
    cell: (dataset) => (dataset.samples === 0 ? <span class="muted">–</span> : <Meter value={dataset.hand_labels / dataset.samples} text={percent(dataset.hand_labels / dataset.samples, 0)} />),
  },
  { id: 'slices', header: 'Slices', width: 'minmax(64px, .5fr)', align: 'end', priority: 3, cell: (dataset) => count(Object.keys(dataset.slices).length) },
  {
    id: 'label',
    header: 'Labeling',
    width: 'minmax(72px, .6fr)',
    priority: 2,
    cell: (dataset) => (
      <Link tabIndex={-1} href={labelingHref(dataset)} aria-label={`Label ${dataset.name}`}>
        Label
      </Link>
    ),
  },
  {
    id: 'created',
    header: 'Created',
    width: 'minmax(80px, .6fr)',
    align: 'end',
    cell: (dataset) => (
      <span class="muted">
        <Ago time={dataset.created_at} />
      </span>
    ),
  },
];

export default function Datasets(): JSX.Element {
  const [view, setView] = useSearch(SEARCH);
  const list = useDatasets(view.after);
  const rows = useStaticRows(list.data?.items, { error: list.error, retry: () => list.refetch(), fetchedAt: list.dataUpdatedAt });
  useCommands(() => (can('build') ? [{ label: 'New dataset', group: 'Datasets', icon: 'plus', run: () => navigate('/datasets/new') }] : []), []);
  const items = list.data?.items ?? [];
  const all = view.after === '' && (list.data?.next_cursor ?? null) === null;
  return (
    <Page
      title="Datasets"
      note={list.data === undefined || items.length === 0 ? undefined : `${plural(items.length, 'dataset')}${all ? '' : ' on this page'} with ${plural(items.reduce((sum, dataset) => sum + dataset.samples, 0), 'sample')}`}
      fill
      actions={
        can('build') ? (
          <Link class="button primary" href="/datasets/new">
            New dataset
          </Link>
        ) : undefined
      }
    >
      <CliLine line={cli('datasets', 'list')} />
      <Table
        label="Datasets"
        rows={{ ...rows, stale: list.isPlaceholderData }}
        columns={COLUMNS}
        rowId={(dataset) => dataset.id}
        rowName={(dataset) => dataset.name}
        onOpen={(dataset) => navigate(datasetHref(dataset))}
        question={view.after}
        empty={
          <Empty
            action={
              can('build') ? (
                <Link class="button primary" href="/datasets/new">
                  Make the first dataset
                </Link>
              ) : undefined
            }
            cli={cli('datasets', 'create', '--file', 'dataset.json')}
          >
            There are no datasets yet: say what a sample is, then drop a CSV file.
          </Empty>
        }
      />
      <Pager cursor={view.after} next={list.data?.next_cursor} shown={items.length} list="datasets" onChange={(after) => setView({ after }, 'push')} />
    </Page>
  );
}
