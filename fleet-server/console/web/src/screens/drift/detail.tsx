// One device (or the whole fleet) and one package: what the data looks like now beside what the model was trained on, and the
// way on from here, to labels.
import type { JSX } from 'preact';
import { useMemo } from 'preact/hooks';
import { ApiError } from '../../lib/client';
import { count, figure, fixed, percent, plural, shortDigest } from '../../lib/format';
import type { Params } from '../../lib/router';
import { href, integer, Link, oneOf, text, useSearch } from '../../lib/router';
import { cli } from '../../lib/shell';
import { HistogramLegend } from '../../charts/shapes';
import { Series } from '../../charts/series';
import { CliLine } from '../../ui/cli';
import { Card, Page } from '../../ui/page';
import { Empty, ErrorNote, Skeleton } from '../../ui/states';
import { Stat, Status } from '../../ui/status';
import { Ago, Name } from '../../ui/text';
import { datasetHref, labelingHref } from '../datasets/data';
import type { Dataset } from '../datasets/data';
import { namesToCel } from '../rollouts/cel';
import { NextStep } from '../rollouts/next';
import { beginOf, EVERY_DEVICE, RANGE_WORDS, RANGES, useClasses, useFeatures, useHarvest, useJudgement, useKept, useSeries } from './data';
import type { ClassShare, Feature, Package, Range } from './data';
import { Density } from './density';
import type { Axis } from './density';
import { binsOf, linesOf } from './shapes';
import './drift.css';

const AXES = ['value', 'bins'] as const;
const SEARCH = { range: oneOf(RANGES, '24h'), feature: text(), axis: oneOf(AXES, 'value'), page: integer(1) };
/** Histograms on the page at once. */
const PER_PAGE = 12;

interface Subject {
  device: string;
  manifest: string;
  range: Range;
}

export default function DriftDetail({ params }: { params: Params }): JSX.Element {
  const [view, setView] = useSearch(SEARCH);
  const device = params.device ?? '';
  const manifest = params.manifest ?? '';
  const subject: Subject = { device, manifest, range: view.range };
  const features = useFeatures(device, manifest, view.range);
  // A model line may stand in place of a digest, and the whole fleet in place of a device.
  const everywhere = device === EVERY_DEVICE;
  const looked = features.data?.package;
  const judged = useJudgement(device, looked?.manifest ?? (manifest.includes(':') ? manifest : undefined)).data ?? undefined;
  const known = looked ?? judged;
  const from = beginOf(view.range, Date.now());
  const flags = from === undefined ? [] : ['--from', from];
  // That nothing was seen in this time is a 404 to the API; to a reader it is an answer.
  const nothing = features.error instanceof ApiError && features.error.status === 404;
  const items = nothing ? [] : features.data?.items;
  const seen = items?.[0]?.seen_count ?? 0;
  const drifted = items?.filter((feature) => feature.severity.drifted).length ?? 0;
  return (
    <Page
      title={everywhere ? 'Whole fleet' : <bdi>{device}</bdi>}
      note={
        <>
          {known === undefined ? <bdi class="mono">{shortDigest(manifest)}</bdi> : <bdi>{`${known.line} ${known.semver}`}</bdi>}
          {judged?.slot === undefined || judged.slot === null || judged.slot === 'main' ? null : (
            <>
              {' · slot '}
              <bdi>{judged.slot}</bdi>
            </>
          )}
          {judged === undefined ? null : (
            <>
              {' · judged '}
              <Ago time={judged.at} suffix />
            </>
          )}
        </>
      }
      back={{ href: '/drift', label: 'Drift' }}
      actions={
        <>
          {everywhere ? null : (
            <Link class="button" href={href('/drift/:device/:manifest', { device: EVERY_DEVICE, manifest }, { range: view.range === '24h' ? undefined : view.range })}>
              Whole fleet
            </Link>
          )}
          {everywhere ? null : (
            <Link class="button" href={href('/devices/:id', { id: device })}>
              Open the device
            </Link>
          )}
          <select class="input dr-select" aria-label="Time" value={view.range} onChange={(event) => setView({ range: RANGES.find((range) => range === event.currentTarget.value) ?? '24h', page: 1 })}>
            {RANGES.map((range) => (
              <option key={range} value={range}>
                {RANGE_WORDS[range]}
              </option>
            ))}
          </select>
        </>
      }
    >
      {features.isError && !nothing && items !== undefined ? <ErrorNote error={features.error} title="This may be out of date" onRetry={() => features.refetch()} /> : null}
      {items === undefined ? (
        features.isError ? (
          <ErrorNote error={features.error} title="The histograms could not be loaded" onRetry={() => features.refetch()} />
        ) : (
          <Skeleton rows={8} label="Loading features" />
        )
      ) : items.length === 0 || seen === 0 ? (
        <Empty
          action={
            view.range === '30d' ? (
              <Link class="button" href="/drift">
                All devices
              </Link>
            ) : (
              <button type="button" class="button" onClick={() => setView({ range: '30d' })}>
                Look at the last 30 days
              </button>
            )
          }
          cli={cli('drift', 'show', device, manifest, ...flags)}
        >
          {everywhere ? 'No device' : 'This device'} has reported no observations of this package in this time.
        </Empty>
      ) : (
        <div class="stack dr-full" data-state="full">
          <section class="stats" aria-label="Last judgement">
            <Stat
              label={judged?.drifted === true ? 'Drifted' : judged === undefined ? 'Drifted share' : 'No drift'}
              tone={(judged?.drifted ?? drifted > 0) ? 'bad' : 'ok'}
              value={percent(judged?.share ?? drifted / items.length, 0)}
              note={judged === undefined ? 'of the features, in this time' : 'of the features, at the last judgement'}
            />
            <Stat label="Features drifted" value={`${count(drifted)} of ${count(items.length)}`} note={`${RANGE_WORDS[view.range].toLowerCase()}`} />
            <Stat label="Observations" value={count(seen)} note={`against ${count(items[0]?.reference_count)} of the reference`} />
            <Stat
              label="Most like"
              value={<Name value={items[0]?.slice ?? '–'} />}
              note={judged === undefined ? 'slice of the training data' : `slice; ${plural(judged.alarms, 'alarm')} in ${plural(judged.judgements, 'judgement')}`}
            />
          </section>
          {looked === undefined ? null : <Labels device={device} of={looked} drifted={judged?.drifted ?? drifted > 0} />}
          <div class="grid-2">
            <OverTime {...subject} feature={view.feature} onClear={() => setView({ feature: '' })} />
            <Classes {...subject} />
          </div>
          <Features items={items} view={view} onView={setView} />
          <CliLine line={cli('drift', 'show', device, manifest, ...flags)} />
        </div>
      )}
    </Page>
  );
}

function OverTime({ device, manifest, range, feature, onClear }: Subject & { feature: string; onClear(): void }): JSX.Element {
  const answer = useSeries(device, manifest, range, feature);
  const points = answer.data?.items;
  const { x, lines } = useMemo(() => linesOf(points ?? [], feature), [points, feature]);
  return (
    <Card
      title="Over time"
      note="hour by hour"
      actions={
        feature === '' ? undefined : (
          <button type="button" class="link" onClick={onClear}>
            Without the feature
          </button>
        )
      }
    >
      {points === undefined ? (
        answer.isError ? (
          <ErrorNote error={answer.error} title="The statistic could not be loaded" onRetry={() => answer.refetch()} />
        ) : (
          <Skeleton rows={4} label="Loading the statistic" />
        )
      ) : x.length < 2 ? (
        <OneHour points={points} feature={feature} />
      ) : (
        <Series x={x} lines={lines} zero format={(value) => figure(value, 2)} />
      )}
      <CliLine line={cli('drift', 'series', device, manifest, feature !== '' && '--feature', feature !== '' && feature)} />
    </Card>
  );
}

/** A single hour is no line; its figures say it better. */
function OneHour({ points, feature }: { points: readonly { at: string; count: number; share?: number | null; feature?: Feature['severity'] | null }[]; feature: string }): JSX.Element {
  const only = points[0];
  if (only === undefined) return <p class="muted">No hour of this time has observations.</p>;
  return (
    <div class="dr-hour">
      <p class="next-count">
        <b class="num">{percent(only.share, 0)}</b> of features drifted
      </p>
      {feature === '' || only.feature == null ? null : (
        <p>
          <bdi>{feature}</bdi>: PSI <b class="num">{figure(only.feature.corrected, 3)}</b>
        </p>
      )}
      <p class="muted">
        So far in one hour, with {plural(only.count, 'observation')} (<Ago time={only.at} suffix />
        ). The line begins with the next hour.
      </p>
    </div>
  );
}

function Classes({ device, manifest, range }: Subject): JSX.Element {
  const answer = useClasses(device, manifest, range);
  const items = answer.data?.items;
  const top = Math.max(1e-9, ...(items ?? []).flatMap((each) => [each.reference, each.seen]));
  return (
    <Card title="Predicted classes" note={items?.[0] === undefined ? undefined : `${count(total(items))} predictions`} actions={<HistogramLegend />}>
      {items === undefined ? (
        answer.isError ? (
          <ErrorNote error={answer.error} title="The classes could not be loaded" onRetry={() => answer.refetch()} />
        ) : (
          <Skeleton rows={4} label="Loading classes" />
        )
      ) : items.length === 0 ? (
        <p class="muted">The package predicts no classes.</p>
      ) : (
        <ul class="dr-classes" aria-label="Share of predictions per class, reference and live">
          {items.slice(0, MOST_CLASSES).map((each) => (
            <li key={each.label}>
              <Name value={each.label} />
              <span class="dr-pair" aria-hidden="true">
                <span class="dr-reference" style={{ inlineSize: `${(100 * each.reference) / top}%` }} />
                <span class="dr-live" style={{ inlineSize: `${(100 * each.seen) / top}%` }} />
              </span>
              <span class="num">
                <span class="muted">{percent(each.reference, 0)} →</span> <b>{percent(each.seen, 0)}</b>
              </span>
            </li>
          ))}
        </ul>
      )}
      {(items?.length ?? 0) > MOST_CLASSES ? <p class="muted">And {count((items?.length ?? 0) - MOST_CLASSES)} more classes: the command line has all of them.</p> : null}
      <CliLine line={cli('drift', 'classes', device, manifest)} />
    </Card>
  );
}

const MOST_CLASSES = 16;

function total(items: readonly ClassShare[]): number {
  return items.reduce((sum, each) => sum + each.seen_count, 0);
}

function Features({
  items,
  view,
  onView,
}: {
  items: readonly Feature[];
  view: { page: number; feature: string; axis: Axis };
  onView(patch: { page?: number; feature?: string; axis?: Axis }, how?: 'push' | 'replace'): void;
}): JSX.Element {
  const pages = Math.ceil(items.length / PER_PAGE);
  const page = Math.max(1, Math.min(pages, view.page));
  const shown = items.slice((page - 1) * PER_PAGE, page * PER_PAGE);
  return (
    <section class="dr-features" aria-label="Features by severity">
      <header class="dr-head">
        <h2>Features by severity</h2>
        <HistogramLegend />
        <div class="row" role="group" aria-label="Axis">
          {AXES.map((axis) => (
            <button key={axis} type="button" class="button small next-chip" aria-pressed={axis === view.axis} onClick={() => onView({ axis })}>
              {axis === 'value' ? 'Density' : 'Share per bin'}
            </button>
          ))}
        </div>
      </header>
      <ol class="dr-cards" start={(page - 1) * PER_PAGE + 1}>
        {shown.map((feature) => (
          <li key={feature.name}>
            <FeatureCard feature={feature} axis={view.axis} chosen={feature.name === view.feature} onChoose={() => onView({ feature: feature.name === view.feature ? '' : feature.name })} />
          </li>
        ))}
      </ol>
      {pages > 1 ? (
        <nav class="row dr-pages" aria-label="Pages of features">
          <button type="button" class="button small" disabled={page === 1} onClick={() => onView({ page: page - 1 }, 'push')}>
            More severe
          </button>
          <span class="muted num">
            {count((page - 1) * PER_PAGE + 1)} to {count((page - 1) * PER_PAGE + shown.length)} of {count(items.length)}
          </span>
          <button type="button" class="button small" disabled={page === pages} onClick={() => onView({ page: page + 1 }, 'push')}>
            Less severe
          </button>
        </nav>
      ) : null}
    </section>
  );
}

function FeatureCard({ feature, axis, chosen, onChoose }: { feature: Feature; axis: Axis; chosen: boolean; onChoose(): void }): JSX.Element {
  const bins = useMemo(() => binsOf(feature.edges, feature.reference, feature.seen), [feature]);
  const { severity } = feature;
  return (
    <article class={`card dr-feature${chosen ? ' chosen' : ''}`} aria-label={feature.name}>
      <header>
        <h3>
          <Name value={feature.name} />
        </h3>
        <span class={`num ${severity.drifted ? 'hot' : 'muted'}`} title={`Raw ${figure(severity.psi, 3)}, less what chance explains`}>
          PSI {fixed(Math.max(0, severity.corrected), 2)}
        </span>
        {severity.drifted ? <Status tone="bad">Drifted</Status> : null}
        <button type="button" class="link" aria-pressed={chosen} aria-label={`Over time: ${feature.name}`} onClick={onChoose}>
          {chosen ? 'Shown above' : 'Over time'}
        </button>
      </header>
      <Density bins={bins} label={feature.name} axis={axis} />
    </article>
  );
}

/** The way on: what devices kept while their data drifted, to the labeling queue. */
function Labels({ device, of, drifted }: { device: string; of: Package; drifted: boolean }): JSX.Element | null {
  const { line, semver } = of;
  const harvest = useHarvest(line);
  const dataset = harvest.data;
  if (dataset === undefined) return harvest.isError ? <ErrorNote error={harvest.error} title="The harvested samples could not be looked up" onRetry={() => harvest.refetch()} /> : null;
  if (dataset === null)
    return (
      <NextStep at="drift" title="Give what devices keep a dataset" action="Datasets" href="/datasets" icon="datasets" cli={cli('datasets', 'create', '--help')}>
        No dataset takes in what devices that run <bdi>{line}</bdi> harvest, so there is nothing to label from here.
      </NextStep>
    );
  const slice = `harvest/${semver}`;
  return <ToLabels device={device} line={line} version={of.version} semver={semver} dataset={dataset} slice={slice} drifted={drifted} />;
}

function ToLabels({
  device,
  line,
  version,
  semver,
  dataset,
  slice,
  drifted,
}: {
  device: string;
  line: string;
  /** Of the registry. */
  version: string;
  semver: string;
  dataset: Dataset;
  slice: string;
  drifted: boolean;
}): JSX.Element | null {
  const everywhere = device === EVERY_DEVICE;
  const kept = useKept(everywhere ? undefined : dataset.id, slice, device);
  if (!everywhere && kept.data === undefined)
    return kept.isError ? <ErrorNote error={kept.error} title="The harvested samples could not be looked up" onRetry={() => kept.refetch()} /> : null;
  const samples = kept.data?.samples ?? dataset.slices[slice] ?? 0;
  const all = `${count(samples)}${kept.data?.more === true ? ' and more inputs' : samples === 1 ? ' input' : ' inputs'}`;
  if (samples === 0)
    return (
      <NextStep
        at="drift"
        to="rollout"
        title="Nothing has been kept for labeling yet"
        action="Plan a rollout that keeps inputs"
        href={href('/rollouts/new', {}, { line, version, harvest: '1', target: everywhere ? 'true' : (namesToCel([device]) ?? '') })}
        icon="rollouts"
        cli={cli('rollouts', 'create', '--model-version', version, ...(everywhere ? [] : ['--target', namesToCel([device])]), '--harvest-on-drift')}
      >
        {everywhere ? 'Devices that run' : 'This device runs'} <bdi>{`${line} ${semver}`}</bdi> and {everywhere ? 'keep' : 'keeps'} inputs only while a rollout tells {everywhere ? 'them' : 'it'} to. Rolling the same version out once more, with
        harvest switched on, sends no package again.
      </NextStep>
    );
  if (kept.data !== undefined && kept.data.unlabelled === 0 && !kept.data.more)
    return (
      <NextStep at="drift" to="run" title="What it kept is labelled" action="Freeze a version" href={datasetHref(dataset, { tab: 'versions', freeze: 'yes' })} icon="datasets" cli={cli('versions', 'create', dataset.name)}>
        All {all} that this device kept while it ran <bdi>{`${line} ${semver}`}</bdi> {samples === 1 ? 'has' : 'have'} a label by hand: a new version of the dataset takes them in.
      </NextStep>
    );
  return (
    <NextStep
      at="drift"
      title={drifted ? 'Send it to labeling' : 'Label what was kept'}
      action={kept.data === undefined ? `Label ${plural(samples, 'sample')}` : `Label what ${device} kept`}
      href={labelingHref(dataset, { slice, device: everywhere ? undefined : device })}
      icon="labeling"
      cli={cli('labels', 'queue', dataset.name, '--slice', slice, ...(everywhere ? [] : ['--device', device]))}
    >
      {all} that {everywhere ? 'devices kept while they' : 'this device kept while it'} ran <bdi>{`${line} ${semver}`}</bdi> {samples === 1 ? 'is' : 'are'} in the dataset <bdi>{dataset.name}</bdi>, slice <code>{slice}</code>.
    </NextStep>
  );
}
