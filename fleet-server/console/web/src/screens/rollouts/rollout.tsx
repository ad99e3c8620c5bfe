// One rollout while it runs: its phases, the planner's word, gates, devices, and the orders a person may give. What is shown
// is what the server said; an order changes nothing here until it has been answered.
import type { JSX } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { ApiError } from '../../lib/client';
import { bytes, count, duration, figure, percent, plural } from '../../lib/format';
import { usePatched } from '../../lib/live';
import { useShortcuts } from '../../lib/keys';
import type { Params } from '../../lib/router';
import { href, Link, oneOf, text, useSearch } from '../../lib/router';
import { can } from '../../lib/session';
import { cli } from '../../lib/shell';
import { Button } from '../../ui/button';
import { CliLine, Code } from '../../ui/cli';
import { ConfirmDialog } from '../../ui/dialog';
import { Card, Facts, Page } from '../../ui/page';
import { useCommands } from '../../ui/palette';
import { later } from '../../ui/later';
import { Empty, ErrorNote, Skeleton } from '../../ui/states';
import { Stat, Status } from '../../ui/status';
import { Ago } from '../../ui/text';
import { toast } from '../../ui/toast';
import { RESOURCE, useOrder, usePreview, useRollout } from './data';
import type { Order, Rollout as Data, RolloutPreview } from './data';
import { NextStep } from './next';
import { Phases } from './phases';
import { phasesOf, SHOWN, sizesOf, sizeText, tally } from './plan';
import { Preview } from './preview';
import './rollouts.css';

/** `cause`: of a failure, as the server names it. */
const Deployments = later(async () => (await import('./deployments')).Deployments);
const Causes = later(async () => (await import('./deployments')).Causes);
const SEARCH = { show: oneOf(SHOWN, 'all'), cause: text() };

/** Orders that the server takes in each state. */
const ORDERS: Record<Data['state'], readonly Order[]> = {
  draft: ['start', 'abort'],
  running: ['pause', 'abort'],
  paused: ['resume', 'abort'],
  halted: ['resume', 'abort'],
  completed: [],
  aborted: [],
};

const LABELS: Record<Order, { button: string; key: string; done: string }> = {
  start: { button: 'Start…', key: 's', done: 'Started' },
  pause: { button: 'Pause…', key: 'p', done: 'Paused' },
  resume: { button: 'Resume…', key: 'r', done: 'Resumed' },
  abort: { button: 'Abort…', key: 'b', done: 'Aborted' },
};

export default function RolloutScreen({ params }: { params: Params }): JSX.Element {
  const id = params.id ?? '';
  const answer = useRollout(id);
  const rollout = usePatched(RESOURCE, id, answer.data, answer.dataUpdatedAt);
  const [asking, setAsking] = useState<Order | undefined>(undefined);
  const allowed = rollout !== undefined && can('operate') ? ORDERS[rollout.state] : [];
  const keys = allowed.join(' ');
  useShortcuts(() => allowed.map((order) => ({ keys: LABELS[order].key, label: LABELS[order].button, group: 'This rollout', run: () => setAsking(order) })), [keys]);
  useCommands(
    () => allowed.map((order) => ({ label: `${LABELS[order].button} this rollout`.replace('… this', ' this'), group: 'This rollout', icon: 'rollouts' as const, keys: LABELS[order].key, run: () => setAsking(order) })),
    [keys],
  );
  // One page for what loads and what is here: its heading keeps the focus when the data comes.
  return (
    <Page
      title={
        rollout === undefined ? (
          'Rollout'
        ) : (
          <>
            <bdi>{rollout.line}</bdi> {rollout.semver}
          </>
        )
      }
      note={
        rollout === undefined ? undefined : (
          <>
            <Status value={rollout.state} /> <span>· changed </span>
            <Ago time={rollout.updated_at} suffix />
          </>
        )
      }
      back={{ href: '/rollouts', label: 'Rollouts' }}
      actions={
        rollout === undefined
          ? undefined
          : allowed.map((order) => (
              <Button key={order} kind={order === 'abort' ? 'danger' : order === 'pause' ? 'default' : 'primary'} onClick={() => setAsking(order)}>
                {LABELS[order].button}
              </Button>
            ))
      }
    >
      {rollout === undefined ? <NotYet error={answer.error} onRetry={() => answer.refetch()} /> : <Loaded rollout={rollout} stale={answer.error} onRetry={() => answer.refetch()} asking={asking} onAsked={() => setAsking(undefined)} />}
    </Page>
  );
}

/** On its way, or not to be had. */
function NotYet({ error, onRetry }: { error: unknown; onRetry(): unknown }): JSX.Element {
  if (error === null) return <Skeleton rows={6} label="Loading the rollout" />;
  if (error instanceof ApiError && (error.status === 404 || error.status === 400 || error.status === 422))
    return (
      <Empty
        action={
          <Link class="button" href="/rollouts">
            All rollouts
          </Link>
        }
        cli={cli('rollouts', 'list')}
      >
        There is no rollout with this id.
      </Empty>
    );
  return <ErrorNote error={error} title="The rollout could not be loaded" onRetry={onRetry} />;
}

/** `asking`: about which order its dialog asks. */
function Loaded({ rollout, stale, onRetry, asking, onAsked }: { rollout: Data; stale: unknown; onRetry(): unknown; asking: Order | undefined; onAsked(): void }): JSX.Element {
  const [view, setView] = useSearch(SEARCH);
  const draft = rollout.state === 'draft';
  const preview = usePreview(draft ? rollout.spec : undefined);
  const sum = tally(rollout.counts);
  const phases = phasesOf(rollout, draft ? preview.data : undefined);
  const stat = (show: (typeof SHOWN)[number]): string => href('/rollouts/:id', { id: rollout.id }, { show: show === 'all' ? undefined : show });
  return (
    <>
      {stale === null || stale === undefined ? null : <ErrorNote error={stale} title="This may be out of date" onRetry={onRetry} />}
      <div class="stack ro-full" data-state="full">
        <section class="stats" aria-label="Outcome so far">
          <Stat label="Given to" value={count(rollout.targeted)} note={waitingText(rollout)} />
          <Stat label="Succeeded" tone="ok" value={count(sum.succeeded)} note={sum.deployed === 0 ? undefined : percent(sum.succeeded / sum.deployed)} href={stat('succeeded')} current={view.show === 'succeeded'} />
          <Stat label="Running" tone="busy" value={count(sum.running)} note="loading, verifying, soaking" href={stat('running')} current={view.show === 'running'} />
          <Stat label="Failed" tone={sum.failed > 0 ? 'bad' : 'idle'} value={count(sum.failed)} note="or rolled back by itself" href={stat('failed')} current={view.show === 'failed'} />
        </section>
        <Card title="Phases" note={`phase ${Math.min(rollout.phase + 1, phases.length)} of ${phases.length}`}>
          <Phases phases={phases} halted={rollout.state === 'halted'} />
          <blockquote class={`ro-decision ${rollout.state}`} aria-live="polite" aria-label="The planner’s last decision">
            <bdi>{rollout.decision === '' ? 'No decision yet: the rollout has not been started.' : rollout.decision}</bdi>
          </blockquote>
        </Card>
        {draft ? <Preview spec={rollout.spec} answer={preview} ordered={typeof rollout.spec.seed === 'number'} /> : null}
        {sum.failed === 0 ? null : <Causes rollout={rollout} onShow={(cause) => setView({ show: 'failed', cause })} />}
        <Onward rollout={rollout} failed={sum.failed} />
        <Deployments rollout={rollout} show={view.show} cause={view.cause} onNarrow={(narrowed) => setView(narrowed)} />
        <div class="grid-2">
          <PlanFacts rollout={rollout} />
          <GateFacts rollout={rollout} />
        </div>
        <CliLine line={cli('rollouts', rollout.state === 'running' ? 'watch' : 'show', rollout.id)} />
      </div>
      <Orders rollout={rollout} asking={asking} preview={preview.data} recount={() => void preview.refetch()} onClose={onAsked} />
    </>
  );
}

/** Who is still to be given it, where the server knows. */
function waitingText(rollout: Data): string {
  const { waiting } = rollout;
  if (waiting === undefined || waiting === null) return rollout.state === 'running' ? 'devices; the others are being chosen' : 'devices';
  return waiting === 0 ? 'nobody else waits for it' : `${plural(waiting, 'other device')} ${waiting === 1 ? 'waits' : 'wait'} for it`;
}

function PlanFacts({ rollout }: { rollout: Data }): JSX.Element {
  const { spec } = rollout;
  const { harvest } = spec;
  return (
    <Card title="Plan">
      <Facts
        items={[
          ['Target', <code class="ro-cel">{spec.target ?? 'true'}</code>],
          ['Slot', spec.slot ?? 'main'],
          ['Phases', sizesOf(spec).map(sizeText).join(' → ')],
          ['Start spread', (spec.start_spread_s ?? 0) === 0 ? 'all at once' : `over ${duration((spec.start_spread_s ?? 0) * 1000)}`],
          ['Download limit', (spec.max_bytes_per_s ?? 0) === 0 ? 'none' : `${bytes(spec.max_bytes_per_s)}/s and device`],
          [
            'Harvest',
            harvest === null || harvest === undefined
              ? 'nothing'
              : `${[harvest.on_drift ? 'on drift' : '', (harvest.below_confidence ?? 0) > 0 ? `below ${percent(harvest.below_confidence, 0)} confidence` : ''].filter((part) => part !== '').join(' or ')}, at most ${plural(harvest.max_samples, 'sample')} a device`,
          ],
          ['Rollout', <Code value={rollout.id} short={false} />],
        ]}
      />
    </Card>
  );
}

function GateFacts({ rollout }: { rollout: Data }): JSX.Element {
  const { spec } = rollout;
  return (
    <Card title="Gates" note="a phase that fails one halts the rollout">
      <Facts
        items={[
          ['Success', `at least ${percent(spec.gates?.min_success ?? 1)} of a phase’s devices`],
          ['Silence', `a device not heard of for ${duration((spec.gates?.device_timeout_s ?? 86_400) * 1000)} has failed`],
          ['Soak', `${duration((spec.soak_s ?? 60) * 1000)} of serving before a device commits`],
          ['Errors', `above ${figure(spec.max_error_permille ?? 10)} ‰ of inferences a soaking device rolls back`],
          [
            'Model version',
            <Link href={href('/model-versions/:id', { id: rollout.spec.model_version })}>
              <bdi>{rollout.line}</bdi> {rollout.semver}
            </Link>,
          ],
          ['Planned', <Ago time={rollout.created_at} suffix />],
        ]}
      />
    </Card>
  );
}

function Onward({ rollout, failed }: { rollout: Data; failed: number }): JSX.Element | null {
  if (rollout.state === 'halted' || (rollout.state === 'aborted' && failed > 0))
    return (
      <NextStep at="rollout" to="model" title="Look at how the version was made" action="Open the model" href={href('/model-versions/:id', { id: rollout.spec.model_version })} icon="registry">
        {plural(failed, 'device')} failed. The causes above say why; the version’s tests and lineage say what it was made of.
      </NextStep>
    );
  if (rollout.state !== 'completed' && rollout.state !== 'running') return null;
  return (
    <NextStep
      at="rollout"
      title="Watch whether the data stays what the model knows"
      action="Look at drift"
      href={href('/drift', {}, { line: rollout.line })}
      icon="drift"
      cli={cli('drift', 'list', '--line', rollout.line)}
    >
      Each device that runs this version compares its data with the training data, window by window.
    </NextStep>
  );
}

function Orders({ rollout, asking, preview, recount, onClose }: { rollout: Data; asking: Order | undefined; preview: RolloutPreview | undefined; recount(): void; onClose(): void }): JSX.Element {
  const order = useOrder(rollout.id);
  const name = `${rollout.line} ${rollout.semver}`;
  const sum = tally(rollout.counts);
  const give = (which: Order) => async (): Promise<void> => {
    await order.mutateAsync(which);
    toast(`${LABELS[which].done}: ${name}`);
  };
  const first = sizesOf(rollout.spec)[0];
  const misfits = (preview?.obstacles ?? []).reduce((total, group) => total + (group.misfit ? group.count : 0), 0);
  useEffect(() => {
    // What is asked to be started is told as it is now, not as it was when the page was opened.
    if (asking === 'start') recount();
  }, [asking]);
  return (
    <>
      <ConfirmDialog open={asking === 'start'} title={`Start ${name}?`} confirm="Start" danger={false} cli={cli('rollouts', 'start', rollout.id)} onClose={onClose} onConfirm={give('start')}>
        <p>
          {preview === undefined ? 'The server counts the devices that match its target when it starts. ' : `${plural(preview.selected, 'device')} match${preview.selected === 1 ? 'es' : ''} its target now. `}
          {misfits === 0 ? '' : `${plural(misfits, 'device')} of them would refuse it and count as failed. `}
          {first === undefined ? '' : `The first phase reaches ${sizeText(first)}; each further one waits until the one before has passed its gates.`}
        </p>
      </ConfirmDialog>
      <ConfirmDialog open={asking === 'pause'} title={`Pause ${name}?`} confirm="Pause" danger={false} cli={cli('rollouts', 'pause', rollout.id)} onClose={onClose} onConfirm={give('pause')}>
        <p>No further device is given the version until it is resumed. {sum.running > 0 ? `${plural(sum.running, 'device')} that began go on.` : ''}</p>
      </ConfirmDialog>
      <ConfirmDialog open={asking === 'resume'} title={`Resume ${name}?`} confirm="Resume" danger={false} cli={cli('rollouts', 'resume', rollout.id)} onClose={onClose} onConfirm={give('resume')}>
        <p>
          {rollout.state === 'halted'
            ? `A gate failed. Going on means that ${plural(sum.failed, 'failure')} so far no longer count${sum.failed === 1 ? 's' : ''} against the rollout.`
            : 'It goes on with the phase it was paused in.'}
        </p>
      </ConfirmDialog>
      <ConfirmDialog open={asking === 'abort'} title={`Abort ${name}?`} typed={name} confirm="Abort the rollout" cli={cli('rollouts', 'abort', rollout.id)} onClose={onClose} onConfirm={give('abort')}>
        <p>
          The rollout ends for good. {sum.succeeded > 0 ? `${plural(sum.succeeded, 'device')} keep${sum.succeeded === 1 ? 's' : ''} the new version; ` : ''}
          {sum.running > 0 ? `${plural(sum.running, 'device')} that ${sum.running === 1 ? 'has' : 'have'} not finished keep${sum.running === 1 ? 's' : ''} what ${sum.running === 1 ? 'it runs' : 'they run'}.` : 'nothing else changes on any device.'}
        </p>
      </ConfirmDialog>
    </>
  );
}
