// What became of a rollout, device by device, and its failures by cause.
import type { JSX } from 'preact';
import { bytes, count, percent, plural } from '../../lib/format';
import { href, Link, navigate } from '../../lib/router';
import { cli } from '../../lib/shell';
import { Meter } from '../../charts/shapes';
import { CliLine } from '../../ui/cli';
import { Icon } from '../../ui/icon';
import { Card } from '../../ui/page';
import { Empty, ErrorNote, Skeleton } from '../../ui/states';
import { Status } from '../../ui/status';
import { Table } from '../../ui/table';
import type { Column } from '../../ui/table';
import { Ago, Name } from '../../ui/text';
import { CAUSES, useDeploymentRows, useFailures } from './data';
import type { Deployment, Rollout } from './data';
import { deploymentTone, outcomeOf, SHOWN, STATES_OF, tally } from './plan';
import type { Shown } from './plan';

const WORDS: Record<Shown, string> = { all: 'All', running: 'Running', succeeded: 'Succeeded', failed: 'Failed', withdrawn: 'Withdrawn' };

const COLUMNS: readonly Column<Deployment>[] = [
  {
    id: 'device',
    header: 'Device',
    width: 'minmax(120px, 1.2fr)',
    cell: (deployment) => (
      <Link class="row-link" tabIndex={-1} href={href('/devices/:id', { id: deployment.device })}>
        <Name value={deployment.device} strong />
      </Link>
    ),
  },
  {
    id: 'state',
    header: 'State',
    width: 'minmax(136px, 1fr)',
    cell: (deployment) => <Status value={deployment.state} tone={deploymentTone(deployment.state)} />,
  },
  { id: 'phase', header: 'Phase', width: 'minmax(56px, .4fr)', align: 'end', priority: 2, cell: (deployment) => count(deployment.phase + 1) },
  {
    id: 'bytes',
    header: 'Received',
    width: 'minmax(128px, .9fr)',
    align: 'end',
    priority: 2,
    cell: (deployment) =>
      deployment.bytes_received < deployment.bytes_total && outcomeOf(deployment.state) === 'running' ? (
        <Meter value={deployment.bytes_received} max={deployment.bytes_total} text={percent(deployment.bytes_received / deployment.bytes_total, 0)} />
      ) : (
        bytes(deployment.bytes_received)
      ),
  },
  { id: 'reason', header: 'Reason', width: 'minmax(120px, 2fr)', priority: 2, cell: (deployment) => (deployment.reason == null ? '' : <Name value={deployment.reason} />) },
  {
    id: 'changed',
    header: 'Changed',
    width: 'minmax(76px, .5fr)',
    align: 'end',
    cell: (deployment) => (
      <span class="muted">
        <Ago time={deployment.updated_at} />
      </span>
    ),
  },
];

export interface Narrowed {
  show: Shown;
  /** As the failures name it; empty: any. */
  cause: string;
}

export function Deployments({ rollout, show, cause, onNarrow }: Narrowed & { rollout: Rollout; onNarrow(narrowed: Narrowed): void }): JSX.Element {
  const sum = tally(rollout.counts);
  const states = show === 'all' ? [] : STATES_OF[show];
  const rows = useDeploymentRows(rollout.id, states, cause);
  const line = cli('rollouts', 'deployments', rollout.id, states.length > 0 && '--state', states.length > 0 && states.join(','), cause !== '' && `--cause=${cause}`);
  const { matching } = rows;
  return (
    <section class="ro-deployments" aria-label="Deployments">
      <div class="ro-filter">
        <h2>Devices</h2>
        <div class="row" role="group" aria-label="Show deployments">
          {SHOWN.map((each) => (
            <button key={each} type="button" class="button small next-chip" aria-pressed={each === show} onClick={() => onNarrow({ show: each, cause: each === 'all' || each === 'failed' ? cause : '' })}>
              {WORDS[each]}
              <span class="badge">{count(each === 'all' ? sum.deployed : sum[each])}</span>
            </button>
          ))}
        </div>
        {cause === '' ? null : (
          <button type="button" class="button small ro-cause" onClick={() => onNarrow({ show, cause: '' })} aria-label={`Cause ${cause}: show every cause`} title={cause}>
            <span class="muted">Cause</span> <bdi>{cause}</bdi> <Icon name="close" size={12} />
          </button>
        )}
        {rows.status !== 'ready' || matching === undefined ? null : (
          <span class="muted num" aria-live="polite">
            {plural(matching, 'device')}
          </span>
        )}
      </div>
      <Table
        label="Deployments"
        rows={rows}
        columns={COLUMNS}
        rowId={(deployment) => deployment.id}
        rowName={(deployment) => deployment.device}
        onOpen={(deployment) => navigate(href('/devices/:id', { id: deployment.device }))}
        question={`${show} ${cause}`}
        empty={
          <Empty cli={line}>
            {sum.deployed === 0
              ? rollout.state === 'draft'
                ? 'No device has been given this version: the rollout has not been started.'
                : 'No device has been given this version yet.'
              : cause !== ''
                ? 'No device of this rollout failed for this cause.'
                : `No device of this rollout is ${WORDS[show].toLowerCase()}.`}
          </Empty>
        }
      />
      {matching !== undefined && rows.fetched.length < matching && rows.total === rows.fetched.length ? (
        <p class="muted">The first {count(rows.fetched.length)} of {count(matching)}, by device name. The command line has all of them.</p>
      ) : null}
      {rows.status === 'ready' && rows.total > 0 ? <CliLine line={line} label="Deployments on the command line" /> : null}
    </section>
  );
}

/** Failures as the server groups them. */
export function Causes({ rollout, onShow }: { rollout: Rollout; onShow(cause: string): void }): JSX.Element {
  const answer = useFailures(rollout.id);
  const { data } = answer;
  return (
    <Card title="Failures by cause" note={data === undefined ? undefined : `${plural(data.devices, 'device')}, ${plural(data.causes, 'cause')}`}>
      <div class="stack" data-state={data !== undefined ? 'full' : answer.isError ? 'error' : 'loading'}>
        {data === undefined ? (
          answer.isError ? (
            <ErrorNote error={answer.error} title="The failures could not be loaded" onRetry={() => answer.refetch()} />
          ) : (
            <Skeleton rows={3} label="Loading failures" />
          )
        ) : (
          <>
            <ul class="ro-causes">
              {data.items.map((item) => (
                <li key={item.cause}>
                  <Status tone="bad">{plural(item.count, 'device')}</Status>
                  <p>
                    <bdi>{item.reason ?? item.cause}</bdi>
                  </p>
                  <p class="muted">
                    {item.devices.map((device, index) => (
                      <span key={device}>
                        {index === 0 ? '' : ', '}
                        <Link href={href('/devices/:id', { id: device })}>
                          <bdi>{device}</bdi>
                        </Link>
                      </span>
                    ))}
                    {item.count > item.devices.length ? ` and ${count(item.count - item.devices.length)} more` : ''}, last <Ago time={item.last_seen} suffix />.{' '}
                    <button type="button" class="link" onClick={() => onShow(item.cause)} aria-label={`Show ${item.count === 1 ? 'it' : `all ${count(item.count)}`}: failed for ${item.cause}`}>
                      Show {item.count === 1 ? 'it' : `all ${count(item.count)}`}
                    </button>
                  </p>
                </li>
              ))}
            </ul>
            {data.causes > data.items.length ? <p class="muted">And {plural(data.causes - data.items.length, 'rarer cause')}: the command line has up to a hundred.</p> : null}
          </>
        )}
      </div>
      <CliLine line={cli('rollouts', 'failures', rollout.id, data !== undefined && data.causes > CAUSES && '--limit', data !== undefined && data.causes > CAUSES && 100)} label="Failures on the command line" />
    </Card>
  );
}
