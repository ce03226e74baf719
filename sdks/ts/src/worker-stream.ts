import { create, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import type { Backoff } from "./backoff.js";
import { monotonicMs, sleep, timer } from "./clock.js";
import { FieldWriter } from "./codec.js";
import { DEFAULTS } from "./defaults.js";
import type { Endpoint } from "./endpoint.js";
import { CodeqError, asCodeqError } from "./errors.js";
import { ErrorReason } from "./gen/codeq/v1/error_pb.js";
import { WorkRequestSchema } from "./gen/codeq/v1/worker_service_pb.js";
import { framed } from "./grpc.js";
import type { ShardSearch } from "./shard-search.js";
import { CLIENT_INFO, Reconnects, TokenRenewal, checkProtocol, isFinal, isOfExpiredToken, learning, runStream } from "./streams.js";
import type { Call, Channel } from "./transport.js";
import { readWorkerMessage, type WorkerMessage } from "./worker-messages.js";
import type { WorkerTasks } from "./worker-tasks.js";

const WORK = "/codeq.v1.WorkerService/Work";

/** Settings of a worker's streams. */
export interface WorkerSettings {
  readonly name: string;
  readonly commands: readonly string[];
  readonly concurrency: number;
  readonly leaseSeconds: number;
  readonly windowBytes: number;
  readonly drainSeconds: number;
}

/** The place of a stream among those of its worker. */
export interface StreamRole {
  /** Looks for the process of the only shard whose tasks the stream takes; undefined: it takes those of all. */
  readonly search: ShardSearch | undefined;
  /** Takes the number of shards that a server named, and returns whether the worker's streams start over because of it. */
  startsOver(shards: number): boolean;
}

const NO_CREDITS = { credits: 0, bytes: 0 };

const writer = new FieldWriter();

/**
 * One of a worker's connections to the servers: carries tasks in, and outcomes out; reconnects, and drains when stopped.
 */
export class WorkerStream {
  readonly #endpoint: Endpoint;
  readonly #settings: WorkerSettings;
  readonly #tasks: WorkerTasks;
  readonly #role: StreamRole;
  readonly #reconnects: Reconnects;
  // State of the stream.
  #call: Call | undefined;
  #channel: Channel | undefined;
  #tokens: TokenRenewal | undefined;
  #endLearning: (() => void) | undefined;
  #address = "";
  #leader = "";
  #isWelcomed = false;
  #isLeaving = false;
  #isWriting = false;
  #isHalfClosed = false;
  #isDrainTold = false;
  #isPumpDue = false;
  /** Whether it looks for the process of its shard again, once no task is on its way. */
  #isMoving = false;
  #moving: NodeJS.Timeout | undefined;
  /** Whether this side ended the stream to open the next one at once. */
  #goesOn = false;
  #isEnded = false;
  // Stop.
  /** Whether it takes no more tasks, and ends once it has reported those that it has. */
  #isRetired = false;
  #stopAtMs: number | undefined;
  #stopTimers: NodeJS.Timeout[] = [];
  /** Ends the attempt to connect, or the rest before the next one. */
  #quit = new AbortController();

  constructor(endpoint: Endpoint, settings: WorkerSettings, tasks: WorkerTasks, backoff: Backoff, role: StreamRole) {
    this.#endpoint = endpoint;
    this.#settings = settings;
    this.#tasks = tasks;
    this.#role = role;
    this.#reconnects = new Reconnects("worker", endpoint, backoff);
    tasks.onChange = tasks.share.onChange = () => this.#wake();
    tasks.share.isTaking = () => this.#call !== undefined && this.#mayTake && !this.#isMoving;
  }

  /** Stops taking tasks, and ends `run` once the running ones have ended, at the latest after `drainSeconds`. */
  stop(drainSeconds: number): void {
    const at = monotonicMs() + drainSeconds * 1000;
    this.#stopAtMs = Math.min(at, this.#stopAtMs ?? Number.POSITIVE_INFINITY);
    for (const each of this.#stopTimers) clearTimeout(each);
    const left = Math.max(0, this.#stopAtMs - monotonicMs());
    this.#stopTimers = [
      timer(() => this.#timeIsUp(), left),
      timer(() => this.#giveUp(), left + DEFAULTS.leaveSecondsMax * 1000),
    ];
    this.#tasks.drain();
    this.#wake();
  }

  /** Whether other streams have taken over. */
  get isRetired(): boolean {
    return this.#isRetired;
  }

  /** Takes no more tasks, since other streams take them; returns the number of places that it leaves. */
  retire(): number {
    this.#isRetired = true;
    const places = this.#tasks.share.retire(this.#tasks.running);
    this.#quit.abort();
    // A broken stream keeps the leases of tasks that run; what has no lease yet goes back to its place.
    if (this.#call !== undefined) this.#call.fail(new CodeqError("DRAINING", "the streams start over"));
    else if (!this.#isWelcomed) this.#channel?.close();
    return places;
  }

  /** Ends at once, since the server refused the worker for good. */
  abort(): void {
    this.#giveUp();
  }

  /** Works until stopped; rejects if the server refuses the worker for good. */
  async run(): Promise<void> {
    try {
      while (!this.#isOver()) {
        const startedMs = monotonicMs();
        this.#quit = new AbortController();
        const error = await this.#attempt();
        this.#tasks.streamEnded();
        if (this.#isOver()) return;
        const mayRenew = this.#isWelcomed || isOfExpiredToken(error);
        if (this.#goesOn) continue;
        if (!this.#isWelcomed && !isFinal(error) && this.#role.search?.failed(this.#address)) continue;
        if (isFinal(error) && !(mayRenew && this.#endpoint.tokenIsRenewable)) throw error;
        const attempt = {
          address: this.#address,
          server: this.#role.search === undefined ? this.#address : this.#endpoint.servers.current,
          leader: this.#leader,
          startedMs,
          isWelcomed: this.#isWelcomed,
        };
        await sleep(this.#reconnects.delayMsAfter(error, attempt), this.#quit.signal);
      }
    } finally {
      for (const each of this.#stopTimers) clearTimeout(each);
      this.#tasks.end();
    }
  }

  /** Whether the stream may be granted tasks. */
  get #mayTake(): boolean {
    return this.#stopAtMs === undefined && !this.#isLeaving && !this.#isRetired;
  }

  /** Returns whether it is stopped or retired and has nothing left to report, or its time is up. */
  #isOver(): boolean {
    if (this.#isRetired && this.#tasks.running === 0 && !this.#tasks.owesOutcomes) return true;
    if (this.#stopAtMs === undefined) return this.#isEnded;
    const lateMs = monotonicMs() - this.#stopAtMs;
    const owesNothing = !this.#tasks.owesOutcomes && (this.#tasks.running === 0 || lateMs >= 0);
    return this.#isEnded || owesNothing || lateMs >= DEFAULTS.leaveSecondsMax * 1000;
  }

  #timeIsUp(): void {
    // Timers count from the start of their turn of the event loop, so they may fire some milliseconds early.
    this.#stopAtMs = Math.min(this.#stopAtMs ?? Number.POSITIVE_INFINITY, monotonicMs());
    this.#wake();
  }

  #giveUp(): void {
    this.#isEnded = true;
    this.#quit.abort();
    this.#call?.fail(new CodeqError("UNAVAILABLE", "the server did not settle the outcomes in time"));
    this.#channel?.close();
  }

  /** Runs one stream to its end and returns why it ended. */
  async #attempt(): Promise<CodeqError> {
    this.#isWelcomed = this.#isLeaving = this.#isDrainTold = this.#isHalfClosed = this.#isWriting = false;
    this.#isMoving = this.#goesOn = false;
    const { search } = this.#role;
    this.#address = search?.next() ?? this.#endpoint.servers.current;
    this.#leader = "";
    const channel = this.#endpoint.channel(this.#address);
    this.#channel = channel;
    try {
      const metadata = await this.#endpoint.metadata(undefined, this.#quit.signal);
      if (this.#quit.signal.aborted) return new CodeqError("CANCELLED", "the worker has stopped");
      this.#tokens = new TokenRenewal(this.#endpoint, metadata, () => this.#wake());
      const { name, commands, leaseSeconds } = this.#settings;
      const choice = search === undefined ? {} : { onlyShard: { shard: search.shard, shards: search.shards } };
      const hello = { name, commands: [...commands], leaseSeconds, client: CLIENT_INFO, ...choice };
      const bytes = toBinary(WorkRequestSchema, create(WorkRequestSchema, { hello }));
      await runStream(this.#endpoint, channel, WORK, bytes, metadata, {
        opened: (call, first) => {
          this.#open(call, readWorkerMessage(first));
          this.#endLearning = learning(this.#endpoint, channel, metadata);
        },
        message: (data) => this.#take(readWorkerMessage(data)),
      });
      this.#isEnded ||= this.#stopAtMs !== undefined && !this.#tasks.owesOutcomes;
    } catch (error) {
      return asCodeqError(error);
    } finally {
      this.#call = undefined;
      clearTimeout(this.#moving);
      this.#tokens?.end();
      this.#endLearning?.();
      this.#endLearning = undefined;
      channel.close();
    }
    if (this.#isLeaving) return new CodeqError("DRAINING", "the stream is ending");
    return new CodeqError("UNAVAILABLE", "the stream ended");
  }

  #open(call: Call, first: WorkerMessage): void {
    const welcome = first.rest.welcome;
    if (welcome === undefined || welcome.leaseSeconds < 1 || welcome.creditsMax < 1) {
      throw new CodeqError("BAD_HANDSHAKE", "the server's first message is not a valid welcome");
    }
    this.#isWelcomed = true;
    if (this.#mayTake && this.#role.startsOver(welcome.shards) && this.#isOver()) {
      throw new CodeqError("DRAINING", "the streams start over");
    }
    const search = this.#isRetired ? undefined : this.#role.search;
    this.#goesOn = search?.meets(this.#address, welcome) === false;
    if (this.#goesOn) throw new CodeqError("DRAINING", "the stream leads to the process of another shard");
    this.#call = call;
    if (search?.pauseMs !== undefined) this.#moving = timer(() => this.#move(), search.pauseMs);
    this.#endpoint.servers.reached();
    this.#reconnects.opened(this.#address);
    checkProtocol(welcome, this.#endpoint.logger);
    this.#tasks.streamOpened(welcome.leaseSeconds, welcome.creditsMax);
    this.#take(first);
    this.#pump();
  }

  #move(): void {
    this.#isMoving = true;
    this.#wake();
  }

  #take(message: WorkerMessage): void {
    const tasks = this.#tasks;
    const { rest } = message;
    if (message.settled > 0 && tasks.settle(message.settled, rest.outcomeErrors)) this.#isLeaving = true;
    for (const grant of rest.extended) tasks.extended(grant.taskId, grant.leaseToken);
    for (const lost of rest.lost) tasks.lost(lost.taskId, lost.leaseToken, "leaseLost");
    for (const lost of rest.cancelled) tasks.lost(lost.taskId, lost.leaseToken, "cancelled");
    const notice = rest.notice;
    if (notice?.reason === ErrorReason.UNAUTHENTICATED) {
      this.#tokens?.start(notice.graceMs);
    } else if (notice !== undefined) {
      this.#isLeaving = true;
      this.#leader = notice.leader;
    }
    // Deliveries that crossed a half-close are taken back by the server; those that crossed a drain are given back.
    if (message.tasks.length > 0 && !this.#isHalfClosed) tasks.receive(message.tasks, this.#stopAtMs !== undefined);
    if (rest.returnedCredits !== undefined) tasks.share.returned(rest.returnedCredits);
    this.#wake();
  }

  /** Sends what waits once everything that runs now has had its chance to add to the message; no timer is involved. */
  #wake(): void {
    if (this.#isOver()) {
      this.#quit.abort();
      if (!this.#isWelcomed) this.#channel?.close(); // nothing to say goodbye for
    }
    if (this.#isPumpDue || this.#isWriting || this.#call === undefined) return;
    this.#isPumpDue = true;
    queueMicrotask(() => {
      this.#isPumpDue = false;
      this.#pump();
    });
  }

  #pump(): void {
    const call = this.#call;
    if (call === undefined || this.#isWriting || this.#isHalfClosed) return;
    this.#isLeaving ||= this.#tokens?.isLate === true;
    const chunks = this.#nextMessage();
    if (chunks.length > 0) {
      this.#isWriting = true;
      call.write(framed(chunks), () => {
        this.#isWriting = false;
        if (this.#call === call) this.#pump();
      });
    } else if (this.#mayHalfClose()) {
      this.#halfClose(call);
    } else if (this.#isLeaving && !this.#tasks.hasUnsettled) {
      // Tasks are still running. A half-close would give them back, but a broken stream keeps their leases.
      call.fail(new CodeqError("DRAINING", "the stream is ending"));
    } else if (this.#isMoving && this.#mayTake && !this.#tasks.hasUnsettled && !this.#tasks.share.isGranted) {
      this.#goesOn = true;
      call.fail(new CodeqError("DRAINING", "the stream moves to the process of its shard"));
    }
  }

  /** Returns whether nothing more will be sent on this stream. */
  #mayHalfClose(): boolean {
    if (this.#tasks.running === 0 && !this.#mayTake) return true;
    return this.#stopAtMs !== undefined && monotonicMs() >= this.#stopAtMs;
  }

  /** The server settles what it has read, takes back the unfinished tasks, and ends the call. */
  #halfClose(call: Call): void {
    this.#isHalfClosed = true;
    if (this.#stopAtMs !== undefined) this.#tasks.handBack();
    call.end();
    const late = timer(
      () => call.fail(new CodeqError("UNAVAILABLE", "the server did not end the stream")),
      DEFAULTS.leaveSecondsMax * 1000,
    );
    late.unref();
  }

  /** Returns the parts of the next message, with everything that waits, up to the limits; none: nothing waits. */
  #nextMessage(): Uint8Array[] {
    const tasks = this.#tasks;
    const progress = tasks.takeProgress();
    const chunks = tasks.takeOutcomes();
    const isStopping = this.#stopAtMs !== undefined;
    const token = this.#tokens?.take() ?? "";
    const heartbeats = tasks.takeHeartbeats();
    const drain = isStopping && !this.#isDrainTold;
    this.#isDrainTold = isStopping;
    if (progress.length > 0 || heartbeats.length > 0 || drain || token) {
      const rest: MessageInitShape<typeof WorkRequestSchema> = { progress, heartbeats, drain, token };
      chunks.push(toBinary(WorkRequestSchema, create(WorkRequestSchema, rest)));
    }
    if (this.#mayTake) this.#addCredits(chunks);
    return chunks;
  }

  #addCredits(chunks: Uint8Array[]): void {
    const { credits, bytes } = this.#isMoving ? NO_CREDITS : this.#tasks.takeCredits();
    const back = this.#tasks.share.ask(this.#isMoving);
    if (credits === 0 && bytes === 0 && back === 0) return;
    const to = writer.begin();
    if (credits > 0) to.number(0x10, credits);
    if (bytes > 0) to.number(0x18, bytes);
    if (back > 0) to.number(0x50, back);
    chunks.push(to.end());
  }
}
