// Audit: what happened and by whom, newest first; whether the chains hold; every entry in full.
import type { JSX } from 'preact';
import { useEffect, useMemo, useState } from 'preact/hooks';
import { settled } from '../../lib/filter';
import { timestamp } from '../../lib/format';
import { useDebounced } from '../../lib/hooks';
import { useShortcuts } from '../../lib/keys';
import { href, integer, Link, text, useSearch } from '../../lib/router';
import { useStaticRows } from '../../lib/rows';
import { cli } from '../../lib/shell';
import { Button } from '../../ui/button';
import { CliLine, CopyButton } from '../../ui/cli';
import { FilterInput } from '../../ui/combobox';
import { Dialog } from '../../ui/dialog';
import { Icon } from '../../ui/icon';
import { useCommands } from '../../ui/palette';
import { Facts, Page } from '../../ui/page';
import { Empty, ErrorNote } from '../../ui/states';
import { Table } from '../../ui/table';
import type { Column } from '../../ui/table';
import { Ago, Name } from '../../ui/text';
import type { AuditEvent } from './data';
import { fieldsOf, questionOf, questionWords, removable, shortened, useAudit, useEntry, useVerification, withTerm } from './data';
import type { Name as FieldName } from './data';
import { Pager } from './pager';
import { Verify } from './verify';
import './audit.css';

const SEARCH = { filter: text(), cursor: text(), entry: integer(-1) };

/** `device:edge-1` leads to that device; ids of other kinds stay words. */
function Subject({ value }: { value: string }): JSX.Element {
  const at = value.indexOf(':');
  const [kind, id] = at < 0 ? ['', value] : [value.slice(0, at), value.slice(at + 1)];
  const to = kind === 'device' ? href('/devices/:id', { id }) : kind === 'rollout' ? href('/rollouts/:id', { id }) : kind === 'run' ? href('/runs/:id', { id }) : undefined;
  const words = (
    <bdi class="name" title={value}>
      {kind === '' ? null : <span class="muted">{kind} </span>}
      {shortened(id)}
    </bdi>
  );
  if (to === undefined) return words;
  return (
    <Link class="row-link" tabIndex={-1} href={to}>
      {words}
    </Link>
  );
}

const COLUMNS: readonly Column<AuditEvent>[] = [
  { id: 'index', header: 'Entry', width: '76px', align: 'end', priority: 3, cell: (entry) => <span class="muted">{entry.index}</span> },
  {
    id: 'at',
    header: 'When',
    width: 'minmax(92px, .6fr)',
    cell: (entry) => (
      <span class="muted num">
        <Ago time={entry.at} suffix />
      </span>
    ),
  },
  { id: 'event', header: 'Event', width: 'minmax(140px, 1fr)', cell: (entry) => <Name value={entry.event} strong /> },
  { id: 'actor', header: 'Actor', width: 'minmax(96px, .8fr)', priority: 2, cell: (entry) => <Name value={entry.actor} /> },
  { id: 'subject', header: 'Subject', width: 'minmax(120px, 1.3fr)', priority: 2, cell: (entry) => <Subject value={entry.subject} /> },
  {
    id: 'detail',
    header: 'Detail',
    width: 'minmax(160px, 2fr)',
    priority: 3,
    cell: (entry) => (
      <bdi class="muted">
        {Object.entries(entry.detail)
          .map(([name, value]) => `${name.replaceAll('_', ' ')} ${shortened(value)}`)
          .join(', ')}
      </bdi>
    ),
  },
];

/** What the log is narrowed by: each term goes with one press. */
function InForce({ filter, onChange }: { filter: string; onChange(filter: string): void }): JSX.Element | null {
  const all = removable(filter);
  if (all.length === 0) return null;
  return (
    <ul class="audit-terms" aria-label="Filters in force">
      {all.map(({ text: term, without }, at) => (
        <li key={at}>
          <button type="button" class="button small" aria-label={`Clear ${term}`} title={`Clear ${term}`} onClick={() => onChange(without)}>
            <bdi>{term}</bdi> <Icon name="close" size={12} />
          </button>
        </li>
      ))}
      {all.length > 1 ? (
        <li>
          <button type="button" class="link" onClick={() => onChange('')}>
            Clear all
          </button>
        </li>
      ) : null}
    </ul>
  );
}

function EntryDialog({ entry, onNarrow, onClose }: { entry: AuditEvent; onNarrow(field: FieldName, value: string): void; onClose(): void }): JSX.Element {
  const narrowed = (field: FieldName, value: string, words: string): JSX.Element => (
    <>
      <bdi>{value}</bdi>{' '}
      <button type="button" class="link" onClick={() => onNarrow(field, value)}>
        {words}
      </button>
    </>
  );
  return (
    <Dialog
      open
      title={entry.event}
      width="wide"
      onClose={onClose}
      footer={
        <>
          <CopyButton text={JSON.stringify(entry, null, 2)} label="Copy the entry as JSON" />
          <Button onClick={onClose}>Close</Button>
        </>
      }
    >
      <Facts
        items={[
          ['Entry', <span class="num">{entry.index}</span>],
          ['When', <time dateTime={entry.at}>{timestamp(entry.at)}</time>],
          ['Event', narrowed('event', entry.event, 'Only these events')],
          ['Actor', narrowed('actor', entry.actor, 'Only this actor')],
          ['Subject', narrowed('subject', entry.subject, 'Only this subject')],
          ...(entry.device === undefined || entry.device === null ? [] : [['Chain of', <bdi>{entry.device}</bdi>] as const]),
          ...Object.entries(entry.detail).map(([name, value]) => [name, <bdi class="mono">{value}</bdi>] as const),
        ]}
      />
    </Dialog>
  );
}

export default function Audit(): JSX.Element {
  const [view, setView] = useSearch(SEARCH);
  const filter = useDebounced(settled(view.filter), 120);
  const { question, wrong } = questionOf(filter);
  const answer = useAudit(question, view.cursor, wrong === undefined);
  const verification = useVerification();
  const { refetch } = verification;
  // A filter that cannot be asked brings nothing, however long one waits.
  const static_ = useStaticRows(answer.data?.items ?? (wrong === undefined ? undefined : []), { error: answer.error, retry: () => answer.refetch(), fetchedAt: answer.dataUpdatedAt });
  const rows = { ...static_, stale: answer.isPlaceholderData || settled(view.filter) !== filter };
  // What was opened stays open while newer entries push it off the page; what an address names is asked for by itself.
  const [held, setHeld] = useState<AuditEvent | undefined>(undefined);
  const here = view.entry < 0 ? undefined : (answer.data?.items.find((entry) => entry.index === view.entry) ?? (held?.index === view.entry ? held : undefined));
  const one = useEntry(view.entry, view.entry >= 0 && here === undefined && question.device === undefined && answer.data !== undefined);
  const open = here ?? one.data ?? undefined;

  useShortcuts(() => [{ keys: 'v', label: 'Verify every chain', group: 'Audit', run: () => void refetch() }], [refetch]);
  useCommands(() => [{ label: 'Verify every audit chain', group: 'Audit', icon: 'check', keys: 'v', run: () => void refetch() }], [refetch]);
  useEffect(() => {
    // Another question starts at its own newest entry.
    if (settled(view.filter) !== filter && view.cursor !== '') setView({ cursor: '' });
  }, [view.filter, view.cursor, filter, setView]);

  const fields = useMemo(() => fieldsOf(Date.now()), []);
  const line = cli('audit', 'list', ...questionWords(question), ...(view.cursor === '' ? [] : ['--cursor', view.cursor]));
  return (
    <Page title="Audit" note={question.device === undefined ? 'the server’s log' : <>the chain of <bdi>{question.device}</bdi></>} fill>
      <Verify verification={verification} />
      <div class="list-bar">
        <div class="audit-filter">
          <FilterInput value={view.filter} onChange={(next) => setView({ filter: next })} fields={fields} label="Filter the audit log" placeholder="Filter: event:rollout.* actor:token:admin from:2026-11-23" />
          <InForce filter={view.filter} onChange={(next) => setView({ filter: next, cursor: '' })} />
          {wrong === undefined ? null : (
            <p class="field-error" role="alert">
              {wrong}
            </p>
          )}
        </div>
        <CliLine line={line} />
      </div>
      <Table
        label="Audit log"
        rows={rows}
        columns={COLUMNS}
        rowId={(entry) => String(entry.index)}
        rowName={(entry) => `entry ${entry.index}`}
        onOpen={(entry) => {
          setHeld(entry);
          setView({ entry: entry.index }, 'push');
        }}
        question={`${filter} ${view.cursor}`}
        empty={
          filter === '' ? (
            <Empty cli={cli('audit', 'list')}>Nothing has happened here yet.</Empty>
          ) : (
            <Empty action={<Button onClick={() => setView({ filter: '', cursor: '' })}>Clear the filter</Button>} cli={line}>
              {wrong === undefined ? 'No entry matches this filter.' : 'This filter cannot be asked.'}
            </Empty>
          )
        }
      />
      <Pager label="Audit log" cursor={view.cursor} next={answer.data?.next_cursor} onGo={(cursor) => setView({ cursor }, 'push')} />
      {view.entry >= 0 && open === undefined && answer.data !== undefined && !one.isFetching ? (
        one.isError ? (
          <ErrorNote error={one.error} title={`Entry ${view.entry} could not be shown`} onRetry={() => one.refetch()} />
        ) : (
          <p class="muted" role="status">
            Entry {view.entry} is not {question.device === undefined ? 'in the log' : 'on this page of the chain'}.
          </p>
        )
      ) : null}
      {open === undefined ? null : <EntryDialog entry={open} onNarrow={(field, value) => setView({ filter: withTerm(view.filter, field, value), cursor: '', entry: -1 }, 'push')} onClose={() => setView({ entry: -1 })} />}
    </Page>
  );
}
