import { create, toBinary } from "@bufbuild/protobuf";
import { Backoff } from "./backoff.js";
import { monotonicMs, sleep } from "./clock.js";
import { DEFAULTS } from "./defaults.js";
import type { Endpoint } from "./endpoint.js";
import { CodeqError, asCodeqError } from "./errors.js";
import { ErrorReason } from "./gen/codeq/v1/error_pb.js";
import { WorkRequestSchema } from "./gen/codeq/v1/worker_service_pb.js";
import { framed } from "./grpc.js";
import { sharedElapsed, sharedMs, type LeaseTable, type SharedLease } from "./lease-table.js";
import type { RenewalMessage, RenewalOptions } from "./renewing.js";
import { CLIENT_INFO, Reconnects, TokenRenewal, isFinal, learning, runStream } from "./streams.js";
import type { Call } from "./transport.js";
import { readWorkerMessage, type WorkerMessage } from "./worker-messages.js";

const WORK = "/codeq.v1.WorkerService/Work";

/** Longest time for which leases are renewed while the worker's event loop does not turn: a quarter of an hour. */
export const BLOCKED_SECONDS_MAX = 900;

/** Interval at which late renewals are told again. */
const WARN_MS = 30_000;

/** Looks at the leases so many times between two renewals. */
const LOOKS_PER_RENEWAL = 8;

const LOOK_MS_MIN = 20;

/** Pause after the server refused the stream for good; the worker's own stream then ends the worker, or renews. */
const REFUSED_MS = 5000;

/** Renews the leases of a table over a worker stream without credits. */
export class RenewalStream {
  readonly #endpoint: Endpoint;
  readonly #table: LeaseTable;
  readonly #options: RenewalOptions;
  readonly #post: (message: RenewalMessage) => void;
  readonly #reconnects: Reconnects;
  /** Heartbeats sent on this stream, by task: the lease, and when. */
  readonly #sent = new Map<string, { lease: SharedLease; atMs: number }>();
  #call: Call | undefined;
  #tokens: TokenRenewal | undefined;
  #leaseMs: number;
  #isLeaving = false;
  #isWriting = false;
  #isWelcomed = false;
  #leader = "";
  /** Whether this side ended the stream, since no lease needed it. */
  #isIdle = false;
  /** When a lease last needed the stream. */
  #neededMs = 0;
  #warnedMs: number | undefined;
  #looking: NodeJS.Timeout | undefined;
  readonly #ended = new AbortController();

  constructor(endpoint: Endpoint, table: LeaseTable, options: RenewalOptions, post: (message: RenewalMessage) => void) {
    this.#endpoint = endpoint;
    this.#table = table;
    this.#options = options;
    this.#post = post;
    this.#leaseMs = options.leaseSeconds * 1000;
    this.#reconnects = new Reconnects("renewal", endpoint, new Backoff());
  }

  /** Renews until it is told to end. It connects only while there are leases old enough to need it soon. */
  async run(): Promise<void> {
    this.#look();
    while (!this.#ended.signal.aborted) {
      if (!this.#isNeeded()) {
        await sleep(this.#lookMs, this.#ended.signal);
        continue;
      }
      const startedMs = monotonicMs();
      const address = this.#endpoint.servers.current;
      const error = await this.#attempt(address);
      this.#post({ kind: "up", isUp: false });
      if (error === undefined) continue;
      const attempt = { address, leader: this.#leader, startedMs, isWelcomed: this.#isWelcomed };
      const delay = this.#reconnects.delayMsAfter(error, attempt);
      await sleep(isFinal(error) && !this.#isWelcomed ? Math.max(delay, REFUSED_MS) : delay, this.#ended.signal);
    }
  }

  /** Ends the renewals and their stream. */
  end(): void {
    this.#ended.abort();
    clearTimeout(this.#looking);
    this.#call?.end();
  }

  get #renewMs(): number {
    return this.#leaseMs / DEFAULTS.renewalsPerLease;
  }

  get #lookMs(): number {
    return Math.max(LOOK_MS_MIN, this.#renewMs / LOOKS_PER_RENEWAL);
  }

  /** Returns whether a lease needs renewal soon. */
  #isNeeded(): boolean {
    if (this.#options.isEager) return true;
    const now = sharedMs();
    return this.#table.leases().some((lease) => {
      return !lease.isGivenUp && sharedElapsed(lease.extendedMs, now) >= this.#renewMs / 2;
    });
  }

  /** Runs one stream; returns why it ended, or undefined if it was not needed any more. */
  async #attempt(address: string): Promise<CodeqError | undefined> {
    this.#isLeaving = this.#isWriting = this.#isWelcomed = this.#isIdle = false;
    this.#neededMs = monotonicMs();
    this.#leader = "";
    this.#sent.clear();
    const channel = this.#endpoint.channel(address);
    let endLearning: (() => void) | undefined;
    try {
      const metadata = await this.#endpoint.metadata();
      this.#tokens = new TokenRenewal(this.#endpoint, metadata, () => this.#renew());
      const { name, commands, leaseSeconds } = this.#options;
      const hello = { name, commands: [...commands], leaseSeconds, client: CLIENT_INFO };
      const bytes = toBinary(WorkRequestSchema, create(WorkRequestSchema, { hello }));
      await runStream(this.#endpoint, channel, WORK, bytes, metadata, {
        opened: (call, first) => {
          this.#open(call, readWorkerMessage(first), address);
          endLearning = learning(this.#endpoint, channel, metadata);
        },
        message: (data) => this.#take(readWorkerMessage(data)),
      });
    } catch (error) {
      return asCodeqError(error);
    } finally {
      this.#call = undefined;
      this.#tokens?.end();
      endLearning?.();
      channel.close();
    }
    return this.#isIdle ? undefined : new CodeqError("UNAVAILABLE", "the stream ended");
  }

  #open(call: Call, first: WorkerMessage, address: string): void {
    const welcome = first.rest.welcome;
    if (welcome === undefined || welcome.leaseSeconds < 1) {
      throw new CodeqError("BAD_HANDSHAKE", "the server's first message is not a valid welcome");
    }
    this.#isWelcomed = true;
    this.#call = call;
    this.#leaseMs = welcome.leaseSeconds * 1000;
    this.#endpoint.servers.reached();
    this.#reconnects.opened(address);
    this.#post({ kind: "up", isUp: true });
    this.#take(first);
    this.#renew(true); // leases from before this stream may be lost, or about to run out
  }

  #take(message: WorkerMessage): void {
    for (const grant of message.rest.extended) {
      const sent = this.#sent.get(grant.taskId);
      if (sent?.lease.token === grant.leaseToken) this.#table.extended(sent.lease);
    }
    for (const lost of message.rest.lost) {
      this.#sent.delete(lost.taskId);
      this.#post({ kind: "lost", taskId: lost.taskId, token: lost.leaseToken });
    }
    const notice = message.rest.notice;
    if (notice?.reason === ErrorReason.UNAUTHENTICATED) {
      this.#tokens?.start(notice.graceMs);
    } else if (notice !== undefined) {
      this.#isLeaving = true;
      this.#leader = notice.leader;
    }
    this.#renew();
  }

  /** Looks at the leases again and again. */
  #look(): void {
    this.#looking = setTimeout(() => {
      this.#renew();
      this.#look();
    }, this.#lookMs);
  }

  /** Sends the heartbeats that are due; all of them, if `isFirst`. */
  #renew(isFirst = false): void {
    const call = this.#call;
    if (call === undefined || this.#isWriting) return;
    if (this.#isLeaving || this.#tokens?.isLate) {
      call.end(); // this stream has no tasks, so nothing is given back
      this.#call = undefined;
      return;
    }
    const now = monotonicMs();
    if (this.#isNeeded()) this.#neededMs = now;
    if (now - this.#neededMs > this.#leaseMs) {
      this.#isIdle = true;
      this.#call = undefined;
      call.end();
      return;
    }
    const due = this.#due(isFirst);
    const token = this.#tokens?.take() ?? "";
    if (due.length === 0 && !token) return;
    const heartbeats = due.map((lease) => ({ taskId: lease.taskId, leaseToken: lease.token }));
    const request = create(WorkRequestSchema, { heartbeats, token });
    this.#isWriting = true;
    call.write(framed([toBinary(WorkRequestSchema, request)]), () => {
      this.#isWriting = false;
    });
  }

  #due(isFirst: boolean): SharedLease[] {
    const now = monotonicMs();
    const renewMs = this.#renewMs;
    const isBlocked = this.#table.silentMs > BLOCKED_SECONDS_MAX * 1000;
    const due: SharedLease[] = [];
    const known = new Set<string>();
    let late = 0;
    for (const lease of this.#table.leases()) {
      known.add(lease.taskId);
      if (lease.isGivenUp || isBlocked || due.length >= DEFAULTS.messageItemsMax) continue;
      if (sharedElapsed(lease.startedMs, sharedMs()) > lease.limitMs) {
        this.#table.giveUp(lease.slot);
        this.#warn(`the lease of task ${lease.taskId} is no longer renewed: it has been held for its whole time`);
        continue;
      }
      const since = sharedElapsed(lease.extendedMs, sharedMs());
      const sent = this.#sent.get(lease.taskId);
      const isSent = sent?.lease.version === lease.version && now - sent.atMs < renewMs;
      if (!isFirst && (since < renewMs || isSent)) continue;
      if (since > this.#leaseMs / 2) late += 1;
      this.#sent.set(lease.taskId, { lease, atMs: now });
      due.push(lease);
    }
    for (const taskId of this.#sent.keys()) if (!known.has(taskId)) this.#sent.delete(taskId);
    if (late > 0) this.#tellLate(late, now);
    return due;
  }

  #tellLate(late: number, now: number): void {
    this.#table.countLate(late);
    if (this.#warnedMs !== undefined && now - this.#warnedMs < WARN_MS) return;
    this.#warnedMs = now;
    this.#warn(`${late} leases are renewed later than half of their length: the server, or this machine, is too slow`);
  }

  #warn(text: string): void {
    this.#post({ kind: "log", level: "warn", text });
  }
}
