import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { Backoff } from "./backoff.js";
import { monotonicMs, sleep, timer, within } from "./clock.js";
import { DEFAULTS } from "./defaults.js";
import type { Endpoint } from "./endpoint.js";
import { CodeqError, asCodeqError } from "./errors.js";
import { ErrorReason } from "./gen/codeq/v1/error_pb.js";
import {
  ProduceRequestSchema,
  ProduceResponseSchema,
  type ProduceResponse,
  type ProducerWelcome,
} from "./gen/codeq/v1/producer_service_pb.js";
import { framed } from "./grpc.js";
import { VALUE_BYTES_MAX } from "./payloads.js";
import { Pending, type Frame, type Job } from "./producer-frames.js";
import { CLIENT_INFO, Reconnects, TokenRenewal, checkProtocol, isFinal, learning, runStream } from "./streams.js";
import { OVERHEAD_BYTES_MAX } from "./new-tasks.js";
import type { Call, Channel } from "./transport.js";

const PRODUCE = "/codeq.v1.ProducerService/Produce";

/** Shortest interval between two scans for jobs past their deadline. */
const SWEEP_MS_MIN = 10;

/** Bytes for which every frame must have room: the largest task. */
const ITEM_BYTES_MAX = VALUE_BYTES_MAX + OVERHEAD_BYTES_MAX;

/**
 * The producer's stream, opened when there is something to send: collects creates while a frame is being written,
 * respects the server's window, and reconnects. A create waits in `#pending` until it is in a frame of `#unacked`.
 * If the stream breaks, the creates of those frames that have a key are sent again; the others have an unknown outcome.
 */
export class ProducerStream {
  readonly #endpoint: Endpoint;
  readonly #clientName: string;
  readonly #reconnects: Reconnects;
  readonly #pending = new Pending();
  #unacked: Frame[] = [];
  #unackedBytes = 0;
  // State of the stream.
  #call: Call | undefined;
  #channel: Channel | undefined;
  #tokens: TokenRenewal | undefined;
  #limits: ProducerWelcome | undefined;
  #endLearning: (() => void) | undefined;
  #address = "";
  #leader = "";
  #isLeaving = false;
  #isHalfClosed = false;
  #isWriting = false;
  #isPumpDue = false;
  // State over all streams.
  /** Why the last attempt to open a stream failed; empty: it succeeded. */
  #trouble = "";
  #isClosing = false;
  #running: Promise<void> | undefined;
  #resting = new AbortController();
  /** Ends the attempt to connect. */
  #quit = new AbortController();
  #sweep: { timer: NodeJS.Timeout; atMs: number } | undefined;

  constructor(endpoint: Endpoint, clientName: string, backoff: Backoff) {
    this.#endpoint = endpoint;
    this.#clientName = clientName;
    this.#reconnects = new Reconnects("producer", endpoint, backoff);
  }

  /** Queues a job with at least one item; it ends by its deadline. */
  submit(job: Job): void {
    if (this.#isClosing) {
      job.fail(closed(), closed());
      return;
    }
    this.#pending.add(job);
    if (this.#sweep === undefined || job.deadlineMs < this.#sweep.atMs) this.#sweepAt(job.deadlineMs);
    if (this.#running === undefined) this.#start();
    else this.#wake();
  }

  /** Takes no more jobs, waits for those it has, bounded by their deadlines, and ends the stream. */
  async close(): Promise<void> {
    this.#isClosing = true;
    let last = monotonicMs();
    for (const job of this.#jobs()) if (!job.isDone) last = Math.max(last, job.deadlineMs);
    this.#resting.abort();
    this.#quitIfIdle();
    this.#wake();
    const ms = last - monotonicMs() + DEFAULTS.leaveSecondsMax * 1000;
    if (this.#running !== undefined) await within(this.#running, ms, closed).catch(() => undefined);
    this.#quit.abort();
    this.#channel?.close();
    if (this.#sweep !== undefined) clearTimeout(this.#sweep.timer);
    for (const job of this.#jobs()) job.fail(closed(), unanswered());
  }

  *#jobs(): Generator<Job> {
    yield* this.#pending.jobs();
    for (const frame of this.#unacked) yield* frame.jobs();
  }

  #start(): void {
    this.#running = this.#run().finally(() => {
      this.#running = undefined;
      if (!this.#isClosing && !this.#pending.isEmpty) this.#start();
    });
  }

  /** Runs streams until there is nothing to send. */
  async #run(): Promise<void> {
    while (!this.#pending.isEmpty) {
      const startedMs = monotonicMs();
      const error = await this.#attempt();
      const isWelcomed = this.#limits !== undefined;
      this.#trouble = isWelcomed ? "" : error.message;
      this.#loseUnacked(error);
      if (this.#isClosing && this.#pending.isEmpty) return;
      if (isFinal(error) && !(isWelcomed && this.#endpoint.tokenIsRenewable)) this.#failPending(error);
      if (this.#pending.isEmpty && this.#isClosing) return;
      const attempt = { address: this.#address, leader: this.#leader, startedMs, isWelcomed };
      const delay = this.#reconnects.delayMsAfter(error, attempt);
      this.#resting = new AbortController();
      if (!this.#pending.isEmpty) await sleep(delay, this.#isClosing ? undefined : this.#resting.signal);
    }
  }

  /** Runs one stream to its end and returns why it ended. */
  async #attempt(): Promise<CodeqError> {
    this.#address = this.#endpoint.servers.current;
    this.#leader = "";
    this.#limits = undefined;
    this.#isLeaving = this.#isHalfClosed = this.#isWriting = false;
    this.#quit = new AbortController();
    const channel = this.#endpoint.channel(this.#address);
    this.#channel = channel;
    try {
      const metadata = await this.#endpoint.metadata(undefined, this.#quit.signal);
      const tokens = new TokenRenewal(this.#endpoint, metadata, () => this.#wake());
      this.#tokens = tokens;
      const hello = { hello: { clientName: this.#clientName, client: CLIENT_INFO } };
      const bytes = toBinary(ProduceRequestSchema, create(ProduceRequestSchema, hello));
      await runStream(this.#endpoint, channel, PRODUCE, bytes, metadata, {
        opened: (call, first) => {
          this.#open(call, first);
          this.#endLearning = learning(this.#endpoint, channel, metadata);
        },
        message: (data) => this.#take(fromBinary(ProduceResponseSchema, data)),
      });
    } catch (error) {
      return asCodeqError(error);
    } finally {
      this.#call = undefined;
      this.#tokens?.end();
      this.#endLearning?.();
      this.#endLearning = undefined;
      channel.close();
    }
    if (this.#isLeaving) return new CodeqError("DRAINING", "the stream is ending");
    return new CodeqError("UNAVAILABLE", "the stream ended");
  }

  #open(call: Call, data: Uint8Array): void {
    const first = fromBinary(ProduceResponseSchema, data);
    const welcome = first.welcome;
    if (welcome === undefined || welcome.frameBytesMax < ITEM_BYTES_MAX) {
      throw new CodeqError("BAD_HANDSHAKE", "the server's first message is not a valid welcome");
    }
    this.#limits = welcome;
    this.#trouble = "";
    this.#call = call;
    this.#endpoint.servers.reached();
    this.#reconnects.opened(this.#address);
    checkProtocol(welcome, this.#endpoint.logger);
    this.#take(first);
    this.#pump();
  }

  #take(response: ProduceResponse): void {
    for (const ack of response.acks) {
      const frame = this.#unacked.shift();
      if (frame === undefined) throw new CodeqError("INTERNAL", "ack without a frame");
      this.#unackedBytes -= frame.bytes;
      this.#pending.putBack(frame.resolve(ack));
    }
    const notice = response.notice;
    if (notice?.reason === ErrorReason.UNAUTHENTICATED) {
      this.#tokens?.start(notice.graceMs);
    } else if (notice !== undefined) {
      this.#isLeaving = true;
      this.#leader = notice.leader;
    }
    this.#wake();
  }

  /** Sends what waits, once everything that runs now has had its chance to add to the frame; no timer is involved. */
  #wake(): void {
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
    const token = this.#tokens?.take();
    if (token) {
      this.#write(call, [toBinary(ProduceRequestSchema, create(ProduceRequestSchema, { token }))]);
      return;
    }
    const frame = this.#cut();
    if (frame !== undefined) {
      this.#unacked.push(frame);
      this.#unackedBytes += frame.bytes;
      this.#write(call, frame.chunks);
    } else if (this.#isLeaving || (this.#isClosing && this.#pending.isEmpty)) {
      // The server answers the frames that it has read, then ends the call.
      this.#isHalfClosed = true;
      call.end();
    }
  }

  #write(call: Call, chunks: readonly Uint8Array[]): void {
    this.#isWriting = true;
    call.write(framed(chunks), () => {
      this.#isWriting = false;
      if (this.#call === call) this.#pump();
    });
  }

  #cut(): Frame | undefined {
    const limits = this.#limits;
    if (limits === undefined || this.#isLeaving || this.#unacked.length >= limits.unackedFramesMax) return undefined;
    const room = Number(limits.unackedBytesMax) - this.#unackedBytes;
    const bytesMax = Math.min(Number(limits.frameBytesMax), DEFAULTS.frameBytesMax, room);
    return this.#pending.cut(Math.min(limits.frameTasksMax, DEFAULTS.frameTasksMax), bytesMax);
  }

  #loseUnacked(error: CodeqError): void {
    const frames = this.#unacked;
    this.#unacked = [];
    this.#unackedBytes = 0;
    if (frames.length === 0) return;
    const lost = new CodeqError("OUTCOME_UNKNOWN", `sent, but the stream broke: ${error.message}`, { cause: error });
    this.#pending.putBack(frames.flatMap((frame) => frame.lose(lost)));
  }

  #failPending(error: CodeqError): void {
    for (const job of [...this.#pending.jobs()]) job.fail(error, unanswered());
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
    if (this.#pending.isEmpty) this.#resting.abort();
    this.#quitIfIdle();
  }

  /** Gives up an attempt to connect for which nothing waits. */
  #quitIfIdle(): void {
    if (this.#call !== undefined || !this.#pending.isEmpty) return;
    this.#quit.abort();
    this.#channel?.close();
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
