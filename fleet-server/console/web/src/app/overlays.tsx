// What lies over every screen: the table of keys, and the boundary that catches a screen's own failure.
import { Component } from 'preact';
import type { ComponentChildren, JSX } from 'preact';
import { useState } from 'preact/hooks';
import { shortcuts, singleKeys, useShortcuts } from '../lib/keys';
import { useStore } from '../lib/store';
import { Button } from '../ui/button';
import { Dialog } from '../ui/dialog';
import { Page } from '../ui/page';
import { useCommands } from '../ui/palette';
import { ErrorNote } from '../ui/states';
import { KeyHint } from '../ui/text';

export function KeysOverlay(): JSX.Element {
  const [open, setOpen] = useState(false);
  const bound = useStore(shortcuts);
  useShortcuts(() => [{ keys: '?', label: 'Show these keys', group: 'General', run: () => setOpen(true) }], []);
  // Without single keys `?` is off too.
  useCommands(() => [{ label: 'Show the keys', group: 'Settings', keys: '?', words: 'keyboard shortcuts', run: () => setOpen(true) }], []);
  const single = useStore(singleKeys);
  const groups = [...new Set(bound.map((shortcut) => shortcut.group))];
  return (
    <Dialog open={open} title="Keys" onClose={() => setOpen(false)} width="wide" footer={<Button onClick={() => setOpen(false)}>Close</Button>}>
      {single ? null : <p>Single-key shortcuts are switched off: the account menu switches them on.</p>}
      <div class="keys-table">
        {groups.map((group) => (
          <section key={group}>
            <h3>{group}</h3>
            <dl>
              {bound
                .filter((shortcut, index) => shortcut.group === group && bound.findLastIndex((other) => other.keys === shortcut.keys) === index)
                .map((shortcut) => (
                  <div key={shortcut.keys}>
                    <dt>{shortcut.label}</dt>
                    <dd>
                      <KeyHint keys={shortcut.keys} />
                    </dd>
                  </div>
                ))}
            </dl>
          </section>
        ))}
      </div>
    </Dialog>
  );
}

/** A failure of one screen leaves the rest of the console standing. `at` is where we are: another place starts afresh. */
export class ScreenBoundary extends Component<{ at: string; children: ComponentChildren }, { error: unknown; at: string }> {
  override state = { error: undefined as unknown, at: this.props.at };

  static override getDerivedStateFromProps(props: { at: string }, state: { error: unknown; at: string }): Partial<{ error: unknown; at: string }> | null {
    return props.at === state.at ? null : { error: undefined, at: props.at };
  }

  override componentDidCatch(error: unknown): void {
    this.setState({ error });
  }

  override render(): ComponentChildren {
    if (this.state.error === undefined) return this.props.children;
    return (
      <Page title="This screen failed">
        <ErrorNote error={this.state.error} onRetry={() => this.setState({ error: undefined })} />
      </Page>
    );
  }
}
