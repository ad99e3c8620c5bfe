// Provisioning: claim tokens with which devices join, and the devices that joined last.
import type { JSX } from 'preact';
import { useMemo, useState } from 'preact/hooks';
import { count, plural } from '../../lib/format';
import { useNow } from '../../lib/hooks';
import { useShortcuts } from '../../lib/keys';
import { href, Link, navigate, oneOf, text, useSearch } from '../../lib/router';
import { useStaticRows } from '../../lib/rows';
import { can } from '../../lib/session';
import { cli } from '../../lib/shell';
import { Meter } from '../../charts/shapes';
import { Button } from '../../ui/button';
import { CliLine, Code } from '../../ui/cli';
import { ConfirmDialog, Dialog } from '../../ui/dialog';
import { useCommands } from '../../ui/palette';
import { Facts, Page } from '../../ui/page';
import { Empty, ErrorNote } from '../../ui/states';
import { Status } from '../../ui/status';
import { Table } from '../../ui/table';
import type { Column } from '../../ui/table';
import { Ago, KeyHint, Name } from '../../ui/text';
import { toast } from '../../ui/toast';
import { Pager } from '../audit/pager';
import '../audit/audit.css';
import { DecommissionDialog } from '../device/decommission';
import '../device/device.css';
import { TagList } from '../device/tags';
import type { ClaimToken, Device } from './data';
import { stateOf, useRecent, useRevoke, useToken, useTokens } from './data';
import { NewToken } from './new-token';
import './provisioning.css';

const SEARCH = { token: text(), cursor: text(), new: oneOf(['', '1'], '') };

function Tags({ tags }: { tags: Readonly<Record<string, string>> }): JSX.Element {
  return (
    <span class="tags">
      {Object.entries(tags).map(([key, value]) => (
        <bdi key={key} class="tag" title={`${key}=${value}`}>
          <b>{key}</b>
          {value}
        </bdi>
      ))}
    </span>
  );
}

function TokenStatus({ token }: { token: ClaimToken }): JSX.Element {
  const now = useNow();
  return <Status value={stateOf(token, now)} />;
}

function tokenColumns(onRevoke: ((token: ClaimToken) => void) | undefined): readonly Column<ClaimToken>[] {
  return [
    { id: 'state', header: 'State', width: 'minmax(92px, .7fr)', cell: (token) => <TokenStatus token={token} /> },
    { id: 'used', header: 'Enrolled', width: 'minmax(128px, .9fr)', align: 'end', cell: (token) => <Meter value={token.used} max={Math.max(1, token.uses)} text={`${count(token.used)} of ${count(token.uses)}`} /> },
    { id: 'tags', header: 'Tags', width: 'minmax(120px, 1.6fr)', priority: 2, cell: (token) => <Tags tags={token.tags} /> },
    { id: 'expires', header: 'Expires', width: 'minmax(88px, .7fr)', cell: (token) => <Ago time={token.expires_at} suffix /> },
    {
      id: 'created',
      header: 'Made',
      width: 'minmax(88px, .7fr)',
      priority: 2,
      cell: (token) => (
        <span class="muted">
          <Ago time={token.created_at} suffix />
        </span>
      ),
    },
    { id: 'id', header: 'Token', width: 'minmax(112px, .9fr)', mono: true, priority: 3, cell: (token) => <span title={token.id}>…{token.id.slice(-12)}</span> },
    {
      id: 'revoke',
      header: 'Action',
      width: '116px',
      align: 'end',
      priority: 2,
      cell: (token) =>
        onRevoke === undefined || stateOf(token, Date.now()) !== 'active' ? null : (
          <Button size="small" kind="ghost" tabIndex={-1} onClick={() => onRevoke(token)}>
            Revoke…
          </Button>
        ),
    },
  ];
}

const RECENT: readonly Column<Device>[] = [
  {
    id: 'device',
    header: 'Device',
    width: 'minmax(120px, 1.2fr)',
    cell: (device) => (
      <Link class="row-link" tabIndex={-1} href={href('/devices/:id', { id: device.id })}>
        <Name value={device.id} strong />
      </Link>
    ),
  },
  { id: 'status', header: 'Status', width: 'minmax(92px, .7fr)', cell: (device) => <Status value={device.status} /> },
  {
    id: 'key',
    header: 'Key',
    width: 'minmax(136px, 1fr)',
    mono: true,
    priority: 2,
    cell: (device) => <span title={device.thumbprint}>{device.thumbprint.replace(/^sha256:/, '').slice(0, 16)}…</span>,
  },
  { id: 'class', header: 'Hardware', width: 'minmax(88px, .8fr)', priority: 2, cell: (device) => <Name value={device.hardware_class} /> },
  { id: 'arch', header: 'Arch', width: 'minmax(72px, .5fr)', priority: 3, cell: (device) => <Name value={device.arch} /> },
  { id: 'agent', header: 'Agent', width: 'minmax(64px, .5fr)', mono: true, priority: 3, cell: (device) => <Name value={device.agent_version} /> },
  { id: 'tags', header: 'Tags', width: 'minmax(120px, 1.4fr)', priority: 3, cell: (device) => <Tags tags={device.tags} /> },
  {
    id: 'enrolled',
    header: 'Enrolled',
    width: 'minmax(92px, .7fr)',
    align: 'end',
    cell: (device) => (
      <span class="muted">
        <Ago time={device.enrolled_at} suffix />
      </span>
    ),
  },
];

function recentColumns(onDecommission: ((id: string) => void) | undefined): readonly Column<Device>[] {
  if (onDecommission === undefined) return RECENT;
  return [
    ...RECENT,
    {
      id: 'decommission',
      header: 'Action',
      width: '140px',
      align: 'end',
      priority: 2,
      cell: (device) =>
        device.status === 'decommissioned' ? null : (
          <Button size="small" kind="ghost" tabIndex={-1} aria-label={`Decommission ${device.id}`} onClick={() => onDecommission(device.id)}>
            Decommission…
          </Button>
        ),
    },
  ];
}

function TokenDialog({ token, onClose, onRevoke }: { token: ClaimToken; onClose(): void; onRevoke(token: ClaimToken): void }): JSX.Element {
  const state = stateOf(token, Date.now());
  return (
    <Dialog
      open
      title="Claim token"
      onClose={onClose}
      footer={
        <>
          <Button onClick={onClose}>Close</Button>
          {state === 'active' && can('operate') ? (
            <Button kind="danger" onClick={() => onRevoke(token)}>
              Revoke…
            </Button>
          ) : null}
        </>
      }
    >
      <Facts
        items={[
          ['State', <TokenStatus token={token} />],
          ['Enrolled', `${count(token.used)} of ${plural(token.uses, 'device')}`],
          ['Tags', <TagList tags={token.tags} />],
          ['Expires', <Ago time={token.expires_at} />],
          ['Made', <Ago time={token.created_at} />],
          ['Id', <Code value={token.id} short={false} label="Copy the id" />],
        ]}
      />
      <p class="muted">Its secret was shown when it was made, and is nowhere any more.</p>
      {state === 'active' ? <CliLine line={cli('tokens', 'revoke', token.id)} /> : null}
    </Dialog>
  );
}

export default function Provisioning(): JSX.Element {
  const [view, setView] = useSearch(SEARCH);
  const tokens = useTokens(view.cursor);
  const recent = useRecent();
  const revoke = useRevoke();
  const [revoking, setRevoking] = useState<ClaimToken | undefined>(undefined);
  const [leaving, setLeaving] = useState<string | undefined>(undefined);
  const operates = can('operate');
  const columns = useMemo(() => tokenColumns(operates ? setRevoking : undefined), [operates]);
  const deviceColumns = useMemo(() => recentColumns(operates ? setLeaving : undefined), [operates]);
  const tokenRows = useStaticRows(tokens.data?.items, { error: tokens.error, retry: () => tokens.refetch(), fetchedAt: tokens.dataUpdatedAt });
  const recentRows = useStaticRows(recent.data?.items, { error: recent.error, retry: () => recent.refetch(), fetchedAt: recent.dataUpdatedAt });
  // On another page than this one, it is asked for by itself.
  const here = tokens.data?.items.find((token) => token.id === view.token);
  const one = useToken(view.token, tokens.data !== undefined && here === undefined);
  const shown = here ?? one.data;
  const start = (): void => setView({ new: '1' }, 'push');

  useShortcuts(() => (operates ? [{ keys: 'n', label: 'New claim token', group: 'Provisioning', run: () => setView({ new: '1' }, 'push') }] : []), [operates, setView]);
  useCommands(() => (operates ? [{ label: 'New claim token', group: 'Provisioning', icon: 'plus', keys: 'n', run: () => setView({ new: '1' }, 'push') }] : []), [operates, setView]);

  return (
    <Page
      title="Provisioning"
      fill
      actions={
        operates ? (
          <Button kind="primary" onClick={start}>
            New claim token <KeyHint keys="n" />
          </Button>
        ) : undefined
      }
    >
      <section class="provisioning-part" aria-labelledby="provisioning-tokens">
        <div class="provisioning-head">
          <h2 id="provisioning-tokens">Claim tokens</h2>
          <Pager label="Claim tokens" cursor={view.cursor} next={tokens.data?.next_cursor} onGo={(cursor) => setView({ cursor }, 'push')} />
          <CliLine line={cli('tokens', 'list')} />
        </div>
        <Table
          label="Claim tokens"
          rows={tokenRows}
          columns={columns}
          rowId={(token) => token.id}
          onOpen={(token) => setView({ token: token.id }, 'push')}
          empty={
            <Empty action={operates ? <Button onClick={start}>Make the first token</Button> : undefined} cli={cli('tokens', 'create', '--uses', 10, '-o', 'factory.json')}>
              There is no claim token yet: a device joins the fleet with one.
            </Empty>
          }
        />
      </section>
      <section class="provisioning-part" aria-labelledby="provisioning-recent">
        <div class="provisioning-head">
          <h2 id="provisioning-recent">Enrolled last</h2>
          <Link href={href('/devices', {}, { sort: '-enrolled_at' })}>All devices</Link>
          <CliLine line={cli('devices', 'list', '--sort=-enrolled_at')} />
        </div>
        <Table
          label="Devices that enrolled last"
          rows={recentRows}
          columns={deviceColumns}
          rowId={(device) => device.id}
          resource="device"
          onOpen={(device) => navigate(href('/devices/:id', { id: device.id }))}
          empty={<Empty cli="fleet-agent enrol --bundle factory.json --config agent.toml">No device has enrolled yet: give one a factory bundle.</Empty>}
        />
      </section>
      <NewToken open={view.new === '1' && operates} onClose={() => setView({ new: '' })} />
      {view.token !== '' && shown === undefined && one.isError ? <ErrorNote error={one.error} title="The claim token in the address could not be shown" onRetry={() => one.refetch()} /> : null}
      {shown === undefined || revoking !== undefined ? null : <TokenDialog token={shown} onClose={() => setView({ token: '' })} onRevoke={setRevoking} />}
      <DecommissionDialog id={leaving} onClose={() => setLeaving(undefined)} />
      <ConfirmDialog
        open={revoking !== undefined}
        title="Revoke this claim token?"
        confirm="Revoke"
        cli={cli('tokens', 'revoke', revoking?.id ?? '')}
        onClose={() => setRevoking(undefined)}
        onConfirm={async () => {
          if (revoking === undefined) return;
          await revoke.mutateAsync(revoking.id);
          toast('The claim token is revoked');
          setView({ token: '' });
        }}
      >
        <p>
          No device can enrol with it any more; {plural(Math.max(0, (revoking?.uses ?? 0) - (revoking?.used ?? 0)), 'use')} of it {(revoking?.uses ?? 0) - (revoking?.used ?? 0) === 1 ? 'is' : 'are'} left. Devices that have enrolled stay.
        </p>
      </ConfirmDialog>
    </Page>
  );
}
