// Rollouts: those that are under way with their phases, and all of them, newest first.
import type { JSX } from 'preact';
import { count, plural } from '../../lib/format';
import { usePatched } from '../../lib/live';
import { useShortcuts } from '../../lib/keys';
import { href, Link, navigate, oneOf, text, useSearch } from '../../lib/router';
import { useStaticRows } from '../../lib/rows';
import { can } from '../../lib/session';
import { cli } from '../../lib/shell';
import { CliLine } from '../../ui/cli';
import { Page } from '../../ui/page';
import { useCommands } from '../../ui/palette';
import { Empty } from '../../ui/states';
import { Status } from '../../ui/status';
import { Table } from '../../ui/table';
import type { Column } from '../../ui/table';
import { Ago, Name } from '../../ui/text';
import { RESOURCE, useRollouts } from './data';
import type { Rollout } from './data';
import { NextStep } from './next';
import { Outcome, Phases } from './phases';
import { phasesOf, sizesOf, tally } from './plan';
import './rollouts.css';

type State = Rollout['state'];
const SHOWN = ['all', 'live', 'draft', 'running', 'paused', 'halted', 'completed', 'aborted'] as const;
type Shown = (typeof SHOWN)[number];
const WORDS: Record<Shown, string> = { all: 'All', live: 'Under way', draft: 'Drafts', running: 'Running', paused: 'Paused', halted: 'Halted', completed: 'Completed', aborted: 'Aborted' };
/** Started and not ended. */
const LIVE: readonly State[] = ['running', 'paused', 'halted'];

function statesOf(shown: Shown): readonly State[] {
  return shown === 'all' ? [] : shown === 'live' ? LIVE : [shown];
}

/** `before`: the cursor of an older page. `version`: of this model version alone. */
const SEARCH = { state: oneOf(SHOWN, 'all'), before: text(), version: text() };
const MAX_CARDS = 3;

function phaseText(rollout: Rollout): string {
  const phases = sizesOf(rollout.spec).length;
  return rollout.state === 'draft' ? plural(phases, 'phase') : `${Math.min(rollout.phase + 1, phases)} of ${phases}`;
}

const COLUMNS: readonly Column<Rollout>[] = [
  {
    id: 'model',
    header: 'Model',
    width: 'minmax(136px, 1.2fr)',
    cell: (rollout) => (
      <Link class="row-link" tabIndex={-1} href={href('/rollouts/:id', { id: rollout.id })}>
        <Name value={rollout.line} strong /> <span class="mono">{rollout.semver}</span>
      </Link>
    ),
  },
  { id: 'state', header: 'State', width: 'minmax(104px, .8fr)', cell: (rollout) => <Status value={rollout.state} /> },
  { id: 'phase', header: 'Phase', width: 'minmax(72px, .5fr)', priority: 2, cell: (rollout) => <span class="num">{phaseText(rollout)}</span> },
  {
    id: 'progress',
    header: 'Devices',
    width: 'minmax(132px, 1.2fr)',
    cell: (rollout) => {
      const sum = tally(rollout.counts);
      return sum.deployed === 0 ? <span class="muted">none yet</span> : <Outcome tally={sum} total={rollout.targeted} />;
    },
  },
  { id: 'decision', header: 'Last decision', width: 'minmax(160px, 2fr)', priority: 2, cell: (rollout) => <Name value={rollout.decision} /> },
  {
    id: 'target',
    header: 'Target',
    width: 'minmax(120px, 1.2fr)',
    priority: 3,
    mono: true,
    cell: (rollout) => <Name value={rollout.spec.target ?? 'true'} />,
  },
  {
    id: 'changed',
    header: 'Changed',
    width: 'minmax(76px, .5fr)',
    align: 'end',
    cell: (rollout) => (
      <span class="muted">
        <Ago time={rollout.updated_at} />
      </span>
    ),
  },
];

/** One that is under way: its phases and what the planner said last. */
function LiveCard({ rollout: fetched, fetchedAt }: { rollout: Rollout; fetchedAt: number }): JSX.Element {
  const rollout = usePatched(RESOURCE, fetched.id, fetched, fetchedAt);
  const sum = tally(rollout.counts);
  const { waiting } = rollout;
  return (
    <section class="card ro-live">
      <header class="card-head">
        <h2>
          <Link class="row-link" href={href('/rollouts/:id', { id: rollout.id })}>
            <Name value={rollout.line} strong /> <span class="mono">{rollout.semver}</span>
          </Link>
        </h2>
        <Status value={rollout.state} />
        <span class="muted num ro-live-sum">
          {count(sum.succeeded)} succeeded{sum.running > 0 ? `, ${count(sum.running)} running` : ''}
          {sum.failed > 0 ? <span class="hot"> ▲ {count(sum.failed)} failed</span> : null}
          {waiting === undefined || waiting === null || waiting === 0 ? '' : `, ${count(waiting)} waiting`}
        </span>
      </header>
      <Phases phases={phasesOf(rollout)} halted={rollout.state === 'halted'} />
      <p class="muted">
        <bdi>{rollout.decision}</bdi>
      </p>
    </section>
  );
}

export default function Rollouts(): JSX.Element {
  const [view, setView] = useSearch(SEARCH);
  const states = statesOf(view.state);
  const answer = useRollouts(states, { cursor: view.before, version: view.version });
  const live = useRollouts(LIVE, { limit: MAX_CARDS });
  const done = useRollouts(['completed'], { limit: 1 });
  const items = answer.data?.items;
  const static_ = useStaticRows(items, { error: answer.error, retry: () => answer.refetch(), fetchedAt: answer.dataUpdatedAt });
  const rows = { ...static_, stale: answer.isPlaceholderData };
  const total = answer.data?.total;
  const cards = view.state === 'all' && view.before === '' && view.version === '' ? (live.data?.items ?? []) : [];
  const moreLive = cards.length === 0 ? 0 : (live.data?.total ?? 0) - cards.length;
  const latest = done.data?.items[0];
  const of = items?.[0];
  const line = cli('rollouts', 'list', states.length > 0 && '--state', states.length > 0 && states.join(','), view.version !== '' && '--model-version', view.version !== '' && view.version, view.before !== '' && '--cursor', view.before !== '' && view.before);
  // Bound anew with the next step below, which has the same key: the last one bound wins, and in a list that is what is new.
  useShortcuts(() => (can('operate') ? [{ keys: 'n', label: 'New rollout', group: 'This screen', run: () => navigate('/rollouts/new') }] : []), [latest?.line]);
  useCommands(() => (can('operate') ? [{ label: 'New rollout', group: 'Rollouts list', icon: 'plus' as const, keys: 'n', run: () => navigate('/rollouts/new') }] : []), []);
  return (
    <Page
      title="Rollouts"
      note={items === undefined || answer.isPlaceholderData ? undefined : `${view.state === 'all' ? plural(total ?? 0, 'rollout') : `${count(total)} ${WORDS[view.state].toLowerCase()}`}, newest first`}
      fill
      actions={
        can('operate') ? (
          <Link class="button primary" href="/rollouts/new">
            New rollout
          </Link>
        ) : undefined
      }
    >
      {cards.length === 0 ? null : (
        <section class="ro-lives" aria-label="Under way">
          {cards.map((rollout) => (
            <LiveCard key={rollout.id} rollout={rollout} fetchedAt={live.dataUpdatedAt} />
          ))}
        </section>
      )}
      {moreLive > 0 ? (
        <p class="muted">
          {plural(moreLive, 'older one')} {moreLive === 1 ? 'is' : 'are'} under way too:{' '}
          <button type="button" class="link" onClick={() => setView({ state: 'live', before: '' }, 'push')}>
            show all {count(live.data?.total)}
          </button>
        </p>
      ) : null}
      <div class="row" role="group" aria-label="Show rollouts">
        {SHOWN.map((each) => (
          <button key={each} type="button" class="button small next-chip" aria-pressed={each === view.state} onClick={() => setView({ state: each, before: '' })}>
            {WORDS[each]}
          </button>
        ))}
        {view.version === '' ? null : (
          <button type="button" class="button small next-chip" aria-pressed onClick={() => setView({ version: '', before: '' }, 'push')}>
            Only {of === undefined ? 'one model version' : <Name value={`${of.line} ${of.semver}`} />}
          </button>
        )}
      </div>
      <div class="list-bar">
        <CliLine line={line} />
        <nav class="row" aria-label="Pages">
          {view.before === '' ? null : (
            <button type="button" class="button small" onClick={() => setView({ before: '' }, 'push')}>
              Newest
            </button>
          )}
          {answer.data?.next_cursor == null ? null : (
            <button type="button" class="button small" onClick={() => setView({ before: answer.data?.next_cursor ?? '' }, 'push')}>
              Older
            </button>
          )}
        </nav>
      </div>
      <Table
        label="Rollouts"
        rows={rows}
        columns={COLUMNS}
        rowId={(rollout) => rollout.id}
        rowName={(rollout) => `${rollout.line} ${rollout.semver}`}
        resource={RESOURCE}
        onOpen={(rollout) => navigate(href('/rollouts/:id', { id: rollout.id }))}
        question={`${view.state} ${view.version} ${view.before}`}
        empty={
          view.before !== '' ? (
            <Empty
              action={
                <button type="button" class="button" onClick={() => setView({ before: '' }, 'push')}>
                  Newest rollouts
                </button>
              }
            >
              There are no older rollouts.
            </Empty>
          ) : view.state !== 'all' || view.version !== '' ? (
            <Empty
              action={
                <button type="button" class="button" onClick={() => setView({ state: 'all', version: '' })}>
                  All rollouts
                </button>
              }
              cli={line}
            >
              {view.version !== '' ? 'This model version has no such rollout.' : view.state === 'draft' ? 'There is no draft.' : `No rollout is ${WORDS[view.state].toLowerCase()}.`}
            </Empty>
          ) : (
            <Empty
              action={
                can('operate') ? (
                  <Link class="button primary" href="/rollouts/new">
                    Plan the first rollout
                  </Link>
                ) : undefined
              }
              cli={cli('rollouts', 'create', '--model-version', 'ID')}
            >
              There are no rollouts yet: a signed model version reaches devices phase by phase, and stops by itself when it fails.
            </Empty>
          )
        }
      />
      {latest === undefined ? null : (
        <NextStep
          keyless={can('operate')}
          at="rollout"
          title={`See whether the data still looks like what ${latest.line} was trained on`}
          action="Look at drift"
          href={href('/drift', {}, { line: latest.line })}
          icon="drift"
        >
          Devices that run <bdi>{latest.line}</bdi> {latest.semver} judge their own data and report it here.
        </NextStep>
      )}
    </Page>
  );
}
