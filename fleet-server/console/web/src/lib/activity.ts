// Whether somebody is at this tab. Live events make an open tab ask the server again and again, also at night; what nobody is
// there to see must not keep a session from ending. So requests that a person had no part in say so, in a header.

/** What a person does. Moving the mouse is not among it: a lorry passing by does that too. */
const DONE_BY_PEOPLE = ['pointerdown', 'keydown', 'wheel', 'click'] as const;

/** For so long after it, requests count as a person's. The server writes down that a session is used as often. */
const ATTENDED_MS = 60_000;

export const BACKGROUND_HEADER = 'x-flotilla-background';

/** Opening the page is a person's doing too. */
let last = Date.now();

export function isAttended(now = Date.now()): boolean {
  return now - last < ATTENDED_MS;
}

export function attend(now = Date.now()): void {
  last = now;
}

export function watchActivity(): void {
  for (const kind of DONE_BY_PEOPLE)
    addEventListener(
      kind,
      (event) => {
        if (event.isTrusted) attend();
      },
      { capture: true, passive: true },
    );
}
