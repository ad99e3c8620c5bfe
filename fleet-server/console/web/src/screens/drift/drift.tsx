// Drift: which devices see data that their model does not know, the furthest first. The server filters, sorts and counts.
import type { JSX } from 'preact';
import { useMemo } from 'preact/hooks';
import { count, figure, NOTHING, percent, plural } from '../../lib/format';
import { useDebounced } from '../../lib/hooks';
import { href, Link, navigate, oneOf, text, useSearch } from '../../lib/router';
import type { RowSource } from '../../lib/rows';
import { PAGE } from '../../lib/rows';
import { cli } from '../../lib/shell';
import { Meter } from '../../charts/shapes';
import { Button } from '../../ui/button';
import { CliLine } from '../../ui/cli';
import { FilterInput } from '../../ui/combobox';
import { Page } from '../../ui/page';
import { Empty } from '../../ui/states';
import { Stat, Status } from '../../ui/status';
import { Table } from '../../ui/table';
import type { Column } from '../../ui/table';
import { Ago, Name } from '../../ui/text';
import { NextStep } from '../rollouts/next';
import { askable } from '../runs/typing';
import { EVERY_DEVICE, useDriftCounts, useJudgementRows } from './data';
import type { DeviceDrift } from './data';
import { CLOSED, fieldsOf, filterOf, lineOf, listLine, SHOW, showing, shownBy, WORST } from './words';
import './drift.css';

/** `line` and `show`: how other screens say what they mean; typing makes them terms of the filter. */
const SEARCH = { filter: text(), sort: text(WORST), line: text(), show: oneOf(SHOW, 'all') };
const SHOW_WORDS = { all: 'All', drifted: 'Drifted', calm: 'No drift' };

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
    sort: 'device',
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
    sort: 'line',
    cell: (judged) => (
      <>
        <Name value={judged.line} /> <span class="mono">{judged.semver}</span>
      </>
    ),
  },
  { id: 'share', header: 'Features', width: 'minmax(140px, .8fr)', align: 'end', sort: 'severity', cell: (judged) => <Share share={judged.share} drifted={judged.drifted} /> },
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
    sort: 'at',
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

/** The rows of the first page that are here. */
function firstOf(rows: RowSource<DeviceDrift>): DeviceDrift[] {
  return Array.from({ length: Math.min(PAGE, rows.total) }, (_unused, index) => rows.rowAt(index)).filter((judged) => judged !== undefined);
}

export default function Drift(): JSX.Element {
  const [view, setView] = useSearch(SEARCH);
  const typed = filterOf(view);
  const setFilter = (filter: string): void => setView({ filter, line: '', show: 'all' });
  const wanted = askable(typed, CLOSED);
  const filter = useDebounced(wanted, 120);
  const answer = useJudgementRows(filter, view.sort);
  // What is typed is not asked yet: the rows belong to the question before.
  const rows = { ...answer, stale: answer.stale || wanted !== filter };
  const first = useMemo(() => firstOf(answer), [answer.fetchedAt(0)]);
  const fields = useMemo(() => fieldsOf(first), [first]);
  const line = lineOf(filter);
  // Of the rows that are here: with the furthest first, the lines that are worst off.
  const lines = useMemo(() => [...new Set(first.map((judged) => judged.line))].slice(0, MOST_LINES), [first]);
  const [whole, ...ofLines] = useDriftCounts(line === '' ? ['', ...lines] : [line]);
  const worst = whole?.worst;
  const shown = shownBy(typed);
  const empty =
    typed.trim() !== '' ? (
      <Empty action={<Button onClick={() => setFilter('')}>Show all</Button>} cli={listLine(filter, view.sort)}>
        {shown === 'drifted' ? 'No device’s data has drifted.' : 'No device has judged its data for this choice.'}
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
    <Page
      title="Drift"
      note={filter !== '' && rows.status === 'ready' ? `${count(rows.total)} matching` : view.sort === WORST ? 'the furthest first' : undefined}
      fill
    >
      {whole === undefined || whole.all === 0 ? null : (
        <section class="stats" aria-label="Judgements">
          <Stat
            label="Drifted"
            tone={whole.drifted > 0 ? 'bad' : 'ok'}
            value={count(whole.drifted)}
            note={`of ${plural(whole.all, 'judgement')}`}
            href={href('/drift', {}, { filter: showing(typed, shown === 'drifted' ? 'all' : 'drifted'), sort: view.sort === WORST ? undefined : view.sort })}
            current={shown === 'drifted'}
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
      <div class="row" role="group" aria-label="Show">
        {SHOW.map((show) => (
          <button key={show} type="button" class="button small next-chip" aria-pressed={show === shown} onClick={() => setFilter(showing(typed, show))}>
            {SHOW_WORDS[show]}
          </button>
        ))}
      </div>
      <div class="list-bar">
        <FilterInput value={typed} onChange={setFilter} fields={fields} label="Filter judgements" placeholder="Filter: drifted:yes line:motions -version:1.4.2" />
        <CliLine line={listLine(filter, view.sort)} />
      </div>
      <Table
        label="Drift"
        rows={rows}
        columns={COLUMNS}
        rowId={(judged) => `${judged.device}/${judged.manifest}`}
        rowName={(judged) => `${judged.device}, ${judged.line} ${judged.semver}`}
        sort={view.sort}
        onSort={(sort) => setView({ sort })}
        onOpen={(judged) => navigate(detail(judged))}
        question={`${filter} ${view.sort}`}
        empty={empty}
      />
      {whole === undefined || whole.all === 0 ? null : worst !== undefined ? (
        <NextStep at="drift" title="Look at the furthest, then label it" action={`Open ${worst.device}`} href={detail(worst)} icon="drift" cli={cli('drift', 'show', worst.device, worst.manifest)}>
          <bdi>{worst.device}</bdi> sees data that <bdi>{`${worst.line} ${worst.semver}`}</bdi> was not trained on: {percent(worst.share, 0)} of its features drifted.
        </NextStep>
      ) : (
        <NextStep at="drift" title="Nothing drifts" action="Open the labeling queues" href="/labeling" icon="labeling">
          All {plural(whole.all, 'judgement')}{line === '' ? '' : ' of this line'} say that devices see what their model was trained on. What was kept for labeling makes the next model better all the same.
        </NextStep>
      )}
    </Page>
  );
}
