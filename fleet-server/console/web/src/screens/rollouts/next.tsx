// Where the loop goes on from here: drift → labels → run → signed model → rollout → drift.
import type { ComponentChildren, JSX } from 'preact';
import { Link, navigate } from '../../lib/router';
import { useShortcuts } from '../../lib/keys';
import { CliLine } from '../../ui/cli';
import { Icon } from '../../ui/icon';
import type { IconName } from '../../ui/icon';
import { useCommands } from '../../ui/palette';
import { KeyHint } from '../../ui/text';
import './next.css';

/** Of the loop, in its order. */
const STEPS = ['drift', 'labels', 'run', 'model', 'rollout'] as const;
export type Step = (typeof STEPS)[number];

export interface Next {
  title: string;
  /** Why this, in a sentence. */
  children: ComponentChildren;
  action: string;
  href: string;
  icon: IconName;
  cli?: string;
  /** The step of the loop that this screen is. */
  at: Step;
  /** The one that the action leads to, where it is not the next. */
  to?: Step;
  /** Without the key `n`, where the screen has another use for it. */
  keyless?: boolean;
}

export function NextStep({ title, children, action, href, icon, cli, at, to, keyless = false }: Next): JSX.Element {
  useShortcuts(() => (keyless ? [] : [{ keys: 'n', label: `Next step: ${action}`, group: 'This screen', run: () => navigate(href) }]), [action, href, keyless]);
  useCommands(() => [{ label: `Next step: ${action}`, group: 'This screen', icon, ...(keyless ? {} : { keys: 'n' }), run: () => navigate(href) }], [action, href, icon, keyless]);
  const coming = to ?? STEPS[(STEPS.indexOf(at) + 1) % STEPS.length];
  return (
    <section class="card next" aria-label="Next step">
      <ol class="next-loop" aria-label="The loop">
        {STEPS.map((step) => (
          <li key={step} aria-current={step === at ? 'step' : undefined} class={step === coming ? 'coming' : undefined}>
            {step}
          </li>
        ))}
      </ol>
      <div class="next-text">
        <h2>{title}</h2>
        <p class="muted">{children}</p>
      </div>
      <div class="next-action">
        <Link class="button" href={href}>
          <Icon name={icon} size={14} />
          {action}
          {keyless ? null : <KeyHint keys="n" />}
        </Link>
      </div>
      {cli === undefined ? null : <CliLine line={cli} label="Next step on the command line" />}
    </section>
  );
}
