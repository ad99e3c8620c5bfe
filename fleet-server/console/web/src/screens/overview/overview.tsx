// Overview: how the fleet is, what runs where, what needs somebody, what is under way. An empty fleet leads by the hand.
import type { JSX } from 'preact';
import { useMemo, useState } from 'preact/hooks';
import { Bars, PhaseBar } from '../../charts/shapes';
import { bytes, count, percent, plural, withTimes } from '../../lib/format';
import { href, Link, navigate, oneOf, useSearch } from '../../lib/router';
import { can } from '../../lib/session';
import { cli } from '../../lib/shell';
import { Button } from '../../ui/button';
import { CliLine } from '../../ui/cli';
import { useCommands } from '../../ui/palette';
import { Card, Page } from '../../ui/page';
import { ErrorNote, Skeleton } from '../../ui/states';
import { Stat, Status } from '../../ui/status';
import { Ago } from '../../ui/text';
import { AcknowledgeDialog } from '../device/acknowledge';
import type { Attention, Overview as OverviewData, Rollout } from './data';
import { fewOf, isNewcomer, listOf, nameOf, phasesOf, placeOf, useOverview } from './data';
import { Steps } from './steps';
import './overview.css';

const SEARCH = { attention: oneOf(['few', 'all'], 'few') };
/** Shown before somebody asks for more; the server sends the worst ten of each kind, and how many there are. */
const FEW = 6;
const MOST_VERSIONS = 8;

const KINDS: Record<Attention['kind'], string> = {
  drift: 'Drift',
  attack: 'Attack',
  'device-error': 'Device error',
  'failed-deployment': 'Update failed',
  'unsigned-version': 'Not signed',
  'expiring-token': 'Token expires',
  'expiring-document': 'Root expires',
  'halted-rollout': 'Rollout halted',
};

/** What is wrong already, against what will be if nobody does anything. */
const SOON = new Set<Attention['kind']>(['unsigned-version', 'expiring-token', 'expiring-document']);

function Counts({ data }: { data: OverviewData }): JSX.Element {
  const { devices } = data;
  const active = Math.max(1, devices.total - devices.decommissioned);
  const cards = [
    { key: 'online', label: 'Online', tone: 'ok', value: devices.online },
    { key: 'offline', label: 'Offline', tone: 'idle', value: devices.offline },
    { key: 'updating', label: 'Updating', tone: 'busy', value: devices.updating },
    { key: 'alert', label: 'Alert', tone: 'bad', value: devices.alert },
  ] as const;
  return (
    <section class="stats" aria-label="Devices by state">
      {cards.map((card) => (
        <Stat
          key={card.key}
          label={card.label}
          tone={card.tone}
          value={count(card.value)}
          note={`${percent(card.value / active)} of the fleet`}
          href={href('/devices', {}, { filter: `status:${card.key}` })}
        />
      ))}
    </section>
  );
}

function AttentionRow({ item, onAcknowledge }: { item: Attention; onAcknowledge: ((item: Attention) => void) | undefined }): JSX.Element {
  const name = nameOf(item);
  const title = withTimes(item.title);
  return (
    <li class="overview-attention">
      <Link href={placeOf(item)}>
        <Status tone={SOON.has(item.kind) ? 'busy' : 'bad'}>{KINDS[item.kind] ?? item.kind}</Status>
        <span class="overview-attention-what">
          {name === undefined ? (
            <bdi class="strong">{title}</bdi>
          ) : (
            <span>
              <bdi class="strong">{name}</bdi> <bdi>{title}</bdi>
            </span>
          )}
          {item.detail === '' ? null : <bdi class="muted">{withTimes(item.detail)}</bdi>}
        </span>
        <span class="muted num">
          <Ago time={item.at} />
        </span>
      </Link>
      {onAcknowledge === undefined ? null : (
        <Button size="small" aria-label={`Acknowledge… the attack on ${item.id}`} onClick={() => onAcknowledge(item)}>
          Acknowledge…
        </Button>
      )}
    </li>
  );
}

function AttentionCard({ items, totals }: { items: readonly Attention[]; totals: OverviewData['attention_totals'] }): JSX.Element {
  const [view, setView] = useSearch(SEARCH);
  const [asking, setAsking] = useState<Attention | undefined>(undefined);
  const operates = can('operate');
  const shown = view.attention === 'all' ? items : fewOf(items, FEW);
  const all = totals.reduce((sum, of) => sum + of.total, 0);
  return (
    <Card title="Needs attention" note={all === 0 ? undefined : count(all)} flush>
      {all > shown.length ? (
        <ul class="overview-kinds" aria-label="By kind">
          {totals.map((of) => (
            <li key={of.kind}>
              <Link href={listOf(of.kind)}>
                {KINDS[of.kind]} <b class="num">{count(of.total)}</b>
              </Link>
            </li>
          ))}
        </ul>
      ) : null}
      {items.length === 0 ? (
        <p class="overview-calm">
          <Status tone="ok">Nothing needs you</Status>
        </p>
      ) : (
        <ul>
          {shown.map((item) => (
            <AttentionRow key={`${item.kind}/${item.id}/${item.at}`} item={item} onAcknowledge={operates && item.kind === 'attack' ? setAsking : undefined} />
          ))}
        </ul>
      )}
      {items.length > FEW ? (
        <p class="overview-more">
          <button type="button" class="link" aria-expanded={view.attention === 'all'} onClick={() => setView({ attention: view.attention === 'all' ? 'few' : 'all' })}>
            {view.attention === 'all' ? 'Show fewer' : all > items.length ? `Show the worst ${items.length} of ${count(all)}` : `Show all ${items.length}`}
          </button>
        </p>
      ) : null}
      <AcknowledgeDialog attack={asking === undefined ? undefined : { device: asking.id, at: asking.at, words: asking.title, detail: asking.detail }} onClose={() => setAsking(undefined)} />
    </Card>
  );
}

function RolloutRow({ rollout }: { rollout: Rollout }): JSX.Element {
  const phases = useMemo(() => phasesOf(rollout), [rollout]);
  return (
    <li class="overview-rollout">
      <div class="overview-rollout-head">
        <Link href={href('/rollouts/:id', { id: rollout.id })}>
          <bdi class="strong">{rollout.line}</bdi> <span class="mono">{rollout.semver}</span>
        </Link>
        <Status value={rollout.state} />
        <span class="muted">
          {rollout.targeted === 0 ? 'choosing devices' : `${plural(rollout.targeted, 'device')} reached, phase ${Math.min(rollout.phase + 1, phases.length)} of ${phases.length}`}
        </span>
        <span class="muted num overview-end">
          <Ago time={rollout.updated_at} suffix />
        </span>
      </div>
      <PhaseBar phases={phases} label={`Phases of ${rollout.line} ${rollout.semver}`} />
      {rollout.decision === '' ? null : <p class="muted">{rollout.decision}</p>}
    </li>
  );
}

function RolloutsCard({ rollouts, total, canPlan }: { rollouts: readonly Rollout[]; total: number; canPlan: boolean }): JSX.Element {
  return (
    <Card
      title="Live rollouts"
      note={total === 0 ? undefined : count(total)}
      actions={
        <Link href="/rollouts">All rollouts</Link>
      }
      flush
    >
      {rollouts.length === 0 ? (
        <div class="overview-calm">
          <p class="muted">Nothing is being rolled out.</p>
          {canPlan ? <CliLine line={cli('rollouts', 'create', '--model-version', 'ID')} /> : null}
        </div>
      ) : (
        <ul>
          {rollouts.map((rollout) => (
            <RolloutRow key={rollout.id} rollout={rollout} />
          ))}
        </ul>
      )}
      {total > rollouts.length ? (
        <p class="overview-more">
          <Link href={href('/rollouts', {}, { state: 'live' })}>The newest {count(rollouts.length)} of {count(total)} live rollouts: see all</Link>
        </p>
      ) : null}
    </Card>
  );
}

function VersionsCard({ versions, total }: { versions: OverviewData['versions']; total: number }): JSX.Element {
  const more = total - Math.min(versions.length, MOST_VERSIONS);
  return (
    <Card title="What runs where" actions={<Link href="/models">Registry</Link>}>
      {versions.length === 0 ? (
        <p class="muted">No device runs a model yet.</p>
      ) : (
        <Bars
          label="Devices by model version"
          bars={versions.slice(0, MOST_VERSIONS).map((version) => ({ label: `${version.line} ${version.semver}`, value: version.devices }))}
        />
      )}
      {more > 0 ? <p class="muted">and {plural(more, 'version')} on fewer devices</p> : null}
    </Card>
  );
}

function SpendCard({ spend }: { spend: OverviewData['last_24h'] }): JSX.Element {
  const asked = spend.inferences + spend.failures;
  return (
    <Card title="Last 24 hours">
      <dl class="overview-spend">
        <div>
          <dt>Inferences</dt>
          <dd class="num">{count(spend.inferences)}</dd>
        </div>
        <div>
          <dt>Failures</dt>
          <dd class={spend.failures > 0 ? 'num bad' : 'num'}>
            {count(spend.failures)}
            {asked > 0 && spend.failures > 0 ? <small> ▲ {spend.failures / asked < 0.0001 ? 'under 0.01 %' : percent(spend.failures / asked, 2)}</small> : null}
          </dd>
        </div>
        <div>
          <dt>Packages sent</dt>
          <dd class="num">{bytes(spend.bytes)}</dd>
        </div>
      </dl>
    </Card>
  );
}

function Body({ data }: { data: OverviewData }): JSX.Element {
  const newcomer = isNewcomer(data.first_steps);
  const nothing = data.devices.total === 0;
  return (
    <div class="stack overview" data-state={nothing && newcomer ? 'empty' : 'full'}>
      {newcomer && nothing ? <p class="overview-hello">This fleet is new. Six steps take it from nothing to a model that runs on a device; each can be done here or on the command line.</p> : null}
      {nothing ? null : <Counts data={data} />}
      {newcomer ? <Steps steps={data.first_steps} /> : null}
      {nothing && newcomer && data.attention.length === 0 ? null : (
        <div class="overview-columns">
          <div class="stack">
            <AttentionCard items={data.attention} totals={data.attention_totals} />
            <RolloutsCard rollouts={data.rollouts} total={data.rollouts_total} canPlan={can('operate')} />
          </div>
          <div class="stack">
            <SpendCard spend={data.last_24h} />
            <VersionsCard versions={data.versions} total={data.versions_total} />
          </div>
        </div>
      )}
    </div>
  );
}

export default function Overview(): JSX.Element {
  const overview = useOverview();
  useCommands(() => [{ label: 'Devices that need attention', group: 'Overview', icon: 'filter', run: () => navigate(href('/devices', {}, { filter: 'status:alert' })) }], []);
  const { data } = overview;
  return (
    <Page
      title="Overview"
      note={data === undefined || data.devices.total === 0 ? undefined : `${plural(data.devices.total - data.devices.decommissioned, 'device')} in the fleet`}
      actions={
        can('operate') && data?.first_steps.has_models === true ? (
          <Link class="button primary" href="/rollouts/new">
            New rollout
          </Link>
        ) : undefined
      }
    >
      {overview.isError && data !== undefined ? <ErrorNote error={overview.error} title="This may be old: it could not be loaded again" onRetry={() => overview.refetch()} /> : null}
      {data !== undefined ? (
        <Body data={data} />
      ) : overview.isError ? (
        <ErrorNote error={overview.error} title="The overview could not be loaded" onRetry={() => overview.refetch()} />
      ) : (
        <div class="card overview-wait">
          <Skeleton rows={6} label="Loading the overview" />
        </div>
      )}
    </Page>
  );
}
