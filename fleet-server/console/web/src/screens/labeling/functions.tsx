// Labeling functions: conditions over the features that vote for a label. How each does, adding and removing them, and the
// label model that settles their votes.
import type { JSX } from 'preact';
import { useRef, useState } from 'preact/hooks';
import { Bars, Meter } from '../../charts/shapes';
import { api, unwrap } from '../../lib/client';
import { count, NOTHING, percent, plural } from '../../lib/format';
import { useShortcuts } from '../../lib/keys';
import { useStaticRows } from '../../lib/rows';
import { can } from '../../lib/session';
import { cli } from '../../lib/shell';
import { Button } from '../../ui/button';
import { CliLine } from '../../ui/cli';
import { ComboBox } from '../../ui/combobox';
import { ConfirmDialog, Dialog } from '../../ui/dialog';
import { Field, Form, useDraft } from '../../ui/form';
import { Icon } from '../../ui/icon';
import { JobProgress } from '../../ui/job';
import { Card } from '../../ui/page';
import { Empty, ErrorNote, Skeleton } from '../../ui/states';
import { Stat } from '../../ui/status';
import { Table } from '../../ui/table';
import type { Column } from '../../ui/table';
import { Ago, Name } from '../../ui/text';
import { toast } from '../../ui/toast';
import type { Dataset } from '../datasets/data';
import { Conflicts } from './conflicts';
import { relabelled, useFunctions, useLabelModel, useRemoveFunction } from './data';
import type { LabelingFunction, LabelModelKind } from './data';
import type { SetView, View } from './labeling';

/** Most classes whose share is shown. */
const MOST = 30;

function share(value: number | null | undefined, hot = false): JSX.Element {
  if (value === null || value === undefined) return <span class="muted">{NOTHING}</span>;
  return (
    <span class={hot ? 'hot' : undefined}>
      <Meter value={value} text={`${percent(value, 0)}${hot ? ' ▲' : ''}`} />
    </span>
  );
}

/** A function that is wrong more often than this is worth a look. */
const POOR = 0.6;

function columnsFor(onRemove: ((one: LabelingFunction) => void) | undefined): readonly Column<LabelingFunction>[] {
  return [
    { id: 'name', header: 'Function', width: 'minmax(120px, 1.1fr)', cell: (one) => <Name value={one.name} strong /> },
    { id: 'when', header: 'Votes when', width: 'minmax(180px, 2.4fr)', mono: true, priority: 2, cell: (one) => <Name value={one.when} /> },
    { id: 'label', header: 'For', width: 'minmax(80px, .8fr)', cell: (one) => <bdi class="tag" title={one.label}>{one.label}</bdi> },
    { id: 'coverage', header: 'Coverage', width: 'minmax(104px, .8fr)', align: 'end', cell: (one) => share(one.statistics?.coverage) },
    { id: 'overlap', header: 'Overlap', width: 'minmax(104px, .8fr)', align: 'end', priority: 3, cell: (one) => share(one.statistics?.overlap) },
    { id: 'conflict', header: 'Conflict', width: 'minmax(104px, .8fr)', align: 'end', priority: 2, cell: (one) => share(one.statistics?.conflict) },
    {
      id: 'accuracy',
      header: 'Accuracy',
      width: 'minmax(112px, .8fr)',
      align: 'end',
      priority: 2,
      cell: (one) => share(one.statistics?.accuracy, typeof one.statistics?.accuracy === 'number' && one.statistics.accuracy < POOR),
    },
    {
      id: 'errors',
      header: 'Errors',
      width: 'minmax(64px, .4fr)',
      align: 'end',
      priority: 3,
      cell: (one) =>
        one.statistics === undefined || one.statistics === null || one.statistics.errors === 0 ? (
          <span class="muted">{one.statistics === undefined || one.statistics === null ? NOTHING : 0}</span>
        ) : (
          <span class="bad" title={one.statistics.first_error ?? undefined}>
            ▲ {count(one.statistics.errors)}
          </span>
        ),
    },
    ...(onRemove === undefined
      ? []
      : [
          {
            id: 'remove',
            header: 'Remove',
            width: '72px',
            align: 'end' as const,
            cell: (one: LabelingFunction) => (
              <Button kind="ghost" size="small" class="icon-button" aria-label={`Remove ${one.name}`} title={`Remove ${one.name}`} onClick={() => onRemove(one)}>
                <Icon name="close" size={12} />
              </Button>
            ),
          },
        ]),
  ];
}

export function Functions({ dataset, view, setView }: { dataset: Dataset; view: View; setView: SetView }): JSX.Element {
  const asked = useFunctions(dataset.id);
  const rows = useStaticRows(asked.data?.items, { error: asked.error, retry: () => asked.refetch(), fetchedAt: asked.dataUpdatedAt });
  const [adding, setAdding] = useState(false);
  const [fitting, setFitting] = useState(false);
  const [removing, setRemoving] = useState<LabelingFunction | undefined>(undefined);
  const [shown, setShown] = useState<LabelingFunction | undefined>(undefined);
  const remove = useRemoveFunction(dataset.id);
  const may = can('build');
  useShortcuts(
    () =>
      may
        ? [
            { keys: 'c', label: 'Create a labeling function', group: 'Labeling', run: () => setAdding(true) },
            { keys: 'f', label: 'Fit the label model', group: 'Labeling', run: () => setFitting(true) },
          ]
        : [],
    [may],
  );
  const none = asked.data?.items.length === 0;
  return (
    <>
      <div class="datasets-bar">
        {may ? (
          <>
            <Button kind={none ? 'primary' : 'default'} onClick={() => setAdding(true)}>
              Add a function…
            </Button>
            <Button kind={none ? 'default' : 'primary'} disabled={none} onClick={() => setFitting(true)}>
              Fit the label model…
            </Button>
          </>
        ) : null}
        <CliLine line={cli('labels', 'lf', 'list', dataset.name)} />
      </div>
      {view.job === '' ? null : <JobProgress key={view.job} id={view.job} words={FIT_WORDS} onEnded={() => void relabelled()} onClose={() => setView({ job: '' })} />}
      <Model dataset={dataset} />
      <div class="datasets-rows">
        <Table<LabelingFunction>
          label={`Labeling functions of ${dataset.name}`}
          rows={rows}
          columns={columnsFor(may ? setRemoving : undefined)}
          rowId={(one) => one.id}
          rowName={(one) => one.name}
          onOpen={setShown}
          empty={
            <Empty
              action={
                may ? (
                  <Button kind="primary" onClick={() => setAdding(true)}>
                    Add the first function
                  </Button>
                ) : undefined
              }
              cli={cli('labels', 'lf', 'add', dataset.name, 'quiet', '--when', `f["${dataset.feature_names[0] ?? 'column'}"] < 1.5`, '--label', dataset.labels[0])}
            >
              There are no labeling functions yet: each one says when it votes for a label, and thousands of samples are labelled at once.
            </Empty>
          }
        />
      </div>
      <Conflicts dataset={dataset} functions={asked.data?.items ?? []} />
      <AddFunction key={`add ${dataset.id}`} dataset={dataset} open={adding} onClose={() => setAdding(false)} />
      <Fit
        key={`fit ${dataset.id}`}
        dataset={dataset}
        open={fitting}
        onClose={() => setFitting(false)}
        onStarted={(job) => {
          setFitting(false);
          setView({ job });
        }}
      />
      <Dialog open={shown !== undefined} title={shown?.name ?? ''} onClose={() => setShown(undefined)} footer={<Button onClick={() => setShown(undefined)}>Close</Button>}>
        {shown === undefined ? null : (
          <>
            <pre class="labeling-when">
              <bdi>{shown.when}</bdi>
            </pre>
            <p>
              votes for <bdi class="tag">{shown.label}</bdi>
              {shown.statistics === undefined || shown.statistics === null ? '; how it does is known once the label model is fitted.' : `, on ${percent(shown.statistics.coverage)} of the samples.`}
            </p>
            {shown.statistics?.first_error === undefined || shown.statistics.first_error === null ? null : (
              <p class="bad">
                ▲ It failed on {plural(shown.statistics.errors, 'sample')} and abstained there. The first time: <bdi>{shown.statistics.first_error}</bdi>
              </p>
            )}
            <CliLine line={cli('labels', 'lf', 'add', dataset.name, shown.name, '--when', shown.when, '--label', shown.label)} label="The command that makes it" />
          </>
        )}
      </Dialog>
      <ConfirmDialog
        open={removing !== undefined}
        title={`Remove ${removing?.name ?? ''}?`}
        confirm="Remove"
        cli={cli('labels', 'lf', 'remove', dataset.name, removing?.id)}
        onClose={() => setRemoving(undefined)}
        onConfirm={async () => {
          if (removing === undefined) return;
          await remove.mutateAsync(removing.id);
          toast('The function is removed; fit the label model again for it to count');
        }}
      >
        <p>Guesses stay as they are until the label model is fitted again.</p>
      </ConfirmDialog>
    </>
  );
}

function Model({ dataset }: { dataset: Dataset }): JSX.Element | null {
  const asked = useLabelModel(dataset.id);
  if (asked.isError && asked.data === undefined) return <ErrorNote error={asked.error} title="The label model could not be loaded" onRetry={() => asked.refetch()} />;
  if (asked.data === undefined) return <Skeleton label="Loading the label model" />;
  const model = asked.data;
  if (model === null) return null;
  const prior = Object.entries(model.prior).sort((left, right) => right[1] - left[1]);
  return (
    <div class="labeling-model">
      <section class="stats" aria-label="Label model">
        <Stat label="Samples" value={count(model.samples)} note={`of the training split, ${model.model}`} />
        <Stat label="Coverage" value={percent(model.coverage)} note="have at least one vote" />
        <Stat label="Conflict" value={percent(model.conflict)} note="have votes that differ" />
        <Stat label="Accuracy" value={model.accuracy === undefined || model.accuracy === null ? NOTHING : percent(model.accuracy)} note={model.accuracy === undefined || model.accuracy === null ? 'no hand labels among them' : 'against hand labels'} />
      </section>
      <Card
        title="Classes as the label model sees them"
        note={
          <>
            fitted <Ago time={model.fitted_at} suffix />, {plural(model.iterations, 'round')}
          </>
        }
      >
        <Bars label="Share of each class" bars={prior.slice(0, MOST).map(([label, value]) => ({ label, value }))} format={(value) => percent(value)} />
        {prior.length > MOST ? <p class="muted">and {plural(prior.length - MOST, 'more class', 'more classes')}</p> : null}
      </Card>
    </div>
  );
}

const FIT_WORDS = {
  running: 'Fitting the label model',
  done: 'The label model is fitted',
  failed: 'The label model could not be fitted',
  cancelled: 'The fit was cancelled',
};

function AddFunction({ dataset, open, onClose }: { dataset: Dataset; open: boolean; onClose(): void }): JSX.Element {
  const [draft, setDraft, discard] = useDraft(`function.${dataset.id}`, { name: '', when: '', label: dataset.labels[0] ?? '' });
  const { name, when } = draft;
  // A label that the draft names and the dataset has no more cannot be voted for.
  const label = dataset.labels.includes(draft.label) ? draft.label : (dataset.labels[0] ?? '');
  const expression = useRef<HTMLTextAreaElement | null>(null);
  const insert = (feature: string): void => {
    const written = `f[${JSON.stringify(feature)}]`;
    const area = expression.current;
    if (area === null) return;
    // In the field itself, with the focus and the caret behind it: whoever types on at once is not ahead of the screen.
    area.setRangeText(written, area.selectionStart, area.selectionEnd, 'end');
    area.focus();
    setDraft({ when: area.value });
  };
  return (
    <Dialog open={open} title="Add a labeling function" width="wide" onClose={onClose}>
      <Form<'name' | 'when' | 'label'>
        send="Add"
        onCancel={() => {
          discard();
          onClose();
        }}
        cli={cli('labels', 'lf', 'add', dataset.name, name === '' ? 'NAME' : name, '--when', when, '--label', label)}
        validate={() => ({ ...(name.trim() === '' ? { name: 'Give it a name.' } : {}), ...(when.trim() === '' ? { when: 'Write when it votes.' } : {}) })}
        onSend={async () => {
          await unwrap(api.POST('/api/v1/datasets/{id}/labeling-functions', { params: { path: { id: dataset.id } }, body: { name: name.trim(), when, label } }));
          await relabelled();
          toast(`${name.trim()} is added; fit the label model for it to vote`);
          discard();
          onClose();
        }}
      >
        {(errors) => (
          <>
            <div class="datasets-fields">
              <Field label="Name" error={errors.name}>
                {(control) => <input {...control} class="input" autocomplete="off" value={name} placeholder="still_arm" onInput={(event) => setDraft({ name: event.currentTarget.value })} />}
              </Field>
              <Field label="Votes for" error={errors.label}>
                {(control) => (
                  <select {...control} class="input" value={label} onChange={(event) => setDraft({ label: event.currentTarget.value })}>
                    {dataset.labels.map((one) => (
                      <option key={one} value={one}>
                        {one}
                      </option>
                    ))}
                  </select>
                )}
              </Field>
            </div>
            <Field label="When" help="A CEL expression over the features; false means that it abstains. The server tries it on samples before it keeps it." error={errors.when}>
              {(control) => (
                <textarea
                  {...control}
                  ref={expression}
                  class="input mono"
                  rows={4}
                  spellcheck={false}
                  placeholder={`f["${dataset.feature_names[0] ?? 'column'}"] < 1.5`}
                  value={when}
                  onInput={(event) => setDraft({ when: event.currentTarget.value })}
                />
              )}
            </Field>
            {dataset.feature_names.length === 0 ? (
              <p class="muted">The features are known once something has been imported.</p>
            ) : (
              <Field label="Insert a feature" optional>
                {(control) => <ComboBox id={control.id} value="" options={dataset.feature_names.map((feature) => ({ value: feature, label: feature }))} placeholder={`One of ${count(dataset.feature_names.length)}`} onChange={insert} />}
              </Field>
            )}
          </>
        )}
      </Form>
    </Dialog>
  );
}

interface FitDraft {
  model: LabelModelKind;
  /** Slices that are left out. */
  omitted: readonly string[];
}

function Fit({ dataset, open, onClose, onStarted }: { dataset: Dataset; open: boolean; onClose(): void; onStarted(job: string): void }): JSX.Element {
  const [{ model, omitted }, setDraft, discard] = useDraft<FitDraft>(`fit.${dataset.id}`, { model: 'dawid-skene', omitted: [] });
  const all = Object.keys(dataset.slices);
  const slices = all.some((slice) => omitted.includes(slice)) ? all.filter((slice) => !omitted.includes(slice)) : undefined;
  return (
    <Dialog open={open} title="Fit the label model" onClose={onClose}>
      <p class="muted">All functions vote on the training split, and the model settles their votes into one guess per sample, with how sure it is. Hand labels always go before guesses.</p>
      <Form<'model' | 'slices'>
        send="Fit"
        onCancel={() => {
          discard();
          onClose();
        }}
        cli={cli('labels', 'fit', dataset.name, ...(model === 'dawid-skene' ? [] : ['--model', model]), ...(slices ?? []).flatMap((slice) => ['--slice', slice]), '--wait')}
        validate={() => (slices !== undefined && slices.length === 0 ? { slices: 'Take at least one slice.' } : {})}
        onSend={async () => {
          const started = await unwrap(api.POST('/api/v1/datasets/{id}/label-model', { params: { path: { id: dataset.id } }, body: { model, ...(slices === undefined ? {} : { slices }) } }));
          discard();
          onStarted(started.job);
        }}
      >
        {(errors) => (
          <>
            <Field label="Model" error={errors.model} help={model === 'majority' ? 'Every function counts the same.' : 'Learns from agreement how far each function can be trusted.'}>
              {(control) => (
                <select {...control} class="input" value={model} onChange={(event) => setDraft({ model: event.currentTarget.value as LabelModelKind })}>
                  <option value="dawid-skene">Dawid and Skene</option>
                  <option value="majority">Majority vote</option>
                </select>
              )}
            </Field>
            {all.length < 2 ? null : (
              <fieldset class="datasets-choice">
                <legend>Slices</legend>
                <div class="datasets-checks">
                  {all.map((slice) => (
                    <label key={slice}>
                      <input
                        type="checkbox"
                        checked={!omitted.includes(slice)}
                        onChange={() => setDraft({ omitted: omitted.includes(slice) ? omitted.filter((other) => other !== slice) : [...omitted, slice] })}
                      />
                      <Name value={slice} /> <span class="muted num">{count(dataset.slices[slice])}</span>
                    </label>
                  ))}
                </div>
                {errors.slices === undefined ? null : <p class="field-error">▲ {errors.slices}</p>}
              </fieldset>
            )}
          </>
        )}
      </Form>
    </Dialog>
  );
}

