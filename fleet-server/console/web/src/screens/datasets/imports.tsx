// Files into a dataset: drop or pick one, see how far it is, cancel it, read what is wrong with it; and those before.
import type { JSX } from 'preact';
import { useState } from 'preact/hooks';
import { bytes, count, percent, plural } from '../../lib/format';
import { usePatched } from '../../lib/live';
import { useStaticRows } from '../../lib/rows';
import { can } from '../../lib/session';
import { cli } from '../../lib/shell';
import { Button } from '../../ui/button';
import { CliLine, Code } from '../../ui/cli';
import { Field, Form } from '../../ui/form';
import { Card, Facts } from '../../ui/page';
import { Empty, ErrorNote, Progress } from '../../ui/states';
import { Status } from '../../ui/status';
import { Table } from '../../ui/table';
import type { Column } from '../../ui/table';
import { Ago, Name } from '../../ui/text';
import { toast } from '../../ui/toast';
import type { Dataset, Import, ImportReport, Split } from './data';
import { IMPORT, isUnderWay, useImport, useImports } from './data';
import type { SetView, View } from './dataset';
import { FilePicker } from './file-picker';
import { askAgain, cancel, cancelImport, forget, isActive, plan, start, usePlan, useTransfer } from './importing';
import type { Transfer } from './importing';
import { Pager } from './pages';
import { missingColumns, readHeader } from './spec';

const COLUMNS: readonly Column<Import>[] = [
  { id: 'slice', header: 'Slice', width: 'minmax(90px, 1fr)', cell: (item) => <Name value={item.slice} strong /> },
  {
    id: 'state',
    header: 'State',
    width: 'minmax(110px, 1fr)',
    cell: (item) => (
      <Status value={item.state} tone={isUnderWay(item) ? 'busy' : item.state === 'finished' ? 'ok' : item.state === 'failed' ? 'bad' : 'idle'}>
        {isUnderWay(item) ? `${item.state} ${percent(item.progress, 0)}` : item.state}
      </Status>
    ),
  },
  { id: 'rows', header: 'Lines', width: 'minmax(72px, .7fr)', align: 'end', priority: 2, cell: (item) => count(item.rows) },
  { id: 'samples', header: 'New samples', width: 'minmax(88px, .7fr)', align: 'end', cell: (item) => count(item.samples) },
  { id: 'duplicates', header: 'There before', width: 'minmax(88px, .7fr)', align: 'end', priority: 3, cell: (item) => count(item.report?.duplicates) },
  { id: 'bytes', header: 'Size', width: 'minmax(80px, .7fr)', align: 'end', priority: 2, cell: (item) => bytes(item.bytes_total ?? item.bytes_received) },
  {
    id: 'error',
    header: 'What happened',
    width: 'minmax(120px, 2.4fr)',
    priority: 2,
    cell: (item) =>
      item.error !== undefined && item.error !== null ? (
        <Name value={item.error} />
      ) : item.report === undefined || item.report === null ? null : (
        <span class="muted">
          {count(item.report.train)} train, {count(item.report.holdout)} holdout
          {item.report.excluded > 0 ? `, ${count(item.report.excluded)} in neither` : ''}
        </span>
      ),
  },
  { id: 'by', header: 'By', width: 'minmax(90px, .8fr)', priority: 3, cell: (item) => <Name value={item.started_by} /> },
  {
    id: 'when',
    header: 'When',
    width: 'minmax(64px, .5fr)',
    align: 'end',
    cell: (item) => (
      <span class="muted">
        <Ago time={item.created_at} />
      </span>
    ),
  },
];

export function Imports({ dataset, view, setView }: { dataset: Dataset; view: View; setView: SetView }): JSX.Element {
  const transfer = useTransfer(dataset.id);
  const asked = useImports(dataset.id, view.after);
  const items = asked.data?.items ?? [];
  const rows = useStaticRows(asked.data?.items, { error: asked.error, retry: () => asked.refetch(), fetchedAt: asked.dataUpdatedAt });
  // Started elsewhere: by another tab, another person, the command line.
  const other = items.find((item) => isUnderWay(item) && item.id !== transfer?.id);
  return (
    <>
      {can('build') ? (
        transfer !== undefined && isActive(transfer) ? (
          <Going dataset={dataset} transfer={transfer} />
        ) : (
          <>
            {transfer === undefined ? null : <Ended dataset={dataset} transfer={transfer} onShow={(slice) => setView({ tab: 'samples', slice, after: '' }, 'push')} />}
            <Choose dataset={dataset} />
          </>
        )
      ) : null}
      {other === undefined ? null : <Elsewhere key={other.id} listed={other} fetchedAt={asked.dataUpdatedAt} />}
      <div class="datasets-bar">
        <h2>Imports so far</h2>
        <CliLine line={cli('datasets', 'imports', dataset.name)} />
      </div>
      <div class="datasets-rows short">
        <Table
          label={`Imports of ${dataset.name}`}
          rows={{ ...rows, stale: asked.isPlaceholderData }}
          columns={COLUMNS}
          rowId={(item) => item.id}
          resource={IMPORT}
          empty={<Empty cli={cli('datasets', 'import', dataset.name, 'data.csv')}>No file has been imported yet.</Empty>}
        />
      </div>
      <Pager cursor={view.after} next={asked.data?.next_cursor} shown={items.length} list={`${dataset.id} imports`} onChange={(after) => setView({ after }, 'push')} />
    </>
  );
}

function Choose({ dataset }: { dataset: Dataset }): JSX.Element {
  const { picked: file, slice, split } = usePlan(dataset.id);
  const [unread, setUnread] = useState<unknown>(undefined);
  const pick = async (picked: File): Promise<void> => {
    setUnread(undefined);
    try {
      plan(dataset.id, { picked: { file: picked, header: await readHeader(picked) } });
      forget(dataset.id);
    } catch (error) {
      setUnread(error);
    }
  };
  if (file === undefined)
    return (
      <>
        <FilePicker onPick={(picked) => void pick(picked)} label="Drop a CSV file here, or pick one" help="All of it comes in, or an error and nothing of it. Nothing is sent before you say so." />
        {unread === undefined ? null : <ErrorNote error={unread} title="The file cannot be read" />}
      </>
    );
  const missing = missingColumns(dataset, file.header);
  return (
    <Card
      title={<bdi>{file.file.name}</bdi>}
      note={`${bytes(file.file.size)}, ${plural(file.header.length, 'column')}`}
      actions={
        <Button size="small" onClick={() => plan(dataset.id, { picked: undefined })}>
          Take another
        </Button>
      }
    >
      {missing.length === 0 ? null : (
        <p class="bad">
          ▲ The first line does not name <bdi class="mono">{missing.slice(0, 12).join(', ')}</bdi>
          {missing.length > 12 ? ` and ${count(missing.length - 12)} more` : ''}, which this dataset reads. The server will refuse the file.
        </p>
      )}
      <Form<'slice' | 'split'>
        send="Import"
        cli={cli('datasets', 'import', dataset.name, file.file.name, ...(slice === 'import' ? [] : ['--slice', slice]), ...(split === '' ? [] : ['--split', split]))}
        validate={() => (/^[A-Za-z0-9._/-]{1,100}$/.test(slice) ? {} : { slice: '1 to 100 of a-z, A-Z, 0-9, -, _, . and /.' })}
        onSend={() => {
          // It goes on whatever this form does: how far it is stands above the list.
          void start(dataset.id, file.file, { slice, split });
          return Promise.resolve();
        }}
      >
        {(errors) => (
          <div class="datasets-fields">
            <Field label="Slice" help="What its samples are called together." error={errors.slice}>
              {(control) => <input {...control} class="input" value={slice} autocomplete="off" onInput={(event) => plan(dataset.id, { slice: event.currentTarget.value })} />}
            </Field>
            <Field label="Split" error={errors.split}>
              {(control) => (
                <select {...control} class="input" value={split} onChange={(event) => plan(dataset.id, { split: event.currentTarget.value as '' | Split })}>
                  <option value="">as the dataset’s rule says</option>
                  <option value="train">all of it for training</option>
                  <option value="holdout">all of it held out</option>
                </select>
              )}
            </Field>
          </div>
        )}
      </Form>
    </Card>
  );
}

function Going({ dataset, transfer }: { dataset: Dataset; transfer: Transfer }): JSX.Element {
  // Before all of it has been sent there is nothing to say of the reading.
  const server = useImport(transfer.id, transfer.state === 'reading' || transfer.state === 'following');
  const lost = transfer.state === 'following';
  return (
    <Card
      title={<bdi>{transfer.file}</bdi>}
      note={`into slice ${transfer.slice}`}
      actions={
        <Button size="small" kind="danger" busy={transfer.state === 'cancelling'} onClick={() => void cancel(dataset.id)}>
          Cancel
        </Button>
      }
    >
      <div class="datasets-going" data-state="importing">
        {lost ? null : <Progress label={transfer.state === 'sending' ? 'Sending' : 'Sent'} value={transfer.sent} of={transfer.size} note={`${bytes(transfer.sent)} of ${bytes(transfer.size)}`} />}
        <Progress
          label="Read by the server"
          value={server?.bytes_read ?? 0}
          of={Math.max(1, server?.bytes_total ?? transfer.size)}
          note={server === undefined ? (transfer.state === 'sending' ? 'after all of it is there' : 'begins') : `${plural(server.rows, 'line')}, ${plural(server.samples, 'new sample')}`}
        />
      </div>
      <p class="muted">
        {lost ? 'The connection was lost while it was being sent: how it goes on and how it ends is asked of the server.' : 'You may go elsewhere in the console; closing this tab cancels the import, and nothing of it stays.'}
      </p>
      <CliLine line={cli('datasets', 'cancel-import', transfer.id)} />
    </Card>
  );
}

function Ended({ dataset, transfer, onShow }: { dataset: Dataset; transfer: Transfer; onShow(slice: string): void }): JSX.Element | null {
  if (transfer.state === 'finished' && transfer.report !== undefined)
    return <Report file={transfer.file} report={transfer.report} onShow={() => { forget(dataset.id); onShow(transfer.report?.slice ?? ''); }} onClose={() => forget(dataset.id)} />;
  if (transfer.state === 'cancelled')
    return (
      <p class="row">
        <Status tone="idle">
          <bdi>{transfer.file}</bdi> was cancelled: nothing of it came in.
        </Status>
        <button type="button" class="link" onClick={() => forget(dataset.id)}>
          Dismiss
        </button>
      </p>
    );
  if (transfer.state === 'unknown') return <ErrorNote error={transfer.error} title={`It is not known whether ${transfer.file} came in`} onRetry={() => askAgain(dataset.id)} />;
  if (transfer.state === 'failed') return <ErrorNote error={transfer.error} title={`Nothing of ${transfer.file} came in`} />;
  return null;
}

function Report({ file, report, onShow, onClose }: { file: string; report: ImportReport; onShow(): void; onClose(): void }): JSX.Element {
  return (
    <Card
      title={
        <Status tone="ok">
          <bdi>{file}</bdi> is in
        </Status>
      }
      actions={
        <>
          <Button size="small" kind="primary" onClick={onShow}>
            Show the samples
          </Button>
          <Button size="small" onClick={onClose}>
            Dismiss
          </Button>
        </>
      }
    >
      <Facts
        items={[
          ['Lines', count(report.rows)],
          ['New samples', `${count(report.samples)}: ${count(report.train)} for training, ${count(report.holdout)} held out`],
          ['There before', count(report.duplicates)],
          ['In neither split', count(report.excluded)],
          ['File', <Code value={report.file} />],
        ]}
      />
    </Card>
  );
}

function Elsewhere({ listed, fetchedAt }: { listed: Import; fetchedAt: number }): JSX.Element | null {
  const [error, setError] = useState<unknown>(undefined);
  const item = usePatched(IMPORT, listed.id, listed, fetchedAt);
  // How it ended stands in the list.
  if (!isUnderWay(item)) return null;
  return (
    <Card
      title="Another import is under way"
      note={<>into slice <bdi>{item.slice}</bdi>, by <bdi>{item.started_by}</bdi></>}
      actions={
        can('build') ? (
          <Button
            size="small"
            kind="danger"
            onClick={async () => {
              setError(undefined);
              try {
                await cancelImport(item.id);
                toast('The import is cancelled');
              } catch (failed) {
                setError(failed);
              }
            }}
          >
            Cancel it
          </Button>
        ) : undefined
      }
    >
      <Progress label={item.state === 'receiving' ? 'The server receives it' : 'The server reads it'} value={item.progress} of={1} note={`${plural(item.rows, 'line')}, ${plural(item.samples, 'new sample')}`} />
      {error === undefined ? null : <ErrorNote error={error} />}
      <CliLine line={cli('datasets', 'cancel-import', item.id)} />
    </Card>
  );
}
