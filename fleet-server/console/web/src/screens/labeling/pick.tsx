// The entry: which dataset shall be labelled. The one with most left to do stands first.
import type { JSX } from 'preact';
import { useMemo } from 'preact/hooks';
import { count, percent } from '../../lib/format';
import { Link, navigate, text, useSearch } from '../../lib/router';
import { useStaticRows } from '../../lib/rows';
import { cli } from '../../lib/shell';
import { Meter } from '../../charts/shapes';
import { CliLine } from '../../ui/cli';
import { Page } from '../../ui/page';
import { Empty } from '../../ui/states';
import { Table } from '../../ui/table';
import type { Column } from '../../ui/table';
import { Name } from '../../ui/text';
import { labelingHref, useDatasets } from '../datasets/data';
import type { Dataset } from '../datasets/data';
import { Pager } from '../datasets/pages';
import '../datasets/datasets.css';

const SEARCH = { after: text() };

const COLUMNS: readonly Column<Dataset>[] = [
  {
    id: 'name',
    header: 'Dataset',
    width: 'minmax(120px, 1.4fr)',
    cell: (dataset) => (
      <Link class="row-link" tabIndex={-1} href={labelingHref(dataset)}>
        <Name value={dataset.name} strong />
      </Link>
    ),
  },
  {
    id: 'classes',
    header: 'Classes',
    width: 'minmax(160px, 2.4fr)',
    priority: 2,
    cell: (dataset) => <Name value={dataset.labels.slice(0, 40).join(', ')} />,
  },
  {
    id: 'labelled',
    header: 'Labelled by hand',
    width: 'minmax(132px, 1fr)',
    align: 'end',
    cell: (dataset) => (dataset.samples === 0 ? <span class="muted">no samples</span> : <Meter value={dataset.hand_labels / dataset.samples} text={percent(dataset.hand_labels / dataset.samples, 0)} />),
  },
  { id: 'left', header: 'To do', width: 'minmax(80px, .7fr)', align: 'end', cell: (dataset) => count(Math.max(0, dataset.samples - dataset.hand_labels)) },
  {
    id: 'functions',
    header: 'Functions',
    width: 'minmax(88px, .6fr)',
    priority: 2,
    cell: (dataset) => (
      <Link tabIndex={-1} href={labelingHref(dataset, { tab: 'functions' })} aria-label={`Show the functions of ${dataset.name}`}>
        Show
      </Link>
    ),
  },
];

export default function Pick(): JSX.Element {
  const [view, setView] = useSearch(SEARCH);
  const list = useDatasets(view.after);
  const items = useMemo(() => list.data?.items.toSorted((left, right) => right.samples - right.hand_labels - (left.samples - left.hand_labels)), [list.data]);
  const rows = useStaticRows(items, { error: list.error, retry: () => list.refetch(), fetchedAt: list.dataUpdatedAt });
  return (
    <Page title="Labeling" note="choose what to label" fill>
      <CliLine line={cli('datasets', 'list')} />
      <Table
        label="Datasets to label"
        rows={{ ...rows, stale: list.isPlaceholderData }}
        columns={COLUMNS}
        rowId={(dataset) => dataset.id}
        rowName={(dataset) => dataset.name}
        onOpen={(dataset) => navigate(labelingHref(dataset))}
        question={view.after}
        empty={
          <Empty
            action={
              <Link class="button primary" href="/datasets/new">
                Make the first dataset
              </Link>
            }
            cli={cli('datasets', 'create', '--file', 'dataset.json')}
          >
            There is nothing to label yet: make a dataset and import a file.
          </Empty>
        }
      />
      <Pager cursor={view.after} next={list.data?.next_cursor} shown={items?.length ?? 0} list="labeling" onChange={(after) => setView({ after }, 'push')} />
    </Page>
  );
}
