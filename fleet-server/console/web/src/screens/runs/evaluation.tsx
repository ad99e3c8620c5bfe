// Where a model is right and wrong: per class and in the confusion matrix, on the run's own holdout or on any other version.
import type { JSX } from 'preact';
import { useState } from 'preact/hooks';
import { count, figure, percent } from '../../lib/format';
import { oneOf, text, useSearch } from '../../lib/router';
import { can } from '../../lib/session';
import { cli } from '../../lib/shell';
import { Meter } from '../../charts/shapes';
import { Button } from '../../ui/button';
import { CliLine } from '../../ui/cli';
import { Dialog } from '../../ui/dialog';
import { Card } from '../../ui/page';
import { ErrorNote, Skeleton } from '../../ui/states';
import { Ago, Name } from '../../ui/text';
import { useEvaluation, useEvaluations, useMeasure } from './data';
import type { Evaluation, Run, Split, StoredEvaluation } from './data';
import { VersionPicker, VersionText } from './parts';
import { confusions } from './words';

const SEARCH = { on: text(), split: oneOf(['holdout', 'train'] as const, 'holdout') };

/** More classes than this are not a picture any more: the largest confusions are listed instead. */
const MAX_MATRIX = 14;
const MAX_LISTED = 20;

export function EvaluationCard({ run }: { run: Run }): JSX.Element | null {
  const [view, setView] = useSearch(SEARCH);
  const [choosing, setChoosing] = useState(false);
  const version = view.on === '' ? run.dataset_version : view.on;
  const stored = useEvaluations(run);
  const kept = stored.data?.items.find((one) => one.dataset_version === version && one.split === view.split);
  const evaluation = useEvaluation(run, version, view.split);
  const measure = useMeasure(run);
  const isThis = measure.variables?.version === version && measure.variables.split === view.split;
  if (run.status !== 'FINISHED') return null;
  const shown = kept ?? evaluation.data ?? undefined;
  const build = can('build');
  const line = cli('runs', 'evaluate', run.id, '--dataset-version', version, ...(view.split === 'holdout' ? [] : ['--split', view.split]));
  return (
    <Card
      title="Evaluation"
      note={
        <>
          <VersionText id={version} /> · {view.split}
        </>
      }
      actions={
        <>
          <div class="runs-split" role="group" aria-label="Split">
            {(['holdout', 'train'] as const).map((split) => (
              <Button key={split} size="small" aria-pressed={view.split === split} onClick={() => setView({ split })}>
                {split === 'holdout' ? 'Holdout' : 'Train'}
              </Button>
            ))}
          </div>
          {build ? (
            <Button size="small" onClick={() => setChoosing(true)}>
              Other version…
            </Button>
          ) : null}
        </>
      }
    >
      {shown !== undefined ? (
        <Measured evaluation={shown} />
      ) : isThis && measure.isPending ? (
        <Skeleton rows={5} label="Measuring" />
      ) : isThis && measure.isError ? (
        <ErrorNote error={measure.error} title="It could not be measured" onRetry={() => measure.mutateAsync({ version, split: view.split })} />
      ) : evaluation.data === null ? (
        <Unmeasured onMeasure={build ? () => measure.mutate({ version, split: view.split }) : undefined} />
      ) : evaluation.isError ? (
        <ErrorNote error={evaluation.error} title="What was measured could not be loaded" onRetry={() => evaluation.refetch()} />
      ) : (
        <Skeleton rows={5} label="Loading the evaluation" />
      )}
      <CliLine line={line} />
      <Before
        run={run}
        answer={stored}
        current={kept}
        onChoose={(one) => setView({ on: one.dataset_version === run.dataset_version ? '' : one.dataset_version, split: one.split }, 'push')}
      />
      <Measure
        open={choosing}
        run={run}
        version={version}
        onClose={() => setChoosing(false)}
        onChoose={(on, split) => {
          setChoosing(false);
          measure.mutate({ version: on, split });
          setView({ on: on === run.dataset_version ? '' : on, split }, 'push');
        }}
      />
    </Card>
  );
}

/** Measuring takes a processor of the server's: it begins when somebody wants it. */
function Unmeasured({ onMeasure }: { onMeasure: (() => void) | undefined }): JSX.Element {
  if (onMeasure === undefined) return <p class="muted">Nobody has measured it on this. Measuring a model needs the right to build.</p>;
  return (
    <p class="runs-unmeasured">
      <span class="muted">Nobody has measured it on this.</span> <Button onClick={onMeasure}>Measure it now</Button>
    </p>
  );
}

/** What the model has been measured on, to go back to. */
function Before({
  run,
  answer,
  current,
  onChoose,
}: {
  run: Run;
  answer: ReturnType<typeof useEvaluations>;
  current: StoredEvaluation | undefined;
  onChoose(one: StoredEvaluation): void;
}): JSX.Element | null {
  const { data } = answer;
  if (data === undefined) return answer.isError ? <ErrorNote error={answer.error} title="What it was measured on could not be loaded" onRetry={() => answer.refetch()} /> : null;
  if (data.items.length === 0) return null;
  const more = data.next_cursor !== undefined && data.next_cursor !== null;
  return (
    <div class="runs-before" data-state="full">
      <h3>Measured so far</h3>
      <div class="runs-scroll" role="region" aria-label="Evaluations" tabIndex={0}>
        <table class="runs-table">
          <thead>
            <tr>
              <th scope="col">Dataset version</th>
              <th scope="col">Split</th>
              <th scope="col" class="end">
                Samples
              </th>
              <th scope="col" class="end">
                Accuracy
              </th>
              <th scope="col" class="end">
                Log loss
              </th>
              <th scope="col" class="end">
                Measured
              </th>
            </tr>
          </thead>
          <tbody>
            {data.items.map((one) => (
              <tr key={`${one.dataset_version} ${one.split}`} aria-current={one === current ? 'true' : undefined}>
                <td>
                  <button type="button" class="link" aria-pressed={one === current} onClick={() => onChoose(one)}>
                    <VersionText id={one.dataset_version} />
                  </button>
                </td>
                <td>{one.split}</td>
                <td class="end">{count(one.samples)}</td>
                <td class="end">
                  <Meter value={one.accuracy} text={percent(one.accuracy)} />
                </td>
                <td class="end">{figure(one.log_loss, 3)}</td>
                <td class="end muted">
                  <Ago time={one.created_at} suffix />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {more ? <p class="muted">The newest {count(data.items.length)}; the command line has the others.</p> : null}
      <CliLine line={cli('runs', 'evaluations', run.id)} label="Evaluations on the command line" />
    </div>
  );
}

function Measure({
  open,
  run,
  version,
  onClose,
  onChoose,
}: {
  open: boolean;
  run: Run;
  version: string;
  onClose(): void;
  onChoose(version: string, split: Split): void;
}): JSX.Element {
  const [picked, setPicked] = useState({ version, dataset: '' });
  return (
    <Dialog
      open={open}
      title="Measure on another dataset version"
      onClose={onClose}
      footer={
        <>
          <Button onClick={onClose}>Cancel</Button>
          <Button kind="primary" disabled={picked.version === ''} onClick={() => onChoose(picked.version, 'holdout')}>
            Measure
          </Button>
        </>
      }
    >
      <p class="muted">The exported model runs in the engine that devices run. It needs the same features and labels.</p>
      <VersionPicker value={picked.version} dataset={picked.dataset} onChange={setPicked} />
      <CliLine line={cli('runs', 'evaluate', run.id, '--dataset-version', picked.version === '' ? 'ID' : picked.version)} />
    </Dialog>
  );
}

function Measured({ evaluation }: { evaluation: Evaluation }): JSX.Element {
  const wrong = evaluation.samples - Math.round(evaluation.accuracy * evaluation.samples);
  return (
    <div class="stack">
      <p class="runs-summary">
        <strong class="num">{percent(evaluation.accuracy)}</strong> of {count(evaluation.samples)} samples right, {count(wrong)} wrong; log loss{' '}
        <span class="num">{figure(evaluation.log_loss, 3)}</span>, calibration error <span class="num">{figure(evaluation.calibration_error, 3)}</span>
      </p>
      <div class="runs-evaluation">
        <Confusion evaluation={evaluation} />
        <Classes evaluation={evaluation} />
      </div>
    </div>
  );
}

function Confusion({ evaluation }: { evaluation: Evaluation }): JSX.Element {
  const labels = evaluation.classes.map((one) => one.label);
  if (labels.length > MAX_MATRIX) return <Confusions evaluation={evaluation} labels={labels} />;
  return (
    <div class="runs-scroll" role="region" aria-label="Confusion matrix" tabIndex={0}>
      <table class="runs-confusion">
        <caption>
          Confusion: rows are the truth, columns the prediction
        </caption>
        <thead>
          <tr>
            <td />
            {labels.map((label) => (
              <th key={label} scope="col">
                <Name value={label} />
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {evaluation.confusion.map((row, truth) => {
            const total = row.reduce((sum, value) => sum + value, 0);
            return (
              <tr key={labels[truth]}>
                <th scope="row">
                  <Name value={labels[truth] ?? ''} />
                </th>
                {row.map((value, predicted) => {
                  const share = total === 0 ? 0 : value / total;
                  const right = truth === predicted;
                  return (
                    <td
                      key={labels[predicted]}
                      class={value === 0 ? 'none' : right ? 'right' : 'wrong'}
                      style={{ '--share': `${Math.round(share * 34 + (value === 0 ? 0 : 6))}%` } as JSX.CSSProperties}
                    >
                      <b>{count(value)}</b>
                      {value === 0 ? null : <span>{percent(share, 0)}</span>}
                    </td>
                  );
                })}
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

function Confusions({ evaluation, labels }: { evaluation: Evaluation; labels: readonly string[] }): JSX.Element {
  const all = confusions(evaluation.confusion, labels);
  return (
    <table class="runs-table">
      <caption>
        The most frequent confusions, {count(Math.min(MAX_LISTED, all.length))} of {count(all.length)}
      </caption>
      <thead>
        <tr>
          <th scope="col">Truth</th>
          <th scope="col">Predicted</th>
          <th scope="col" class="end">
            Samples
          </th>
        </tr>
      </thead>
      <tbody>
        {all.slice(0, MAX_LISTED).map((cell) => (
          <tr key={`${cell.truth}\n${cell.predicted}`}>
            <td>
              <Name value={cell.truth} />
            </td>
            <td>
              <Name value={cell.predicted} />
            </td>
            <td class="end">{count(cell.count)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** The weakest first: that is what gets work. */
function Classes({ evaluation }: { evaluation: Evaluation }): JSX.Element {
  const classes = [...evaluation.classes].sort((left, right) => left.f1 - right.f1);
  const shown = classes.slice(0, MAX_LISTED);
  return (
    <div class="runs-scroll" role="region" aria-label="Figures per class" tabIndex={0}>
      <table class="runs-table">
        <caption>Per class, the weakest first{shown.length < classes.length ? ` (${count(shown.length)} of ${count(classes.length)})` : ''}</caption>
        <thead>
          <tr>
            <th scope="col">Class</th>
            <th scope="col" class="end">
              Precision
            </th>
            <th scope="col" class="end">
              Recall
            </th>
            <th scope="col" class="end">
              F1
            </th>
            <th scope="col" class="end">
              Samples
            </th>
          </tr>
        </thead>
        <tbody>
          {shown.map((one) => (
            <tr key={one.label}>
              <th scope="row">
                <Name value={one.label} />
              </th>
              <td class="end">{percent(one.precision)}</td>
              <td class="end">{percent(one.recall)}</td>
              <td class="end">
                <Meter value={one.f1} text={percent(one.f1)} />
              </td>
              <td class="end">{count(one.support)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
