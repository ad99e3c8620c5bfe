// A job of the server: how far it is, how it ended, in the server's words. Its id stands in the address of the screen that
// started it, so that a reload, Back or a link shows it again.
import { useQuery } from '@tanstack/preact-query';
import type { JSX } from 'preact';
import { useEffect } from 'preact/hooks';
import type { Schema } from '../lib/client';
import { api, unwrap } from '../lib/client';
import { useLatest } from '../lib/hooks';
import { cli } from '../lib/shell';
import { Button } from './button';
import { CliLine } from './cli';
import { Card } from './page';
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
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/jobs/{id}', { params: { path: { id } }, signal })),
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
  if (job.state === 'failed' || job.state === 'cancelled')
    return (
      <div class="stack-small">
        <ErrorNote error={new Error(job.error ?? job.message)} title={job.state === 'failed' ? words.failed : words.cancelled} />
        <button type="button" class="link" onClick={onClose}>
          Dismiss
        </button>
      </div>
    );
  return (
    <Card
      title={ended ? words.done : words.running}
      note={<bdi>{job.message}</bdi>}
      actions={
        ended ? (
          <Button size="small" onClick={onClose}>
            Dismiss
          </Button>
        ) : undefined
      }
    >
      <Progress label={job.state === 'queued' ? 'Waiting for a worker' : job.state} value={job.progress} of={1} />
      <CliLine line={cli('jobs', 'wait', job.id)} />
    </Card>
  );
}
