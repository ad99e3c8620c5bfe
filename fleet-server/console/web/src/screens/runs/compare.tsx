// Runs side by side: their curves over one another, their figures, and what they were started with.
import type { JSX } from 'preact';
import { useMemo } from 'preact/hooks';
import { href, Link, list, navigate, oneOf, useSearch } from '../../lib/router';
import { cli } from '../../lib/shell';
import { lineClass, Series } from '../../charts/series';
import { Button, IconButton } from '../../ui/button';
import { CliLine } from '../../ui/cli';
import { Icon } from '../../ui/icon';
import { Card, Page } from '../../ui/page';
import { Empty, ErrorNote, Skeleton } from '../../ui/states';
import { Name } from '../../ui/text';
import { useMetrics, useRuns } from './data';
import type { Run } from './data';
import { RunState, VersionLink } from './parts';
import { better, curves, extent, MAX_COMPARED, metricName, metricValue, overlay, runName, settings } from './words';
import type { Curve } from './words';
import './runs.css';

const SEARCH = { ids: list(), config: oneOf(['differences', 'all'] as const, 'differences') };

interface Compared {
  run: Run;
  curves: readonly Curve[];
}

/** Two runs of one experiment with one seed are told apart by when they were made. */
function labels(runs: readonly Run[]): string[] {
  const names = runs.map(runName);
  return runs.map((run, index) => (names.indexOf(names[index] ?? '') === names.lastIndexOf(names[index] ?? '') ? (names[index] ?? '') : `${runName(run)} (${run.id.slice(-4)})`));
}

export default function Compare(): JSX.Element {
  const [view, setView] = useSearch(SEARCH);
  const ids = useMemo(() => [...new Set(view.ids)].slice(0, MAX_COMPARED), [view.ids]);
  const queries = useRuns(ids);
  const failed = queries.find((query) => query.isError && query.data === undefined);
  const loaded = queries.map((query) => query.data).filter((run) => run !== undefined);
  const metrics = useMetrics(loaded);
  const points = metrics.map((query) => query.data);
  // Queries are new objects at every render; what they hold is not.
  const compared = useMemo<Compared[]>(
    () => loaded.map((run, index) => ({ run, curves: curves(points[index]?.points ?? []) })),
    [...loaded, ...points, loaded.length],
  );
  const drop = (id: string): void => setView({ ids: ids.filter((other) => other !== id) }, 'push');
  return (
    <Page
      title="Compare runs"
      back={{ href: '/runs', label: 'Runs' }}
      note={ids.length === 0 ? undefined : `${ids.length} side by side`}
      actions={
        <Button onClick={() => navigate('/runs')}>Choose others</Button>
      }
    >
      {ids.length === 0 ? (
        <Empty
          action={
            <Link class="button primary" href="/runs">
              Choose runs
            </Link>
          }
          cli={cli('runs', 'list')}
        >
          Nothing is chosen: select two runs or more in the list, then compare them.
        </Empty>
      ) : failed !== undefined ? (
        <ErrorNote error={failed.error} title="A run could not be loaded" onRetry={() => Promise.all(queries.map((query) => query.refetch()))} />
      ) : loaded.length < ids.length || metrics.some((query) => query.isPending) ? (
        <Skeleton rows={8} label="Loading runs" />
      ) : (
        <div class="stack runs-detail" data-state="full">
          {metrics.some((query) => query.isError) ? (
            <ErrorNote
              error={metrics.find((query) => query.isError)?.error}
              title="Some curves could not be loaded"
              onRetry={() => Promise.all(metrics.filter((query) => query.isError).map((query) => query.refetch()))}
            />
          ) : null}
          <Figures compared={compared} onDrop={ids.length > 1 ? drop : undefined} />
          <Overlays compared={compared} />
          <Configuration runs={loaded} all={view.config === 'all'} onAll={(all) => setView({ config: all ? 'all' : 'differences' })} />
          <Card title="On the command line">
            {loaded.map((run) => (
              <CliLine key={run.id} line={cli('runs', 'metrics', run.id)} label={`Metrics of ${runName(run)}`} />
            ))}
          </Card>
        </div>
      )}
    </Page>
  );
}

function RunHead({ run, index, label }: { run: Run; index: number; label: string }): JSX.Element {
  return (
    <span class="runs-head">
      <i class={lineClass(index)} />
      <Link href={href('/runs/:id', { id: run.id })}>
        <Name value={label} />
      </Link>
    </span>
  );
}

/** One column of the table: a value per run, and which is the best. */
interface Measure {
  id: string;
  group: string;
  name: string;
  metric: string;
  /** Whether this figure is the one to look for: of a loss the smallest, not the largest. */
  ranks: boolean;
  values: (number | undefined)[];
  notes?: (string | undefined)[];
}

const RESULTS = ['holdout.accuracy', 'holdout.log_loss', 'holdout.ece'] as const;

function measures(compared: readonly Compared[]): Measure[] {
  const results = RESULTS.map((metric) => ({
    id: metric,
    group: 'Holdout',
    name: metricName(metric.replace('holdout.', '')),
    metric,
    ranks: true,
    values: compared.map(({ run }) => run.metrics[metric]),
  }));
  const names = [...new Set(compared.flatMap((one) => one.curves.map((curve) => curve.name)))].sort();
  const extents = names.flatMap((name) => {
    const found = compared.map((one) => one.curves.find((curve) => curve.name === name)).map((curve) => (curve === undefined ? undefined : extent(curve)));
    const group = `${metricName(name)} per epoch`;
    return [
      { id: `${name}-min`, group, name: 'Min', metric: name, ranks: better(name) === 'less', values: found.map((one) => one?.min), notes: found.map((one) => (one === undefined ? undefined : `at ${one.minAt}`)) },
      { id: `${name}-max`, group, name: 'Max', metric: name, ranks: better(name) === 'more', values: found.map((one) => one?.max), notes: found.map((one) => (one === undefined ? undefined : `at ${one.maxAt}`)) },
      { id: `${name}-last`, group, name: 'Last', metric: name, ranks: true, values: found.map((one) => one?.last) },
    ];
  });
  return [...results, ...extents];
}

/** Where the best value stands; nowhere when all are alike. */
function bestOf(measure: Measure): number | undefined {
  const way = measure.ranks ? better(measure.metric) : undefined;
  const known = measure.values.filter((value) => value !== undefined);
  if (way === undefined || known.length < 2 || Math.min(...known) === Math.max(...known)) return undefined;
  return way === 'more' ? Math.max(...known) : Math.min(...known);
}

function Figures({ compared, onDrop }: { compared: readonly Compared[]; onDrop: ((id: string) => void) | undefined }): JSX.Element {
  const columns = measures(compared);
  const groups = [...new Set(columns.map((column) => column.group))];
  const names = labels(compared.map(({ run }) => run));
  // Where all have finished, a column that says so is in the way.
  const unfinished = compared.some(({ run }) => run.status !== 'FINISHED');
  return (
    <Card title="Figures" note="★ the best of the column" flush>
      <div class="runs-scroll" role="region" aria-label="Figures of the runs" tabIndex={0}>
        <table class="runs-table runs-wide">
          <thead>
            <tr>
              <td colSpan={unfinished ? 2 : 1} />
              {groups.map((group) => (
                <th key={group} scope="colgroup" class="group" colSpan={columns.filter((column) => column.group === group).length}>
                  {group}
                </th>
              ))}
              <td />
            </tr>
            <tr>
              <th scope="col">Run</th>
              {unfinished ? <th scope="col">Status</th> : null}
              {columns.map((column, index) => (
                <th key={column.id} scope="col" class={`end${column.group === columns[index - 1]?.group ? '' : ' first'}`}>
                  {column.name}
                </th>
              ))}
              <td />
            </tr>
          </thead>
          <tbody>
            {compared.map(({ run }, at) => (
              <tr key={run.id}>
                <th scope="row">
                  <RunHead run={run} index={at} label={names[at] ?? ''} />
                </th>
                {unfinished ? (
                  <td>
                    <RunState run={run} />
                  </td>
                ) : null}
                {columns.map((column, index) => {
                  const value = column.values[at];
                  const best = value !== undefined && value === bestOf(column);
                  return (
                    <td key={column.id} class={`end${column.group === columns[index - 1]?.group ? '' : ' first'}${best ? ' best' : ''}`}>
                      {best ? (
                        <i role="img" aria-label="best">
                          ★
                        </i>
                      ) : null}
                      {metricValue(column.metric, value)}
                      {column.notes?.[at] === undefined ? null : <span class="muted"> {column.notes[at]}</span>}
                    </td>
                  );
                })}
                <td class="end">
                  {onDrop === undefined ? null : (
                    <IconButton label={`Take ${names[at] ?? ''} out`} size="small" onClick={() => onDrop(run.id)}>
                      <Icon name="close" size={12} />
                    </IconButton>
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Card>
  );
}

function Overlays({ compared }: { compared: readonly Compared[] }): JSX.Element {
  const charts = useMemo(() => {
    const names = labels(compared.map(({ run }) => run));
    const metrics = [...new Set(compared.flatMap((one) => one.curves.map((curve) => curve.name)))].sort((left, right) => right.localeCompare(left));
    return metrics.map((metric) => ({
      metric,
      ...overlay(
        // A run without this curve keeps its place, so that every run has one colour in all charts.
        compared.map((one, index) => ({ label: names[index] ?? '', curve: one.curves.find((curve) => curve.name === metric) ?? { name: metric, steps: [], values: [] } })),
      ),
    }));
  }, [compared]);
  if (charts.length === 0)
    return (
      <Card title="Curves">
        <p class="muted">None of these runs has reached its first epoch.</p>
      </Card>
    );
  return (
    <div class="grid-2">
      {charts.map(({ metric, x, lines }) => (
        <Card key={metric}>
          <Series title={metricName(metric)} x={x} lines={lines} time={false} height={240} zero={metric.endsWith('loss')} format={(value) => metricValue(metric, value)} />
        </Card>
      ))}
    </div>
  );
}

function Configuration({ runs, all, onAll }: { runs: readonly Run[]; all: boolean; onAll(all: boolean): void }): JSX.Element {
  const configs = runs.map(settings);
  const names = labels(runs);
  const rows = (configs[0] ?? []).map(([name], index) => {
    const values = configs.map((config) => config[index]?.[1] ?? '');
    return { name, values, differs: new Set(values).size > 1 };
  });
  const shown = rows.filter((row) => all || row.differs);
  const same = rows.length - rows.filter((row) => row.differs).length;
  return (
    <Card
      title="Configuration"
      note={`${rows.length - same} of ${rows.length} settings differ`}
      flush
      actions={
        <label class="runs-check">
          <input type="checkbox" checked={all} onChange={(event) => onAll(event.currentTarget.checked)} />
          <span>Show what is alike</span>
        </label>
      }
    >
      {shown.length === 0 ? (
        <p class="muted runs-pad">These runs were started with the same settings.</p>
      ) : (
        <div class="runs-scroll" role="region" aria-label="Configuration of the runs" tabIndex={0}>
          <table class={`runs-table runs-wide${all ? ' runs-mixed' : ''}`}>
            <thead>
              <tr>
                <th scope="col">Setting</th>
                {runs.map((run, index) => (
                  <th key={run.id} scope="col">
                    <RunHead run={run} index={index} label={names[index] ?? ''} />
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {shown.map((row) => (
                <tr key={row.name} class={row.differs ? 'differs' : undefined}>
                  <th scope="row">
                    {row.name}
                    {row.differs ? <span class="muted"> ≠</span> : null}
                  </th>
                  {row.values.map((value, index) => (
                    <td key={runs[index]?.id}>{row.name === 'Dataset version' ? <VersionLink id={value} /> : <bdi>{value}</bdi>}</td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </Card>
  );
}
