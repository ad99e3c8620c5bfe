// Choosing keys: press one in a field, and it is that.
import type { JSX } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { useUid } from '../../lib/hooks';
import { Button } from '../../ui/button';
import { Dialog } from '../../ui/dialog';
import { Name } from '../../ui/text';
import { ACTIONS, asKey, defaultKeys, wrongKeys } from './keymap';
import type { Keymap } from './keymap';

/** Labels whose keys can be chosen; there are not many more keys. */
const MOST = 40;

export function KeysDialog({ labels, keymap, open, onClose, onChange }: { labels: readonly string[]; keymap: Keymap; open: boolean; onClose(): void; onChange(keymap: Keymap | undefined): void }): JSX.Element {
  const [draft, setDraft] = useState(keymap);
  useEffect(() => {
    if (open) setDraft(keymap);
  }, [open, keymap]);
  const wrong = wrongKeys(draft);
  return (
    <Dialog
      open={open}
      title="Keys of the queue"
      onClose={onClose}
      footer={
        <>
          <Button onClick={() => setDraft(defaultKeys(labels))}>As they were at first</Button>
          <Button onClick={onClose}>Cancel</Button>
          <Button kind="primary" disabled={Object.keys(wrong).length > 0} onClick={() => onChange(draft)}>
            Keep these
          </Button>
        </>
      }
    >
      <p class="muted">Press a key in a field. Backspace leaves it without one. This browser remembers them for this dataset.</p>
      <div class="labeling-keys">
        {labels.slice(0, MOST).map((label) => (
          <KeyField key={label} label={label} value={draft.labels[label] ?? ''} wrong={wrong[`label:${label}`]} onChange={(key) => setDraft({ ...draft, labels: { ...draft.labels, [label]: key } })} />
        ))}
        {ACTIONS.map((action) => (
          <KeyField key={action.id} label={action.label} value={draft.actions[action.id]} wrong={wrong[`action:${action.id}`]} onChange={(key) => setDraft({ ...draft, actions: { ...draft.actions, [action.id]: key } })} />
        ))}
      </div>
    </Dialog>
  );
}

function KeyField({ label, value, wrong, onChange }: { label: string; value: string; wrong: string | undefined; onChange(key: string): void }): JSX.Element {
  const id = useUid('key');
  return (
    <div class="labeling-key">
      <label for={id}>
        <Name value={label} />
      </label>
      <input
        id={id}
        class="input mono"
        autocomplete="off"
        spellcheck={false}
        value={value}
        aria-invalid={wrong === undefined ? undefined : 'true'}
        aria-describedby={wrong === undefined ? undefined : `${id}-wrong`}
        onFocus={(event) => event.currentTarget.select()}
        onInput={(event) => {
          const key = asKey(event.currentTarget.value);
          onChange(key);
          event.currentTarget.value = key;
          event.currentTarget.select();
        }}
      />
      {wrong === undefined ? null : (
        <span id={`${id}-wrong`} class="field-error">
          ▲ {wrong}
        </span>
      )}
    </div>
  );
}
