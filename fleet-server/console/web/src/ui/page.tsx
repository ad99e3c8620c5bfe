// The frame of a screen: heading, note beside it, actions at the right; cards and definition lists inside.
import type { ComponentChildren, JSX } from 'preact';
import { Link } from '../lib/router';
import { ExactTimes } from './text';

export function Page({
  title,
  note,
  actions,
  back,
  fill = false,
  children,
}: {
  title: ComponentChildren;
  note?: ComponentChildren;
  actions?: ComponentChildren;
  back?: { href: string; label: string };
  /** The screen is as high as the window, and its table scrolls inside. */
  fill?: boolean;
  children: ComponentChildren;
}): JSX.Element {
  return (
    <div class={fill ? 'page fill' : 'page'}>
      <header class="page-head">
        {back === undefined ? null : (
          <nav class="crumb" aria-label="Back">
            <Link href={back.href}>{back.label}</Link>
            <span aria-hidden="true">/</span>
          </nav>
        )}
        <h1 tabIndex={-1}>{title}</h1>
        {note === undefined ? null : <p class="page-note">{note}</p>}
        {actions === undefined ? null : <div class="page-actions">{actions}</div>}
      </header>
      {children}
    </div>
  );
}

export function Card({
  title,
  note,
  actions,
  children,
  flush = false,
}: {
  title?: ComponentChildren;
  note?: ComponentChildren;
  actions?: ComponentChildren;
  children: ComponentChildren;
  /** No padding: for tables and lists that reach the border. */
  flush?: boolean;
}): JSX.Element {
  return (
    <section class={flush ? 'card flush' : 'card'}>
      {title === undefined ? null : (
        <header class="card-head">
          <h2>{title}</h2>
          {note === undefined ? null : <span class="muted">{note}</span>}
          {actions === undefined ? null : <div class="card-actions">{actions}</div>}
        </header>
      )}
      {children}
    </section>
  );
}

/** Names and values: `<Facts items={[['Arch', 'aarch64']]} />`. Times are written out in it. */
export function Facts({ items }: { items: readonly (readonly [string, ComponentChildren])[] }): JSX.Element {
  return (
    <ExactTimes.Provider value>
      <dl class="facts">
        {items.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </ExactTimes.Provider>
  );
}

export interface TimelineItem {
  id: string;
  at: string | number;
  tone: 'ok' | 'idle' | 'busy' | 'bad' | 'info';
  title: ComponentChildren;
  detail?: ComponentChildren;
}
