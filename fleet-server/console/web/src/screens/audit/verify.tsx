// The verdict on every chain: that they hold, or exactly where they break.
import type { JSX } from 'preact';
import { useNow } from '../../lib/hooks';
import { count, plural, relative } from '../../lib/format';
import { href, Link } from '../../lib/router';
import { cli } from '../../lib/shell';
import { Button } from '../../ui/button';
import { CliLine, Code } from '../../ui/cli';
import { ErrorNote } from '../../ui/states';
import { Status } from '../../ui/status';
import type { useVerification } from './data';
import { verdictOf } from './data';

/** More broken chains than this are counted, not listed: what broke a hundred broke them alike. */
const MOST_BROKEN = 20;

export function Verify({ verification }: { verification: ReturnType<typeof useVerification> }): JSX.Element {
  const { data, isFetching, error } = verification;
  const now = useNow();
  const verdict = data === undefined ? undefined : verdictOf(data);
  return (
    <section class={`card audit-verify${verdict !== undefined && !verdict.ok ? ' broken' : ''}`} aria-label="Verification">
      <div class="audit-verify-head">
        <Button kind={verdict === undefined ? 'primary' : 'default'} busy={isFetching} onClick={() => void verification.refetch()}>
          {isFetching ? 'Verifying…' : verdict === undefined ? 'Verify every chain' : 'Verify again'}
        </Button>
        <div class="audit-verdict" aria-live="polite">
          {verdict === undefined ? (
            <span class="muted">Recomputes the server’s log and each device’s chain from their entries.</span>
          ) : verdict.ok ? (
            <>
              <Status tone="ok">
                <b class="strong">All chains hold</b>
              </Status>
              <span class="muted num">
                {plural(verdict.entries, 'entry', 'entries')}, {plural(verdict.devices, 'device')}, {relative(verification.dataUpdatedAt, Math.max(now, verification.dataUpdatedAt))}
              </span>
              <span class="audit-head">
                <span class="muted">head</span> <Code value={data?.server.head ?? ''} label="Copy the head" />
              </span>
            </>
          ) : (
            <>
              <Status tone="bad">
                <b class="strong">{verdict.brokenCount === 1 ? 'One chain is broken' : `${count(verdict.brokenCount)} chains are broken`}</b>
              </Status>
              <span class="muted num">of {plural(verdict.devices + 1, 'chain')}</span>
            </>
          )}
        </div>
        <CliLine line={cli('audit', 'verify')} />
      </div>
      {error === null ? null : <ErrorNote error={error} title="The chains could not be verified" onRetry={() => verification.refetch()} />}
      {verdict === undefined || verdict.ok ? null : (
        <ul class="audit-broken">
          {verdict.broken.slice(0, MOST_BROKEN).map((item) => (
            <li key={item.chain}>
              {item.device === undefined ? (
                <span class="strong">{item.chain}</span>
              ) : (
                <Link href={href('/devices/:id', { id: item.device })}>
                  <bdi class="strong">{item.device}</bdi>
                </Link>
              )}
              <bdi>{item.problem}</bdi>
            </li>
          ))}
          {verdict.brokenCount > MOST_BROKEN ? <li class="muted">and {count(verdict.brokenCount - MOST_BROKEN)} more</li> : null}
        </ul>
      )}
    </section>
  );
}
