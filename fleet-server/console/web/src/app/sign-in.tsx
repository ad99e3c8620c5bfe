// Signing in: with the one-time link, or with its code pasted. The same form stands in the dialog that appears when a session
// ends in the middle of something.
import type { JSX } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { abandon, refresh, sessionState, signIn, signOut, stillIn } from '../lib/session';
import { useStore } from '../lib/store';
import { Button } from '../ui/button';
import { CliLine } from '../ui/cli';
import { Dialog } from '../ui/dialog';
import { Mark } from '../ui/icon';
import { Field } from '../ui/form';
import { SIGN_IN_COMMAND } from './commands';

/** `reason`: why the link that led here did not lead in. */
function SignInForm({ reason }: { reason?: string | undefined }): JSX.Element {
  const [code, setCode] = useState('');
  const [error, setError] = useState<string | undefined>(undefined);
  const [busy, setBusy] = useState(false);
  const send = async (text: string): Promise<void> => {
    if (busy) return;
    if (text.trim() === '') {
      setError('Paste the link or its code.');
      return;
    }
    setBusy(true);
    setError(await signIn(text));
    setBusy(false);
  };
  return (
    <form
      class="form"
      noValidate
      onSubmit={(event) => {
        event.preventDefault();
        void send(code);
      }}
    >
      <Field label="Sign-in link or code" error={error ?? reason}>
        {(control) => (
          <input
            {...control}
            class="input"
            type="password"
            autofocus
            autocomplete="one-time-code"
            spellcheck={false}
            value={code}
            onInput={(event) => setCode(event.currentTarget.value)}
          />
        )}
      </Field>
      <Button type="submit" kind="primary" busy={busy}>
        Sign in
      </Button>
      <div class="stack-small">
        <p class="muted">The server prints a link that works once. A new one:</p>
        <CliLine line={SIGN_IN_COMMAND} />
      </div>
    </form>
  );
}

export function SignInScreen({ reason }: { reason: string | undefined }): JSX.Element {
  return (
    <main id="main" class="sign-in" data-state="sign-in">
      <div class="card sign-in-card">
        <div class="brand">
          <Mark /> Flotilla
        </div>
        <h1>Sign in</h1>
        <SignInForm reason={reason} />
      </div>
    </main>
  );
}

export function SignInAgain(): JSX.Element {
  const state = useStore(sessionState);
  const expired = state.state === 'expired';
  const [busy, setBusy] = useState(false);
  const [none, setNone] = useState(false);
  useEffect(() => setNone(false), [expired]);
  const look = async (): Promise<void> => {
    setBusy(true);
    setNone(false);
    await refresh();
    setBusy(false);
    // Still asked for: there is none, or nobody answered.
    setNone(sessionState.get().state === 'expired');
  };
  return (
    <Dialog
      open={expired}
      title="Your session has ended"
      onClose={() => undefined}
      dismissable={false}
      footer={
        <>
          <Button busy={busy} onClick={() => void look()}>
            I signed in in another tab
          </Button>
          <Button kind="ghost" onClick={abandon}>
            Leave
          </Button>
        </>
      }
    >
      <p>Sign in again to go on. What you typed is still here, and what was being sent is sent then.</p>
      {none ? (
        <p class="note bad" role="alert">
          No session was found: sign in in the other tab first, or here.
        </p>
      ) : null}
      <SignInForm />
    </Dialog>
  );
}

/** Signing out was asked for and has not happened. */
export function StillSignedIn(): JSX.Element {
  const still = useStore(stillIn);
  const stay = (): void => stillIn.set(undefined);
  return (
    <Dialog
      open={still !== undefined}
      title="You are still signed in"
      onClose={stay}
      footer={
        <>
          <Button onClick={() => void signOut()}>Try again</Button>
          {still?.anyway === true ? (
            <Button kind="danger" onClick={() => void signOut(true)}>
              Sign out all the same
            </Button>
          ) : null}
          <Button kind="ghost" onClick={stay}>
            Stay signed in
          </Button>
        </>
      }
    >
      <p>{still?.why}</p>
    </Dialog>
  );
}
