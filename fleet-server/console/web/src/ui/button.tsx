// Buttons. `busy` keeps the button's width and focus, says so to assistive technology and refuses a second press.
import type { ComponentChildren, JSX } from 'preact';

type Props = Omit<JSX.IntrinsicElements['button'], 'class' | 'icon'> & {
  kind?: 'default' | 'primary' | 'danger' | 'ghost';
  size?: 'default' | 'small';
  busy?: boolean;
  class?: string;
  children?: ComponentChildren;
};

export function Button({ kind = 'default', size = 'default', busy = false, class: extra, children, onClick, ...rest }: Props): JSX.Element {
  return (
    <button
      type="button"
      {...rest}
      class={`button ${kind} ${size}${busy ? ' busy' : ''}${extra === undefined ? '' : ` ${extra}`}`}
      aria-busy={busy ? 'true' : undefined}
      aria-disabled={busy ? 'true' : undefined}
      onClick={(event) => {
        if (busy) event.preventDefault();
        else if (typeof onClick === 'function') onClick(event);
      }}
    >
      {children}
    </button>
  );
}

/** A button that is an icon alone; `label` is its name and its tooltip. */
export function IconButton({ label, children, ...rest }: Omit<Props, 'label'> & { label: string }): JSX.Element {
  return (
    <Button kind="ghost" {...rest} class={`icon-button ${rest.class ?? ''}`} aria-label={label} title={label}>
      {children}
    </Button>
  );
}
