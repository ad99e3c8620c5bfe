// Server-sent events over `fetch`, because `EventSource` cannot send the Last-Event-ID of another tab. Follows the parsing
// rules of the HTML standard, section 9.2.6.
import { BACKGROUND_HEADER } from './activity';

export interface SseEvent {
  id: string | undefined;
  event: string;
  data: string;
}

/** A line longer than this is not ours: the stream is dropped rather than the tab's memory filled. */
const MAX_BUFFER = 4 * 1024 * 1024;

export class SseParser {
  private buffer = '';
  private data: string[] = [];
  private event = '';
  private id: string | undefined;

  /** Takes a piece of the stream, gives the events it completes. */
  push(piece: string): SseEvent[] {
    this.buffer += piece;
    if (this.buffer.length > MAX_BUFFER) throw new Error('an event of the live stream is larger than 4 MiB');
    const events: SseEvent[] = [];
    for (;;) {
      const match = /\r\n|\n|\r(?!$)/.exec(this.buffer);
      if (match === null) return events;
      const line = this.buffer.slice(0, match.index);
      this.buffer = this.buffer.slice(match.index + match[0].length);
      if (line === '') {
        if (this.data.length > 0) events.push({ id: this.id, event: this.event || 'message', data: this.data.join('\n') });
        this.data = [];
        this.event = '';
        continue;
      }
      const colon = line.indexOf(':');
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
      if (field === 'data') this.data.push(value);
      else if (field === 'event') this.event = value;
      else if (field === 'id' && !value.includes('\0')) this.id = value;
    }
  }
}

export class StreamRefused extends Error {
  readonly status: number;

  constructor(status: number) {
    super(`the live stream answered ${status}`);
    this.name = 'StreamRefused';
    this.status = status;
  }
}

/** The server says something at least every 15 s, if only a comment. After this long nobody is at the other end. */
export const SILENCE_MS = 40_000;

/** Reads the stream until it ends, `signal` fires, or nothing has come for `SILENCE_MS`: a pulled cable closes no connection. */
export async function readSse(
  url: string,
  lastId: string | undefined,
  signal: AbortSignal,
  on: { open(): void; event(event: SseEvent): void },
): Promise<void> {
  const silence = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const heard = (): void => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(new Error('the live stream has gone silent')), SILENCE_MS);
  };
  heard();
  try {
    const response = await fetch(url, {
      signal: AbortSignal.any([signal, silence.signal]),
      cache: 'no-store',
      headers: { accept: 'text/event-stream', [BACKGROUND_HEADER]: '1', ...(lastId === undefined ? {} : { 'last-event-id': lastId }) },
    });
    if (!response.ok || response.body === null) throw new StreamRefused(response.status);
    on.open();
    const parser = new SseParser();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      for (const event of parser.push(value)) on.event(event);
    }
  } finally {
    clearTimeout(timer);
  }
}
