// Signing happens where the key is, and the key is offline: three commands, and for those who are here the same by file.
import type { JSX } from 'preact';
import { useRef, useState } from 'preact/hooks';
import { can } from '../../lib/session';
import { Button } from '../../ui/button';
import { CliLine } from '../../ui/cli';
import { Card } from '../../ui/page';
import { ErrorNote } from '../../ui/states';
import { Status } from '../../ui/status';
import { toast } from '../../ui/toast';
import { useSign } from './data';
import type { ManifestDocument, ModelVersion } from './data';
import { readSigned, signingRequest, signingSteps } from './words';

/** Envelopes are a few kilobytes; whatever is much larger is another file. */
const MAX_FILE = 1 << 20;

function save(name: string, content: string): void {
  const url = URL.createObjectURL(new Blob([content], { type: 'application/json' }));
  const anchor = document.createElement('a');
  anchor.href = url;
  anchor.download = name;
  anchor.click();
  // The browser has taken the bytes once the click has been handled.
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

export function Signing({ version, document }: { version: ModelVersion; document: ManifestDocument | undefined }): JSX.Element {
  const steps = signingSteps(version.id, version.line, version.semver);
  const sign = useSign(version.id);
  const picker = useRef<HTMLInputElement>(null);
  const [failure, setFailure] = useState<unknown>(undefined);
  const unsigned = version.signature === 'unsigned';
  const some = document?.envelope !== undefined && document.envelope !== null;
  const take = async (file: File | undefined): Promise<void> => {
    if (file === undefined) return;
    setFailure(undefined);
    try {
      if (file.size > MAX_FILE) throw new Error('This file is too large to be a signing request: choose the file that fleetctl sign apply wrote.');
      const after = await sign.mutateAsync(readSigned(await file.text(), version.id));
      toast(after.signature === 'signed' ? 'Signed: the version can be rolled out' : 'The signature is kept; the line’s role needs more');
    } catch (error) {
      setFailure(error);
    } finally {
      // The same file can be chosen again after it was put right.
      if (picker.current !== null) picker.current.value = '';
    }
  };
  return (
    <Card
      title={unsigned ? 'Sign it offline' : 'Signatures'}
      note={
        <>
          <code>{document?.role ?? `release/${version.line}`}</code>
        </>
      }
    >
      {unsigned ? (
        <p class="registry-lead">
          {some
            ? 'Some signatures are here, but the line’s role needs more: repeat the steps with another of its keys.'
            : 'Devices refuse this version until the line’s release keys have signed it. The key stays on a machine without network.'}
        </p>
      ) : (
        <p class="registry-lead">
          <Status value={version.signature} /> <span class="muted">More signatures may be added in the same way, for example before a key is replaced.</span>
        </p>
      )}
      <ol class="registry-steps">
        <li>
          <div class="registry-step-head">
            <h3>Write what is to be signed into a file</h3>
            <Button
              size="small"
              disabled={document === undefined}
              onClick={() => {
                if (document !== undefined) save(steps.request, signingRequest(version.id, document));
              }}
            >
              Download it here
            </Button>
          </div>
          <CliLine line={steps.export} label="Export" />
        </li>
        <li>
          <div class="registry-step-head">
            <h3>Carry the file to the key, read what it asks, and sign</h3>
          </div>
          <CliLine line={steps.apply} label="Sign" />
        </li>
        <li>
          <div class="registry-step-head">
            <h3>Carry the signature back</h3>
            {can('sign') ? (
              <>
                <Button size="small" kind={unsigned ? 'primary' : 'default'} busy={sign.isPending} onClick={() => picker.current?.click()}>
                  Choose the signed file…
                </Button>
                <input
                  ref={picker}
                  class="visually-hidden"
                  type="file"
                  accept=".json,application/json"
                  tabIndex={-1}
                  aria-label="Signed file"
                  onChange={(event) => void take(event.currentTarget.files?.[0])}
                />
              </>
            ) : null}
          </div>
          <CliLine line={steps.import} label="Import" />
        </li>
      </ol>
      {failure === undefined ? null : <ErrorNote error={failure} title="The signature was not taken" />}
    </Card>
  );
}
