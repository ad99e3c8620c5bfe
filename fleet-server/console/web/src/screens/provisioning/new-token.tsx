// A new claim token: how many devices, how long, which tags; then its factory bundle, once.
import type { JSX } from 'preact';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { duration, plural } from '../../lib/format';
import { actor } from '../../lib/session';
import { cli } from '../../lib/shell';
import { createStore, useStore } from '../../lib/store';
import { hold } from '../../lib/unsaved';
import { Button } from '../../ui/button';
import { CliLine } from '../../ui/cli';
import { Dialog } from '../../ui/dialog';
import { Field, Form, useDraft } from '../../ui/form';
import { Qr } from '../../ui/qr';
import type { CreatedClaimToken } from './data';
import { qrText, useCreate } from './data';
import { parseTagLines, tagWords } from './tags';

const INITIAL = { uses: '1', hours: '24', tags: '' };
const LIFETIMES: readonly (readonly [string, string])[] = [
  ['1', '1 hour'],
  ['8', '8 hours'],
  ['24', '1 day'],
  ['168', '7 days'],
  ['720', '30 days'],
];
const HOUR_S = 3600;
const MOST_USES = 1_000_000;

interface Fresh {
  /** Who made it: nobody else sees it. */
  person: string | undefined;
  token: CreatedClaimToken;
  /** Copied or downloaded: it may go. */
  saved: boolean;
}

/**
 * The token whose secret nobody has saved yet. In memory alone, and outside the screen: it is still there when an answer comes to a
 * screen that was left, or the person signs in again.
 */
const fresh = createStore<Fresh | undefined>(undefined);

function wholeNumber(text: string, most: number): number | undefined {
  const value = Number(text.trim());
  return /^\d+$/.test(text.trim()) && value >= 1 && value <= most ? value : undefined;
}

export function NewToken({ open, onClose }: { open: boolean; onClose(): void }): JSX.Element {
  const [draft, setDraft, discard] = useDraft('claim-token', INITIAL);
  const made = useStore(fresh);
  const create = useCreate();
  const parsed = parseTagLines(draft.tags);
  const uses = wholeNumber(draft.uses, MOST_USES);
  const line = cli('tokens', 'create', '--uses', draft.uses, '--hours', draft.hours, ...tagWords(parsed.tags).flatMap((tag) => ['--tag', tag]), '-o', 'factory.json');
  if (made !== undefined && made.person === actor() && (open || !made.saved))
    return (
      <Bundle
        token={made.token}
        saved={made.saved}
        onSaved={() => fresh.set({ ...made, saved: true })}
        onClose={() => {
          fresh.set(undefined);
          onClose();
        }}
      />
    );
  return (
    <Dialog open={open} title="New claim token" onClose={onClose}>
      <Form<'uses' | 'lifetime_s' | 'tags'>
        send="Make the token"
        onCancel={onClose}
        cli={line}
        validate={() => ({
          ...(uses === undefined ? { uses: 'A whole number, at least 1.' } : {}),
          ...(parsed.wrong === undefined ? {} : { tags: parsed.wrong }),
        })}
        onSend={async () => {
          const token = await create.mutateAsync({ uses: uses ?? 1, lifetime_s: Number(draft.hours) * HOUR_S, tags: parsed.tags });
          fresh.set({ person: actor(), token, saved: false });
          discard();
        }}
      >
        {(errors) => (
          <>
            <div class="provisioning-pair">
              <Field label="Devices" help="How many may enrol with it" error={errors.uses}>
                {(control) => <input {...control} class="input num" inputMode="numeric" value={draft.uses} onInput={(event) => setDraft({ uses: event.currentTarget.value })} />}
              </Field>
              <Field label="Good for" error={errors.lifetime_s}>
                {(control) => (
                  <select {...control} class="input" value={draft.hours} onChange={(event) => setDraft({ hours: event.currentTarget.value })}>
                    {LIFETIMES.map(([hours, label]) => (
                      <option key={hours} value={hours}>
                        {label}
                      </option>
                    ))}
                  </select>
                )}
              </Field>
            </div>
            <Field label="Tags" optional help="One name=value per line; every device that enrols with it gets them." error={errors.tags}>
              {(control) => <textarea {...control} class="input mono" rows={3} placeholder={'site=oslo\nline=3'} value={draft.tags} onInput={(event) => setDraft({ tags: event.currentTarget.value })} />}
            </Field>
          </>
        )}
      </Form>
    </Dialog>
  );
}

/** The secret exists in this dialog alone: it is left only by its button, or once it is saved, and nothing of it stays anywhere. */
function Bundle({ token, saved, onSaved, onClose }: { token: CreatedClaimToken; saved: boolean; onSaved(): void; onClose(): void }): JSX.Element {
  const json = JSON.stringify(token.factory_bundle, null, 2);
  const qr = qrText(token.factory_bundle);
  const [url, setUrl] = useState<string | undefined>(undefined);
  const [copied, setCopied] = useState<'no' | 'done' | 'by hand'>('no');
  /** Somebody wanted to leave. */
  const [asked, setAsked] = useState(false);
  useEffect(() => {
    const made = URL.createObjectURL(new Blob([json], { type: 'application/json' }));
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [json]);
  useLayoutEffect(() => {
    if (saved) return undefined;
    const asks = (): void => setAsked(true);
    const release = hold(asks);
    // A dialog that refuses to close is closed by the browser when Escape is pressed twice: it does not come to that.
    const escapes = (event: KeyboardEvent): void => {
      if (event.key !== 'Escape') return;
      event.preventDefault();
      asks();
    };
    addEventListener('keydown', escapes, { capture: true });
    return () => {
      release();
      removeEventListener('keydown', escapes, { capture: true });
    };
  }, [saved]);
  // Saved, and the person has gone elsewhere: nothing is left to come back to.
  useEffect(
    () => () => {
      if (fresh.get()?.saved === true) fresh.set(undefined);
    },
    [],
  );
  const copy = async (): Promise<void> => {
    try {
      await navigator.clipboard.writeText(json);
      setCopied('done');
      onSaved();
    } catch {
      // On plain HTTP there is no clipboard to write to; a selection still copies.
      setCopied('by hand');
    }
  };
  return (
    <Dialog
      open
      title="The factory bundle, shown once"
      width="wide"
      dismissable={false}
      onClose={onClose}
      footer={
        <Button kind={saved ? 'primary' : 'default'} onClick={onClose}>
          {saved ? 'Done' : 'I have it: close'}
        </Button>
      }
    >
      <div class="provisioning-bundle">
        <div class="stack">
          <p>
            {token.uses === 1 ? 'One device' : plural(token.uses, 'device')} can enrol with it within {duration(Date.parse(token.expires_at) - Date.parse(token.created_at))}. The server keeps only its hash: what is not saved now is lost, and a new token has to be made.
          </p>
          <div class="row">
            <a class="button primary" href={url} download="factory.json" onClick={onSaved}>
              Download factory.json
            </a>
            <Button onClick={() => void copy()}>{copied === 'done' ? 'Copied' : 'Copy the bundle'}</Button>
          </div>
          {copied === 'by hand' ? <ByHand text={json} onCopy={onSaved} /> : null}
          {asked && !saved ? (
            <p class="bad" role="alert">
              ▲ It is not saved yet: download or copy it, or close it by its button.
            </p>
          ) : null}
          <p class="muted">On the device:</p>
          <div class="stack-small">
            <CliLine line="fleet-agent enrol --bundle factory.json --config agent.toml" />
            <CliLine line="fleet-agent run --config agent.toml" />
          </div>
        </div>
        <figure class="provisioning-qr">
          <Qr text={qr.text} label={qr.whole ? 'QR code of the factory bundle' : 'QR code of the claim token'} size={qr.whole ? 340 : 176} />
          <figcaption class="muted">{qr.whole ? 'The whole bundle: scan it into factory.json' : 'Fleet, address and claim token; the trust root is too large for a code and is in the file'}</figcaption>
        </figure>
      </div>
    </Dialog>
  );
}

/** The text, selected: copied at once where the browser lets a page do that, else by the person. */
function ByHand({ text, onCopy }: { text: string; onCopy(): void }): JSX.Element {
  const area = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    area.current?.select();
    document.execCommand('copy');
  }, []);
  return <textarea ref={area} class="input mono" rows={4} readOnly aria-label="The factory bundle, to be copied" value={text} onFocus={(event) => event.currentTarget.select()} onCopy={onCopy} />;
}
