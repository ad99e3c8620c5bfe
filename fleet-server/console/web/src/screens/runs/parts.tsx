// Pieces that the run screens share: state, dataset version, choosing a version.
import type { JSX } from 'preact';
import { useId } from 'preact/hooks';
import { count, NOTHING, percent, shortDigest } from '../../lib/format';
import { usePatched } from '../../lib/live';
import { href, Link } from '../../lib/router';
import { ErrorNote } from '../../ui/states';
import { Status } from '../../ui/status';
import { Name } from '../../ui/text';
import { useDatasets, useVersion, useVersionName, useVersions } from './data';
import type { DatasetVersionName, Run } from './data';
import { isActive, stateOf, stateTone } from './words';

/** The state; while a run goes on, how far it is. Nothing is asked for: the row says it, and events of the job go on from there. */
export function RunState({ run }: { run: Run }): JSX.Element {
  return isActive(run.status) ? <GoingOn run={run} /> : <Status tone={stateTone(run.status)}>{word(stateOf(run.status))}</Status>;
}

function GoingOn({ run }: { run: Run }): JSX.Element {
  const known: { state: string; progress: number } = typeof run.progress === 'number' ? { state: 'running', progress: run.progress } : { state: 'queued', progress: 0 };
  // What an event has told of a job that runs is never much older than the row.
  const job = usePatched('job', run.job, known, 0);
  if (job.state !== 'running') return <Status tone={stateTone(run.status)}>{word(stateOf(run.status))}</Status>;
  return (
    <Status tone="busy">
      Running <span class="muted num">{percent(job.progress, 0)}</span>
    </Status>
  );
}

function word(state: string): string {
  return state.charAt(0).toUpperCase() + state.slice(1);
}

/**
 * `motions v3`, leading to the dataset. `name`: as a row brings it along, or `null` where the row has none; nothing is asked for then.
 * Until the name is known (or when it is gone), the beginning of the id.
 */
export function VersionLink({ id, name, tabIndex }: { id: string; name?: DatasetVersionName | null; tabIndex?: number }): JSX.Element {
  const asked = useVersionName(name === undefined ? id : undefined);
  const known = name ?? nameOf(asked);
  if (known === undefined) return <code title={id}>{shortDigest(id, 8)}</code>;
  return (
    <Link class="runs-version" tabIndex={tabIndex} href={href('/datasets/:id', { id: known.dataset }, { version: id })}>
      <Name value={known.name} /> <span class="muted num">v{known.number}</span>
    </Link>
  );
}

function nameOf({ version, dataset }: ReturnType<typeof useVersionName>): DatasetVersionName | undefined {
  return version === undefined || dataset === undefined ? undefined : { dataset: version.dataset, name: dataset.name, number: version.number };
}

/** As text, for places where no link belongs. */
export function VersionText({ id }: { id: string }): JSX.Element {
  const { version, dataset } = useVersionName(id);
  if (version === undefined || dataset === undefined) return <code title={id}>{shortDigest(id, 8)}</code>;
  return (
    <span class="runs-version">
      <Name value={dataset.name} /> <span class="muted num">v{version.number}</span>
    </span>
  );
}

/**
 * Two choices that make one: a dataset, and one of its versions. `value` is the id of the version; choosing a dataset
 * chooses its newest version as soon as that is known.
 */
export function VersionPicker({
  value,
  dataset,
  onChange,
  describedBy,
  invalid,
}: {
  value: string;
  /** The dataset chosen by hand; empty: that of the version. */
  dataset: string;
  onChange(patch: { version: string; dataset: string }): void;
  describedBy?: string | undefined;
  invalid?: 'true' | undefined;
}): JSX.Element {
  const id = useId();
  const chosen = useVersion(value === '' ? undefined : value);
  const datasets = useDatasets();
  const of = dataset === '' ? (chosen.data?.dataset ?? '') : dataset;
  const versions = useVersions(of);
  const listed = versions.data?.items ?? [];
  // A version from a link may be older than what the list holds.
  const extra = chosen.data !== undefined && chosen.data.dataset === of && !listed.some((version) => version.id === value) ? [chosen.data] : [];
  const failed = datasets.isError && datasets.data === undefined ? datasets : versions.isError && versions.data === undefined ? versions : undefined;
  return (
    <>
      {failed === undefined ? null : <ErrorNote error={failed.error} title={failed === datasets ? 'The datasets could not be loaded' : 'The versions could not be loaded'} onRetry={() => failed.refetch()} />}
      <div class="runs-picker">
        <div class="field">
          <label for={`${id}-dataset`}>Dataset</label>
          <select
            id={`${id}-dataset`}
            class="input"
            value={of}
            onChange={(event) => onChange({ dataset: event.currentTarget.value, version: '' })}
          >
            <option value="">{datasets.data === undefined ? (datasets.isError ? NOTHING : 'Loading…') : datasets.data.items.length === 0 ? 'There is no dataset yet' : 'Choose a dataset'}</option>
            {datasets.data?.items.map((item) => (
              <option key={item.id} value={item.id}>
                {item.name}
              </option>
            ))}
          </select>
        </div>
        <div class="field">
          <label for={`${id}-version`}>Version</label>
          <select
            id={`${id}-version`}
            class="input"
            value={value}
            disabled={of === ''}
            aria-describedby={describedBy}
            aria-invalid={invalid}
            onChange={(event) => onChange({ dataset: of, version: event.currentTarget.value })}
          >
            <option value="">{of === '' || versions.isError ? NOTHING : versions.data === undefined ? 'Loading…' : versions.data.items.length === 0 ? 'It has no version yet' : 'Choose a version'}</option>
            {[...listed, ...extra].map((version) => (
              <option key={version.id} value={version.id}>
                {`v${version.number} · ${count(version.train)} train, ${count(version.holdout)} holdout${version.note === '' ? '' : ` · ${version.note}`}`}
              </option>
            ))}
          </select>
        </div>
      </div>
    </>
  );
}
