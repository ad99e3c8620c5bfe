// The queue: one item at a time, a key per label, the next item here before the key is up.
import type { JSX } from 'preact';
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { count, percent, plural } from '../../lib/format';
import { useShortcuts } from '../../lib/keys';
import { useStore } from '../../lib/store';
import { can } from '../../lib/session';
import { cli } from '../../lib/shell';
import { Button } from '../../ui/button';
import { CliLine } from '../../ui/cli';
import { ComboBox } from '../../ui/combobox';
import { Card } from '../../ui/page';
import { Link } from '../../lib/router';
import { Empty, ErrorNote, Skeleton } from '../../ui/states';
import { KeyHint, Name } from '../../ui/text';
import { datasetHref } from '../datasets/data';
import type { Dataset, Sample } from '../datasets/data';
import { Guess } from '../datasets/label-tag';
import { SampleView } from '../datasets/sample-view';
import { NextStep } from '../rollouts/next';
import { batchSize, fetchQueue, relabelled } from './data';
import type { Order } from './data';
import { KeysDialog } from './keys-dialog';
import { readKeys, writeKeys } from './keymap';
import type { Keymap } from './keymap';
import { Labeler } from './labeler';
import type { LabelerState } from './labeler';
import type { SetView, View } from './labeling';
import { outboxOf } from './outboxes';

/** Labels that are buttons; more of them are chosen from a list. */
const MOST_BUTTONS = 24;
const RECENT = 8;

/** A labeler for this queue; what it holds is sent when the queue is left or hidden. A page that closes is the outboxes' concern. */
function useLabeler(dataset: Dataset, view: View): Labeler {
  const { order, slice, split, device } = view;
  const labeler = useMemo(
    () =>
      new Labeler({
        fetch: (limit, cursor) => fetchQueue(dataset.id, { order, slice, split, device }, limit, cursor),
        outbox: outboxOf(dataset),
        batch: batchSize(dataset),
      }),
    [dataset.id, order, slice, split, device],
  );
  useEffect(() => {
    labeler.open();
    const hidden = (): void => {
      if (document.hidden) void labeler.flush();
    };
    document.addEventListener('visibilitychange', hidden);
    return () => {
      document.removeEventListener('visibilitychange', hidden);
      void labeler.close().then(relabelled);
    };
  }, [labeler]);
  // New samples, by import or from devices: an empty queue may have something again.
  useEffect(() => {
    if (labeler.state.get().exhausted) labeler.more();
  }, [labeler, dataset.samples]);
  return labeler;
}

export function Queue({ dataset, view, setView }: { dataset: Dataset; view: View; setView: SetView }): JSX.Element {
  const labeler = useLabeler(dataset, view);
  const state = useStore(labeler.state);
  const [keymap, setKeymap] = useState<Keymap>(() => readKeys(dataset.id, dataset.labels));
  const [remapping, setRemapping] = useState(false);
  const main = useRef<HTMLDivElement>(null);
  const may = can('label');
  const sample = state.items[0];

  useShortcuts(() => {
    if (!may) return [];
    const accept = (): void => {
      const guess = labeler.current?.guess;
      if (guess !== undefined && guess !== null) labeler.label(guess.label);
    };
    return [
      ...Object.entries(keymap.labels).map(([label, key]) => ({ keys: key, label: `Label as ${label}`, group: 'Labeling', run: () => labeler.label(label) })),
      { keys: keymap.actions.accept, label: 'Take the guess', group: 'Labeling', run: accept },
      { keys: keymap.actions.undo, label: 'Undo', group: 'Labeling', run: () => labeler.undo() },
      { keys: keymap.actions.skip, label: 'Skip', group: 'Labeling', run: () => labeler.skip() },
    ].filter((shortcut) => shortcut.keys !== '');
  }, [may, keymap, labeler]);

  const line = cli('labels', 'queue', dataset.name, ...(view.order === 'uncertainty' ? [] : ['--order', view.order]), ...(view.slice === '' ? [] : ['--slice', view.slice]), ...(view.split === '' ? [] : ['--split', view.split]), ...(view.device === '' ? [] : ['--device', view.device]));
  const slices = [...new Set([...Object.keys(dataset.slices), ...(view.slice === '' ? [] : [view.slice])])];
  return (
    <>
      <div class="datasets-bar">
        <label>
          <span class="muted">Order</span>
          <select class="input" value={view.order} onChange={(event) => setView({ order: event.currentTarget.value as Order })}>
            <option value="uncertainty">least sure first</option>
            <option value="newest">newest first</option>
          </select>
        </label>
        <label>
          <span class="muted">Slice</span>
          <select class="input" value={view.slice} onChange={(event) => setView({ slice: event.currentTarget.value })}>
            <option value="">All</option>
            {slices.map((slice) => (
              <option key={slice} value={slice}>
                {slice}
              </option>
            ))}
          </select>
        </label>
        <label>
          <span class="muted">Split</span>
          <select class="input" value={view.split} onChange={(event) => setView({ split: event.currentTarget.value as View['split'] })}>
            <option value="">Both</option>
            <option value="train">train</option>
            <option value="holdout">holdout</option>
          </select>
        </label>
        {view.device === '' ? null : (
          <span class="tag">
            <b>device</b>
            <bdi>{view.device}</bdi>{' '}
            <button type="button" class="link" onClick={() => setView({ device: '' })}>
              Show all devices
            </button>
          </span>
        )}
        <CliLine line={line} />
      </div>
      {may ? null : <p class="muted">You may look at the queue, but not label.</p>}
      <div class="labeling-queue">
        <div ref={main} class="labeling-main" role="group" aria-label="Queue" tabIndex={-1}>
          {sample === undefined ? <Nothing dataset={dataset} view={view} state={state} labeler={labeler} onAll={() => setView({ slice: '', split: '', device: '' })} /> : <Item dataset={dataset} sample={sample} />}
          {may ? (
            <Choices
              dataset={dataset}
              sample={sample}
              keymap={keymap}
              onLabel={(label) => labeler.label(label)}
              onFound={(label) => {
                labeler.label(label);
                // Out of the field, where keys are text: the next key is one of the queue's again.
                main.current?.focus({ preventScroll: true });
              }}
            />
          ) : null}
          {state.error !== undefined && sample !== undefined ? <ErrorNote error={state.error} title="More items could not be loaded" onRetry={() => labeler.more()} /> : null}
          {state.refused === undefined ? null : (
            <div class="stack-small">
              <ErrorNote error={state.refused} title={`${changes(state, state.aside)} not taken by the server`} onRetry={() => labeler.flush()} />
              <button type="button" class="link" onClick={() => labeler.discard()}>
                Give up what was refused
              </button>
            </div>
          )}
        </div>
        <Side dataset={dataset} state={state} keymap={keymap} may={may} labeler={labeler} onKeys={() => setRemapping(true)} />
      </div>
      {can('build') && dataset.hand_labels + state.labelled > 0 ? (
        <NextStep at="labels" title="Freeze what is labelled" action="Freeze a version" icon="datasets" href={datasetHref(dataset, { tab: 'versions', freeze: 'yes' })} cli={cli('versions', 'create', dataset.name)}>
          A version never changes: it is what a run learns from. It takes the labels given by hand, and the guesses that are sure enough.
        </NextStep>
      ) : null}
      <KeysDialog
        labels={dataset.labels}
        keymap={keymap}
        open={remapping}
        onClose={() => setRemapping(false)}
        onChange={(next) => {
          writeKeys(dataset.id, next);
          setKeymap(readKeys(dataset.id, dataset.labels));
          setRemapping(false);
        }}
      />
    </>
  );
}

/** So many of what the server does not know yet. */
function changes({ removals }: LabelerState, many: number): string {
  return plural(many, removals === 0 ? 'label' : 'change');
}

function sendingWords(state: LabelerState): string {
  const { removals, aside } = state;
  const unsent = state.unsent - aside;
  if (state.waiting) return `▲ The server does not answer; ${changes(state, unsent)} kept, tried again by itself`;
  if (unsent === 0) return aside > 0 ? 'what was refused is kept in this tab' : state.labelled > 0 ? 'all of it is with the server' : 'a label is sent a few seconds later';
  // Which of the changes were refused is not told apart here.
  if (aside > 0) return `${changes(state, unsent)} not sent yet`;
  if (removals === 0) return `${plural(unsent, 'label')} not sent yet: undo leaves no trace`;
  const back = `${plural(removals, 'label')} about to be taken back`;
  return unsent === removals ? back : `${plural(unsent - removals, 'label')} not sent yet, ${back}`;
}

function Item({ dataset, sample }: { dataset: Dataset; sample: Sample }): JSX.Element {
  return (
    <section class="card labeling-item" aria-label="Item" data-state="full" data-sample={sample.digest}>
      <header class="labeling-head">
        <h2>
          <bdi class="mono">{sample.key}</bdi>
        </h2>
        <span class="tags">
          <bdi class="tag">
            <b>slice</b>
            {sample.slice}
          </bdi>
          <span class="tag">
            <b>split</b>
            {sample.split}
          </span>
          {sample.predicted === undefined || sample.predicted === null ? null : (
            <bdi class="tag">
              <b>device said</b>
              {sample.predicted}
            </bdi>
          )}
        </span>
        {sample.guess === undefined || sample.guess === null ? (
          <span class="labeling-known muted">no guess</span>
        ) : (
          <span class="labeling-known">
            <span class="muted">guess</span> <Guess label={sample.guess.label} confidence={sample.guess.confidence} />
          </span>
        )}
      </header>
      <SampleView dataset={dataset} sample={sample} />
    </section>
  );
}

/** `onFound`: a label that was chosen from the list of all. */
function Choices({ dataset, sample, keymap, onLabel, onFound }: { dataset: Dataset; sample: Sample | undefined; keymap: Keymap; onLabel(label: string): void; onFound(label: string): void }): JSX.Element {
  const { labels } = dataset;
  // With very many classes: those with keys, and the one that is guessed.
  const shown = labels.length <= MOST_BUTTONS ? labels : labels.filter((label) => keymap.labels[label] !== undefined || label === sample?.guess?.label);
  return (
    <div class="labeling-choices" role="group" aria-label="Labels">
      {shown.map((label) => {
        const key = keymap.labels[label] ?? '';
        const guessed = sample?.guess?.label === label;
        return (
          <button
            key={label}
            type="button"
            class={guessed ? 'labeling-choice guessed' : 'labeling-choice'}
            disabled={sample === undefined}
            aria-keyshortcuts={key === '' ? undefined : key}
            onClick={() => onLabel(label)}
          >
            {key === '' ? null : <kbd aria-hidden="true">{key}</kbd>}
            <Name value={label} />
            {guessed ? <span class="muted">guess</span> : null}
          </button>
        );
      })}
      {shown.length < labels.length ? (
        <div class="labeling-more">
          <ComboBox acts label="Another label" value="" disabled={sample === undefined} options={labels.map((label) => ({ value: label, label }))} placeholder={`Another of ${count(labels.length)}…`} onChange={onFound} />
        </div>
      ) : null}
    </div>
  );
}

function Side({ dataset, state, keymap, may, labeler, onKeys }: { dataset: Dataset; state: LabelerState; keymap: Keymap; may: boolean; labeler: Labeler; onKeys(): void }): JSX.Element {
  const last = state.done.at(-1);
  const recent = state.done.slice(-RECENT).reverse();
  return (
    <aside class="labeling-side" aria-label="This session">
      <Card title="This session">
        <div class="labeling-counts">
          <span>
            <b class="num">{count(state.labelled)}</b> labelled
          </span>
          <span>
            <b class="num">{count(state.skipped)}</b> skipped
          </span>
        </div>
        <p class={state.waiting ? 'bad' : 'muted'} role="status">
          {sendingWords(state)}
        </p>
        {may ? (
          <div class="row">
            <Button size="small" disabled={last === undefined} onClick={() => labeler.undo()}>
              Undo {keymap.actions.undo === '' ? null : <KeyHint keys={keymap.actions.undo} />}
            </Button>
            <Button size="small" disabled={state.items.length === 0} onClick={() => labeler.skip()}>
              Skip {keymap.actions.skip === '' ? null : <KeyHint keys={keymap.actions.skip} />}
            </Button>
            <Button size="small" onClick={onKeys}>
              Keys…
            </Button>
          </div>
        ) : null}
      </Card>
      {recent.length === 0 ? null : (
        <Card title="Just now">
          <ol class="labeling-recent">
            {recent.map((done, index) => (
              <li key={`${done.sample.digest} ${state.done.length - index}`}>
                <bdi class="mono muted name" title={done.sample.key}>
                  {done.sample.key}
                </bdi>
                {done.label === undefined ? <span class="muted">skipped</span> : <Name value={done.label} strong />}
              </li>
            ))}
          </ol>
          {last?.label === undefined ? null : (
            <>
              <CliLine line={cli('labels', 'annotate', dataset.name, `${last.sample.digest}=${last.label}`)} label="The last label as a command" />
              <CliLine line={cli('labels', 'remove', dataset.name, last.sample.digest, '--label', last.label)} label="Undo as a command" />
            </>
          )}
        </Card>
      )}
      <span class="visually-hidden" role="status">
        {last === undefined ? '' : last.label === undefined ? 'Skipped.' : `Labelled ${last.label}.`} {state.items[0]?.guess === undefined || state.items[0]?.guess === null ? '' : `Next guess: ${state.items[0].guess.label}, ${percent(state.items[0].guess.confidence, 0)}.`}
      </span>
    </aside>
  );
}

function Nothing({ dataset, view, state, labeler, onAll }: { dataset: Dataset; view: View; state: LabelerState; labeler: Labeler; onAll(): void }): JSX.Element {
  if (state.error !== undefined) return <ErrorNote error={state.error} title="The queue could not be loaded" onRetry={() => labeler.more()} />;
  if (!state.exhausted)
    return (
      <div class="card labeling-item">
        <Skeleton rows={6} label="Loading the queue" />
      </div>
    );
  if (state.skipped > 0)
    return (
      <div class="card">
        <Empty action={<Button kind="primary" onClick={() => labeler.showSkipped()}>Show the skipped ones again</Button>} cli={cli('labels', 'queue', dataset.name)}>
          Only the {plural(state.skipped, 'item')} that you skipped {state.skipped === 1 ? 'is' : 'are'} left.
        </Empty>
      </div>
    );
  const narrowed = view.slice !== '' || view.split !== '' || view.device !== '';
  return (
    <div class="card">
      <Empty
        action={
          narrowed ? (
            <Button onClick={onAll}>Show the whole queue</Button>
          ) : dataset.samples === 0 ? (
            <Link class="button primary" href={datasetHref(dataset, { tab: 'import' })}>
              Import a file
            </Link>
          ) : (
            <Link class="button primary" href={datasetHref(dataset, { tab: 'versions', freeze: 'yes' })}>
              Freeze a version
            </Link>
          )
        }
        cli={dataset.samples === 0 ? cli('datasets', 'import', dataset.name, 'data.csv') : cli('versions', 'create', dataset.name)}
      >
        {narrowed ? 'Everything here is labelled by hand.' : dataset.samples === 0 ? 'There are no samples yet.' : 'Every sample is labelled by hand: freeze a version, and train on it.'}
      </Empty>
    </div>
  );
}
