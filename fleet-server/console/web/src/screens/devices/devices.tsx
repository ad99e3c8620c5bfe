// Devices: how many in which state, the filtered list, and what can be done with many at once. Everything stands in the URL.
import type { JSX } from 'preact';
import { useQueryClient } from '@tanstack/preact-query';
import { useCallback, useMemo, useState } from 'preact/hooks';
import { count, NOTHING, percent } from '../../lib/format';
import { hasTerm, settled, toggleTerm } from '../../lib/filter';
import { useDebounced } from '../../lib/hooks';
import { href, Link, navigate, text, useSearch } from '../../lib/router';
import type { Selection } from '../../lib/selection';
import { NONE } from '../../lib/selection';
import { can } from '../../lib/session';
import { cli } from '../../lib/shell';
import { Meter } from '../../charts/shapes';
import { Button } from '../../ui/button';
import { CliLine } from '../../ui/cli';
import { FilterInput } from '../../ui/combobox';
import { useCommands } from '../../ui/palette';
import { JobProgress } from '../../ui/job';
import { Page } from '../../ui/page';
import { Empty, ErrorNote } from '../../ui/states';
import { Stat, Status } from '../../ui/status';
import { BulkBar, Table } from '../../ui/table';
import type { Column } from '../../ui/table';
import { Ago, Name } from '../../ui/text';
import { toast } from '../../ui/toast';
import { BulkDialogs } from './bulk';
import type { BulkKind } from './bulk';
import { FIELDS, RESOURCE, rolloutHref, useDeviceCounts, useDeviceRows } from './data';
import type { Device } from './data';
import { SavedViews } from './views';

/** `job`: an order to many devices that is carried out, or was. */
const SEARCH = { filter: text(), sort: text('id'), job: text() };

const JOB_WORDS = {
  running: 'Changing devices',
  done: 'The devices are changed',
  failed: 'Not all of the devices could be changed',
  cancelled: 'The change was cancelled',
};

/** What a person looks for first: trouble, then movement, then whether it is there. */
function stateOf(device: Device): string {
  if (device.status === 'decommissioned') return 'decommissioned';
  if ((device.alerts ?? []).length > 0) return 'alert';
  if (device.updating === true) return 'updating';
  return device.status;
}

const ALERT_WORDS: Record<string, string> = { drift: 'drift', attack: 'attack refused', 'failed-deployment': 'update failed', error: 'error' };

function DeviceStatus({ device }: { device: Device }): JSX.Element {
  const state = stateOf(device);
  const why = (device.alerts ?? []).map((alert) => ALERT_WORDS[alert] ?? alert).join(', ');
  if (state !== 'alert') return <Status value={state} />;
  return (
    <Status tone="bad">
      Alert<span class="muted why"> {why}</span>
    </Status>
  );
}

const COLUMNS: readonly Column<Device>[] = [
  {
    id: 'device',
    header: 'Device',
    width: 'minmax(120px, 1.5fr)',
    sort: 'id',
    cell: (device) => (
      <Link class="row-link" tabIndex={-1} href={href('/devices/:id', { id: device.id })}>
        <Name value={device.id} strong />
      </Link>
    ),
  },
  { id: 'status', header: 'Status', width: 'minmax(104px, 1.2fr)', sort: 'status', cell: (device) => <DeviceStatus device={device} /> },
  {
    id: 'model',
    header: 'Model',
    sort: 'model',
    width: 'minmax(96px, 1.1fr)',
    priority: 2,
    cell: (device) => (device.models[0] === undefined ? <span class="muted">{NOTHING}</span> : <Name value={device.models.map((model) => model.line).join(', ')} />),
  },
  {
    id: 'version',
    header: 'Version',
    width: 'minmax(72px, .8fr)',
    mono: true,
    priority: 2,
    cell: (device) => device.models.map((model) => model.semver).join(', ') || <span class="muted">{NOTHING}</span>,
  },
  { id: 'class', header: 'Hardware', width: 'minmax(88px, 1fr)', priority: 3, sort: 'class', cell: (device) => <Name value={device.hardware_class} /> },
  {
    id: 'tags',
    header: 'Tags',
    width: 'minmax(120px, 1.5fr)',
    priority: 3,
    cell: (device) => (
      <span class="tags">
        {Object.entries(device.tags).map(([key, value]) => (
          <bdi key={key} class="tag" title={`${key}=${value}`}>
            {value === '' ? (
              key
            ) : (
              <>
                <b>{key}</b>
                {value}
              </>
            )}
          </bdi>
        ))}
      </span>
    ),
  },
  { id: 'inferences', header: 'Inferences', width: 'minmax(88px, .8fr)', align: 'end', priority: 3, sort: 'inferences', cell: (device) => count(device.inferences) },
  {
    id: 'drift',
    header: 'Drift',
    width: 'minmax(136px, 1fr)',
    align: 'end',
    priority: 2,
    sort: 'drift',
    cell: (device) =>
      device.drift === undefined || device.drift === null ? (
        <span class="muted">{NOTHING}</span>
      ) : (
        <span class={device.drifted ? 'hot' : undefined}>
          <Meter value={device.drift} text={`${percent(device.drift, 0)}${device.drifted ? ' ▲' : ''}`} />
        </span>
      ),
  },
  {
    id: 'seen',
    header: 'Last seen',
    width: 'minmax(92px, .8fr)',
    align: 'end',
    sort: 'last_seen',
    cell: (device) => (
      <span class="muted">
        <Ago time={device.last_seen} />
      </span>
    ),
  },
];

const CARDS = [
  { key: 'online', label: 'Online', tone: 'ok' },
  { key: 'offline', label: 'Offline', tone: 'idle' },
  { key: 'updating', label: 'Updating', tone: 'busy' },
  { key: 'alert', label: 'Alert', tone: 'bad' },
] as const;

function Cards({ filter, sort }: { filter: string; sort: string }): JSX.Element {
  const counts = useDeviceCounts();
  // What is known stays while it cannot be asked again.
  if (counts.isError && counts.data === undefined) return <ErrorNote error={counts.error} title="The counts could not be loaded" onRetry={() => counts.refetch()} />;
  return (
    <section class="stats" aria-label="Devices by state">
      {CARDS.map((card) => (
        <Stat
          key={card.key}
          label={card.label}
          tone={card.tone}
          value={counts.data === undefined ? <span class="bone" /> : count(counts.data[card.key])}
          href={href('/devices', {}, { filter: toggleTerm(filter, 'status', card.key), sort: sort === 'id' ? undefined : sort })}
          current={hasTerm(filter, 'status', card.key)}
        />
      ))}
    </section>
  );
}

export default function Devices(): JSX.Element {
  const client = useQueryClient();
  const [view, setView] = useSearch(SEARCH);
  const filter = useDebounced(settled(view.filter), 60);
  const answer = useDeviceRows(filter, view.sort);
  // What is typed is not asked yet: the rows belong to the question before.
  const rows = { ...answer, stale: answer.stale || settled(view.filter) !== filter };
  const [selection, setSelection] = useState<Selection>(NONE);
  const [dialog, setDialog] = useState<BulkKind | undefined>(undefined);
  const question = `${filter} ${view.sort}`;

  // A selection of "all matching" means the filter it was made with.
  const [asked, setAsked] = useState(filter);
  if (asked !== filter) {
    setAsked(filter);
    setSelection(NONE);
  }

  const to = rolloutHref(selection, settled(view.filter));
  const plan = useCallback(() => {
    if (to === undefined) toast('These are too many for one target: tag them, and roll out to the tag');
    else navigate(to);
  }, [to]);

  useCommands(
    () => [
      { label: 'Devices that need attention', group: 'Devices list', icon: 'filter', run: () => setView({ filter: 'status:alert' }) },
      { label: 'New rollout', group: 'Devices list', icon: 'rollouts', run: plan },
    ],
    [setView, plan],
  );

  const line = useMemo(
    () => cli('devices', 'list', ...(filter === '' ? [] : ['--filter', filter]), ...(view.sort === 'id' ? [] : [`--sort=${view.sort}`])),
    [filter, view.sort],
  );
  const filtered = view.filter.trim() !== '';
  return (
    <Page
      title="Devices"
      note={rows.status === 'ready' ? `${count(rows.total)} ${filter === '' ? 'in the fleet' : 'matching'}` : undefined}
      fill
      actions={
        <>
          <SavedViews filter={view.filter} sort={view.sort} onChoose={(chosen) => setView(chosen, 'push')} />
          {can('operate') ? (
            <Link
              class="button primary"
              href={to ?? '/devices'}
              onClick={(event) => {
                if (to !== undefined) return;
                event.preventDefault();
                plan();
              }}
            >
              New rollout
            </Link>
          ) : null}
        </>
      }
    >
      <Cards filter={view.filter} sort={view.sort} />
      {view.job === '' ? null : (
        <JobProgress key={view.job} id={view.job} words={JOB_WORDS} onEnded={() => void client.invalidateQueries({ queryKey: [RESOURCE] })} onClose={() => setView({ job: '' })} />
      )}
      <div class="list-bar">
        <FilterInput
          value={view.filter}
          onChange={(next) => setView({ filter: next })}
          fields={FIELDS}
          label="Filter devices"
          placeholder="Filter: status:alert site:oslo -model:1.4.2"
        />
        <CliLine line={line} />
      </div>
      <Table
        label="Devices"
        rows={rows}
        columns={COLUMNS}
        rowId={(device) => device.id}
        resource={RESOURCE}
        sort={view.sort}
        onSort={(sort) => setView({ sort })}
        onOpen={(device) => navigate(href('/devices/:id', { id: device.id }))}
        selection={selection}
        onSelect={setSelection}
        question={question}
        empty={
          filtered ? (
            <Empty action={<Button onClick={() => setView({ filter: '' })}>Clear the filter</Button>} cli={line}>
              No device matches this filter.
            </Empty>
          ) : (
            <Empty
              action={
                <Link class="button primary" href="/provisioning">
                  Enrol the first device
                </Link>
              }
              cli={cli('tokens', 'create', '--uses', 10, '-o', 'factory.json')}
            >
              There are no devices yet: make a claim token, and a device can join with it.
            </Empty>
          )
        }
      />
      <BulkBar selection={selection} onSelect={setSelection} total={rows.total} noun="device">
        {can('operate') ? (
          <>
            <Button size="small" onClick={() => setDialog('tag')}>
              Tag…
            </Button>
            <Button size="small" kind="danger" onClick={() => setDialog('decommission')}>
              Decommission…
            </Button>
          </>
        ) : null}
      </BulkBar>
      <BulkDialogs
        kind={dialog}
        selection={selection}
        filter={filter}
        total={rows.total}
        onClose={() => setDialog(undefined)}
        onStarted={(job) => {
          setDialog(undefined);
          setSelection(NONE);
          setView({ job });
        }}
      />
    </Page>
  );
}
