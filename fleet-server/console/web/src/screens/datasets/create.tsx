// A new dataset: what a sample is, which classes there are, what is held out. A CSV file, if one is picked, tells its columns.
import type { JSX } from 'preact';
import { useMemo, useState } from 'preact/hooks';
import { api, unwrap } from '../../lib/client';
import { bytes, plural } from '../../lib/format';
import { navigate } from '../../lib/router';
import { Button } from '../../ui/button';
import { Field, Form, useDraft } from '../../ui/form';
import { Card, Page } from '../../ui/page';
import { ErrorNote } from '../../ui/states';
import { toast } from '../../ui/toast';
import { FilePicker } from './file-picker';
import { plan } from './importing';
import type { Picked } from './importing';
import { changed, datasetHref } from './data';
import { createLine, EMPTY, readHeader, specOf, STATISTICS, toggleWord, words, wrongWith } from './spec';
import type { Draft } from './spec';
import './datasets.css';

type Key = keyof Draft;
type Control = { id: string; 'aria-describedby': string | undefined; 'aria-invalid': 'true' | undefined };

/** Most columns that are offered as buttons. */
const MOST_OFFERED = 60;

export default function Create(): JSX.Element {
  const [draft, setDraft, discard] = useDraft<Draft>('dataset', EMPTY);
  const [file, setFile] = useState<Picked | undefined>(undefined);
  const [unread, setUnread] = useState<unknown>(undefined);
  const spec = useMemo(() => specOf(draft), [draft]);
  const header = file?.header ?? [];

  const pick = async (picked: File): Promise<void> => {
    setUnread(undefined);
    try {
      setFile({ file: picked, header: await readHeader(picked) });
    } catch (error) {
      setUnread(error);
    }
  };
  const input = (key: Key, more: { placeholder?: string; mono?: boolean } = {}) => (control: Control) => (
    <input
      {...control}
      class={more.mono === true ? 'input mono' : 'input'}
      autocomplete="off"
      spellcheck={false}
      placeholder={more.placeholder}
      value={draft[key] as string}
      onInput={(event) => setDraft({ [key]: event.currentTarget.value } as Partial<Draft>)}
    />
  );
  const columns = (key: Key, label: string) => (control: Control) => (
    <>
      {input(key, { mono: true })(control)}
      <Offered header={header} value={draft[key] as string} label={label} onChange={(value) => setDraft({ [key]: value } as Partial<Draft>)} />
    </>
  );

  return (
    <Page title="New dataset" back={{ href: '/datasets', label: 'Datasets' }}>
      <div class="datasets-create" data-state="form">
        <Form<Key>
          send={file === undefined ? 'Make the dataset' : 'Make the dataset and go on to the import'}
          onCancel={() => navigate('/datasets')}
          cli={createLine(spec)}
          validate={() => wrongWith(draft)}
          onSend={async () => {
            const made = await unwrap(api.POST('/api/v1/datasets', { body: spec }));
            if (file !== undefined) plan(made.id, { picked: file });
            discard();
            await changed();
            toast(`Dataset ${made.name} is made`);
            navigate(datasetHref(made, { tab: 'import' }));
          }}
        >
          {(errors) => (
            <>
              <Card title="A file to learn the columns from" note="optional; nothing is sent yet">
                {file === undefined ? (
                  <FilePicker onPick={(picked) => void pick(picked)} label="Drop a CSV file here, or pick one" />
                ) : (
                  <div class="row">
                    <bdi class="strong">{file.file.name}</bdi>
                    <span class="muted">
                      {bytes(file.file.size)}, {plural(file.header.length, 'column')}
                    </span>
                    <Button size="small" onClick={() => setFile(undefined)}>
                      Take another
                    </Button>
                  </div>
                )}
                {unread === undefined ? null : <ErrorNote error={unread} title="The file cannot be read" />}
              </Card>
              <Card title="What it is">
                <div class="datasets-fields">
                  <Field label="Name" help="a-z, 0-9 and -; it stays." error={errors.name}>
                    {input('name', { placeholder: 'motions' })}
                  </Field>
                  <Field label="Classes" help="In the order that models will use, separated by commas." error={errors.labels}>
                    {input('labels', { placeholder: 'standing, walking, running' })}
                  </Field>
                </div>
                <Choice
                  label="A sample is"
                  value={draft.kind}
                  options={[
                    { value: 'row', label: 'A row of the table', help: 'one line of the file, one sample' },
                    { value: 'series', label: 'A window of a time series', help: 'lines are steps; recordings are cut into windows' },
                  ]}
                  onChange={(kind) => setDraft({ kind })}
                />
                {draft.kind === 'row' ? (
                  <Field label="Feature columns" optional help="Empty: every column that is not dropped." error={errors.columns}>
                    {columns('columns', 'Feature columns')}
                  </Field>
                ) : (
                  <>
                    <div class="datasets-fields">
                      <Field label="Recording" help="Columns that together tell one recording from another." error={errors.cases}>
                        {columns('cases', 'Recording')}
                      </Field>
                      <Field label="Step" help="The column that ascends by one within a recording." error={errors.order}>
                        {columns('order', 'Step')}
                      </Field>
                    </div>
                    <Field label="Channels" help="The measured columns." error={errors.channels}>
                      {columns('channels', 'Channels')}
                    </Field>
                    <div class="datasets-fields three">
                      <Field label="Window" help="Steps in a sample." error={errors.window}>
                        {input('window')}
                      </Field>
                      <Field label="Hop" help="Steps from one window to the next." error={errors.hop}>
                        {input('hop')}
                      </Field>
                      <Field label="Rate" help="Steps per second (Hz)." error={errors.rate}>
                        {input('rate')}
                      </Field>
                    </div>
                    <fieldset class="datasets-choice">
                      <legend>Features of each channel</legend>
                      <div class="datasets-statistics">
                        {STATISTICS.map((statistic) => (
                          <label key={statistic.name}>
                            <input
                              type="checkbox"
                              checked={draft.statistics.includes(statistic.name)}
                              onChange={() =>
                                setDraft({
                                  // In the list's order, whatever the order of the clicks: the features are named by it.
                                  statistics: STATISTICS.map((one) => one.name).filter((name) => draft.statistics.includes(name) !== (name === statistic.name)),
                                })
                              }
                            />
                            <code>{statistic.name}</code>
                            <span class="muted">{statistic.help}</span>
                          </label>
                        ))}
                      </div>
                      {errors.statistics === undefined ? null : <p class="field-error">▲ {errors.statistics}</p>}
                    </fieldset>
                  </>
                )}
                <Field label="Dropped columns" optional help="They never reach the server’s store: the truth, for example." error={errors.drop}>
                  {columns('drop', 'Dropped columns')}
                </Field>
              </Card>
              <Card title="What is held out" note="a group never straddles the splits">
                <Choice
                  label="Samples are divided"
                  value={draft.split}
                  options={[
                    { value: 'hash', label: 'By a share', help: 'the same ones every time' },
                    { value: 'modulo', label: 'By a number', help: 'its remainder says which split' },
                    { value: 'all', label: 'Not at all', help: 'everything in one split' },
                  ]}
                  onChange={(split) => setDraft({ split })}
                />
                {draft.split === 'hash' ? (
                  <div class="datasets-fields">
                    <Field label="Held out, %" error={errors.holdout}>
                      {input('holdout')}
                    </Field>
                    <Field label="Kept together by" optional help="A column, such as a machine or a person." error={errors.group}>
                      {columns('group', 'Kept together by')}
                    </Field>
                  </div>
                ) : draft.split === 'modulo' ? (
                  <>
                    <div class="datasets-fields">
                      <Field label="Number in column" optional help="Empty: the number of the line, from 0." error={errors.group}>
                        {columns('group', 'Number in column')}
                      </Field>
                      <Field label="Modulus" error={errors.modulus}>
                        {input('modulus')}
                      </Field>
                    </div>
                    <div class="datasets-fields">
                      <Field label="Remainders for training" error={errors.trainResidues}>
                        {input('trainResidues', { mono: true })}
                      </Field>
                      <Field label="Remainders held out" help="What is in neither list is left out." error={errors.holdoutResidues}>
                        {input('holdoutResidues', { mono: true })}
                      </Field>
                    </div>
                  </>
                ) : (
                  <Choice
                    label="Everything is"
                    value={draft.all}
                    options={[
                      { value: 'train', label: 'Training' },
                      { value: 'holdout', label: 'Holdout', help: 'a measure, never learnt from' },
                    ]}
                    onChange={(all) => setDraft({ all })}
                  />
                )}
              </Card>
              <Card title="What comes back from devices">
                <Field label="Harvest of model line" optional help="Samples that devices with this model line send in are added here." error={errors.harvest}>
                  {input('harvest', { placeholder: draft.name === '' ? 'motions' : draft.name })}
                </Field>
              </Card>
            </>
          )}
        </Form>
      </div>
    </Page>
  );
}

function Choice<T extends string>({
  label,
  value,
  options,
  onChange,
}: {
  label: string;
  value: T;
  options: readonly { value: T; label: string; help?: string }[];
  onChange(value: NoInfer<T>): void;
}): JSX.Element {
  return (
    <fieldset class="datasets-choice">
      <legend>{label}</legend>
      <div class="datasets-options">
        {options.map((option) => (
          <label key={option.value} class="datasets-option">
            <input type="radio" name={label} checked={option.value === value} onChange={() => onChange(option.value)} />
            <span>
              <b>{option.label}</b>
              {option.help === undefined ? null : <span class="muted"> {option.help}</span>}
            </span>
          </label>
        ))}
      </div>
    </fieldset>
  );
}

/** The file's columns as buttons beside the field that they go into. */
function Offered({ header, value, label, onChange }: { header: readonly string[]; value: string; label: string; onChange(value: string): void }): JSX.Element | null {
  if (header.length === 0) return null;
  const taken = new Set(words(value));
  return (
    <div class="datasets-offered" role="group" aria-label={`Columns of the file for ${label}`}>
      {[...new Set(header)].slice(0, MOST_OFFERED).map((column) => (
        <button key={column} type="button" aria-pressed={taken.has(column)} onClick={() => onChange(toggleWord(value, column))}>
          <bdi>{column}</bdi>
        </button>
      ))}
      {header.length > MOST_OFFERED ? <span class="muted">and {header.length - MOST_OFFERED} more</span> : null}
    </div>
  );
}
