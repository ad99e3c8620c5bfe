// A job of the server: how far it is, how it ended, in the server's words; and the way to cancel it. Its id stands in the address
// of the screen that started it, so that a reload, Back or a link shows it again.
import { useMutation, useQuery, useQueryClient } from '@tanstack/preact-query';
import type { JSX } from 'preact';
import { useEffect } from 'preact/hooks';
import type { Schema } from '../lib/client';
import { api, unwrap } from '../lib/client';
import { useLatest } from '../lib/hooks';
import { can } from '../lib/session';
import { cli } from '../lib/shell';
import { Button } from './button';
import { CliLine } from './cli';
import { Card } from './page';
import { useCommands } from './palette';
import { ErrorNote, Progress, Skeleton } from './states';

export type Job = Schema<'Job'>;

/** What is said of a job in each state: `Fitting the label model`, `The label model is fitted`. */
export interface JobWords {
  running: string;
  done: string;
  failed: string;
  cancelled: string;
}

export function hasEnded(job: Pick<Job, 'state'>): boolean {
  return job.state !== 'queued' && job.state !== 'running';
}

/** Live events of jobs make it fetch again as the job goes on. */
function useJob(id: string) {
  return useQuery({
    queryKey: ['job', id],
    meta: { id },
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/jobs/{id}', { params: { path: { id } }, signal })),
  });
}

/** The right that starts such a job is the one that cancels it. */
function mayCancel(job: Pick<Job, 'kind'>): boolean {
  return can(job.kind === 'bulk-devices' ? 'operate' : 'build');
}

function useCancel(id: string) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: () => unwrap(api.POST('/api/v1/jobs/{id}/cancel', { params: { path: { id } } })),
    onSuccess: (job) => client.setQueryData(['job', id], job),
    // It may have ended meanwhile.
    onError: () => client.invalidateQueries({ queryKey: ['job', id] }),
  });
}

/** `onEnded` runs once, when the job is over: what it changed is fetched again. */
export function JobProgress({ id, words, onEnded, onClose }: { id: string; words: JobWords; onEnded(): void; onClose(): void }): JSX.Element {
  const asked = useJob(id);
  const job = asked.data;
  const ended = job !== undefined && hasEnded(job);
  const latest = useLatest(onEnded);
  useEffect(() => {
    if (ended) latest.current();
  }, [ended, latest]);
  if (job === undefined)
    return asked.isError ? (
      <div class="stack-small">
        <ErrorNote error={asked.error} title="How far the job is cannot be told" onRetry={() => asked.refetch()} />
        <button type="button" class="link" onClick={onClose}>
          Dismiss
        </button>
      </div>
    ) : (
      <Skeleton rows={1} label="Loading the job" />
    );
  if (job.state === 'failed')
    return (
      <div class="stack-small">
        <ErrorNote error={new Error(job.error ?? job.message)} title={words.failed} />
        <button type="button" class="link" onClick={onClose}>
          Dismiss
        </button>
      </div>
    );
  return <Shown job={job} words={words} onClose={onClose} />;
}

/** One button, so that the focus stays where it is: it cancels, and once the job is over it takes the card away. */
function Shown({ job, words, onClose }: { job: Job; words: JobWords; onClose(): void }): JSX.Element {
  const cancel = useCancel(job.id);
  const ended = hasEnded(job);
  const stopping = !ended && (job.cancel_requested === true || cancel.isPending);
  const may = !ended && mayCancel(job);
  useCommands(() => (may && !stopping ? [{ label: 'Cancel the job', group: 'Job', icon: 'close' as const, run: () => cancel.mutate() }] : []), [may, stopping, job.id]);
  return (
    <Card
      title={job.state === 'cancelled' ? words.cancelled : ended ? words.done : words.running}
      note={<bdi>{job.message}</bdi>}
      actions={
        ended || may ? (
          <Button size="small" busy={stopping} onClick={ended ? onClose : () => cancel.mutate()}>
            {ended ? 'Dismiss' : stopping ? 'Cancelling' : 'Cancel'}
          </Button>
        ) : undefined
      }
    >
      <Progress label={job.state === 'queued' ? 'Waiting for a worker' : stopping ? 'Being cancelled' : job.state} value={job.progress} of={1} />
      {cancel.isError && !ended ? <ErrorNote error={cancel.error} title="The job could not be cancelled" /> : null}
      <CliLine line={ended ? cli('jobs', 'show', job.id) : cli('jobs', 'wait', job.id)} />
      {may ? <CliLine line={cli('jobs', 'cancel', job.id)} label="Cancel it on the command line" /> : null}
    </Card>
  );
}
