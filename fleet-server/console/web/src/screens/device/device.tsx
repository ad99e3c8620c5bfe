// One device: what is wrong, what it should run and runs, how it does, what happened to it.
import type { JSX } from 'preact';
import { useMemo, useState } from 'preact/hooks';
import { compact, count, micros, NOTHING, percent } from '../../lib/format';
import { useShortcuts } from '../../lib/keys';
import type { Params } from '../../lib/router';
import { oneOf, text, useSearch } from '../../lib/router';
import { can } from '../../lib/session';
import { cli } from '../../lib/shell';
import { usePatched } from '../../lib/live';
import { Button } from '../../ui/button';
import { CliLine } from '../../ui/cli';
import { useCommands } from '../../ui/palette';
import { Page } from '../../ui/page';
import { ErrorNote, Skeleton } from '../../ui/states';
import { Stat, Status } from '../../ui/status';
import { Ago, Name } from '../../ui/text';
import { AcknowledgeDialog } from './acknowledge';
import type { Attack } from './acknowledge';
import type { Device as DeviceData } from './data';
import { useDevice, useVersionNames } from './data';
import { DecommissionDialog } from './decommission';
import { DiffCard, DriftCard, FactsCard, ModelsCard, TelemetryCard, TimelineCard } from './parts';
import { TagsDialog } from './tags';
import '../audit/audit.css';
import './device.css';

const SEARCH = { span: oneOf(['24h', '7d', '30d'], '24h'), before: text() };

/** Declared losses of audit entries that are listed; the newest are the ones to act on. */
const MOST_GAPS = 3;

/** The attack that is still an alert: one that somebody has looked at stands in the timeline. */
function openAttack(device: DeviceData | undefined): NonNullable<DeviceData['last_attack']> | undefined {
  const attack = device?.last_attack ?? undefined;
  return attack?.acknowledged === true ? undefined : attack;
}

function Trouble({ device, onAcknowledge }: { device: DeviceData; onAcknowledge: (() => void) | undefined }): JSX.Element | null {
  const gaps = device.audit_gaps ?? [];
  const attack = openAttack(device);
  const error = device.error ?? undefined;
  const drifted = (device.alerts ?? []).includes('drift');
  const failed = device.deployments.find((deployment) => deployment.state === 'failure' || deployment.state === 'rolled-back');
  const failing = (device.alerts ?? []).includes('failed-deployment') ? failed : undefined;
  if (gaps.length === 0 && attack === undefined && error === undefined && !drifted && failing === undefined) return null;
  return (
    <ul class="device-trouble" aria-label="Needs attention">
      {error === undefined ? null : (
        <li>
          <Status tone="bad">Error</Status>
          <bdi>{error}</bdi>
        </li>
      )}
      {drifted ? (
        <li>
          <Status tone="bad">Drift</Status>
          <span>{percent(device.drift)} of the features that its model reads have moved.</span>
        </li>
      ) : null}
      {failing === undefined ? null : (
        <li>
          <Status tone="bad">Update failed</Status>
          <bdi>{failing.reason ?? 'The device gave no reason.'}</bdi>
          <span class="muted num">
            <Ago time={failing.updated_at} suffix />
          </span>
        </li>
      )}
      {attack === undefined ? null : (
        <li>
          <Status tone="bad">Attack refused</Status>
          <bdi>
            {attack.attack}: {attack.detail}
          </bdi>
          <span class="muted num">
            <Ago time={attack.at} suffix />
          </span>
          {onAcknowledge === undefined ? null : (
            <Button size="small" onClick={onAcknowledge}>
              Acknowledge…
            </Button>
          )}
        </li>
      )}
      {gaps.slice(0, MOST_GAPS).map((gap) => (
        <li key={gap.epoch}>
          <Status tone="bad">Audit gap</Status>
          <span>
            {count(gap.lost)} entries were lost before epoch {gap.epoch}: the device itself says so.
          </span>
          <span class="muted num">
            <Ago time={gap.at} suffix />
          </span>
        </li>
      ))}
    </ul>
  );
}

function Figures({ device }: { device: DeviceData }): JSX.Element {
  const current = device.telemetry.find((row) => device.models.some((model) => model.manifest === row.manifest));
  const failures = device.telemetry.reduce((total, row) => total + row.failures, 0);
  return (
    <section class="stats" aria-label="Figures">
      <Stat label="Inferences" value={device.inferences < 1_000_000 ? count(device.inferences) : compact(device.inferences)} note="since enrolment" />
      <Stat label="Failures" value={failures === 0 ? '0' : <span class="bad">{count(failures)}</span>} note={failures === 0 ? 'none' : `▲ ${percent(failures / Math.max(1, device.inferences + failures), 2)}`} />
      <Stat
        label="Latency, p95"
        value={current === undefined || current.inferences === 0 ? NOTHING : micros(current.p95_us)}
        note={current === undefined || current.inferences === 0 ? 'nothing measured' : `p50 ${micros(current.p50_us)}`}
      />
      <Stat
        label="Drifted features"
        value={device.drift === undefined || device.drift === null ? NOTHING : <span class={device.drifted ? 'bad' : undefined}>{percent(device.drift)}</span>}
        note={device.drift === undefined || device.drift === null ? 'not judged yet' : device.drifted ? '▲ drifted' : 'within the rule'}
      />
    </section>
  );
}

function Heading({ device }: { device: DeviceData }): JSX.Element {
  const state = device.status === 'decommissioned' ? 'decommissioned' : device.updating === true ? 'updating' : device.status;
  return (
    <span class="device-heading">
      <Status value={state} />
      {(device.alerts ?? []).length > 0 && device.status !== 'decommissioned' ? <Status value="alert" /> : null}
      <span>
        seen <Ago time={device.last_seen} suffix />
      </span>
    </span>
  );
}

export default function Device({ params }: { params: Params }): JSX.Element {
  const id = params.id ?? '';
  const [view, setView] = useSearch(SEARCH);
  const answer = useDevice(id);
  const device = usePatched('device', id, answer.data, answer.dataUpdatedAt);
  const [dialog, setDialog] = useState<'tags' | 'decommission' | undefined>(undefined);
  const manifests = useMemo(() => [...(device?.models ?? []), ...(device?.telemetry ?? [])].map((row) => row.manifest), [device?.telemetry, device?.models]);
  const names = useVersionNames(manifests);
  const operates = can('operate') && device !== undefined && device.status !== 'decommissioned';

  // Held as it was when it was asked about: another one must not take its place under the hand.
  const [asking, setAsking] = useState<Attack | undefined>(undefined);
  const attack = operates ? openAttack(device) : undefined;
  const acknowledge = attack === undefined ? undefined : (): void => setAsking({ device: id, at: attack.at, words: `refused an attack: ${attack.attack}`, detail: attack.detail });

  useShortcuts(() => (operates ? [{ keys: 't', label: 'Edit the tags', group: 'Device', run: () => setDialog('tags') }] : []), [operates]);
  useCommands(
    () => (acknowledge === undefined ? [] : [{ label: 'Acknowledge the attack…', group: 'This device', icon: 'check' as const, run: acknowledge }]),
    [attack?.at],
  );
  useCommands(
    () =>
      operates
        ? [
            { label: 'Edit the tags', group: 'This device', icon: 'labeling', keys: 't', run: () => setDialog('tags') },
            { label: 'Decommission…', group: 'This device', icon: 'close', run: () => setDialog('decommission') },
          ]
        : [],
    [operates],
  );

  return (
    <Page
      title={<Name value={id} />}
      back={{ href: '/devices', label: 'Devices' }}
      note={device === undefined ? undefined : <Heading device={device} />}
      actions={
        operates ? (
          <>
            <Button onClick={() => setDialog('tags')}>Edit tags</Button>
            <Button kind="danger" onClick={() => setDialog('decommission')}>
              Decommission…
            </Button>
          </>
        ) : undefined
      }
    >
      {answer.isError && device !== undefined ? <ErrorNote error={answer.error} title="This may be old: it could not be loaded again" onRetry={() => answer.refetch()} /> : null}
      {device === undefined ? (
        answer.isError ? (
          <ErrorNote error={answer.error} title="The device could not be loaded" onRetry={() => answer.refetch()} />
        ) : (
          <div class="card device-none">
            <Skeleton rows={6} label="Loading the device" />
          </div>
        )
      ) : (
        <div class="stack device" data-state="full">
          <Trouble device={device} onAcknowledge={acknowledge} />
          <Figures device={device} />
          <div class="device-columns">
            <div class="stack">
              <DiffCard device={device} />
              <TelemetryCard id={id} span={view.span} onSpan={(span) => setView({ span })} names={names} />
              <ModelsCard device={device} names={names} />
              <DriftCard id={id} />
            </div>
            <div class="stack">
              <FactsCard device={device} />
              <TimelineCard id={id} cursor={view.before} onGo={(before) => setView({ before }, 'push')} />
            </div>
          </div>
          <CliLine line={cli('devices', 'show', id)} />
          <TagsDialog id={id} tags={device.tags} open={dialog === 'tags'} onClose={() => setDialog(undefined)} />
          <AcknowledgeDialog attack={asking} onClose={() => setAsking(undefined)} />
          <DecommissionDialog id={dialog === 'decommission' ? id : undefined} onClose={() => setDialog(undefined)} />
        </div>
      )}
    </Page>
  );
}
