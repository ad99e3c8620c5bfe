// Start a run: what to train on and with which numbers. A link may bring a dataset version, or a run to start from.
import type { JSX } from 'preact';
import { useEffect } from 'preact/hooks';
import { href, navigate, text, useSearch } from '../../lib/router';
import { can } from '../../lib/session';
import { Card, Page } from '../../ui/page';
import { Form, TextField, useDraft } from '../../ui/form';
import { ErrorNote } from '../../ui/states';
import { toast } from '../../ui/toast';
import { useRuns, useStart } from './data';
import type { CreateRun, Run } from './data';
import { VersionPicker } from './parts';
import { parseHidden, parseNumber, startLine } from './words';
import './runs.css';

const SEARCH = { version: text(), dataset: text(), from: text(), cause: text(), experiment: text() };

interface Draft {
  /** What the link said when the draft was begun: another link begins another. */
  link: string;
  experiment: string;
  version: string;
  dataset: string;
  hidden: string;
  learningRate: string;
  weightDecay: string;
  epochs: string;
  batchSize: string;
  balanced: boolean;
  seed: string;
  cause: string;
}

const INITIAL: Draft = {
  link: '',
  experiment: 'default',
  version: '',
  dataset: '',
  hidden: '32',
  learningRate: '0.01',
  weightDecay: '0.1',
  epochs: '100',
  batchSize: '16',
  balanced: false,
  seed: '1',
  cause: '',
};

type Names = 'experiment' | 'dataset_version' | 'hidden' | 'learning_rate' | 'weight_decay' | 'epochs' | 'batch_size' | 'seed';

/** The draft as the API takes it, or what is wrong with it by field. */
function read(draft: Draft): { body?: CreateRun; wrong: Partial<Record<Names, string>> } {
  const wrong: Partial<Record<Names, string>> = {};
  const whole = (name: Names, value: string, low: number, high: number): number => {
    const number = parseNumber(value);
    if (number !== undefined && Number.isInteger(number) && number >= low && number <= high) return number;
    wrong[name] = `a whole number from ${low.toLocaleString('en')} to ${high.toLocaleString('en')} is needed`;
    return low;
  };
  const positive = (name: Names, value: string, zero: boolean): number => {
    const number = parseNumber(value);
    if (number !== undefined && (number > 0 || (zero && number === 0))) return number;
    wrong[name] = zero ? 'a number that is not negative is needed' : 'a number above 0 is needed';
    return 0;
  };
  const experiment = draft.experiment.trim();
  if (experiment === '' || [...experiment].length > 100) wrong.experiment = '1 to 100 characters are needed';
  if (draft.version === '') wrong.dataset_version = 'choose what to train on';
  const hidden = parseHidden(draft.hidden);
  if (hidden === undefined) wrong.hidden = 'one to eight layers of 1 to 4,096 units, as 64, 32';
  const body: CreateRun = {
    experiment,
    dataset_version: draft.version,
    trainer: {
      kind: 'mlp',
      hidden: hidden ?? [],
      learning_rate: positive('learning_rate', draft.learningRate, false),
      weight_decay: positive('weight_decay', draft.weightDecay, true),
      epochs: whole('epochs', draft.epochs, 1, 100_000),
      batch_size: whole('batch_size', draft.batchSize, 1, 1_000_000),
      class_weights: draft.balanced ? 'balanced' : 'none',
    },
    seed: whole('seed', draft.seed, 0, Number.MAX_SAFE_INTEGER),
    ...(draft.cause === '' ? {} : { cause: draft.cause }),
  };
  return Object.keys(wrong).length === 0 ? { body, wrong } : { wrong };
}

function fromRun(run: Run): Partial<Draft> {
  const { trainer } = run;
  return {
    experiment: run.experiment,
    version: run.dataset_version,
    dataset: '',
    hidden: trainer.hidden.join(', '),
    learningRate: String(trainer.learning_rate),
    weightDecay: String(trainer.weight_decay),
    epochs: String(trainer.epochs),
    batchSize: String(trainer.batch_size),
    balanced: trainer.class_weights === 'balanced',
    // The same seed on the same data gives the same model.
    seed: String(run.seed + 1),
  };
}

/** The line even while something is wrong: it follows what is typed. */
function lineOf(draft: Draft): string {
  return startLine({
    experiment: draft.experiment.trim(),
    dataset_version: draft.version,
    trainer: {
      kind: 'mlp',
      hidden: parseHidden(draft.hidden) ?? [32],
      learning_rate: parseNumber(draft.learningRate) ?? 0.01,
      weight_decay: parseNumber(draft.weightDecay) ?? 0.1,
      epochs: parseNumber(draft.epochs) ?? 100,
      batch_size: parseNumber(draft.batchSize) ?? 16,
      class_weights: draft.balanced ? 'balanced' : 'none',
    },
    seed: parseNumber(draft.seed) ?? 1,
  });
}

export default function Start(): JSX.Element {
  const [view] = useSearch(SEARCH);
  const [draft, set, discard] = useDraft<Draft>('run', INITIAL);
  const start = useStart();
  const [from] = useRuns(view.from === '' ? [] : [view.from]);
  const link = [view.version, view.dataset, view.from, view.cause, view.experiment].join(' ').trim();
  const source = from?.data;
  useEffect(() => {
    // What was typed under this very link stays; a link without anything in it takes up the last draft.
    if (link === '' || draft.link === link || (view.from !== '' && source === undefined)) return;
    set({
      ...INITIAL,
      link,
      ...(source === undefined ? {} : fromRun(source)),
      ...(view.version === '' && view.dataset === '' ? {} : { version: view.version, dataset: view.dataset }),
      ...(view.experiment === '' ? {} : { experiment: view.experiment }),
      cause: view.cause,
    });
  }, [link, source, draft.link]);
  const { body, wrong } = read(draft);
  if (!can('build'))
    return (
      <Page title="New run" back={{ href: '/runs', label: 'Runs' }}>
        <ErrorNote error={new Error('Starting runs needs the right to build.')} title="Not allowed" />
      </Page>
    );
  return (
    <Page title="New run" back={{ href: '/runs', label: 'Runs' }} note="Trains a multilayer perceptron; the same data, numbers and seed give the same model.">
      <div class="runs-form" data-state="full">
        <Card>
          {from?.isError === true ? <ErrorNote error={from.error} title="The run to start from could not be loaded" onRetry={() => from.refetch()} /> : null}
          <Form<Names>
            send="Start the run"
            cli={lineOf(draft)}
            validate={() => wrong}
            onCancel={() => {
              discard();
              navigate('/runs');
            }}
            onSend={async () => {
              if (body === undefined) return;
              const run = await start.mutateAsync(body);
              discard();
              toast('The run has been started');
              navigate(href('/runs/:id', { id: run.id }));
            }}
          >
            {(errors) => (
              <>
                <div class="stack-small">
                  <VersionPicker
                    value={draft.version}
                    dataset={draft.dataset}
                    onChange={set}
                    invalid={errors.dataset_version === undefined ? undefined : 'true'}
                    describedBy={errors.dataset_version === undefined ? undefined : 'run-version-error'}
                  />
                  {errors.dataset_version === undefined ? null : (
                    <p id="run-version-error" class="field-error">
                      ▲ {errors.dataset_version}
                    </p>
                  )}
                </div>
                <TextField label="Experiment" help="Runs of one question; made when it does not exist." error={errors.experiment} value={draft.experiment} onChange={(experiment) => set({ experiment })} />
                <div class="runs-fields">
                  <TextField label="Hidden layers" help="Units of each, from the input on: 64, 32" error={errors.hidden} value={draft.hidden} onChange={(hidden) => set({ hidden })} />
                  <TextField numeric label="Epochs" error={errors.epochs} value={draft.epochs} onChange={(epochs) => set({ epochs })} />
                  <TextField numeric label="Learning rate" error={errors.learning_rate} value={draft.learningRate} onChange={(learningRate) => set({ learningRate })} />
                  <TextField numeric label="Weight decay" error={errors.weight_decay} value={draft.weightDecay} onChange={(weightDecay) => set({ weightDecay })} />
                  <TextField numeric label="Batch size" error={errors.batch_size} value={draft.batchSize} onChange={(batchSize) => set({ batchSize })} />
                  <TextField numeric label="Seed" error={errors.seed} value={draft.seed} onChange={(seed) => set({ seed })} />
                </div>
                <label class="runs-check">
                  <input type="checkbox" checked={draft.balanced} onChange={(event) => set({ balanced: event.currentTarget.checked })} />
                  <span>
                    Every class counts alike <span class="muted">however many samples it has</span>
                  </span>
                </label>
              </>
            )}
          </Form>
        </Card>
      </div>
    </Page>
  );
}
