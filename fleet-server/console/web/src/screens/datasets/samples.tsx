// Samples of a dataset, a page at a time; one opens with its values.
import type { JSX } from 'preact';
import { count, NOTHING } from '../../lib/format';
import { useStaticRows } from '../../lib/rows';
import { cli } from '../../lib/shell';
import { Link } from '../../lib/router';
import { Button } from '../../ui/button';
import { CliLine, Code } from '../../ui/cli';
import { Dialog } from '../../ui/dialog';
import { Facts } from '../../ui/page';
import { Empty, ErrorNote, Skeleton } from '../../ui/states';
import { Table } from '../../ui/table';
import type { Column } from '../../ui/table';
import { Ago, Name } from '../../ui/text';
import type { Dataset, Sample, SampleFilter } from './data';
import { labelingHref, useSample, useSamples } from './data';
import type { SetView, View } from './dataset';
import { Guess } from './label-tag';
import { Pager } from './pages';
import { SampleView } from './sample-view';

const COLUMNS: readonly Column<Sample>[] = [
  { id: 'key', header: 'Sample', width: 'minmax(150px, 2fr)', mono: true, cell: (sample) => <Name value={sample.key} /> },
  { id: 'slice', header: 'Slice', width: 'minmax(90px, 1fr)', priority: 2, cell: (sample) => <Name value={sample.slice} /> },
  { id: 'split', header: 'Split', width: 'minmax(72px, .6fr)', priority: 2, cell: (sample) => sample.split },
  {
    id: 'label',
    header: 'By hand',
    width: 'minmax(90px, 1fr)',
    cell: (sample) => (sample.label?.source === 'hand' ? <Name value={sample.label.label} strong /> : <span class="muted">{NOTHING}</span>),
  },
  {
    id: 'guess',
    header: 'Label model',
    width: 'minmax(150px, 1.3fr)',
    cell: (sample) => {
      const guess = sample.guess ?? (sample.label?.source === 'model' ? sample.label : undefined);
      return guess === undefined || guess === null ? <span class="muted">{NOTHING}</span> : <Guess label={guess.label} confidence={guess.confidence} />;
    },
  },
  {
    id: 'predicted',
    header: 'Device said',
    width: 'minmax(90px, 1fr)',
    priority: 3,
    cell: (sample) => (sample.predicted === undefined || sample.predicted === null ? <span class="muted">{NOTHING}</span> : <Name value={sample.predicted} />),
  },
  {
    id: 'created',
    header: 'Came',
    width: 'minmax(72px, .5fr)',
    align: 'end',
    priority: 3,
    cell: (sample) => (
      <span class="muted">
        <Ago time={sample.created_at} />
      </span>
    ),
  },
];

export function Samples({ dataset, view, setView }: { dataset: Dataset; view: View; setView: SetView }): JSX.Element {
  const filter: SampleFilter = { slice: view.slice, split: view.split, labelled: view.labelled };
  const asked = useSamples(dataset.id, filter, view.after);
  const items = asked.data?.items ?? [];
  const rows = useStaticRows(asked.data?.items, { error: asked.error, retry: () => asked.refetch(), fetchedAt: asked.dataUpdatedAt });
  const narrowed = view.slice !== '' || view.split !== '' || view.labelled !== '';
  const narrow = (patch: Partial<View>): void => setView({ ...patch, after: '', sample: '' });
  const question = `${view.slice} ${view.split} ${view.labelled}`;
  const line = cli(
    'datasets', 'samples', dataset.name,
    ...(view.slice === '' ? [] : ['--slice', view.slice]),
    ...(view.split === '' ? [] : ['--split', view.split]),
    ...(view.labelled === '' ? [] : ['--labelled', view.labelled === 'yes' ? 'true' : 'false']),
    ...(view.after === '' ? [] : ['--cursor', view.after]),
  );
  return (
    <>
      <div class="datasets-bar">
        <label>
          <span class="muted">Slice</span>
          <select class="input" value={view.slice} onChange={(event) => narrow({ slice: event.currentTarget.value })}>
            <option value="">All</option>
            {/* A slice that has gone since the address was written stays visible as what is asked for. */}
            {[...new Set([...Object.keys(dataset.slices), ...(view.slice === '' ? [] : [view.slice])])].map((slice) => (
              <option key={slice} value={slice}>
                {slice}
              </option>
            ))}
          </select>
        </label>
        <label>
          <span class="muted">Split</span>
          <select class="input" value={view.split} onChange={(event) => narrow({ split: event.currentTarget.value as View['split'] })}>
            <option value="">Both</option>
            <option value="train">train</option>
            <option value="holdout">holdout</option>
          </select>
        </label>
        <label>
          <span class="muted">By hand</span>
          <select class="input" value={view.labelled} onChange={(event) => narrow({ labelled: event.currentTarget.value as View['labelled'] })}>
            <option value="">All</option>
            <option value="yes">labelled</option>
            <option value="no">not labelled</option>
          </select>
        </label>
        <CliLine line={line} />
      </div>
      <div class="datasets-rows">
        <Table
          label={`Samples of ${dataset.name}`}
          rows={{ ...rows, stale: asked.isPlaceholderData }}
          columns={COLUMNS}
          rowId={(sample) => sample.digest}
          rowName={(sample) => sample.key}
          onOpen={(sample) => setView({ sample: sample.digest }, 'push')}
          question={`${question} ${view.after}`}
          empty={
            narrowed ? (
              <Empty action={<Button onClick={() => narrow({ slice: '', split: '', labelled: '' })}>Show all</Button>} cli={line}>
                No sample is like that.
              </Empty>
            ) : (
              <Empty action={<Button kind="primary" onClick={() => setView({ tab: 'import' }, 'push')}>Import a file</Button>} cli={cli('datasets', 'import', dataset.name, 'data.csv')}>
                There are no samples yet: drop a CSV file, or let devices harvest some.
              </Empty>
            )
          }
        />
      </div>
      <Pager cursor={view.after} next={asked.data?.next_cursor} shown={items.length} list={`${dataset.id} ${question}`} onChange={(after) => setView({ after, sample: '' }, 'push')} />
      <Opened dataset={dataset} items={items} digest={view.sample} onChange={(sample) => setView({ sample })} />
    </>
  );
}

/** The sample that the address names, also when the page that is shown does not have it. */
function Opened({ dataset, items, digest, onChange }: { dataset: Dataset; items: readonly Sample[]; digest: string; onChange(digest: string): void }): JSX.Element {
  const asked = useSample(dataset.id, digest);
  const position = items.findIndex((sample) => sample.digest === digest);
  const sample = items[position] ?? asked.data;
  const before = items[position - 1];
  const after = position < 0 ? undefined : items[position + 1];
  return (
    <Dialog
      open={digest !== ''}
      title={position < 0 ? 'Sample' : `Sample ${count(position + 1)} of ${count(items.length)} on this page`}
      width="wide"
      onClose={() => onChange('')}
      footer={
        <>
          <Button disabled={before === undefined} onClick={() => before !== undefined && onChange(before.digest)}>
            Previous
          </Button>
          <Button disabled={after === undefined} onClick={() => after !== undefined && onChange(after.digest)}>
            Next
          </Button>
          <Button kind="primary" onClick={() => onChange('')}>
            Close
          </Button>
        </>
      }
    >
      {sample === undefined ? null : (
        <Facts
          items={[
            ['Place', <bdi class="mono">{sample.key}</bdi>],
            ['Digest', <Code value={sample.digest} />],
            ['Slice and split', <><bdi>{sample.slice}</bdi>, {sample.split}</>],
            ['Label', sample.label?.source === 'hand' ? <><Name value={sample.label.label} strong /> <span class="muted">by hand</span></> : <Link href={labelingHref(dataset, { slice: sample.slice })}>not labelled: to the queue</Link>],
            ...(sample.guess === undefined || sample.guess === null ? [] : [['Label model', <Guess label={sample.guess.label} confidence={sample.guess.confidence} />] as const]),
          ]}
        />
      )}
      {asked.data !== undefined ? (
        <SampleView dataset={dataset} sample={asked.data} />
      ) : asked.isError ? (
        <ErrorNote error={asked.error} title={sample === undefined ? 'The sample could not be loaded' : 'The values could not be loaded'} onRetry={() => asked.refetch()} />
      ) : (
        <Skeleton rows={4} label={sample === undefined ? 'Loading the sample' : 'Loading the values'} />
      )}
      <CliLine line={cli('datasets', 'sample', dataset.name, digest)} />
    </Dialog>
  );
}
