// Lines over time or steps (uPlot). The library loads when a chart comes near the screen; colours are read again when the
// theme changes. The second series is dashed: colour is never alone.
import type { JSX } from 'preact';
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import type uPlot from 'uplot';
import { downsample, sampledNote } from '../lib/downsample';
import { figure } from '../lib/format';
import { useSeen, useWidth } from '../lib/hooks';
import { useStore } from '../lib/store';
import { themeVersion, tokenColours } from '../lib/theme';

export interface Line {
  label: string;
  /** As long as `x`; `null` is a gap. */
  y: readonly (number | null)[];
}

const COLOURS = ['--c1', '--c2', '--c3', '--c4', '--c5', '--c6', '--c7'] as const;
const DASHES: (number[] | undefined)[] = [undefined, [6, 4], [2, 3], [10, 4, 2, 4], [1, 3], [8, 2], [4, 4, 1, 4]];

/** Beyond, the chart's axis finds no steps. Such a value is a gap in the line; it is said in the legend all the same. */
const MOST = 1e30;

function drawable(value: number | null): number | null {
  return value !== null && Math.abs(value) <= MOST ? value : null;
}

/** How a series is drawn, for legends outside the chart: `<i class={lineClass(1)}>`. */
export function lineClass(index: number): string {
  return `swatch s${(index % COLOURS.length) + 1}`;
}

export function Series({
  title,
  x,
  lines,
  time = true,
  height = 184,
  unit = '',
  format = (value) => figure(value, 3),
  zero = false,
  description,
}: {
  title?: string;
  /** Ascending: Unix seconds with `time`, else steps. */
  x: readonly number[];
  lines: readonly Line[];
  time?: boolean;
  height?: number;
  unit?: string;
  format?(value: number): string;
  /** The y axis begins at 0. */
  zero?: boolean;
  /** What a person who sees no chart should know; by default first, last, min and max of each line. */
  description?: string;
}): JSX.Element {
  const box = useRef<HTMLDivElement>(null);
  const seen = useSeen(box);
  const width = useWidth(box);
  const version = useStore(themeVersion);
  const [failed, setFailed] = useState(false);
  const chart = useRef<uPlot | undefined>(undefined);
  const limit = Math.max(200, Math.round(width * 2));
  const sampled = useMemo(() => downsample(x, lines.map((line) => line.y.map(drawable)), limit), [x, lines, limit]);
  const note = sampledNote(sampled);

  useEffect(() => {
    const element = box.current;
    if (!seen || element === null || width === 0) return undefined;
    let gone = false;
    void import('./uplot').then(
      ({ UPlot }) => {
        if (gone) return;
        const colours = tokenColours('--muted', '--line', ...COLOURS);
        const font = `11px ${getComputedStyle(element).fontFamily}`;
        const axis = { stroke: colours['--muted'], grid: { stroke: colours['--line'], width: 1 }, ticks: { show: false }, font, gap: 6 };
        chart.current?.destroy();
        chart.current = new UPlot(
          {
            width,
            height,
            legend: { show: false },
            padding: [8, 8, 0, 0],
            cursor: { points: { size: 6 }, drag: { x: true, y: false }, y: false },
            scales: { x: { time }, y: zero ? { range: (_plot, _low, high) => [0, high <= 0 ? 1 : high * 1.08] } : {} },
            series: [
              {},
              ...lines.map((line, index) => ({
                label: line.label,
                stroke: colours[COLOURS[index % COLOURS.length] ?? '--c1'],
                width: 1.75,
                // One or two values among gaps make no line: they are shown as points.
                points: { show: finite(line).length <= 2 },
                ...(DASHES[index % DASHES.length] === undefined ? {} : { dash: DASHES[index % DASHES.length] ?? [] }),
              })),
            ],
            axes: [
              time ? { ...axis, size: 28, values: (_plot, splits, _axis, _space, step) => splits.map((at) => clock(at, step)) } : { ...axis, size: 28 },
              { ...axis, size: 52, values: (_plot, splits) => splits.map((value) => `${format(value)}${unit === '' ? '' : ` ${unit}`}`) },
            ],
          },
          [sampled.x, ...sampled.ys] as uPlot.AlignedData,
          element,
        );
      },
      () => setFailed(true),
    );
    return () => {
      gone = true;
      chart.current?.destroy();
      chart.current = undefined;
    };
  }, [seen, sampled, lines, version, time, height, unit, zero, width]);

  const said = description ?? lines.map((line) => describe(line, format, unit)).join(' ');
  return (
    <figure class="chart">
      <figcaption>
        {title === undefined ? null : <h2>{title}</h2>}
        {lines.map((line, index) => (
          <span key={line.label} class="legend">
            <i class={lineClass(index)} />
            <bdi>{line.label}</bdi> <b class="num">{lastOf(line, format, unit)}</b>
          </span>
        ))}
        {note === undefined ? null : <span class="chart-note">{note}</span>}
      </figcaption>
      <div ref={box} class="plot" role="img" aria-label={`Line chart. ${said}`} style={{ height: `${height}px` }}>
        {failed ? <p class="muted">The chart could not be loaded. {said}</p> : null}
      </div>
    </figure>
  );
}

/** A tick of a time axis: 24-hour clock, days where the steps are days. */
function clock(at: number, step: number): string {
  const date = new Date(at * 1000);
  const two = (value: number): string => String(value).padStart(2, '0');
  const midnight = date.getHours() === 0 && date.getMinutes() === 0 && date.getSeconds() === 0;
  if (step >= 86_400 || midnight) return `${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${two(date.getHours())}:${two(date.getMinutes())}${step < 60 ? `:${two(date.getSeconds())}` : ''}`;
}

function finite(line: Line): number[] {
  return line.y.filter((value): value is number => value !== null && Number.isFinite(value));
}

function lastOf(line: Line, format: (value: number) => string, unit: string): string {
  const last = finite(line).at(-1);
  return last === undefined ? '' : `${format(last)}${unit === '' ? '' : ` ${unit}`}`;
}

function describe(line: Line, format: (value: number) => string, unit: string): string {
  const values = finite(line);
  const first = values[0];
  const last = values.at(-1);
  if (first === undefined || last === undefined) return `${line.label}: no values.`;
  let low = first;
  let high = first;
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  const end = unit === '' ? '' : ` ${unit}`;
  return `${line.label}: first ${format(first)}${end}, last ${format(last)}${end}, from ${format(low)} to ${format(high)}${end}.`;
}
