// Drift: which devices see data that their model does not know, the furthest first.
import type { JSX } from 'preact';
import { useMemo } from 'preact/hooks';
import { count, figure, NOTHING, percent, plural } from '../../lib/format';
import { href, Link, navigate, oneOf, text, useSearch } from '../../lib/router';
import { useStaticRows } from '../../lib/rows';
import type { RowSource } from '../../lib/rows';
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
import { EVERY_DEVICE, useJudgements, useWorstDevices } from './data';
import type { Device, DeviceDrift } from './data';
import { bySeverity } from './shapes';
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

/** Of a fleet too large to be read in full: what the device list knows, sorted there. */
const DEVICE_COLUMNS: readonly Column<Device>[] = [
  { id: 'device', header: 'Device', width: 'minmax(120px, 1.4fr)', cell: (device) => <Name value={device.id} strong /> },
  { id: 'state', header: 'Judgement', width: 'minmax(104px, .8fr)', cell: (device) => (device.drifted ? <Status tone="bad">Drifted</Status> : <Status tone="ok">No drift</Status>) },
  { id: 'model', header: 'Model', width: 'minmax(120px, 1.2fr)', priority: 2, cell: (device) => <Name value={device.models.map((model) => `${model.line} ${model.semver}`).join(', ')} /> },
  { id: 'share', header: 'Features', width: 'minmax(140px, .8fr)', align: 'end', cell: (device) => <Share share={device.drift ?? 0} drifted={device.drifted} /> },
  {
    id: 'seen',
    header: 'Last seen',
    width: 'minmax(80px, .5fr)',
    align: 'end',
    cell: (device) => (
      <span class="muted">
        <Ago time={device.last_seen} />
      </span>
    ),
  },
];

function openDevice(device: Device): void {
  const model = device.models[0];
  navigate(model === undefined ? href('/devices/:id', { id: device.id }) : detail({ device: device.id, manifest: model.manifest }));
}

/** Which packages there are, and how many of their devices drifted. */
function byPackage(items: readonly DeviceDrift[]): { line: string; semver: string; manifest: string; devices: number; drifted: number }[] {
  const packages = new Map<string, { line: string; semver: string; manifest: string; devices: number; drifted: number }>();
  for (const judged of items) {
    const known = packages.get(judged.manifest) ?? { line: judged.line, semver: judged.semver, manifest: judged.manifest, devices: 0, drifted: 0 };
    known.devices += 1;
    known.drifted += judged.drifted ? 1 : 0;
    packages.set(judged.manifest, known);
  }
  return [...packages.values()].sort((left, right) => right.drifted / right.devices - left.drifted / left.devices || right.devices - left.devices);
}

const MOST_PACKAGES = 4;

export default function Drift(): JSX.Element {
  const [view, setView] = useSearch(SEARCH);
  const answer = useJudgements(view.line);
  const large = answer.data?.next_cursor != null;
  const all = useMemo(() => (answer.data === undefined ? undefined : [...answer.data.items].sort(bySeverity)), [answer.data]);
  const wanted = useMemo(() => (view.show === 'all' ? all : all?.filter((judged) => judged.drifted === (view.show === 'drifted'))), [all, view.show]);
  const rows = useStaticRows(wanted, { error: answer.error, retry: () => void answer.refetch(), fetchedAt: answer.dataUpdatedAt });
  const worstDevices = useWorstDevices(view.line, large);
  const drifted = all?.filter((judged) => judged.drifted).length ?? 0;
  const worst = all?.[0];
  const packages = useMemo(() => byPackage(all ?? []), [all]);
  const line = cli('drift', 'list', view.line !== '' && '--line', view.line !== '' && view.line);
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
      {all === undefined || all.length === 0 ? null : (
        <section class="stats" aria-label="Judgements by package">
          <Stat
            label="Drifted"
            tone={drifted > 0 ? 'bad' : 'ok'}
            value={count(drifted)}
            note={large ? `of the first ${count(all.length)} judgements` : `of ${plural(all.length, 'judgement')}`}
            href={href('/drift', {}, { line: view.line, show: view.show === 'drifted' ? undefined : 'drifted' })}
            current={view.show === 'drifted'}
          />
          {packages.slice(0, MOST_PACKAGES - 1).map((each) => (
            <Stat
              key={each.manifest}
              label={`${each.line} ${each.semver}, whole fleet`}
              value={percent(each.drifted / each.devices, 0)}
              note={`${count(each.drifted)} of ${plural(each.devices, 'device')} drifted`}
              href={href('/drift/:device/:manifest', { device: EVERY_DEVICE, manifest: each.manifest })}
            />
          ))}
        </section>
      )}
      <div class="list-bar">
        <div class="row" role="group" aria-label="Show">
          {SHOW.map((show) => (
            <button key={show} type="button" class="button small next-chip" aria-pressed={show === view.show} disabled={large} onClick={() => setView({ show })}>
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
      {large ? (
        <Table label="Drift" rows={worstDevices as RowSource<Device>} columns={DEVICE_COLUMNS} rowId={(device) => device.id} resource="device" onOpen={openDevice} question={view.line} empty={empty} />
      ) : (
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
      )}
      {worst === undefined ? null : worst.drifted ? (
        <NextStep at="drift" title="Look at the furthest, then label it" action={`Open ${worst.device}`} href={detail(worst)} icon="drift" cli={cli('drift', 'show', worst.device, worst.manifest)}>
          <bdi>{worst.device}</bdi> sees data that <bdi>{`${worst.line} ${worst.semver}`}</bdi> was not trained on: {percent(worst.share, 0)} of its features drifted.
        </NextStep>
      ) : (
        <NextStep at="drift" title="Nothing drifts" action="Open the labeling queues" href="/labeling" icon="labeling">
          Every device sees what its model was trained on. What was kept for labeling makes the next model better all the same.
        </NextStep>
      )}
    </Page>
  );
}
