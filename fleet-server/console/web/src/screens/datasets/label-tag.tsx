// A label with where it comes from: given by hand, or guessed and how surely.
import type { JSX } from 'preact';
import { percent } from '../../lib/format';
import { Meter } from '../../charts/shapes';
import { Name } from '../../ui/text';

export function Guess({ label, confidence }: { label: string; confidence: number }): JSX.Element {
  return (
    <span class="datasets-guess">
      <Name value={label} />
      <Meter value={confidence} text={percent(confidence, 0)} />
    </span>
  );
}
