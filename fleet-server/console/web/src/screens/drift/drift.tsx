// Drift: which devices see data that their model does not know, the furthest first.
import type { JSX } from 'preact';
import { useMemo } from 'preact/hooks';
import { count, figure, NOTHING, percent, plural } from '../../lib/format';
import { href, Link, navigate, oneOf, text, useSearch } from '../../lib/router';
import { cli } from '../../lib/shell';
import { Meter } from '../../charts/shapes';
import { CliLine } from '../../ui/cli';
import { Page } from '../../ui/page';
import { Empty } from '../../ui/states';
import { Stat, Status } from '../../ui/status';
import { Table } from '../../ui/table';
import type { Column } from '../../ui/table';
import { Ago, Name } from '../../ui/text';
import { NextStep } from '../rollouts/next';
import { EVERY_DEVICE, useDriftCounts, useJudgementRows } from './data';
import type { DeviceDrift } from './data';
import './drift.css';

const SHOW = ['all', 'drifted', 'calm'] as const;
const SEARCH = { line: text(), show: oneOf(SHOW, 'all') };

function detail(judged: { device: string; manifest: string }): string {
  return href('/drift/:device/:manifest', { device: judged.device, manifest: judged.manifest });
}

function Share({ share, drifted }: { share: number; drifted: boolean }): JSX.Element {
  return (
    <span class={drifted ? 'hot' : undefined}>
      <Meter value={share} text={`${percent(share, 0)}${drifted ? ' ▲' : ''}`} />
    </span>
  );
}

const COLUMNS: readonly Column<DeviceDrift>[] = [
  {
    id: 'device',
    header: 'Device',
    width: 'minmax(96px, 1.1fr)',
    cell: (judged) => (
      <Link class="row-link" tabIndex={-1} href={detail(judged)}>
        <Name value={judged.device} strong />
      </Link>
    ),
  },
  { id: 'state', header: 'Judgement', width: 'minmax(104px, .8fr)', priority: 2, cell: (judged) => (judged.drifted ? <Status tone="bad">Drifted</Status> : <Status tone="ok">No drift</Status>) },
  {
    id: 'model',
    header: 'Model',
    width: 'minmax(104px, 1fr)',
    cell: (judged) => (
      <>
        <Name value={judged.line} /> <span class="mono">{judged.semver}</span>
      </>
    ),
  },
  { id: 'share', header: 'Features', width: 'minmax(140px, .8fr)', align: 'end', cell: (judged) => <Share share={judged.share} drifted={judged.drifted} /> },
  {
    id: 'worst',
    header: 'Furthest',
    width: 'minmax(160px, 1.8fr)',
    priority: 2,
    cell: (judged) => {
      const worst = judged.worst[0];
      if (worst === undefined) return <span class="muted">{NOTHING}</span>;
      return (
        <span class="dr-worst">
          <Name value={worst.name} /> <span class={`num ${worst.drifted ? 'hot' : 'muted'}`}>{figure(Math.max(0, worst.corrected), 2)}</span>
        </span>
      );
    },
  },
  { id: 'slice', header: 'Most like', width: 'minmax(104px, .9fr)', priority: 3, cell: (judged) => <Name value={judged.nearest_slice} /> },
  {
    id: 'alarms',
    header: 'Alarms',
    width: 'minmax(72px, .5fr)',
    align: 'end',
    priority: 3,
    cell: (judged) => (
      <span class="num">
        {count(judged.alarms)} <span class="muted">of {count(judged.judgements)}</span>
      </span>
    ),
  },
  {
    id: 'at',
    header: 'Judged',
    width: 'minmax(72px, .5fr)',
    align: 'end',
    priority: 2,
    cell: (judged) => (
      <span class="muted">
        <Ago time={judged.at} />
      </span>
    ),
  },
];

/** Lines whose share is shown beside the whole. */
const MOST_LINES = 3;

export default function Drift(): JSX.Element {
  const [view, setView] = useSearch(SEARCH);
  const rows = useJudgementRows(view.line, view.show);
  // Of the rows that are here: the lines that are worst off.
  const lines = useMemo(() => [...new Set(rows.fetched.map((judged) => judged.line))].slice(0, MOST_LINES), [rows.fetched]);
  const [whole, ...ofLines] = useDriftCounts(view.line === '' ? ['', ...lines] : [view.line]);
  const worst = whole?.worst;
  const line = cli('drift', 'list', '--order', 'severity', view.line !== '' && '--line', view.line !== '' && view.line, view.show !== 'all' && `--drifted=${view.show === 'drifted'}`);
  const empty =
    view.show !== 'all' || view.line !== '' ? (
      <Empty
        action={
          <button type="button" class="button" onClick={() => setView({ show: 'all', line: '' })}>
            Show all
          </button>
        }
      >
        {view.show === 'drifted' ? 'No device’s data has drifted.' : 'No device has judged its data for this choice.'}
      </Empty>
    ) : (
      <Empty
        action={
          <Link class="button primary" href="/rollouts">
            Rollouts
          </Link>
        }
      >
        No device has judged its data yet: a device does once it runs a model and has seen enough of what comes in.
      </Empty>
    );
  return (
    <Page title="Drift" note={view.line === '' ? 'the furthest first' : <bdi>{view.line}</bdi>} fill>
      {whole === undefined || whole.all === 0 ? null : (
        <section class="stats" aria-label="Judgements">
          <Stat
            label="Drifted"
            tone={whole.drifted > 0 ? 'bad' : 'ok'}
            value={count(whole.drifted)}
            note={`of ${plural(whole.all, 'judgement')}`}
            href={href('/drift', {}, { line: view.line, show: view.show === 'drifted' ? undefined : 'drifted' })}
            current={view.show === 'drifted'}
          />
          {ofLines.map((counts, index) => {
            const name = lines[index] ?? '';
            return counts === undefined || counts.all === 0 ? null : (
              <Stat
                key={name}
                label={`${name}, whole fleet`}
                value={percent(counts.drifted / counts.all, 0)}
                note={`${count(counts.drifted)} of ${plural(counts.all, 'judgement')} drifted`}
                href={href('/drift/:device/:manifest', { device: EVERY_DEVICE, manifest: name })}
              />
            );
          })}
        </section>
      )}
      <div class="list-bar">
        <div class="row" role="group" aria-label="Show">
          {SHOW.map((show) => (
            <button key={show} type="button" class="button small next-chip" aria-pressed={show === view.show} onClick={() => setView({ show })}>
              {show === 'all' ? 'All' : show === 'drifted' ? 'Drifted' : 'No drift'}
            </button>
          ))}
          {view.line === '' ? null : (
            <button type="button" class="link" onClick={() => setView({ line: '' })}>
              All lines
            </button>
          )}
        </div>
        <CliLine line={line} />
      </div>
      <Table
        label="Drift"
        rows={rows}
        columns={COLUMNS}
        rowId={(judged) => `${judged.device}/${judged.manifest}`}
        rowName={(judged) => `${judged.device}, ${judged.line} ${judged.semver}`}
        onOpen={(judged) => navigate(detail(judged))}
        question={`${view.line} ${view.show}`}
        empty={empty}
      />
      {whole === undefined || whole.all === 0 ? null : worst !== undefined ? (
        <NextStep at="drift" title="Look at the furthest, then label it" action={`Open ${worst.device}`} href={detail(worst)} icon="drift" cli={cli('drift', 'show', worst.device, worst.manifest)}>
          <bdi>{worst.device}</bdi> sees data that <bdi>{`${worst.line} ${worst.semver}`}</bdi> was not trained on: {percent(worst.share, 0)} of its features drifted.
        </NextStep>
      ) : (
        <NextStep at="drift" title="Nothing drifts" action="Open the labeling queues" href="/labeling" icon="labeling">
          All {plural(whole.all, 'judgement')}{view.line === '' ? '' : ' of this line'} say that devices see what their model was trained on. What was kept for labeling makes the next model better all the same.
        </NextStep>
      )}
    </Page>
  );
}
