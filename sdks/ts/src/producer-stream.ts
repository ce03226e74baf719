import { monotonicMs, sleep, timer, within } from "./clock.js";
import { DEFAULTS } from "./defaults.js";
import type { Endpoint } from "./endpoint.js";
import { CodeqError } from "./errors.js";
import type { ProducerWelcome } from "./gen/codeq/v1/producer_service_pb.js";
import { Pending, type Job } from "./producer-frames.js";
import { ProducerSession, type Creates } from "./producer-session.js";
import { SHARDS_MAX, ShardSearch } from "./shard-search.js";
import { isFinal } from "./streams.js";

/** Shortest interval between two scans for jobs past their deadline. */
const SWEEP_MS_MIN = 10;

/** Options of the streams of a producer. */
export interface StreamOptions {
  readonly clientName: string;
  /** Returns whether a server with several shards gets a stream for each. */
  readonly spreads: () => boolean;
}

/**
 * The producer's streams, opened when there is something to send: one, or one to the process of each shard, since a process
 * keeps the tasks that it accepts. Creates go to the open streams in turn; each takes what waits as one frame.
 */
export class ProducerStreams implements Creates {
  readonly #endpoint: Endpoint;
  readonly #options: StreamOptions;
  readonly pending = new Pending();
  /** The stream that is opened first, and tells errors that last. */
  readonly #first: ProducerSession;
  /** The further streams, by their shards. */
  readonly #others = new Map<number, ProducerSession>();
  readonly #working = new Set<Promise<void>>();
  #turn = 0;
  #isTurnDue = false;
  /** Why the last attempt to open the first stream failed; empty: it succeeded. */
  #trouble = "";
  readonly #closing = new AbortController();
  #running: Promise<void> | undefined;
  #resting = new AbortController();
  #sweep: { timer: NodeJS.Timeout; atMs: number } | undefined;

  constructor(endpoint: Endpoint, options: StreamOptions) {
    this.#endpoint = endpoint;
    this.#options = options;
    this.#first = new ProducerSession(endpoint, options.clientName, this);
  }

  get isClosing(): boolean {
    return this.#closing.signal.aborted;
  }

  /** Queues a job with at least one item; it ends by its deadline. */
  submit(job: Job): void {
    if (this.isClosing) {
      job.fail(closed(), closed());
      return;
    }
    this.pending.add(job);
    if (this.#sweep === undefined || job.deadlineMs < this.#sweep.atMs) this.#sweepAt(job.deadlineMs);
    if (this.#running === undefined) this.#start();
    this.announce();
  }

  /** Takes no more jobs, waits for those it has, bounded by their deadlines, and ends the streams. */
  async close(): Promise<void> {
    this.#closing.abort();
    let last = monotonicMs();
    for (const job of this.#jobs()) if (!job.isDone) last = Math.max(last, job.deadlineMs);
    this.#resting.abort();
    this.#quitIfIdle();
    for (const session of this.#sessions()) session.wake();
    const ms = last - monotonicMs() + DEFAULTS.leaveSecondsMax * 1000;
    const ended = Promise.all([this.#running, ...this.#working]);
    await within(ended, ms, closed).catch(() => undefined);
    for (const session of this.#sessions()) session.close();
    if (this.#sweep !== undefined) clearTimeout(this.#sweep.timer);
    for (const job of this.#jobs()) job.fail(closed(), unanswered());
  }

  opened(session: ProducerSession, welcome: ProducerWelcome): void {
    if (session !== this.#first) return;
    this.#trouble = "";
    this.#spread(welcome);
  }

  /** Opens the further streams that are not open. */
  #spread({ shard, shards }: ProducerWelcome): void {
    if (shards < 2 || shards > SHARDS_MAX || this.isClosing || !this.#options.spreads()) return;
    const search = (of: number): ShardSearch => new ShardSearch(this.#endpoint.servers, of, shards);
    this.#first.search ??= search(shard);
    for (let other = 0; other < shards; other += 1) {
      if (other === this.#first.search.shard || this.#others.has(other)) continue;
      const session = new ProducerSession(this.#endpoint, this.#options.clientName, this, search(other));
      this.#others.set(other, session);
      const working = this.#keepOpen(session).finally(() => {
        this.#working.delete(working);
        this.#others.delete(other);
      });
      this.#working.add(working);
    }
  }

  *#sessions(): Generator<ProducerSession> {
    yield this.#first;
    yield* this.#others.values();
  }

  *#jobs(): Generator<Job> {
    yield* this.pending.jobs();
    for (const session of this.#sessions()) yield* session.jobs();
  }

  /** Wakes the next stream, once everything that runs now has had its chance to add to its frame; no timer is involved. */
  announce(): void {
    if (this.#isTurnDue) return;
    this.#isTurnDue = true;
    queueMicrotask(() => {
      this.#isTurnDue = false;
      const free = [...this.#sessions()].filter((session) => session.isFree);
      this.#turn += 1;
      free[this.#turn % free.length]?.pump(); // without any, the first one to be free takes what waits
    });
  }

  #start(): void {
    this.#running = this.#run().finally(() => {
      this.#running = undefined;
      if (!this.isClosing && !this.pending.isEmpty) this.#start();
    });
  }

  /** Whether a stream is to be open: something is to be sent, or others are open, so that it is one of them again. */
  get #isNeeded(): boolean {
    return !this.pending.isEmpty || (!this.isClosing && [...this.#sessions()].some((session) => session.isOpen));
  }

  /** Keeps the first stream open while it is needed. */
  async #run(): Promise<void> {
    const first = this.#first;
    while (this.#isNeeded) {
      const error = await first.attempt();
      if (first.isElsewhere) continue;
      this.#trouble = first.isWelcomed ? "" : error.message;
      if (this.isClosing && this.pending.isEmpty) return;
      this.announce(); // other streams may send what this one has lost
      if (isFinal(error) && !(first.isWelcomed && this.#endpoint.tokenIsRenewable)) this.#failPending(error);
      if (this.pending.isEmpty && this.isClosing) return;
      const delay = first.delayMsAfter(error);
      this.#resting = new AbortController();
      if (this.#isNeeded) await sleep(delay, this.isClosing ? undefined : this.#resting.signal);
    }
  }

  /** Keeps a further stream open while it is needed. Errors that last are told by the first one. */
  async #keepOpen(session: ProducerSession): Promise<void> {
    do {
      const error = await session.attempt();
      if (session.isElsewhere) continue;
      this.announce();
      if (!this.#isNeeded) return;
      await sleep(session.delayMsAfter(error), this.isClosing ? undefined : this.#closing.signal);
    } while (this.#isNeeded);
  }

  #failPending(error: CodeqError): void {
    for (const job of [...this.pending.jobs()]) job.fail(error, unanswered());
  }

  #sweepAt(atMs: number): void {
    if (this.#sweep !== undefined) clearTimeout(this.#sweep.timer);
    const later = Math.max(atMs, monotonicMs() + SWEEP_MS_MIN);
    const waiting = timer(() => this.#expire(), later - monotonicMs());
    waiting.unref(); // an open or pending stream keeps the process alive itself
    this.#sweep = { timer: waiting, atMs: later };
  }

  /** Ends the jobs whose deadline has passed, and sets the timer to the next deadline. */
  #expire(): void {
    this.#sweep = undefined;
    const now = monotonicMs();
    let next = Number.POSITIVE_INFINITY;
    for (const job of [...this.#jobs()]) {
      if (job.isDone) continue;
      if (job.deadlineMs <= now) job.fail(this.#unsent(), unanswered());
      else next = Math.min(next, job.deadlineMs);
    }
    if (next !== Number.POSITIVE_INFINITY) this.#sweepAt(next);
    // Nothing waits any more: an attempt to connect, or a rest, is not needed.
    if (!this.#isNeeded) this.#resting.abort();
    this.#quitIfIdle();
  }

  /** Gives up the attempts to connect for which nothing waits. */
  #quitIfIdle(): void {
    if (!this.#isNeeded) for (const session of this.#sessions()) session.quit();
  }

  #unsent(): CodeqError {
    const why = this.#trouble ? `: ${this.#trouble}` : "";
    return new CodeqError("DEADLINE_EXCEEDED", `not sent within the timeout${why}`);
  }
}

function closed(): CodeqError {
  return new CodeqError("CLOSED", "the producer is closed");
}

function unanswered(): CodeqError {
  return new CodeqError("OUTCOME_UNKNOWN", "sent, but not answered within the timeout");
}
