// Bars of a rollout: its outcome in one line, and phase by phase with what each of them is.
import type { JSX } from 'preact';
import { count, plural } from '../../lib/format';
import { Status } from '../../ui/status';
import type { Tone } from '../../ui/status';
import type { PhaseView, Tally } from './plan';

function Track({ tally, total }: { tally: Tally; total: number }): JSX.Element {
  const share = (part: number): string => `${total === 0 ? 0 : Math.min(100, (100 * part) / total)}%`;
  return (
    <span class="phase-track" aria-hidden="true">
      <span class="phase-done" style={{ inlineSize: share(tally.succeeded) }} />
      <span class="phase-running" style={{ inlineSize: share(tally.running) }} />
      <span class="phase-failed" style={{ inlineSize: share(tally.failed) }} />
    </span>
  );
}

/** What became of the devices so far, for a row of a table. */
export function Outcome({ tally, total }: { tally: Tally; total: number }): JSX.Element {
  return (
    <span class="ro-outcome">
      <Track tally={tally} total={total} />
      <span class="num">
        {count(tally.succeeded)}/{count(total)}
        {tally.failed > 0 ? <span class="hot"> ▲ {count(tally.failed)}</span> : null}
      </span>
    </span>
  );
}

const LOOK: Record<PhaseView['state'], { tone: Tone; word: string }> = {
  passed: { tone: 'ok', word: 'Passed' },
  current: { tone: 'busy', word: 'Now' },
  waiting: { tone: 'idle', word: 'To come' },
  skipped: { tone: 'idle', word: 'Not reached' },
};

function figures(phase: PhaseView): string {
  const { tally, total } = phase;
  if (phase.state === 'waiting') return total === undefined ? 'counted when it begins' : plural(total, 'device');
  return `${count(tally.succeeded)} of ${count(total ?? tally.deployed)} succeeded`;
}

export function Phases({ phases, halted = false }: { phases: readonly PhaseView[]; halted?: boolean }): JSX.Element {
  return (
    <ol class="ro-phases" aria-label="Phases">
      {phases.map((phase) => {
        const look = halted && phase.state === 'current' ? { tone: 'bad' as const, word: 'Gate failed' } : LOOK[phase.state];
        const known = phase.tally;
        const total = phase.total ?? known.deployed;
        return (
          <li key={phase.name} class={phase.state} aria-current={phase.state === 'current' ? 'step' : undefined} style={{ flexGrow: String(Math.max(1, Math.min(4, Math.sqrt(total)))) }}>
            <div class="ro-phase-head">
              <b>{phase.name}</b> <span class="muted">to {phase.size}</span>
              <Status tone={look.tone}>{look.word}</Status>
            </div>
            <Track tally={known} total={total} />
            <span class="ro-phase-note num">
              <span>{figures(phase)}</span>
              {known.running > 0 ? <span>◐ {count(known.running)} running</span> : null}
              {known.failed > 0 ? <span class="hot">▲ {count(known.failed)} failed</span> : null}
              {known.withdrawn > 0 ? <span>○ {count(known.withdrawn)} withdrawn</span> : null}
            </span>
          </li>
        );
      })}
    </ol>
  );
}
