import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { attend, BACKGROUND_HEADER, isAttended } from './activity';
import { sessionFetch } from './client';
import { OtherPerson, Unreachable } from './problem';
import type { Session } from './session';
import { begin, codeOf, sessionState, signOut, stillIn } from './session';
import { registerSaver, saveAll } from './unsaved';

const session = (actor: string): Session => ({ actor, name: actor, roles: [], capabilities: [], csrf: `csrf of ${actor}`, expires_at: '' });

/** The server: answers by method and path, and what it was asked. */
let answers: Record<string, () => Response | Promise<Response>>;
let asked: { what: string; headers: Headers }[];

function problem(status: number, detail: string, headers: Record<string, string> = {}): Response {
  return new Response(JSON.stringify({ title: 'No', status, detail }), { status, headers });
}

beforeEach(() => {
  answers = {};
  asked = [];
  vi.stubGlobal('fetch', (input: Request | string, init?: RequestInit) => {
    const request = typeof input === 'string' ? new Request(new URL(input, 'http://fleet.test'), init) : input;
    const what = `${request.method} ${new URL(request.url).pathname}`;
    asked.push({ what, headers: request.headers });
    const answer = answers[what];
    return answer === undefined ? Promise.reject(new TypeError('no server')) : Promise.resolve(answer());
  });
  sessionState.set({ state: 'loading' });
  stillIn.set(undefined);
  attend();
});
afterEach(() => vi.unstubAllGlobals());

describe('a sign-in link', () => {
  it('is read whatever is in it', () => {
    expect([codeOf('http://x/#/sign-in/abc%20d'), codeOf('  abc '), codeOf('#/sign-in/%')]).toEqual(['abc d', 'abc', '%']);
  });

  it('leads in', async () => {
    answers['POST /api/v1/session'] = () => Response.json({});
    answers['GET /api/v1/session'] = () => Response.json(session('ada'));
    expect(await begin('#/sign-in/one')).toBeUndefined();
    expect(sessionState.get()).toMatchObject({ state: 'in', session: { actor: 'ada' } });
  });

  it('that is used up leaves whoever is signed in where they are, and says why', async () => {
    answers['POST /api/v1/session'] = () => problem(401, 'used');
    answers['GET /api/v1/session'] = () => Response.json(session('ada'));
    expect(await begin('#/sign-in/one')).toBe('used');
    expect(sessionState.get().state).toBe('in');
  });

  it('that is used up leads to the sign-in screen with the reason', async () => {
    answers['POST /api/v1/session'] = () => problem(401, 'used');
    answers['GET /api/v1/session'] = () => problem(401, 'nobody');
    expect(await begin('#/sign-in/one')).toBeUndefined();
    expect(sessionState.get()).toEqual({ state: 'out', reason: 'used' });
  });

  it('is tried again when a server that was gone is back', async () => {
    await begin('#/sign-in/one');
    expect(sessionState.get().state).toBe('unreachable');
    answers['POST /api/v1/session'] = () => Response.json({});
    answers['GET /api/v1/session'] = () => Response.json(session('ada'));
    await begin();
    expect(sessionState.get().state).toBe('in');
    // It was good once.
    await begin();
    expect(asked.filter(({ what }) => what === 'POST /api/v1/session')).toHaveLength(2);
  });
});

describe('signing out', () => {
  beforeEach(() => sessionState.set({ state: 'in', session: session('ada') }));

  it('has happened when the server says so', async () => {
    answers['DELETE /api/v1/session'] = () => new Response(null, { status: 204 });
    await signOut();
    expect([sessionState.get(), stillIn.get()]).toEqual([{ state: 'out' }, undefined]);
    expect(asked[0]?.headers.get('x-csrf-token')).toBe('csrf of ada');
  });

  it('has not happened when the server refuses, fails or does not answer', async () => {
    for (const [answer, why] of [
      [() => problem(403, 'the CSRF token is wrong'), 'the CSRF token is wrong'],
      [() => new Response('<html>', { status: 502 }), 'The server answered 502.'],
      [() => Promise.reject(new TypeError('gone')), expect.stringContaining('does not answer')],
    ] as const) {
      answers['DELETE /api/v1/session'] = answer as () => Response;
      await signOut();
      expect([sessionState.get().state, stillIn.get()]).toEqual(['in', { why, anyway: false }]);
    }
    answers['DELETE /api/v1/session'] = () => problem(401, 'over already');
    await signOut();
    expect([sessionState.get(), stillIn.get()]).toEqual([{ state: 'out' }, undefined]);
  });

  it('sends first what is unsent, and asks when that cannot be', async () => {
    answers['DELETE /api/v1/session'] = () => new Response(null, { status: 204 });
    let left = 2;
    let refuses = true;
    const order: string[] = [];
    const off = registerSaver({
      save: () => {
        order.push(`save while ${sessionState.get().state}`);
        if (!refuses) left = 0;
        return Promise.resolve();
      },
      unsent: () => left,
    });
    await signOut();
    expect([sessionState.get().state, stillIn.get()?.anyway, asked.length]).toEqual(['in', true, 0]);
    refuses = false;
    await signOut();
    expect([sessionState.get().state, order]).toEqual(['out', ['save while in', 'save while in']]);
    off();
  });

  it('does not wait for ever for what cannot be sent', async () => {
    const off = registerSaver({ save: () => new Promise(() => undefined), unsent: () => 1 });
    expect(await saveAll(1)).toBe(1);
    off();
  });
});

describe('a request', () => {
  const create = (body: unknown = { name: 'a' }): Request =>
    new Request('http://fleet.test/api/v1/datasets', { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
  const keys = (): (string | null)[] => asked.filter(({ what }) => what.endsWith('/datasets')).map(({ headers }) => headers.get('idempotency-key'));

  beforeEach(() => sessionState.set({ state: 'in', session: session('ada') }));

  it('to create something keeps its key until there is an answer', async () => {
    await expect(sessionFetch(create())).rejects.toBeInstanceOf(Unreachable);
    answers['POST /api/v1/datasets'] = () => problem(503, 'stopping', { 'retry-after': '1' });
    await sessionFetch(create());
    answers['POST /api/v1/datasets'] = () => problem(409, 'under way', { 'retry-after': '1' });
    await sessionFetch(create());
    answers['POST /api/v1/datasets'] = () => Response.json({}, { status: 201 });
    await sessionFetch(create());
    expect(keys()[0]).toMatch(/^[0-9a-f]{32}$/);
    expect(new Set(keys()).size).toBe(1);
    // Answered: the same once more is another one. So is anything else.
    await sessionFetch(create());
    await sessionFetch(create({ name: 'b' }));
    expect(new Set(keys()).size).toBe(3);
  });

  it('that only reads carries no key', async () => {
    answers['GET /api/v1/datasets'] = () => Response.json({});
    await sessionFetch(new Request('http://fleet.test/api/v1/datasets'));
    expect(keys()).toEqual([null]);
  });

  it('that asks by POST and makes nothing carries none either', async () => {
    answers['POST /api/v1/rollouts/preview'] = () => Response.json({});
    await sessionFetch(new Request('http://fleet.test/api/v1/rollouts/preview', { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{}' }));
    expect(asked.map(({ headers }) => [headers.get('idempotency-key'), headers.get('x-csrf-token')])).toEqual([[null, 'csrf of ada']]);
  });

  /** Sends while the session is over; whoever `comes` signs in. */
  async function over(comes: string): Promise<Response> {
    answers['POST /api/v1/datasets'] = () => problem(401, 'over');
    const sent = sessionFetch(create());
    await vi.waitFor(() => expect(sessionState.get().state).toBe('expired'));
    answers['POST /api/v1/datasets'] = () => Response.json({}, { status: 201 });
    answers['POST /api/v1/session'] = () => Response.json({});
    answers['GET /api/v1/session'] = () => Response.json(session(comes));
    await begin('two');
    return sent;
  }

  it('is sent again, once, for the person who comes back', async () => {
    expect((await over('ada')).status).toBe(201);
    expect(keys()).toHaveLength(2);
    expect(new Set(keys()).size).toBe(1);
  });

  it('is not sent for another person', async () => {
    await expect(over('bob')).rejects.toBeInstanceOf(OtherPerson);
    expect(keys()).toHaveLength(1);
  });

  it('says so when nobody is there, unless it changes something', async () => {
    answers['GET /api/v1/datasets'] = () => Response.json({});
    answers['POST /api/v1/datasets'] = () => Response.json({});
    const get = (): Request => new Request('http://fleet.test/api/v1/datasets');
    await sessionFetch(get());
    attend(Date.now() - 61_000);
    await sessionFetch(get());
    await sessionFetch(create());
    expect(asked.map(({ headers }) => headers.get(BACKGROUND_HEADER))).toEqual([null, '1', null]);
    expect([isAttended(), isAttended(Date.now() - 2000)]).toEqual([false, true]);
  });
});
