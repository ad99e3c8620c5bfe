// A sample as a person judges it: the window of a series as lines by channel, a table row as names and values. Drawn at once
// and without a library: in the labeling queue it has to be there with the next frame.
import type { JSX } from 'preact';
import { useMemo, useState } from 'preact/hooks';
import { lineClass } from '../../charts/series';
import { downsample, sampledNote } from '../../lib/downsample';
import { count, figure } from '../../lib/format';
import { Button } from '../../ui/button';
import { Name } from '../../ui/text';
import type { Dataset, Sample } from './data';
import { groupChannels, ticks } from './window';
import type { Channel } from './window';

export function SampleView({ dataset, sample, height = 168 }: { dataset: Pick<Dataset, 'shape' | 'feature_names'>; sample: Sample; height?: number }): JSX.Element {
  const { shape } = dataset;
  const values = sample.values ?? [];
  if (values.length === 0) return <p class="muted">The server has no raw values of this sample.</p>;
  if (shape.kind === 'series') return <Window channels={shape.channels} rate={shape.rate_hz} values={values} height={height} />;
  return <Row names={dataset.feature_names} values={values} />;
}

/** Most values of a row at once. */
const MOST_VALUES = 60;

function Row({ names, values }: { names: readonly string[]; values: readonly number[] }): JSX.Element {
  const [page, setPage] = useState(0);
  const from = page * MOST_VALUES;
  return (
    <div class="stack-small">
      <dl class="datasets-values">
        {values.slice(from, from + MOST_VALUES).map((value, index) => (
          <div key={from + index}>
            <dt>
              <Name value={names[from + index] ?? `column ${from + index + 1}`} />
            </dt>
            <dd class="num">{figure(value, 6)}</dd>
          </div>
        ))}
      </dl>
      {values.length > MOST_VALUES ? (
        <div class="row">
          <span class="muted num">
            {count(from + 1)} to {count(Math.min(values.length, from + MOST_VALUES))} of {count(values.length)} columns
          </span>
          <Button size="small" disabled={page === 0} onClick={() => setPage(page - 1)}>
            Previous
          </Button>
          <Button size="small" disabled={from + MOST_VALUES >= values.length} onClick={() => setPage(page + 1)}>
            Next
          </Button>
        </div>
      ) : null}
    </div>
  );
}

const WIDTH = 720;
/** Points of a line: about what the width can show. */
const MOST_POINTS = 1440;

function Window({ channels, rate, values, height }: { channels: readonly string[]; rate: number; values: readonly number[]; height: number }): JSX.Element {
  const groups = useMemo(() => groupChannels(channels, values), [channels, values]);
  const steps = Math.floor(values.length / Math.max(1, channels.length));
  return (
    <div class={groups.length > 1 ? 'datasets-windows several' : 'datasets-windows'}>
      {groups.map((group) => (
        <Lines key={group.name} name={group.name} channels={group.channels} steps={steps} rate={rate} height={height} />
      ))}
    </div>
  );
}

function Lines({ name, channels, steps, rate, height }: { name: string; channels: readonly Channel[]; steps: number; rate: number; height: number }): JSX.Element {
  const drawn = useMemo(() => {
    const sampled = downsample(
      Array.from({ length: steps }, (_unused, step) => step),
      channels.map((channel) => channel.values),
      MOST_POINTS,
    );
    const finite = sampled.ys.flat().filter((value): value is number => value !== null && Number.isFinite(value));
    let low = Infinity;
    let high = -Infinity;
    for (const value of finite) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    if (!Number.isFinite(low)) [low, high] = [0, 1];
    if (high - low < 1e-12) [low, high] = [low - 0.5, high + 0.5];
    const span = Math.max(1, steps - 1);
    const y = (value: number): number => 4 + ((high - value) / (high - low)) * (height - 8);
    const paths = sampled.ys.map((line) => {
      let pen = 'M';
      return line
        .map((value, index) => {
          if (value === null || !Number.isFinite(value)) {
            pen = 'M';
            return '';
          }
          const part = `${pen}${(((sampled.x[index] ?? 0) / span) * WIDTH).toFixed(1)} ${y(value).toFixed(1)}`;
          pen = 'L';
          return part;
        })
        .join('');
    });
    return { paths, y, marks: ticks(low, high), low, high, note: sampledNote(sampled) };
  }, [channels, steps, height]);
  const seconds = steps / rate;
  const said = channels.map((channel) => `${channel.name}: mean ${figure(channel.mean, 3)}, standard deviation ${figure(channel.std, 3)}`).join('; ');
  return (
    <figure class="datasets-window">
      <figcaption>
        <bdi class="strong">{name}</bdi>
        {channels.map((channel, index) => (
          <span key={channel.name} class="legend">
            <i class={lineClass(index)} />
            <bdi>{channel.short}</bdi>
            <span class="num" title="mean and standard deviation">
              {figure(channel.mean, 3)} ± {figure(channel.std, 3)}
            </span>
          </span>
        ))}
        {drawn.note === undefined ? null : <span class="chart-note">{drawn.note}</span>}
      </figcaption>
      <div class="datasets-plot">
        <div class="datasets-axis num" aria-hidden="true" style={{ height: `${height}px` }}>
          {drawn.marks.map((mark) => (
            <span key={mark} style={{ top: `${drawn.y(mark)}px` }}>
              {figure(mark, 3)}
            </span>
          ))}
        </div>
        <svg viewBox={`0 0 ${WIDTH} ${height}`} preserveAspectRatio="none" role="img" aria-label={`${name} over ${figure(seconds, 3)} seconds. ${said}`} style={{ height: `${height}px` }}>
          {drawn.marks.map((mark) => (
            <path key={mark} class="grid" d={`M0 ${drawn.y(mark).toFixed(1)}H${WIDTH}`} vector-effect="non-scaling-stroke" />
          ))}
          {drawn.paths.map((path, index) => (
            <path key={index} class={`line l${index % 7}`} d={path} vector-effect="non-scaling-stroke" />
          ))}
        </svg>
        <div class="datasets-time num muted" aria-hidden="true">
          <span>0 s</span>
          <span>{figure(seconds / 2, 3)} s</span>
          <span>{figure(seconds, 3)} s</span>
        </div>
      </div>
    </figure>
  );
}
