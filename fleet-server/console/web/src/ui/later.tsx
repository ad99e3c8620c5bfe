// A part of a screen whose code is fetched when the part is first shown: a tab that few people open costs nobody else.
import type { JSX } from 'preact';
import { useEffect, useLayoutEffect, useState } from 'preact/hooks';
import { awaitKeys } from '../lib/keys';
import { ErrorNote, Skeleton } from './states';

type Part<P> = (props: P) => JSX.Element;

export function later<P extends object>(load: () => Promise<Part<P>>): Part<P> {
  let loaded: Part<P> | undefined;
  return function Later(props: P): JSX.Element {
    const [attempt, setAttempt] = useState(0);
    const [error, setError] = useState<unknown>();
    const [, redraw] = useState(false);
    useEffect(() => {
      if (loaded) return undefined;
      let gone = false;
      load().then(
        (part) => {
          loaded = part;
          if (!gone) redraw(true);
        },
        (why: unknown) => {
          if (!gone) setError(why);
        },
      );
      return () => {
        gone = true;
      };
    }, [attempt]);
    const waits = loaded === undefined && error === undefined;
    useLayoutEffect(() => (waits ? awaitKeys() : undefined), [waits]);
    if (loaded) {
      const Loaded = loaded;
      return <Loaded {...props} />;
    }
    if (error !== undefined) {
      return (
        <ErrorNote
          error={error}
          onRetry={() => {
            setError(undefined);
            setAttempt(attempt + 1);
          }}
        />
      );
    }
    return <Skeleton rows={6} code />;
  };
}
