// Events in order, newest first as they are given; each with its age and its exact time, both as text.
import type { JSX } from 'preact';
import { timestamp } from '../lib/format';
import type { TimelineItem } from './page';
import { Status } from './status';
import { Ago } from './text';

export function Timeline({ items, label }: { items: readonly TimelineItem[]; label: string }): JSX.Element {
  return (
    <ol class="timeline" aria-label={label}>
      {items.map((item) => (
        <li key={item.id} class={item.tone}>
          <div class="timeline-head">
            <Status tone={item.tone}>{item.title}</Status>
            <span class="muted num">
              <Ago time={item.at} suffix />
            </span>
          </div>
          <div class="timeline-detail num">{timestamp(item.at)}</div>
          {item.detail === undefined ? null : <div class="timeline-detail">{item.detail}</div>}
        </li>
      ))}
    </ol>
  );
}
