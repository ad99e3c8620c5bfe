// Labeling one dataset: by hand, item by item, and by functions whose votes a label model settles.
import type { JSX } from 'preact';
import { count } from '../../lib/format';
import { Link, oneOf, text, useSearch } from '../../lib/router';
import type { Params } from '../../lib/router';
import { Page } from '../../ui/page';
import { ErrorNote, Skeleton } from '../../ui/states';
import { Tabs } from '../../ui/tabs';
import { Name } from '../../ui/text';
import { datasetHref, useDataset } from '../datasets/data';
import { ORDERS, useFunctions } from './data';
import '../datasets/datasets.css';
import { later } from '../../ui/later';
import './labeling.css';

const Queue = later(async () => (await import('./queue')).Queue);
const Functions = later(async () => (await import('./functions')).Functions);

const SEARCH = {
  tab: oneOf(['queue', 'functions'] as const, 'queue'),
  order: oneOf(ORDERS, 'uncertainty'),
  slice: text(),
  split: oneOf(['', 'train', 'holdout'] as const, ''),
  device: text(),
  job: text(),
};

export type View = ReturnType<typeof useSearch<typeof SEARCH>>[0];
export type SetView = ReturnType<typeof useSearch<typeof SEARCH>>[1];

export default function LabelingScreen({ params }: { params: Params }): JSX.Element {
  const id = params['id'] ?? '';
  const [view, setView] = useSearch(SEARCH);
  const asked = useDataset(id);
  const functions = useFunctions(id);
  const dataset = asked.data;
  if (dataset === undefined)
    return (
      <Page title={<bdi>{id}</bdi>} back={{ href: '/labeling', label: 'Labeling' }}>
        {asked.isError ? <ErrorNote error={asked.error} title="The dataset could not be loaded" onRetry={() => asked.refetch()} /> : <Skeleton rows={6} label="Loading the dataset" />}
      </Page>
    );
  return (
    <Page
      title={<Name value={dataset.name} />}
      note={`${count(dataset.hand_labels)} of ${count(dataset.samples)} labelled by hand`}
      back={{ href: '/labeling', label: 'Labeling' }}
      actions={
        <Link class="button" href={datasetHref(dataset)}>
          Dataset
        </Link>
      }
    >
      <Tabs
        label="Ways to label"
        value={view.tab}
        onChange={(tab) => setView({ tab }, 'push')}
        tabs={[
          { id: 'queue', label: 'By hand' },
          { id: 'functions', label: 'By functions', ...(functions.data === undefined ? {} : { count: functions.data.items.length }) },
        ]}
      >
        {view.tab === 'queue' ? <Queue dataset={dataset} view={view} setView={setView} /> : <Functions dataset={dataset} view={view} setView={setView} />}
      </Tabs>
    </Page>
  );
}
