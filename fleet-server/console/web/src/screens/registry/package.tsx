// Make a package of a finished run: its name and number, what it may run on, when devices shall speak of drift.
import type { JSX } from 'preact';
import { useEffect } from 'preact/hooks';
import { percent } from '../../lib/format';
import { href, Link, navigate, text, useSearch } from '../../lib/router';
import { can } from '../../lib/session';
import { cli } from '../../lib/shell';
import { ComboBox } from '../../ui/combobox';
import { Field, Form, TextField, useDraft } from '../../ui/form';
import { Card, Page } from '../../ui/page';
import { Empty, ErrorNote } from '../../ui/states';
import { toast } from '../../ui/toast';
import { useDataset, useVersion } from '../runs/data';
import { parseNumber } from '../runs/words';
import { useFinishedRuns, useLines, usePackage, useRunById } from './data';
import type { CreateModelVersion, Run } from './data';
import { isVersion, nextVersion, splitWords } from './words';
import './registry.css';

const SEARCH = { run: text(), line: text() };

interface Draft {
  /** What the link said when the draft was begun: another link begins another. */
  link: string;
  run: string;
  /** `null`: nobody typed here, the suggestion stands. */
  line: string | null;
  semver: string | null;
  hardware: string;
  arch: string;
  ramMiB: string;
  p95: string;
  days: string;
  window: string;
  feature: string;
  share: string;
}

/** What the server takes when nothing is said. */
const INITIAL: Draft = {
  link: '',
  run: '',
  line: null,
  semver: null,
  hardware: '',
  arch: '',
  ramMiB: '0',
  p95: '0',
  days: '180',
  window: '96',
  feature: '0.25',
  share: '0.4',
};

type Names = 'run' | 'line' | 'semver' | 'min_ram_bytes' | 'p95_budget_us' | 'install_days' | 'window' | 'feature_threshold' | 'share_threshold';

interface Chosen {
  run: string;
  line: string;
  semver: string;
}

function read(draft: Draft, chosen: Chosen): { body?: CreateModelVersion; wrong: Partial<Record<Names, string>> } {
  const wrong: Partial<Record<Names, string>> = {};
  const number = (name: Names, value: string, low: number, high: number, whole: boolean): number => {
    const found = parseNumber(value);
    if (found !== undefined && found >= low && found <= high && (!whole || Number.isInteger(found))) return found;
    wrong[name] = `a ${whole ? 'whole ' : ''}number from ${low.toLocaleString('en')} to ${high.toLocaleString('en')} is needed`;
    return low;
  };
  if (chosen.run === '') wrong.run = 'choose the run that it is made of';
  if (chosen.line === '') wrong.line = 'a name is needed';
  if (!isVersion(chosen.semver)) wrong.semver = 'a version such as 1.2.0 is needed';
  const body: CreateModelVersion = {
    run: chosen.run,
    semver: chosen.semver,
    hardware_classes: splitWords(draft.hardware),
    arch: splitWords(draft.arch),
    min_ram_bytes: Math.round(number('min_ram_bytes', draft.ramMiB, 0, 1 << 20, false) * 1024 * 1024),
    p95_budget_us: number('p95_budget_us', draft.p95, 0, 3_600_000_000, true),
    install_days: number('install_days', draft.days, 1, 3650, true),
    drift: {
      window: number('window', draft.window, 1, 1_000_000, true),
      feature_threshold: number('feature_threshold', draft.feature, 0, 1000, false),
      share_threshold: number('share_threshold', draft.share, 0, 1, false),
    },
  };
  return Object.keys(wrong).length === 0 ? { body, wrong } : { wrong };
}

function lineOf(draft: Draft, chosen: Chosen): string {
  const unless = (flag: string, value: string, usual: string): string[] => (value.trim() === usual || value.trim() === '' ? [] : [flag, value.trim()]);
  const ram = parseNumber(draft.ramMiB) ?? 0;
  return cli(
    'models',
    'package',
    chosen.line === '' ? 'LINE' : chosen.line,
    '--run',
    chosen.run === '' ? 'ID' : chosen.run,
    '--semver',
    chosen.semver,
    ...splitWords(draft.hardware).flatMap((name) => ['--hardware-class', name]),
    ...splitWords(draft.arch).flatMap((name) => ['--arch', name]),
    ...(ram === 0 ? [] : ['--min-ram-bytes', Math.round(ram * 1024 * 1024)]),
    ...unless('--p95-budget-us', draft.p95, INITIAL.p95),
    ...unless('--install-days', draft.days, INITIAL.days),
    ...unless('--drift-window', draft.window, INITIAL.window),
    ...unless('--feature-threshold', draft.feature, INITIAL.feature),
    ...unless('--share-threshold', draft.share, INITIAL.share),
  );
}

function runLabel(run: Run): string {
  const accuracy = run.metrics['holdout.accuracy'];
  return `${run.experiment}, seed ${run.seed}${accuracy === undefined ? '' : ` · ${percent(accuracy)}`}`;
}

export default function Package(): JSX.Element {
  const [view] = useSearch(SEARCH);
  const [draft, set, discard] = useDraft<Draft>('package', INITIAL);
  const link = `${view.run} ${view.line}`.trim();
  useEffect(() => {
    if (link !== '' && draft.link !== link) set({ ...INITIAL, link, run: view.run, line: view.line === '' ? null : view.line });
  }, [link, draft.link]);
  const runs = useFinishedRuns();
  const run = useRunById(draft.run);
  const lines = useLines();
  const version = useVersion(run.data?.dataset_version);
  const dataset = useDataset(version.data?.dataset);
  const known = lines.data?.items ?? [];
  // The line that the data is harvested for, else the only one there is.
  const suggested = dataset.data?.harvest_line ?? (known.length === 1 ? (known[0]?.line ?? '') : '');
  const line = (draft.line ?? suggested).trim();
  const semver = (draft.semver ?? nextVersion(known.find((one) => one.line === line)?.latest)).trim();
  const chosen: Chosen = { run: draft.run, line, semver };
  const { body, wrong } = read(draft, chosen);
  const packaging = usePackage();
  const back = view.run === '' ? { href: '/models', label: 'Registry' } : { href: href('/runs/:id', { id: view.run }), label: 'Run' };
  if (!can('build'))
    return (
      <Page title="New package" back={back}>
        <ErrorNote error={new Error('Making packages needs the right to build.')} title="Not allowed" />
      </Page>
    );
  const listed = runs.data ?? [];
  if (runs.data !== undefined && listed.length === 0 && draft.run === '')
    return (
      <Page title="New package" back={back}>
        <Empty
          action={
            <Link class="button primary" href="/runs/new">
              Start a run
            </Link>
          }
          cli="fleetctl runs create --dataset-version ID --wait"
        >
          No run has finished yet: a package is made of a finished run.
        </Empty>
      </Page>
    );
  const options = [...listed, ...(run.data !== undefined && !listed.some((one) => one.id === run.data.id) ? [run.data] : [])];
  return (
    <Page title="New package" back={back} note="The server builds it, then runs its golden inputs: outputs that differ from the trainer’s are refused.">
      <div class="registry-form" data-state="full">
        <Card>
          {runs.isError ? <ErrorNote error={runs.error} title="The runs could not be loaded" onRetry={() => runs.refetch()} /> : null}
          <Form<Names>
            send="Make the package"
            cli={lineOf(draft, chosen)}
            validate={() => wrong}
            onCancel={() => {
              discard();
              navigate(back.href);
            }}
            onSend={async () => {
              if (body === undefined) return;
              const made = await packaging.mutateAsync({ line, body });
              discard();
              toast('The package passed its golden inputs');
              navigate(href('/model-versions/:id', { id: made.id }));
            }}
          >
            {(errors) => (
              <>
                <Field label="Run" help="Finished runs, the newest first; type to narrow." error={errors.run}>
                  {(control) => (
                    <ComboBox
                      id={control.id}
                      value={draft.run}
                      placeholder="Choose a finished run"
                      label="Run"
                      options={options.map((one) => ({ value: one.id, label: runLabel(one), help: one.cause }))}
                      onChange={(value) => set({ run: value })}
                    />
                  )}
                </Field>
                <div class="registry-fields">
                  <Field label="Line" help="The task it solves; its release keys sign it." error={errors.line}>
                    {(control) => (
                      <>
                        <input
                          {...control}
                          class="input"
                          list="registry-lines"
                          autocomplete="off"
                          spellcheck={false}
                          value={draft.line ?? suggested}
                          onInput={(event) => set({ line: event.currentTarget.value })}
                        />
                        <datalist id="registry-lines">
                          {known.map((one) => (
                            <option key={one.line} value={one.line} />
                          ))}
                        </datalist>
                      </>
                    )}
                  </Field>
                  <TextField label="Version" help="Semantic, above all before it." error={errors.semver} value={draft.semver ?? semver} onChange={(value) => set({ semver: value })} />
                </div>
                <details class="registry-more" open={Object.keys(errors).some((name) => !['run', 'line', 'semver'].includes(name))}>
                  <summary>Where it runs, and when devices speak of drift</summary>
                  <div class="registry-fields">
                    <TextField label="Hardware classes" help="Empty: any." error={undefined} value={draft.hardware} onChange={(hardware) => set({ hardware })} />
                    <TextField label="Architectures" help="Empty: any; aarch64, x86_64" error={undefined} value={draft.arch} onChange={(arch) => set({ arch })} />
                    <TextField numeric label="Memory at least (MiB)" error={errors.min_ram_bytes} value={draft.ramMiB} onChange={(ramMiB) => set({ ramMiB })} />
                    <TextField numeric label="Time per inference (µs, p95)" help="0: no budget." error={errors.p95_budget_us} value={draft.p95} onChange={(p95) => set({ p95 })} />
                    <TextField numeric label="Installable for (days)" error={errors.install_days} value={draft.days} onChange={(days) => set({ days })} />
                    <TextField numeric label="Drift window" help="Observations per judgement." error={errors.window} value={draft.window} onChange={(window) => set({ window })} />
                    <TextField numeric label="A feature drifts above" help="Noise-corrected population stability index." error={errors.feature_threshold} value={draft.feature} onChange={(feature) => set({ feature })} />
                    <TextField numeric label="A device drifts from" help="Share of drifted features, 0 to 1." error={errors.share_threshold} value={draft.share} onChange={(share) => set({ share })} />
                  </div>
                </details>
              </>
            )}
          </Form>
        </Card>
      </div>
    </Page>
  );
}
