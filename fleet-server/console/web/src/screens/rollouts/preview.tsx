// What a rollout would do if it were started now, in the server's words: whom the target selects, who has an obstacle and which,
// how far each phase reaches, with whom it begins, how many bytes it takes.
import type { ComponentChildren, JSX } from 'preact';
import { bytes, count, plural } from '../../lib/format';
import { href, Link } from '../../lib/router';
import { Button } from '../../ui/button';
import { CliLine } from '../../ui/cli';
import { ErrorNote, Skeleton } from '../../ui/states';
import { Status } from '../../ui/status';
import { Ago } from '../../ui/text';
import { celToFilter } from './cel';
import type { RolloutPreview, Spec, usePreview } from './data';
import { createLine, sizeText } from './plan';

const OBSTACLES: Readonly<Record<RolloutPreview['obstacles'][number]['obstacle'], string>> = {
  'hardware-class': 'another hardware class',
  arch: 'another architecture',
  agent: 'agent too old',
  memory: 'too little memory',
  disk: 'too little free disk',
  'already-installed': 'has this version already',
  busy: 'another rollout has not ended there',
};

function Devices({ ids, of }: { ids: readonly string[]; of: number }): JSX.Element {
  return (
    <span class="ro-names">
      {ids.map((id) => (
        <Link key={id} class="tag" href={href('/devices/:id', { id })}>
          <bdi>{id}</bdi>
        </Link>
      ))}
      {of > ids.length ? <span class="muted">and {count(of - ids.length)} more</span> : null}
    </span>
  );
}

/** Why some of those that are selected would not simply install it. */
function Obstacles({ preview }: { preview: RolloutPreview }): JSX.Element | null {
  if (preview.selected === 0) return null;
  if (preview.obstacles.length === 0)
    return (
      <p>
        <Status tone="ok">{preview.selected === 1 ? 'Nothing stands in its way' : 'Nothing stands in their way'}</Status>
      </p>
    );
  return (
    <ul class="ro-obstacles" aria-label="Obstacles">
      <li>
        <Status tone="ok">{plural(preview.ready, 'device')}</Status> <span>without an obstacle</span>
      </li>
      {preview.obstacles.map((group) => (
        <li key={group.obstacle}>
          <Status tone={group.misfit ? 'bad' : 'idle'}>{plural(group.count, 'device')}</Status>
          <span>
            {OBSTACLES[group.obstacle] ?? group.obstacle}
            {group.needs === '' ? null : (
              <>
                : needs <bdi>{group.needs}</bdi>
              </>
            )}
            {group.misfit ? <span class="hot"> {group.count === 1 ? 'It would refuse it and count as failed.' : 'They would refuse it and count as failed.'}</span> : null}
          </span>
          <Devices ids={group.devices} of={group.count} />
        </li>
      ))}
    </ul>
  );
}

function Steps({ preview }: { preview: RolloutPreview }): JSX.Element {
  return (
    <ol class="ro-steps" aria-label="Phases of this plan">
      {preview.phases.map((phase) => (
        <li key={phase.phase}>
          <span>
            <b>Phase {phase.phase + 1}</b> <span class="muted">to {sizeText(phase.size)}</span>
          </span>
          <span class="bar-track" aria-hidden="true">
            <span class="bar-fill plain" style={{ inlineSize: `${preview.selected === 0 ? 0 : (100 * phase.reach) / preview.selected}%` }} />
          </span>
          <span class="num muted">{phase.devices === 0 ? 'nobody new' : `+${count(phase.devices)}`}</span>
        </li>
      ))}
    </ol>
  );
}

function Shown({ preview, target, ordered }: { preview: RolloutPreview; target: string; ordered: boolean }): JSX.Element {
  const filter = celToFilter(target);
  return (
    <>
      <p class="next-count" aria-live="polite">
        <b class="num">{count(preview.selected)}</b> {preview.selected === 1 ? 'device matches' : 'devices match'} now
        <span class="muted"> of {count(preview.fleet)} in the fleet</span>
      </p>
      {preview.selected === 0 ? <p class="muted">A rollout that matches nobody waits for the first device that does.</p> : null}
      <Obstacles preview={preview} />
      <Steps preview={preview} />
      {ordered && preview.first.length > 0 ? (
        <div class="ro-first">
          <span class="muted">It begins with</span>
          <Devices ids={preview.first} of={preview.selected} />
        </div>
      ) : null}
      <p class="muted">
        {bytes(preview.package_bytes)} at most for each device; one that has parts of it loads only the rest.
        {preview.total_bytes > 0 ? ` ${bytes(preview.total_bytes)} in all.` : ''}
      </p>
      {filter === undefined || preview.selected === 0 ? null : (
        <p>
          <Link href={href('/devices', {}, { filter: `${filter} -status:decommissioned`.trim() })}>Show them in the list of devices</Link>
        </p>
      )}
    </>
  );
}

/** `spec` undefined: `waiting` says what is missing. `ordered`: the rollout would begin with the devices that the answer names. */
export function Preview({
  spec,
  answer,
  ordered,
  waiting,
}: {
  spec: Spec | undefined;
  answer: ReturnType<typeof usePreview>;
  ordered: boolean;
  waiting?: ComponentChildren;
}): JSX.Element {
  const { data } = answer;
  const state = spec === undefined ? 'empty' : data !== undefined ? 'full' : answer.isError ? 'error' : 'loading';
  return (
    <section class="card ro-preview" aria-label="Preview" aria-busy={answer.isPlaceholderData && spec !== undefined} data-state={state}>
      <header class="card-head">
        <h2>What it reaches</h2>
        {state === 'full' ? (
          <span class="muted">
            counted <Ago time={answer.dataUpdatedAt} suffix />
          </span>
        ) : null}
        {state === 'full' ? (
          <div class="card-actions">
            <Button size="small" busy={answer.isFetching} onClick={() => void answer.refetch()}>
              Count again
            </Button>
          </div>
        ) : null}
      </header>
      {spec === undefined ? (
        <p class="muted">{waiting}</p>
      ) : data !== undefined ? (
        <>
          {answer.isError ? <ErrorNote error={answer.error} title="This may be old: it could not be counted again" /> : null}
          <Shown preview={data} target={spec.target ?? 'true'} ordered={ordered} />
        </>
      ) : answer.isError ? (
        <ErrorNote error={answer.error} title="The server cannot say whom this reaches" onRetry={() => answer.refetch()} />
      ) : (
        <Skeleton rows={4} label="Counting devices" />
      )}
      {spec === undefined ? null : <CliLine line={createLine(spec, 'preview')} label="Preview on the command line" />}
    </section>
  );
}
