// Sessions: who is signed in to the console from where, and ending a session.
import type { JSX } from 'preact';
import { useState } from 'preact/hooks';
import { timestamp } from '../../lib/format';
import { text, useSearch } from '../../lib/router';
import { useStaticRows } from '../../lib/rows';
import { can, signOut } from '../../lib/session';
import { cli } from '../../lib/shell';
import { Button } from '../../ui/button';
import { CliLine, Code } from '../../ui/cli';
import { ConfirmDialog, Dialog } from '../../ui/dialog';
import { Facts, Page } from '../../ui/page';
import { Empty } from '../../ui/states';
import { Status } from '../../ui/status';
import { Table } from '../../ui/table';
import type { Column } from '../../ui/table';
import { Ago, Name } from '../../ui/text';
import { toast } from '../../ui/toast';
import { Pager } from '../audit/pager';
import type { SessionInfo } from './data';
import { browserName, useRevoke, useSessions } from './data';
import '../audit/audit.css';
import './sessions.css';

const SEARCH = { session: text(), cursor: text() };

function columns(onEnd: (session: SessionInfo) => void): readonly Column<SessionInfo>[] {
  return [
    { id: 'actor', header: 'Who', width: 'minmax(112px, 1fr)', cell: (session) => <Name value={session.actor} strong /> },
    {
      id: 'browser',
      header: 'Browser',
      width: 'minmax(128px, 1.6fr)',
      cell: (session) => (
        <>
          <Name value={browserName(session.user_agent)} />
          {session.current ? <span class="badge">this one</span> : null}
        </>
      ),
    },
    { id: 'created', header: 'Signed in', width: 'minmax(96px, .8fr)', priority: 2, cell: (session) => <Ago time={session.created_at} suffix /> },
    { id: 'seen', header: 'Last seen', width: 'minmax(96px, .8fr)', priority: 2, cell: (session) => <Ago time={session.last_seen} suffix /> },
    {
      id: 'expires',
      header: 'Ends',
      width: 'minmax(88px, .7fr)',
      priority: 3,
      cell: (session) => (
        <span class="muted">
          <Ago time={session.expires_at} />
        </span>
      ),
    },
    {
      id: 'end',
      header: 'Action',
      width: '116px',
      align: 'end',
      priority: 2,
      cell: (session) => (
        <Button size="small" kind="ghost" tabIndex={-1} onClick={() => onEnd(session)}>
          {session.current ? 'Sign out' : 'End…'}
        </Button>
      ),
    },
  ];
}

export default function Sessions(): JSX.Element {
  const [view, setView] = useSearch(SEARCH);
  const answer = useSessions(view.cursor);
  const revoke = useRevoke();
  const [ending, setEnding] = useState<SessionInfo | undefined>(undefined);
  const rows = useStaticRows(answer.data?.items, { error: answer.error, retry: () => answer.refetch(), fetchedAt: answer.dataUpdatedAt });
  const shown = answer.data?.items.find((session) => session.id === view.session);
  const end = (session: SessionInfo): void => {
    if (session.current) void signOut();
    else setEnding(session);
  };
  const close = (): void => setView({ session: '' });
  return (
    <Page title="Sessions" note={answer.data === undefined ? undefined : 'signed in to this console'} fill>
      <div class="list-bar sessions-bar">
        <p class="muted">Another browser or a phone signs in with a link of its own, good once for ten minutes. Only the command line makes it: a session cannot lengthen itself.</p>
        <CliLine line={cli('console')} />
      </div>
      <Table
        label="Sessions"
        rows={rows}
        columns={columns(end)}
        rowId={(session) => session.id}
        rowName={(session) => `${session.actor}, ${browserName(session.user_agent)}`}
        onOpen={(session) => setView({ session: session.id }, 'push')}
        empty={<Empty cli={cli('console')}>Nobody is signed in: the command line makes a sign-in link.</Empty>}
      />
      <Pager label="Sessions" cursor={view.cursor} next={answer.data?.next_cursor} onGo={(cursor) => setView({ cursor }, 'push')} />
      {shown === undefined || ending !== undefined ? null : (
        <Dialog
          open
          title={browserName(shown.user_agent)}
          onClose={close}
          footer={
            <>
              <Button onClick={close}>Close</Button>
              {can('administer') || shown.current ? (
                <Button kind="danger" onClick={() => end(shown)}>
                  {shown.current ? 'Sign out' : 'End the session…'}
                </Button>
              ) : null}
            </>
          }
        >
          {shown.current ? <Status tone="ok">This browser</Status> : null}
          <Facts
            items={[
              ['Who', <bdi>{shown.actor}</bdi>],
              ['Browser', <bdi>{shown.user_agent === '' ? 'It did not say' : shown.user_agent}</bdi>],
              ['Signed in', timestamp(shown.created_at)],
              ['Last seen', <Ago time={shown.last_seen} suffix />],
              ['Ends', timestamp(shown.expires_at)],
              ['Session', <Code value={shown.id} short={false} label="Copy the id" />],
            ]}
          />
          <CliLine line={cli('sessions', 'revoke', shown.id)} />
        </Dialog>
      )}
      <ConfirmDialog
        open={ending !== undefined}
        title="End this session?"
        confirm="End the session"
        cli={cli('sessions', 'revoke', ending?.id ?? '')}
        onClose={() => setEnding(undefined)}
        onConfirm={async () => {
          if (ending === undefined) return;
          await revoke.mutateAsync(ending.id);
          toast('The session has ended');
          close();
        }}
      >
        <p>
          <bdi class="strong">{ending?.actor}</bdi> in <bdi>{browserName(ending?.user_agent ?? '')}</bdi> is signed out at once. What was typed there and not sent stays in that browser.
        </p>
      </ConfirmDialog>
    </Page>
  );
}
