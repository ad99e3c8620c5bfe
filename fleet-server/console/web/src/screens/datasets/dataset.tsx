// One dataset: its samples, how it is divided, its frozen versions, and how files come in.
import type { JSX } from 'preact';
import { count, percent, plural } from '../../lib/format';
import { useShortcuts } from '../../lib/keys';
import { Link, navigate, oneOf, text, useSearch } from '../../lib/router';
import type { Params } from '../../lib/router';
import { can } from '../../lib/session';
import { Button } from '../../ui/button';
import { useCommands } from '../../ui/palette';
import { Page } from '../../ui/page';
import { ErrorNote, Skeleton } from '../../ui/states';
import { Stat, Status } from '../../ui/status';
import { Tabs } from '../../ui/tabs';
import { Name } from '../../ui/text';
import { datasetHref, labelingHref, shapeWords, useDataset, useVersions } from './data';
import { Imports } from './imports';
import { isActive, useTransfer } from './importing';
import { later } from '../../ui/later';
import './datasets.css';

const Samples = later(async () => (await import('./samples')).Samples);
const Structure = later(async () => (await import('./structure')).Structure);
const Versions = later(async () => (await import('./versions')).Versions);

const TABS = ['samples', 'structure', 'versions', 'import'] as const;

const SEARCH = {
  tab: oneOf(TABS, 'samples'),
  slice: text(),
  split: oneOf(['', 'train', 'holdout'] as const, ''),
  labelled: oneOf(['', 'yes', 'no'] as const, ''),
  after: text(),
  sample: text(),
  /** A version's number or id; alone it opens the versions. */
  version: text(),
};

export type View = ReturnType<typeof useSearch<typeof SEARCH>>[0];
export type SetView = ReturnType<typeof useSearch<typeof SEARCH>>[1];

export default function DatasetScreen({ params }: { params: Params }): JSX.Element {
  const id = params['id'] ?? '';
  const [view, setView] = useSearch(SEARCH);
  const asked = useDataset(id);
  const versions = useVersions(id, '');
  const transfer = useTransfer(asked.data?.id ?? '');
  const dataset = asked.data;
  const tab = view.tab === 'samples' && view.version !== '' ? 'versions' : view.tab;
  const go = (to: View['tab']): void => setView({ tab: to, after: '', sample: '', version: '' }, 'push');

  useShortcuts(
    () => [
      { keys: 'l', label: 'Label samples', group: 'Dataset', run: () => dataset !== undefined && navigate(labelingHref(dataset)) },
      { keys: 'i', label: 'Import a file', group: 'Dataset', run: () => go('import') },
      { keys: 'v', label: 'Versions', group: 'Dataset', run: () => go('versions') },
    ],
    [dataset, setView],
  );
  useCommands(
    () =>
      dataset === undefined
        ? []
        : [
            { label: `Label ${dataset.name}`, group: 'Dataset', icon: 'labeling', run: () => navigate(labelingHref(dataset)) },
            { label: `Import into ${dataset.name}`, group: 'Dataset', icon: 'datasets', run: () => go('import') },
            { label: `Freeze a version of ${dataset.name}`, group: 'Dataset', icon: 'check', run: () => navigate(datasetHref(dataset, { tab: 'versions', freeze: 'yes' })) },
          ],
    [dataset, setView],
  );

  if (dataset === undefined)
    return (
      <Page title={<bdi>{id}</bdi>} back={{ href: '/datasets', label: 'Datasets' }}>
        {asked.isError ? <ErrorNote error={asked.error} title="The dataset could not be loaded" onRetry={() => asked.refetch()} /> : <Skeleton rows={6} label="Loading the dataset" />}
      </Page>
    );
  const newest = versions.data?.items[0];
  const slices = Object.keys(dataset.slices).length;
  return (
    <Page
      title={<Name value={dataset.name} />}
      note={shapeWords(dataset)}
      back={{ href: '/datasets', label: 'Datasets' }}
      actions={
        <>
          {can('build') ? <Button onClick={() => go('import')}>Import a file</Button> : null}
          {can('build') ? (
            <Link class="button" href={datasetHref(dataset, { tab: 'versions', freeze: 'yes' })}>
              Freeze a version
            </Link>
          ) : null}
          <Link class="button primary" href={labelingHref(dataset)}>
            Label
          </Link>
        </>
      }
    >
      <section class="stats" aria-label="In short">
        <Stat label="Samples" value={count(dataset.samples)} note={plural(slices, 'slice')} />
        <Stat
          label="Labelled by hand"
          value={count(dataset.hand_labels)}
          note={dataset.samples === 0 ? 'nothing to label yet' : `${percent(dataset.hand_labels / dataset.samples, 0)} of the samples`}
        />
        <Stat label="Features" value={count(dataset.feature_names.length)} note={dataset.feature_names.length === 0 ? 'known after the first import' : plural(dataset.labels.length, 'class', 'classes')} />
        <Stat
          label="Newest version"
          value={versions.data === undefined ? <span class="bone" /> : newest === undefined ? 'none' : `v${newest.number}`}
          note={newest === undefined ? 'freeze one to train on' : `${count(newest.train)} train, ${count(newest.holdout)} holdout`}
        />
      </section>
      {isActive(transfer) && tab !== 'import' && transfer !== undefined ? (
        <p class="row">
          <Status tone="busy">
            {transfer.file}: {transfer.state === 'sending' ? `${percent(transfer.sent / Math.max(1, transfer.size), 0)} sent` : 'being read'}
          </Status>
          <button type="button" class="link" onClick={() => go('import')}>
            Show
          </button>
        </p>
      ) : null}
      <Tabs
        label="Parts of the dataset"
        value={tab}
        onChange={go}
        tabs={[
          { id: 'samples', label: 'Samples', count: dataset.samples },
          { id: 'structure', label: 'Slices and splits', count: slices },
          { id: 'versions', label: 'Versions', ...(newest === undefined ? {} : { count: newest.number }) },
          { id: 'import', label: 'Import' },
        ]}
      >
        {tab === 'samples' ? <Samples dataset={dataset} view={view} setView={setView} /> : null}
        {tab === 'structure' ? <Structure dataset={dataset} newest={newest} /> : null}
        {tab === 'versions' ? <Versions dataset={dataset} view={view} setView={setView} /> : null}
        {tab === 'import' ? <Imports dataset={dataset} view={view} setView={setView} /> : null}
      </Tabs>
    </Page>
  );
}
