// A new claim token: how many devices, how long, which tags; then its factory bundle, once.
import type { JSX } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { duration, plural } from '../../lib/format';
import { cli } from '../../lib/shell';
import { Button } from '../../ui/button';
import { CliLine, CopyButton } from '../../ui/cli';
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

function wholeNumber(text: string, most: number): number | undefined {
  const value = Number(text.trim());
  return /^\d+$/.test(text.trim()) && value >= 1 && value <= most ? value : undefined;
}

export function NewToken({ open, onClose }: { open: boolean; onClose(): void }): JSX.Element {
  const [draft, setDraft, discard] = useDraft('claim-token', INITIAL);
  const [created, setCreated] = useState<CreatedClaimToken | undefined>(undefined);
  const create = useCreate();
  const parsed = parseTagLines(draft.tags);
  const uses = wholeNumber(draft.uses, MOST_USES);
  const line = cli('tokens', 'create', '--uses', draft.uses, '--hours', draft.hours, ...tagWords(parsed.tags).flatMap((tag) => ['--tag', tag]), '-o', 'factory.json');
  if (created !== undefined)
    return (
      <Bundle
        token={created}
        onClose={() => {
          setCreated(undefined);
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
          setCreated(await create.mutateAsync({ uses: uses ?? 1, lifetime_s: Number(draft.hours) * HOUR_S, tags: parsed.tags }));
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

/** The secret exists in this dialog alone: it closes only by its button, and nothing of it stays anywhere. */
function Bundle({ token, onClose }: { token: CreatedClaimToken; onClose(): void }): JSX.Element {
  const json = JSON.stringify(token.factory_bundle, null, 2);
  const qr = qrText(token.factory_bundle);
  const [url, setUrl] = useState<string | undefined>(undefined);
  const [saved, setSaved] = useState(false);
  useEffect(() => {
    const made = URL.createObjectURL(new Blob([json], { type: 'application/json' }));
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [json]);
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
            <a class="button primary" href={url} download="factory.json" onClick={() => setSaved(true)}>
              Download factory.json
            </a>
            <span class="row provisioning-copy">
              <CopyButton text={json} label="Copy the bundle" />
              <span class="muted">or copy it</span>
            </span>
          </div>
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
