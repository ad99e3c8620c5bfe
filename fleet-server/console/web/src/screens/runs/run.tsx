// One run: how it went, how good it is and where it is wrong, what it was started with, what became of it.
import type { ComponentChildren, JSX } from 'preact';
import { useMemo, useState } from 'preact/hooks';
import { duration, figure, NOTHING, percent, shortDigest } from '../../lib/format';
import { useShortcuts } from '../../lib/keys';
import { href, Link, navigate } from '../../lib/router';
import type { Params } from '../../lib/router';
import { can } from '../../lib/session';
import { cli } from '../../lib/shell';
import { Series } from '../../charts/series';
import { Button } from '../../ui/button';
import { CliLine, Code } from '../../ui/cli';
import { ConfirmDialog } from '../../ui/dialog';
import { Card, Facts, Page } from '../../ui/page';
import { useCommands } from '../../ui/palette';
import { ErrorNote, Progress, Skeleton } from '../../ui/states';
import { Stat, Status } from '../../ui/status';
import { Ago, Name } from '../../ui/text';
import { toast } from '../../ui/toast';
import { useCancel, useMetrics, usePackagesOf, useRun } from './data';
import type { Run } from './data';
import { EvaluationCard } from './evaluation';
import { RunState, VersionLink, VersionText } from './parts';
import { better, curves, extent, isActive, metricName, metricValue, overlay, runDuration, runName, settings, startLine } from './words';
import type { Curve } from './words';
import './runs.css';

export default function RunScreen({ params }: { params: Params }): JSX.Element {
  const id = params.id ?? '';
  const { run: answer, job } = useRun(id);
  const run = answer.data;
  const [cancelling, setCancelling] = useState(false);
  const active = run !== undefined && isActive(run.status);
  const finished = run?.status === 'FINISHED';
  const build = run !== undefined && can('build');
  const packaging = href('/model-versions/new', {}, { run: id });
  const again = href('/runs/new', {}, { from: id });
  useShortcuts(
    () =>
      build
        ? [
            ...(finished ? [{ keys: 'p', label: 'Make a package of this run', group: 'Run', run: () => navigate(packaging) }] : []),
            { keys: 'r', label: 'Run again with changes', group: 'Run', run: () => navigate(again) },
          ]
        : [],
    [build, finished, packaging, again],
  );
  useCommands(
    () =>
      build
        ? [
            ...(finished ? [{ label: 'Make a package of this run', group: 'Run', icon: 'registry' as const, keys: 'p', run: () => navigate(packaging) }] : []),
            ...(active ? [{ label: 'Cancel this run', group: 'Run', run: () => setCancelling(true) }] : []),
            { label: 'Run again with changes', group: 'Run', icon: 'runs' as const, keys: 'r', run: () => navigate(again) },
          ]
        : [],
    [build, finished, active, packaging, again],
  );
  // One page for what loads and what is here: its heading keeps the focus when the data comes.
  return (
    <Page
      title={
        run === undefined ? (
          'Run'
        ) : (
          <>
            <bdi>{run.experiment}</bdi>, seed {run.seed}
          </>
        )
      }
      back={{ href: '/runs', label: 'Runs' }}
      note={run === undefined ? undefined : <RunState run={run} />}
      actions={
        build ? (
          <>
            {active ? (
              <Button kind="danger" onClick={() => setCancelling(true)}>
                Cancel…
              </Button>
            ) : null}
            <Link class="button" href={again}>
              Run again…
            </Link>
            {finished ? (
              <Link class="button primary" href={packaging}>
                Make a package
              </Link>
            ) : null}
          </>
        ) : undefined
      }
    >
      {run !== undefined ? (
        <Shown run={run} progress={job.data?.progress} message={job.data?.message} error={answer.error} cancelling={cancelling} onCancelled={() => setCancelling(false)} />
      ) : answer.isError ? (
        <ErrorNote error={answer.error} title="The run could not be loaded" onRetry={() => answer.refetch()} />
      ) : (
        <Skeleton rows={6} label="Loading the run" />
      )}
    </Page>
  );
}

interface ShownProps {
  run: Run;
  progress: number | undefined;
  message: string | undefined;
  error: unknown;
  /** The dialog that asks is open. */
  cancelling: boolean;
  onCancelled(): void;
}

function Shown({ run, progress, message, error, cancelling, onCancelled }: ShownProps): JSX.Element {
  const cancel = useCancel(run.id);
  return (
    <div class="stack runs-detail" data-state="full">
      {error === null || error === undefined ? null : <ErrorNote error={error} title="What you see may be old" />}
      {isActive(run.status) ? (
        <Card>
          <Progress label={message === undefined || message === '' ? 'Waiting for its turn' : message} {...(progress === undefined ? {} : { value: progress, of: 1 })} />
        </Card>
      ) : null}
      {run.error === undefined || run.error === null ? null : (
        <div class="error-note" role="status">
          <i aria-hidden="true">▲</i>
          <div>
            <strong>The run failed</strong>
            <p>
              <bdi>{run.error}</bdi>
            </p>
          </div>
        </div>
      )}
      {run.metrics['train.accuracy'] === undefined ? null : <Results run={run} />}
      <Curves run={run} />
      <EvaluationCard run={run} />
      <div class="grid-2">
        <Settings run={run} />
        <Lineage run={run} />
      </div>
      <ConfirmDialog
        open={cancelling}
        title="Cancel this run?"
        confirm="Cancel the run"
        cli={cli('runs', 'cancel', run.id)}
        onConfirm={async () => {
          await cancel.mutateAsync();
          toast('The run is being cancelled');
        }}
        onClose={onCancelled}
      >
        <p>
          <bdi>{runName(run)}</bdi> stops after the epoch it is in. Its curves so far are kept, a model is not made.
        </p>
      </ConfirmDialog>
    </div>
  );
}

/** The holdout beside the training split: a large gap is what a person looks for. */
function Results({ run }: { run: Run }): JSX.Element {
  const of = (name: string): number | undefined => run.metrics[name];
  const beside = (value: string, name: string): ComponentChildren => (of(name) === undefined ? undefined : `${value} in training`);
  return (
    <section class="stats" aria-label="Results">
      <Stat label="Holdout accuracy" value={percent(of('holdout.accuracy'))} note={beside(percent(of('train.accuracy')), 'train.accuracy')} />
      <Stat label="Holdout log loss" value={figure(of('holdout.log_loss'), 3)} note={beside(figure(of('train.log_loss'), 3), 'train.log_loss')} />
      <Stat label="Calibration error" value={figure(of('holdout.ece'), 3)} note={beside(figure(of('train.ece'), 3), 'train.ece')} />
      <Stat
        label="Training took"
        value={duration(runDuration(run))}
        note={
          <>
            started <Ago time={run.created_at} suffix />
          </>
        }
      />
    </section>
  );
}

/** Curves of one kind in one chart: `train.loss` and `holdout.loss` belong together. */
function kinds(all: readonly Curve[]): { kind: string; parts: Curve[] }[] {
  const byKind = new Map<string, Curve[]>();
  for (const curve of all) {
    const kind = curve.name.split('.').at(-1) ?? curve.name;
    byKind.set(kind, [...(byKind.get(kind) ?? []), curve]);
  }
  return [...byKind.entries()].sort(([left], [right]) => (right === 'loss' ? 1 : 0) - (left === 'loss' ? 1 : 0)).map(([kind, parts]) => ({ kind, parts }));
}

function Curves({ run }: { run: Run }): JSX.Element {
  const runs = useMemo(() => [run], [run]);
  const [metrics] = useMetrics(runs);
  const data = metrics?.data;
  const charts = useMemo(
    () => kinds(curves(data?.points ?? [])).map(({ kind, parts }) => ({ kind, parts, ...overlay(parts.map((curve) => ({ label: metricName(curve.name), curve }))) })),
    [data],
  );
  if (data === undefined)
    return (
      <Card title="Curves">
        {metrics?.isError === true ? (
          <ErrorNote error={metrics.error} title="The curves could not be loaded" onRetry={() => metrics.refetch()} />
        ) : (
          <Skeleton rows={4} label="Loading curves" />
        )}
      </Card>
    );
  if (charts.length === 0)
    return (
      <Card title="Curves" actions={<CliLine line={cli('runs', 'metrics', run.id)} />}>
        <p class="muted">{isActive(run.status) ? 'The first point comes with the first epoch.' : 'This run ended before its first epoch.'}</p>
      </Card>
    );
  return (
    <div class="stack">
      <div class="grid-2">
        {charts.map(({ kind, parts, x, lines }) => (
          <Card key={kind}>
            <Series
              title={metricName(kind)}
              x={x}
              lines={lines}
              time={false}
              zero={kind === 'loss'}
              format={(value) => metricValue(kind, value)}
            />
            <p class="muted runs-under">
              {parts.map((curve) => {
                const found = extent(curve);
                if (found === undefined) return null;
                const best = better(curve.name) === 'less' ? { value: found.min, at: found.minAt } : { value: found.max, at: found.maxAt };
                return (
                  <span key={curve.name}>
                    Best {metricValue(kind, best.value)} at epoch {best.at}, {curve.steps.length} epochs
                  </span>
                );
              })}
            </p>
          </Card>
        ))}
      </div>
      {data.cut ? <p class="muted">Only the first {data.points.length.toLocaleString('en')} points are shown; fleetctl runs metrics gives them all.</p> : null}
    </div>
  );
}

function Settings({ run }: { run: Run }): JSX.Element {
  return (
    <Card title="Configuration">
      <Facts
        items={settings(run).map(([name, value]) => [name, name === 'Dataset version' ? <VersionLink key={name} id={value} /> : <bdi key={name}>{value}</bdi>])}
      />
      <CliLine line={startLine(run)} label="The same run on the command line" />
    </Card>
  );
}

function Lineage({ run }: { run: Run }): JSX.Element {
  const packages = usePackagesOf(run.id);
  return (
    <Card title="Lineage">
      <ol class="runs-lineage">
        <li>
          <span class="muted">Dataset version</span>
          <VersionText id={run.dataset_version} />
        </li>
        <li aria-current="step">
          <span class="muted">Run</span>
          <Code value={run.id} short={false} label="Copy the id" />
        </li>
        <li>
          <span class="muted">Model</span>
          {run.model === undefined || run.model === null ? <span class="muted">{NOTHING}</span> : <Code value={run.model} label="Copy the digest" />}
        </li>
        <li>
          <span class="muted">Packages</span>
          {packages === undefined || packages.length === 0 ? (
            <span class="muted">{packages === undefined ? NOTHING : 'none yet'}</span>
          ) : (
            <ul class="runs-packages">
              {packages.slice(0, 10).map((version) => (
                <li key={version.id}>
                  <Link href={href('/model-versions/:id', { id: version.id })}>
                    <Name value={version.line} /> {version.semver}
                  </Link>{' '}
                  <Status value={version.signature} />
                </li>
              ))}
            </ul>
          )}
        </li>
      </ol>
      <Facts
        items={[
          ['Job', <Code key="job" value={run.job} label="Copy the id" />],
          ['Started', <Ago key="at" time={run.created_at} suffix />],
          ['Ended', <Ago key="end" time={run.finished_at} suffix />],
        ]}
      />
      <CliLine line={cli('runs', 'show', run.id)} label={`Run ${shortDigest(run.id)} on the command line`} />
    </Card>
  );
}
