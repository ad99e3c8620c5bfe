// Frozen versions: what each took, what changed since the one before, and what was learnt from it.
import type { JSX } from 'preact';
import { Bars } from '../../charts/shapes';
import { api, unwrap } from '../../lib/client';
import { count, percent, plural } from '../../lib/format';
import { href, Link, oneOf, useSearch } from '../../lib/router';
import { useStaticRows } from '../../lib/rows';
import { can } from '../../lib/session';
import { cli } from '../../lib/shell';
import { Button } from '../../ui/button';
import { CliLine, Code } from '../../ui/cli';
import { Dialog } from '../../ui/dialog';
import { Field, Form, useDraft } from '../../ui/form';
import { Card, Facts } from '../../ui/page';
import { Empty, ErrorNote, Skeleton } from '../../ui/states';
import { Status } from '../../ui/status';
import { Table } from '../../ui/table';
import type { Column } from '../../ui/table';
import { Ago, Name } from '../../ui/text';
import { toast } from '../../ui/toast';
import { changed, datasetHref, useRunsOf, useVersions } from './data';
import type { Dataset, DatasetVersion } from './data';
import type { SetView, View } from './dataset';
import { NextStep } from '../rollouts/next';
import { Pager } from './pages';
import { SplitBar } from './structure';

const FREEZE = { freeze: oneOf(['', 'yes'] as const, '') };
/** Most slices and classes that are shown of a version. */
const MOST = 20;

const COLUMNS: readonly Column<DatasetVersion>[] = [
  { id: 'number', header: 'Version', width: 'minmax(64px, .5fr)', cell: (version) => <span class="strong">v{version.number}</span> },
  { id: 'digest', header: 'Digest', width: 'minmax(150px, 1.2fr)', priority: 2, cell: (version) => <Code value={version.digest} /> },
  { id: 'train', header: 'Train', width: 'minmax(64px, .6fr)', align: 'end', cell: (version) => count(version.train) },
  { id: 'holdout', header: 'Holdout', width: 'minmax(64px, .6fr)', align: 'end', cell: (version) => count(version.holdout) },
  { id: 'hand', header: 'By hand', width: 'minmax(64px, .6fr)', align: 'end', priority: 2, cell: (version) => count(version.hand_labels) },
  { id: 'model', header: 'By label model', width: 'minmax(96px, .7fr)', align: 'end', priority: 3, cell: (version) => count(version.model_labels) },
  { id: 'left', header: 'Left out', width: 'minmax(72px, .6fr)', align: 'end', priority: 3, cell: (version) => count(version.left_out) },
  { id: 'note', header: 'Note', width: 'minmax(120px, 2fr)', priority: 2, cell: (version) => <Name value={version.note} /> },
  {
    id: 'created',
    header: 'Frozen',
    width: 'minmax(72px, .5fr)',
    align: 'end',
    cell: (version) => (
      <span class="muted">
        <Ago time={version.created_at} />
      </span>
    ),
  },
];

export function Versions({ dataset, view, setView }: { dataset: Dataset; view: View; setView: SetView }): JSX.Element {
  const [dialog, setDialog] = useSearch(FREEZE);
  const asked = useVersions(dataset.id, view.after);
  const items = asked.data?.items ?? [];
  const rows = useStaticRows(asked.data?.items, { error: asked.error, retry: () => asked.refetch(), fetchedAt: asked.dataUpdatedAt });
  const at = view.version === '' ? 0 : items.findIndex((version) => version.id === view.version || String(version.number) === view.version);
  const selected = items[at];
  return (
    <>
      <div class="datasets-bar">
        {can('build') ? (
          <Button kind="primary" onClick={() => setDialog({ freeze: 'yes' })}>
            Freeze a version…
          </Button>
        ) : null}
        <CliLine line={cli('versions', 'list', dataset.name)} />
      </div>
      <div class="datasets-rows short">
        <Table
          label={`Versions of ${dataset.name}`}
          rows={{ ...rows, stale: asked.isPlaceholderData }}
          columns={COLUMNS}
          rowId={(version) => version.id}
          rowName={(version) => `version ${version.number}`}
          onOpen={(version) => setView({ tab: 'versions', version: String(version.number) }, 'push')}
          empty={
            <Empty
              action={
                can('build') && dataset.samples > 0 ? (
                  <Button kind="primary" onClick={() => setDialog({ freeze: 'yes' })}>
                    Freeze the first version
                  </Button>
                ) : undefined
              }
              cli={cli('versions', 'create', dataset.name)}
            >
              {dataset.samples === 0 ? 'There is nothing to freeze yet: import samples and label some.' : 'There are no versions yet: freeze one, and runs can learn from it.'}
            </Empty>
          }
        />
      </div>
      <Pager cursor={view.after} next={asked.data?.next_cursor} shown={items.length} list={`${dataset.id} versions`} onChange={(after) => setView({ tab: 'versions', after, version: '' }, 'push')} />
      {selected !== undefined ? (
        <Version key={selected.id} dataset={dataset} version={selected} before={items[at + 1]} />
      ) : asked.data !== undefined && view.version !== '' ? (
        <p class="muted">
          That version is not on this page.{' '}
          <button type="button" class="link" onClick={() => setView({ tab: 'versions', version: '' })}>
            Show the newest
          </button>
        </p>
      ) : null}
      <Freeze
        key={dataset.id}
        dataset={dataset}
        open={dialog.freeze === 'yes'}
        onClose={() => setDialog({ freeze: '' })}
        onDone={(version) => {
          setDialog({ freeze: '' });
          setView({ tab: 'versions', version: String(version.number), after: '' });
        }}
      />
    </>
  );
}

function difference(now: number, before: number | undefined): JSX.Element {
  const by = before === undefined ? 0 : now - before;
  return (
    <>
      <span class="num">{count(now)}</span>
      {by === 0 ? null : <span class="muted num"> {by > 0 ? `+${count(by)}` : `−${count(-by)}`}</span>}
    </>
  );
}

function Version({ dataset, version, before }: { dataset: Dataset; version: DatasetVersion; before: DatasetVersion | undefined }): JSX.Element {
  const runs = useRunsOf(version.id);
  const changedNote = before === undefined ? 'the first one' : `and what changed since v${before.number}`;
  const slices = Object.entries(version.slices).sort((left, right) => right[1] - left[1]);
  return (
    <section class="stack" aria-label={`Version ${version.number}`}>
      <div class="grid-2 datasets-top">
        <Card title={`Version ${version.number}`} note={changedNote}>
          <SplitBar train={version.train} holdout={version.holdout} left={version.left_out} />
          <Facts
            items={[
              ['Digest', <Code value={version.digest} short={false} />],
              ['Training', difference(version.train, before?.train)],
              ['Holdout', difference(version.holdout, before?.holdout)],
              ['Labels', <>{difference(version.hand_labels, before?.hand_labels)} by hand, {difference(version.model_labels, before?.model_labels)} by the label model</>],
              ['Left out', <>{difference(version.left_out, before?.left_out)} <span class="muted">without a usable label</span></>],
              [
                'Slices',
                <span class="datasets-labels">
                  {slices.slice(0, MOST).map(([slice, samples]) => (
                    <span key={slice}>
                      <Link href={datasetHref(dataset, { slice })}>
                        <bdi>{slice}</bdi>
                      </Link>{' '}
                      {difference(samples, before === undefined ? undefined : (before.slices[slice] ?? 0))}
                    </span>
                  ))}
                  {slices.length > MOST ? <span class="muted">and {count(slices.length - MOST)} more</span> : null}
                </span>,
              ],
              ['Note', version.note === '' ? <span class="muted">none</span> : <bdi>{version.note}</bdi>],
              ['Id', <Code value={version.id} short={false} />],
            ]}
          />
          <CliLine line={cli('versions', 'show', version.id)} />
        </Card>
        <div class="stack">
          <Card title="Classes" note={`${count(version.train + version.holdout)} samples`}>
            <Bars label="Samples by class" bars={Object.entries(version.classes).slice(0, MOST * 3).map(([label, value]) => ({ label, value, note: percent(value / Math.max(1, version.train + version.holdout), 0) }))} />
          </Card>
          <Card title="Where it went">
            {runs.isError ? (
              <ErrorNote error={runs.error} title="The runs could not be loaded" onRetry={() => runs.refetch()} />
            ) : runs.data === undefined ? (
              <Skeleton label="Loading runs" />
            ) : runs.data.items.length === 0 ? (
              <p class="muted">No run has learnt from it yet.</p>
            ) : (
              <ul class="datasets-lineage">
                {runs.data.items.map((run) => (
                  <li key={run.id}>
                    <Status value={run.status.toLowerCase()} />
                    <Link href={href('/runs/:id', { id: run.id })}>
                      <Name value={run.experiment} />
                    </Link>
                    <span class="muted num">seed {run.seed}</span>
                    {run.metrics['holdout.accuracy'] === undefined ? null : <span class="num">{percent(run.metrics['holdout.accuracy'])}</span>}
                    {run.model === undefined || run.model === null ? null : <Code value={run.model} label="Copy the model’s digest" />}
                  </li>
                ))}
                {runs.data.total > runs.data.items.length ? (
                  <li>
                    <Link href={href('/runs', {}, { filter: `version:${version.id}` })}>and {plural(runs.data.total - runs.data.items.length, 'more run')}</Link>
                  </li>
                ) : null}
              </ul>
            )}
          </Card>
        </div>
      </div>
      {can('build') && version.train > 0 ? (
        <NextStep
          at="labels"
          title={`Train on version ${version.number}`}
          action="New run"
          icon="runs"
          href={href('/runs/new', {}, { dataset: dataset.id, version: version.id })}
          cli={cli('runs', 'create', '--dataset-version', version.id, '--experiment', dataset.name)}
        >
          A run learns from its {plural(version.train, 'training sample')}
          {version.holdout === 0 ? '; nothing is held out, so it cannot be measured on it.' : ` and is measured on the ${count(version.holdout)} that are held out.`}
        </NextStep>
      ) : null}
    </section>
  );
}

interface FreezeDraft {
  confidence: string;
  note: string;
  /** Slices that are left out. */
  left: readonly string[];
}

function Freeze({ dataset, open, onClose, onDone }: { dataset: Dataset; open: boolean; onClose(): void; onDone(version: DatasetVersion): void }): JSX.Element {
  const [{ confidence, note, left }, setDraft, discard] = useDraft<FreezeDraft>(`freeze.${dataset.id}`, { confidence: '0.8', note: '', left: [] });
  const all = Object.keys(dataset.slices);
  const slices = all.some((slice) => left.includes(slice)) ? all.filter((slice) => !left.includes(slice)) : undefined;
  return (
    <Dialog open={open} title={`Freeze a version of ${dataset.name}`} onClose={onClose}>
      <p class="muted">It takes hand labels, and guesses of the label model that are sure enough. In the holdout split hand labels alone count. It never changes afterwards.</p>
      <Form<'min_confidence' | 'slices' | 'note'>
        send="Freeze"
        onCancel={() => {
          discard();
          onClose();
        }}
        cli={cli('versions', 'create', dataset.name, ...(confidence === '0.8' ? [] : ['--min-confidence', confidence]), ...(slices ?? []).flatMap((slice) => ['--slice', slice]), ...(note === '' ? [] : ['--note', note]))}
        validate={() => ({
          ...(confidence.trim() !== '' && Number(confidence) >= 0 && Number(confidence) <= 1 ? {} : { min_confidence: 'A number from 0 to 1.' }),
          ...(slices !== undefined && slices.length === 0 ? { slices: 'Take at least one slice.' } : {}),
        })}
        onSend={async () => {
          const version = await unwrap(
            api.POST('/api/v1/datasets/{id}/versions', {
              params: { path: { id: dataset.id } },
              body: { min_confidence: Number(confidence), note, ...(slices === undefined ? {} : { slices }) },
            }),
          );
          await changed();
          toast(`Version ${version.number} of ${dataset.name} is frozen`);
          discard();
          onDone(version);
        }}
      >
        {(errors) => (
          <>
            <Field label="Least confidence of a guess" help="From 0 to 1. Guesses below it are left out." error={errors.min_confidence}>
              {(control) => <input {...control} class="input" inputMode="decimal" value={confidence} onInput={(event) => setDraft({ confidence: event.currentTarget.value })} />}
            </Field>
            {all.length < 2 ? null : (
              <fieldset class="datasets-choice">
                <legend>Slices</legend>
                <div class="datasets-checks">
                  {all.map((slice) => (
                    <label key={slice}>
                      <input type="checkbox" checked={!left.includes(slice)} onChange={() => setDraft({ left: left.includes(slice) ? left.filter((other) => other !== slice) : [...left, slice] })} />
                      <Name value={slice} /> <span class="muted num">{count(dataset.slices[slice])}</span>
                    </label>
                  ))}
                </div>
                {errors.slices === undefined ? null : <p class="field-error">▲ {errors.slices}</p>}
              </fieldset>
            )}
            <Field label="Note" optional error={errors.note}>
              {(control) => <input {...control} class="input" value={note} onInput={(event) => setDraft({ note: event.currentTarget.value })} />}
            </Field>
          </>
        )}
      </Form>
    </Dialog>
  );
}
