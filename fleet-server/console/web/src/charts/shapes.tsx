// Small charts as SVG: histograms, bars, sparklines, phases. Every one has words beside it or in its name.
import type { JSX } from 'preact';
import { count, figure, percent } from '../lib/format';

export interface HistogramData {
  /** Bin edges, one more than bins, shared by both. Ends may be infinite: shown as open bins. */
  edges: readonly number[];
  /** Counts or densities of the reference and of what is live now; each is scaled to its own sum. */
  reference: readonly number[];
  live: readonly number[];
}

function shares(values: readonly number[]): number[] {
  const sum = values.reduce((total, value) => total + (Number.isFinite(value) && value > 0 ? value : 0), 0);
  return values.map((value) => (sum > 0 && Number.isFinite(value) && value > 0 ? value / sum : 0));
}

/** Reference as filled bars, live as a stepped line over the same bins. */
export function Histogram({ data, label, height = 160 }: { data: HistogramData; label: string; height?: number }): JSX.Element {
  const bins = Math.max(data.reference.length, data.live.length);
  const reference = shares(data.reference);
  const live = shares(data.live);
  const top = Math.max(1e-12, ...reference, ...live);
  const width = 560;
  const step = bins === 0 ? width : width / bins;
  const gap = Math.min(2, step * 0.12);
  const y = (share: number | undefined): number => height - ((share ?? 0) / top) * (height - 6);
  const line = live.map((share, index) => `${index === 0 ? 'M' : 'L'}${(index * step).toFixed(2)} ${y(share).toFixed(2)}H${((index + 1) * step).toFixed(2)}`).join('');
  const finiteEdges = data.edges.filter((edge) => Number.isFinite(edge));
  const low = finiteEdges[0];
  const high = finiteEdges.at(-1);
  return (
    <div class="histogram">
      <svg viewBox={`0 0 ${width} ${height}`} preserveAspectRatio="none" role="img" aria-label={label} style={{ height: `${height}px` }}>
        {reference.map((share, index) => (
          <rect key={index} class="hist-reference" x={index * step + gap / 2} y={y(share)} width={Math.max(0.5, step - gap)} height={height - y(share)}>
            <title>{`${binName(data.edges, index)}: reference ${percent(share)}, live ${percent(live[index])}`}</title>
          </rect>
        ))}
        <path class="hist-live" d={line} vector-effect="non-scaling-stroke" />
        <path class="hist-base" d={`M0 ${height - 0.5}H${width}`} vector-effect="non-scaling-stroke" />
      </svg>
      <div class="hist-axis num">
        <span>{low === undefined ? '' : figure(low, 3)}</span>
        <span>{low === undefined || high === undefined ? '' : figure(low / 2 + high / 2, 3)}</span>
        <span>{high === undefined ? '' : figure(high, 3)}</span>
      </div>
    </div>
  );
}

function binName(edges: readonly number[], index: number): string {
  return `${figure(edges[index] ?? Number.NaN, 3)} to ${figure(edges[index + 1] ?? Number.NaN, 3)}`;
}

export function HistogramLegend(): JSX.Element {
  return (
    <span class="legends">
      <span class="legend">
        <i class="swatch block" /> Reference
      </span>
      <span class="legend">
        <i class="swatch s2 solid" /> Live
      </span>
    </span>
  );
}

export interface Bar {
  label: string;
  value: number;
  note?: string;
  tone?: 'ok' | 'bad' | 'busy' | 'plain';
  href?: string;
}

/** Horizontal bars with their figures, as a list. */
export function Bars({ bars, label, format = count }: { bars: readonly Bar[]; label: string; format?(value: number): string }): JSX.Element {
  const top = Math.max(1e-12, ...bars.map((bar) => bar.value));
  return (
    <ul class="bars" aria-label={label}>
      {bars.map((bar) => (
        <li key={bar.label}>
          <bdi class="bar-label" title={bar.label}>
            {bar.label}
          </bdi>
          <span class="bar-track" aria-hidden="true">
            <span class={`bar-fill ${bar.tone ?? 'plain'}`} style={{ inlineSize: `${Math.max(bar.value > 0 ? 1 : 0, 100 * (bar.value / top))}%` }} />
          </span>
          <span class="bar-value num">
            {format(bar.value)}
            {bar.note === undefined ? null : <span class="muted"> {bar.note}</span>}
          </span>
        </li>
      ))}
    </ul>
  );
}

export function Sparkline({ values, label, width = 88, height = 22 }: { values: readonly number[]; label: string; width?: number; height?: number }): JSX.Element {
  const known = values.filter((value) => Number.isFinite(value));
  const low = Math.min(...known);
  const span = Math.max(1e-12, Math.max(...known) - low);
  const step = known.length < 2 ? width : width / (known.length - 1);
  const path = known.map((value, index) => `${index === 0 ? 'M' : 'L'}${(index * step).toFixed(1)} ${(height - 2 - ((value - low) / span) * (height - 4)).toFixed(1)}`).join('');
  return (
    <svg class="sparkline" role="img" aria-label={label} width={width} height={height} viewBox={`0 0 ${width} ${height}`}>
      <path d={path} />
    </svg>
  );
}

export interface Phase {
  label: string;
  /** Devices of the phase by outcome. */
  total: number;
  done: number;
  running: number;
  failed: number;
}

/** Phases of a rollout: each as wide as its share of devices, filled by outcome. */
export function PhaseBar({ phases, label }: { phases: readonly Phase[]; label: string }): JSX.Element {
  return (
    <ol class="phases" aria-label={label}>
      {phases.map((phase) => {
        const share = (part: number): string => `${phase.total === 0 ? 0 : (100 * part) / phase.total}%`;
        return (
          <li key={phase.label} style={{ flexGrow: String(Math.max(1, Math.sqrt(phase.total))) }}>
            <span class="phase-track" aria-hidden="true">
              <span class="phase-done" style={{ inlineSize: share(phase.done) }} />
              <span class="phase-running" style={{ inlineSize: share(phase.running) }} />
              <span class="phase-failed" style={{ inlineSize: share(phase.failed) }} />
            </span>
            <span class="phase-label">
              <b>{phase.label}</b>{' '}
              <span class="muted num">
                {phase.total === 0 ? 'to come' : `${count(phase.done)}/${count(phase.total)}`}
                {phase.failed > 0 ? <span class="bad"> ▲ {count(phase.failed)} failed</span> : null}
              </span>
            </span>
          </li>
        );
      })}
    </ol>
  );
}

/** A share as a short bar beside its figure, as in table cells. */
export function Meter({ value, max = 1, text }: { value: number; max?: number; text: string }): JSX.Element {
  const share = Math.max(0, Math.min(1, value / max));
  return (
    <span class="meter">
      <span class="meter-bar" aria-hidden="true" style={{ inlineSize: `${Math.max(2, Math.round(share * 56))}px` }} />
      <span>{text}</span>
    </span>
  );
}
