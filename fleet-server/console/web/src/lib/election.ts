// Which tab reads the stream where there are no Web Locks: browsers have them on secure pages alone, and a console under plain
// HTTP from another host is none. Who leads answers whoever asks; messages reach hidden tabs at once, timers do not, so tabs ask
// and count what was not answered instead of waiting for a heartbeat. Of two that lead, the one that has led longer goes on.

export type Ballot =
  /** Who leads? */
  | { kind: 'ask' }
  | { kind: 'lead'; id: string; since: number }
  /** The leader closes. */
  | { kind: 'leave' };

export interface Booth {
  post(ballot: Ballot): void;
  onMessage(listener: (ballot: Ballot) => void): void;
  /** Runs `run` later; returns how to call it off. */
  later(ms: number, run: () => void): () => void;
  now(): number;
}

/** A tab that has just opened asks once, briefly. */
const FIRST_MS = 300;
const ASK_MS = 2000;
/** Questions without an answer after which nobody leads. */
const MOST_UNANSWERED = 2;
/** After a leader has left, tabs step forward one by one within this time. */
const TURN_MS = 250;

export class Election {
  private leading: { since: number; controller: AbortController } | undefined;
  private running = false;
  private unanswered = 0;
  private off: (() => void) | undefined;

  /** `id` is not that of another tab. `lead` runs while this tab leads; its signal fires when another one does. */
  constructor(
    private readonly id: string,
    private readonly booth: Booth,
    private readonly lead: (signal: AbortSignal) => void,
  ) {
    booth.onMessage((ballot) => this.heard(ballot));
  }

  start(): void {
    this.running = true;
    this.unanswered = MOST_UNANSWERED - 1;
    this.ask(FIRST_MS);
  }

  stop(): void {
    this.running = false;
    this.off?.();
    this.off = undefined;
    if (this.leading === undefined) return;
    this.leading.controller.abort();
    this.leading = undefined;
    this.booth.post({ kind: 'leave' });
  }

  private ask(wait: number): void {
    this.unanswered += 1;
    this.booth.post({ kind: 'ask' });
    this.again(wait);
  }

  private again(wait: number): void {
    this.off?.();
    this.off = this.booth.later(wait, () => {
      if (this.unanswered >= MOST_UNANSWERED) this.claim();
      else this.ask(ASK_MS);
    });
  }

  private claim(): void {
    this.off = undefined;
    const controller = new AbortController();
    this.leading = { since: this.booth.now(), controller };
    this.say();
    this.lead(controller.signal);
  }

  private say(): void {
    if (this.leading !== undefined) this.booth.post({ kind: 'lead', id: this.id, since: this.leading.since });
  }

  private heard(ballot: Ballot): void {
    if (!this.running) return;
    if (ballot.kind === 'ask') {
      this.say();
      return;
    }
    if (ballot.kind === 'leave') {
      if (this.leading !== undefined) return;
      this.unanswered = MOST_UNANSWERED;
      this.again(turn(this.id));
      return;
    }
    const mine = this.leading;
    if (mine === undefined) {
      this.unanswered = 0;
      this.again(ASK_MS);
      return;
    }
    if (mine.since < ballot.since || (mine.since === ballot.since && this.id < ballot.id)) {
      this.say();
      return;
    }
    this.leading = undefined;
    mine.controller.abort();
    this.unanswered = 0;
    this.again(ASK_MS);
  }
}

/** Between 0 and TURN_MS, by the id. */
function turn(id: string): number {
  return [...id].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % TURN_MS, 0);
}
