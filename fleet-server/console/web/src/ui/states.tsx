// What a screen shows instead of data: nothing yet, loading, an error, a job's progress.
import type { ComponentChildren, JSX } from 'preact';
import { useState } from 'preact/hooks';
import { useAfter } from '../lib/hooks';
import { ApiError, explain, Unreachable } from '../lib/problem';
import { Button } from './button';
import { CliLine } from './cli';

/** One sentence, one action, its command line. */
export function Empty({ children, action, cli }: { children: ComponentChildren; action?: ComponentChildren; cli?: string }): JSX.Element {
  return (
    <div class="empty" data-state="empty">
      <p>{children}</p>
      {action}
      {cli === undefined ? null : <CliLine line={cli} />}
    </div>
  );
}

/** Grey bars in the shape of what comes, only after 150 ms. `code`: it is a screen's code that is waited for, and not its data yet. */
export function Skeleton({ rows = 3, label = 'Loading', code = false }: { rows?: number; label?: string; code?: boolean }): JSX.Element {
  const shown = useAfter(150, true);
  return (
    <div class="skeleton" role="status" aria-label={label} aria-busy={code ? 'true' : undefined} data-state={code ? 'code' : 'loading'}>
      {shown ? Array.from({ length: rows }, (_unused, index) => <span key={index} class={`bone w${index % 3}`} />) : null}
    </div>
  );
}

function advice(error: unknown): string | undefined {
  if (error instanceof Unreachable) return undefined;
  if (!(error instanceof ApiError)) return undefined;
  if (error.status === 403) return 'Ask somebody who may, or sign in as somebody else.';
  if (error.status === 404) return 'It may have been removed, or the address is wrong.';
  if (error.status === 409 || error.status === 412) return 'Somebody changed it meanwhile: load it again and repeat.';
  if (error.status === 429) return 'Wait a moment and try again.';
  if (error.status >= 500) return 'The server’s log says more. Trying again is safe.';
  return undefined;
}

/** An error where it happened: what, what to do, and a way to try again, which is busy until the promise that `onRetry` gives is settled. */
export function ErrorNote({ error, title, onRetry }: { error: unknown; title?: string; onRetry?(): unknown }): JSX.Element {
  const [busy, setBusy] = useState(false);
  const problem = error instanceof ApiError ? error.problem : undefined;
  const help = advice(error);
  return (
    <div class="error-note" role="alert" data-state="error">
      <i aria-hidden="true">▲</i>
      <div>
        <strong>{title ?? problem?.title ?? 'That did not work'}</strong>
        <p>{explain(error)}</p>
        {help === undefined ? null : <p class="muted">{help}</p>}
        {problem?.errors === undefined || problem.errors === null || problem.errors.length === 0 ? null : (
          <ul>
            {problem.errors.slice(0, 20).map((item, index) => (
              <li key={index}>
                <strong>
                  <bdi>{item.place}</bdi>
                </strong>{' '}
                <bdi>{item.message}</bdi>
              </li>
            ))}
          </ul>
        )}
      </div>
      {onRetry === undefined ? null : (
        <Button
          size="small"
          busy={busy}
          onClick={() => {
            setBusy(true);
            const done = (): void => setBusy(false);
            Promise.resolve(onRetry()).then(done, done);
          }}
        >
          Try again
        </Button>
      )}
    </div>
  );
}

/** How far something is; without `of` it only says that it goes on. */
export function Progress({ value, of, label, note }: { value?: number; of?: number; label: string; note?: ComponentChildren }): JSX.Element {
  const known = value !== undefined && of !== undefined && of > 0;
  return (
    <div class="progress">
      <div class="progress-head">
        <span>{label}</span>
        <span class="muted num">{note ?? (known ? `${Math.floor((100 * value) / of)} %` : '')}</span>
      </div>
      <progress aria-label={label} {...(known ? { value, max: of } : {})} />
    </div>
  );
}
