import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { abandon, sessionState } from '../../lib/session';
import { askAgain, cancel, forget, plan, planOf, start, transferOf } from './importing';
import type { ImportReport } from './data';

const comes = (actor: string): void => sessionState.set({ state: 'in', session: { actor, name: actor, roles: [], capabilities: [], csrf: '', expires_at: '' } });
const FILE = new File(['a,b\n1,2\n'], 'rows.csv');

/** An upload, whose connection the test holds. */
class Sending {
  static last: Sending;
  upload = {};
  status = 0;
  statusText = '';
  responseText = '';
  path = '';
  onload?: () => void;
  onerror?: () => void;
  onabort?: () => void;
  open(_method: string, path: string): void {
    this.path = path;
  }
  setRequestHeader(): void {
    // Nobody looks.
  }
  send(): void {
    Sending.last = this;
  }
  abort(): void {
    this.onabort?.();
  }
  get id(): string {
    return new URL(this.path, 'http://fleet.test').searchParams.get('import') ?? '';
  }
  answer(status: number, body: unknown): void {
    Object.assign(this, { status, responseText: JSON.stringify(body) });
    this.onload?.();
  }
}

/** What the server says of imports, one answer after the other; the last one stays. None: it does not answer. */
let said: { status?: number; body: unknown }[];
let asked: string[];

const report = (): ImportReport => ({ import: Sending.last.id, slice: 'import', rows: 1, samples: 1, duplicates: 0, train: 1, holdout: 0, excluded: 0, bytes: 8, file: 'sha256:0' });
const problem = (status: number, detail: string): { status: number; body: unknown } => ({ status, body: { title: 'No', status, detail } });

beforeEach(() => {
  vi.useFakeTimers();
  said = [];
  asked = [];
  vi.stubGlobal('XMLHttpRequest', Sending);
  vi.stubGlobal('addEventListener', () => undefined);
  vi.stubGlobal('removeEventListener', () => undefined);
  vi.stubGlobal('fetch', (request: Request) => {
    asked.push(`${request.method} ${new URL(request.url).pathname}`);
    const answer = said.length > 1 ? said.shift() : said[0];
    if (answer === undefined) return Promise.reject(new TypeError('no server'));
    const { status = 200, body } = answer;
    return Promise.resolve(status === 204 ? new Response(null, { status }) : Response.json(body, { status }));
  });
  comes('ada');
  forget('d');
  plan('d', { picked: { file: FILE, header: ['a', 'b'] }, slice: 'import', split: '' });
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

describe('an import whose connection is lost', () => {
  it('is in when the server says so', async () => {
    const going = start('d', FILE, { slice: 'import', split: '' });
    said = [{ body: { state: 'finished', report: report() } }];
    Sending.last.onerror?.();
    await going;
    expect(asked).toEqual([`GET /api/v1/imports/${Sending.last.id}`]);
    expect(transferOf('d')).toMatchObject({ state: 'finished', report: report() });
    expect(planOf('d').picked).toBeUndefined();
  });

  it('is followed while the server goes on with it', async () => {
    const going = start('d', FILE, { slice: 'import', split: '' });
    said = [{ body: { state: 'receiving' } }, { body: { state: 'reading' } }, { body: { state: 'finished', report: report() } }];
    // A proxy's word is not the server's.
    Sending.last.answer(504, 'gateway');
    await vi.advanceTimersByTimeAsync(0);
    expect(transferOf('d')?.state).toBe('following');
    // There is one at a time.
    await start('d', FILE, { slice: 'import', split: '' });
    await vi.advanceTimersByTimeAsync(5000);
    await going;
    expect([transferOf('d')?.state, asked.length]).toEqual(['finished', 3]);
  });

  it('is not known of while nobody answers, until somebody asks again', async () => {
    const going = start('d', FILE, { slice: 'import', split: '' });
    Sending.last.onerror?.();
    await going;
    expect(transferOf('d')?.state).toBe('unknown');
    expect(planOf('d').picked?.file).toBe(FILE);
    await askAgain('d');
    expect(transferOf('d')?.state).toBe('unknown');
    said = [{ body: { state: 'finished', report: report() } }];
    await askAgain('d');
    expect(transferOf('d')?.state).toBe('finished');
  });

  it('has failed, was cancelled or never began only when the server says so', async () => {
    for (const [answer, state, words] of [
      [{ body: { state: 'failed', error: 'the body ended early' } }, 'failed', 'the body ended early'],
      [{ body: { state: 'cancelled', error: 'its connection went away' } }, 'cancelled', undefined],
      [problem(404, 'no such import'), 'failed', 'The connection was lost before the server began with it.'],
    ] as const) {
      said = [answer];
      const going = start('d', FILE, { slice: 'import', split: '' });
      Sending.last.onerror?.();
      await going;
      expect([transferOf('d')?.state, (transferOf('d')?.error as Error | undefined)?.message]).toEqual([state, words]);
      expect(planOf('d').picked?.file).toBe(FILE);
      forget('d');
    }
  });

  it('that was refused is not asked for', async () => {
    const going = start('d', FILE, { slice: 'import', split: '' });
    Sending.last.answer(422, { title: 'Refused', status: 422, detail: 'line 7' });
    await going;
    expect([transferOf('d')?.state, asked]).toEqual(['failed', []]);
  });
});

describe('cancelling', () => {
  it('has happened when the server says so', async () => {
    const going = start('d', FILE, { slice: 'import', split: '' });
    said = [{ status: 204, body: undefined }];
    await cancel('d');
    await going;
    expect([transferOf('d')?.state, asked]).toEqual(['cancelled', [`DELETE /api/v1/imports/${Sending.last.id}`]]);
  });

  it('that comes too late says that the file is in', async () => {
    const going = start('d', FILE, { slice: 'import', split: '' });
    said = [problem(409, 'the import has ended: it is finished'), { body: { state: 'finished', report: report() } }];
    await cancel('d');
    await going;
    expect(transferOf('d')?.state).toBe('finished');
  });

  it('is not said to have happened while nobody answers', async () => {
    const going = start('d', FILE, { slice: 'import', split: '' });
    await cancel('d');
    await going;
    expect(transferOf('d')?.state).toBe('unknown');
  });
});

describe('what is to be imported', () => {
  it('keeps its slice and split with the file, and for the next one until it is in', async () => {
    plan('d', { slice: 'march', split: 'holdout' });
    expect(planOf('d')).toMatchObject({ picked: { file: FILE }, slice: 'march', split: 'holdout' });
    plan('d', { picked: undefined });
    plan('d', { picked: { file: FILE, header: [] } });
    expect(planOf('d')).toMatchObject({ slice: 'march', split: 'holdout' });
    const going = start('d', FILE, planOf('d'));
    expect(new URL(Sending.last.path, 'http://fleet.test').searchParams.get('split')).toBe('holdout');
    Sending.last.answer(201, report());
    await going;
    expect(planOf('d')).toEqual({ picked: undefined, slice: 'import', split: '' });
  });

  it('and what became of it are of no concern to who signs in next', async () => {
    const going = start('d', FILE, { slice: 'import', split: '' });
    abandon();
    comes('bob');
    expect([planOf('d').picked, transferOf('d')]).toEqual([undefined, undefined]);
    Sending.last.answer(201, report());
    await going;
    expect(transferOf('d')).toBeUndefined();
    abandon();
    comes('ada');
    expect(transferOf('d')?.state).toBe('finished');
  });
});
