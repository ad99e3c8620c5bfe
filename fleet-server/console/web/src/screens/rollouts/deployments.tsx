// What became of a rollout, device by device, and its failures by cause.
import type { JSX } from 'preact';
import { bytes, count, percent, plural } from '../../lib/format';
import { href, Link, navigate } from '../../lib/router';
import { useStaticRows } from '../../lib/rows';
import { cli } from '../../lib/shell';
import { Meter } from '../../charts/shapes';
import { Card } from '../../ui/page';
import { Empty } from '../../ui/states';
import { Status } from '../../ui/status';
import { Table } from '../../ui/table';
import type { Column } from '../../ui/table';
import { Ago, Name } from '../../ui/text';
import type { Deployment, Rollout, useDeployments } from './data';
import { causesOf, deploymentTone, outcomeOf, tally } from './plan';
import type { Outcome } from './plan';

export type Shown = 'all' | Outcome;
export const SHOWN: readonly Shown[] = ['all', 'running', 'succeeded', 'failed', 'withdrawn'];
const WORDS: Record<Shown, string> = { all: 'All', running: 'Running', succeeded: 'Succeeded', failed: 'Failed', withdrawn: 'Withdrawn' };

type Answer = ReturnType<typeof useDeployments>;

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

export function Deployments({ rollout, answer, shown, onShow }: { rollout: Rollout; answer: Answer; shown: Shown; onShow(shown: Shown): void }): JSX.Element {
  const sum = tally(rollout.counts);
  const all = answer.data?.items;
  const wanted = shown === 'all' ? all : all?.filter((deployment) => outcomeOf(deployment.state) === shown);
  const rows = useStaticRows(wanted, { error: answer.error, retry: () => void answer.refetch(), fetchedAt: answer.dataUpdatedAt });
  return (
    <section class="ro-deployments" aria-label="Deployments">
      <div class="ro-filter">
        <h2>Devices</h2>
        <div class="row" role="group" aria-label="Show deployments">
          {SHOWN.map((each) => (
            <button key={each} type="button" class="button small next-chip" aria-pressed={each === shown} onClick={() => onShow(each)}>
              {WORDS[each]}
              <span class="badge">{count(each === 'all' ? sum.deployed : sum[each])}</span>
            </button>
          ))}
        </div>
        {answer.data?.more === true ? (
          <p class="muted ro-more">
            The first {count(answer.data.items.length)} of {count(sum.deployed)}, by device name. The command line has all of them.
          </p>
        ) : null}
      </div>
      <Table
        label="Deployments"
        rows={rows}
        columns={COLUMNS}
        rowId={(deployment) => deployment.id}
        rowName={(deployment) => deployment.device}
        onOpen={(deployment) => navigate(href('/devices/:id', { id: deployment.device }))}
        question={shown}
        empty={
          <Empty cli={cli('rollouts', 'deployments', rollout.id)}>
            {sum.deployed === 0
              ? rollout.state === 'draft'
                ? 'No device has been given this version: the rollout has not been started.'
                : 'No device has been given this version yet.'
              : `No device of this rollout is ${WORDS[shown].toLowerCase()}.`}
          </Empty>
        }
      />
    </section>
  );
}

export function Causes({ answer, failed }: { answer: Answer; failed: number }): JSX.Element | null {
  if (failed === 0 || answer.data === undefined) return null;
  const causes = causesOf(answer.data.items);
  return (
    <Card title="Failures by cause" note={`${plural(failed, 'device')}${answer.data.more ? `, of the first ${count(answer.data.items.length)} read` : ''}`}>
      <ul class="ro-causes">
        {causes.slice(0, 12).map((cause) => (
          <li key={cause.cause}>
            <Status tone="bad">{plural(cause.count, 'device')}</Status>
            <p>
              <bdi>{cause.example}</bdi>
            </p>
            <p class="muted">
              {cause.devices.map((device, index) => (
                <span key={device}>
                  {index === 0 ? '' : ', '}
                  <Link href={href('/devices/:id', { id: device })}>
                    <bdi>{device}</bdi>
                  </Link>
                </span>
              ))}
              {cause.count > cause.devices.length ? ` and ${count(cause.count - cause.devices.length)} more` : ''}
            </p>
          </li>
        ))}
      </ul>
      {causes.length > 12 ? <p class="muted">And {plural(causes.length - 12, 'rarer cause')}: filter the devices by “Failed”.</p> : null}
    </Card>
  );
}
