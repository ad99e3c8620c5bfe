// How a dataset is cut: slices by where samples came from, splits by rule, classes of the newest version, its columns.
import type { JSX } from 'preact';
import { useState } from 'preact/hooks';
import { Bars } from '../../charts/shapes';
import { count, figure, plural } from '../../lib/format';
import { href } from '../../lib/router';
import { cli } from '../../lib/shell';
import { CliLine, Code } from '../../ui/cli';
import { Card, Facts } from '../../ui/page';
import { Empty } from '../../ui/states';
import { Button } from '../../ui/button';
import { Ago, Name } from '../../ui/text';
import { datasetHref, shapeWords, splitWords } from './data';
import type { Dataset, DatasetVersion } from './data';
import { Link } from '../../lib/router';

/** Most bars or names that are shown at once. */
const MOST = 60;

export function Structure({ dataset, newest }: { dataset: Dataset; newest: DatasetVersion | undefined }): JSX.Element {
  const slices = Object.entries(dataset.slices).sort((left, right) => right[1] - left[1]);
  const { shape } = dataset;
  return (
    <>
      <CliLine line={cli('datasets', 'show', dataset.name)} />
      <div class="grid-2 datasets-top">
        <Card title="Slices" note="by where samples came from">
          {slices.length === 0 ? (
            <Empty cli={cli('datasets', 'import', dataset.name, 'data.csv')}>There are no samples yet.</Empty>
          ) : (
            <ul class="datasets-slices" data-state="full">
              {slices.slice(0, MOST).map(([slice, samples]) => (
                <li key={slice}>
                  <Link href={datasetHref(dataset, { slice })}>
                    <Name value={slice} />
                  </Link>
                  <span class="bar-track" aria-hidden="true">
                    <span class="bar-fill plain" style={{ inlineSize: `${Math.max(1, (100 * samples) / Math.max(1, slices[0]?.[1] ?? 1))}%` }} />
                  </span>
                  <span class="num">{count(samples)}</span>
                </li>
              ))}
              {slices.length > MOST ? <li class="muted">and {plural(slices.length - MOST, 'smaller one')}</li> : null}
            </ul>
          )}
        </Card>
        <Card title="Splits" note={splitWords(dataset.split)}>
          {newest === undefined ? (
            <p class="muted">How many samples are in which split is counted when a version is frozen.</p>
          ) : (
            <>
              <SplitBar train={newest.train} holdout={newest.holdout} left={newest.left_out} />
              <p class="muted">
                As of version {newest.number}, <Ago time={newest.created_at} suffix />.
              </p>
            </>
          )}
        </Card>
        <Card title="Classes" note={newest === undefined ? undefined : `in version ${newest.number}`}>
          {newest === undefined ? (
            <span class="datasets-labels">
              {dataset.labels.slice(0, MOST).map((label) => (
                <bdi key={label} class="tag">
                  {label}
                </bdi>
              ))}
            </span>
          ) : (
            <Bars label="Samples by class" bars={dataset.labels.slice(0, MOST).map((label) => ({ label, value: newest.classes[label] ?? 0 }))} />
          )}
          {dataset.labels.length > MOST ? <p class="muted">and {plural(dataset.labels.length - MOST, 'more class', 'more classes')}</p> : null}
        </Card>
        <Card title="What a sample is">
          <Facts
            items={[
              ['Shape', shapeWords(dataset)],
              ...(shape.kind === 'series'
                ? ([
                    ['Recording', <bdi class="mono">{shape.case_columns.join(', ')}</bdi>],
                    ['Step', <bdi class="mono">{shape.order_column}</bdi>],
                    ['Window', `${plural(shape.window, 'step')}, ${figure(shape.window / shape.rate_hz)} s; a new one every ${plural(shape.hop, 'step')}`],
                    ['Statistics', <bdi class="mono">{shape.statistics.join(', ')}</bdi>],
                  ] as const)
                : []),
              ['Dropped columns', dataset.drop_columns.length === 0 ? 'none' : <bdi class="mono">{dataset.drop_columns.join(', ')}</bdi>],
              [
                'Harvest',
                dataset.harvest_line === undefined || dataset.harvest_line === null ? (
                  'none'
                ) : (
                  <>
                    from devices with <Link href={href('/models/:line', { line: dataset.harvest_line })}><Name value={dataset.harvest_line} /></Link>
                  </>
                ),
              ],
              ['Id', <Code value={dataset.id} short={false} />],
            ]}
          />
        </Card>
      </div>
      <Columns names={dataset.feature_names} />
    </>
  );
}

export function SplitBar({ train, holdout, left }: { train: number; holdout: number; left: number }): JSX.Element {
  const all = Math.max(1, train + holdout + left);
  const parts = [
    { name: 'train', value: train, look: 'train' },
    { name: 'holdout', value: holdout, look: 'holdout' },
    { name: 'left out', value: left, look: 'left' },
  ].filter((part) => part.value > 0);
  return (
    <div class="datasets-split">
      <div class="datasets-split-track" aria-hidden="true">
        {parts.map((part) => (
          <span key={part.name} class={part.look} style={{ inlineSize: `${(100 * part.value) / all}%` }} />
        ))}
      </div>
      <div class="legends">
        {parts.map((part) => (
          <span key={part.name} class="legend">
            <i class={`datasets-key ${part.look}`} /> {part.name} <b class="num">{count(part.value)}</b>
          </span>
        ))}
      </div>
    </div>
  );
}

function Columns({ names }: { names: readonly string[] }): JSX.Element | null {
  const [page, setPage] = useState(0);
  if (names.length === 0) return null;
  const from = page * MOST;
  return (
    <Card
      title="Features"
      note={`${count(names.length)}, in the order that models use`}
      actions={
        names.length > MOST ? (
          <>
            <Button size="small" disabled={page === 0} onClick={() => setPage(page - 1)}>
              Previous
            </Button>
            <Button size="small" disabled={from + MOST >= names.length} onClick={() => setPage(page + 1)}>
              Next
            </Button>
          </>
        ) : undefined
      }
    >
      <ol class="datasets-features" start={from + 1}>
        {names.slice(from, from + MOST).map((name) => (
          <li key={name}>
            <bdi class="mono">{name}</bdi>
          </li>
        ))}
      </ol>
    </Card>
  );
}
