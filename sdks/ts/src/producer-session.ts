import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Backoff } from "./backoff.js";
import { monotonicMs } from "./clock.js";
import type { Endpoint } from "./endpoint.js";
import { CodeqError, asCodeqError } from "./errors.js";
import { DEFAULTS } from "./defaults.js";
import { ErrorReason } from "./gen/codeq/v1/error_pb.js";
import {
  ProduceRequestSchema,
  ProduceResponseSchema,
  type ProduceResponse,
  type ProducerWelcome,
} from "./gen/codeq/v1/producer_service_pb.js";
import { framed } from "./grpc.js";
import { OVERHEAD_BYTES_MAX } from "./new-tasks.js";
import { VALUE_BYTES_MAX } from "./payloads.js";
import type { Frame, Job, Pending } from "./producer-frames.js";
import type { ShardSearch } from "./shard-search.js";
import { CLIENT_INFO, Reconnects, TokenRenewal, checkProtocol, isFinal, learning, runStream } from "./streams.js";
import type { Call, Channel } from "./transport.js";

const PRODUCE = "/codeq.v1.ProducerService/Produce";

/** Bytes for which every frame must have room: the largest task. */
const ITEM_BYTES_MAX = VALUE_BYTES_MAX + OVERHEAD_BYTES_MAX;

/** What the streams of a producer share. */
export interface Creates {
  /** Creates that are in no frame. */
  readonly pending: Pending;
  /** Whether no more are added. */
  readonly isClosing: boolean;
  /** Says that creates wait, or that a stream has room again: the next stream in turn takes what waits. */
  announce(): void;
  /** Takes the welcome of a stream. */
  opened(session: ProducerSession, welcome: ProducerWelcome): void;
}

/**
 * One stream of a producer at a time: collects creates while a frame is being written, and respects the server's window.
 * A create waits in `pending` until it is in a frame of `#unacked`. If the stream breaks, the creates of those frames that
 * have a key are sent again; the others have an unknown outcome.
 */
export class ProducerSession {
  readonly #endpoint: Endpoint;
  readonly #clientName: string;
  readonly #creates: Creates;
  readonly #reconnects: Reconnects;
  /** Looks for the process of a shard; undefined: any will do. */
  search: ShardSearch | undefined;
  #unacked: Frame[] = [];
  #unackedBytes = 0;
  #call: Call | undefined;
  #channel: Channel | undefined;
  #tokens: TokenRenewal | undefined;
  #limits: ProducerWelcome | undefined;
  #endLearning: (() => void) | undefined;
  #address = "";
  #leader = "";
  #startedMs = 0;
  #isElsewhere = false;
  #isLeaving = false;
  #isHalfClosed = false;
  #isWriting = false;
  #isPumpDue = false;
  /** Ends the attempt to connect. */
  #quit = new AbortController();

  constructor(endpoint: Endpoint, clientName: string, creates: Creates, search?: ShardSearch) {
    this.#endpoint = endpoint;
    this.#clientName = clientName;
    this.#creates = creates;
    this.#reconnects = new Reconnects("producer", endpoint, new Backoff());
    this.search = search;
  }

  /** Whether the last stream was opened. */
  get isWelcomed(): boolean {
    return this.#limits !== undefined;
  }

  /** Whether the last stream led to the process of another shard, or to a server that is away: another one is tried at once. */
  get isElsewhere(): boolean {
    return this.#isElsewhere;
  }

  /** Whether a stream is open. */
  get isOpen(): boolean {
    return this.#call !== undefined;
  }

  /** Whether a frame could be sent now. */
  get isFree(): boolean {
    return this.#call !== undefined && !this.#isWriting && this.#room > 0;
  }

  /** The jobs whose creates are sent, and not answered. */
  *jobs(): Generator<Job> {
    for (const frame of this.#unacked) yield* frame.jobs();
  }

  /** Gives up an attempt to connect. */
  quit(): void {
    if (this.#call === undefined) this.close();
  }

  /** Disconnects. */
  close(): void {
    this.#quit.abort();
    this.#channel?.close();
  }

  /** Runs one stream to its end and returns why it ended. */
  async attempt(): Promise<CodeqError> {
    const error = await this.#attempt();
    if (!this.isWelcomed && !isFinal(error) && this.search?.failed(this.#address)) this.#isElsewhere = true;
    this.#loseUnacked(error);
    return error;
  }

  /** Returns the milliseconds to wait before the next stream, after one that has ended with an error. */
  delayMsAfter(error: CodeqError): number {
    return this.#reconnects.delayMsAfter(error, {
      address: this.#address,
      server: this.search === undefined ? this.#address : this.#endpoint.servers.current,
      leader: this.#leader,
      startedMs: this.#startedMs,
      isWelcomed: this.isWelcomed,
    });
  }

  async #attempt(): Promise<CodeqError> {
    this.#address = this.search?.next() ?? this.#endpoint.servers.current;
    this.#leader = "";
    this.#startedMs = monotonicMs();
    this.#limits = undefined;
    this.#isElsewhere = this.#isLeaving = this.#isHalfClosed = this.#isWriting = false;
    this.#quit = new AbortController();
    const channel = this.#endpoint.channel(this.#address);
    this.#channel = channel;
    try {
      const metadata = await this.#endpoint.metadata(undefined, this.#quit.signal);
      const tokens = new TokenRenewal(this.#endpoint, metadata, () => this.wake());
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
    this.#isElsewhere = !this.#creates.isClosing && this.search?.meets(this.#address, welcome) === false;
    if (this.#isElsewhere) throw new CodeqError("DRAINING", "the stream leads to the process of another shard");
    this.#call = call;
    this.#endpoint.servers.reached();
    this.#reconnects.opened(this.#address);
    checkProtocol(welcome, this.#endpoint.logger);
    this.#creates.opened(this, welcome);
    this.#take(first);
    this.pump();
  }

  #take(response: ProduceResponse): void {
    for (const ack of response.acks) {
      const frame = this.#unacked.shift();
      if (frame === undefined) throw new CodeqError("INTERNAL", "ack without a frame");
      this.#unackedBytes -= frame.bytes;
      this.#creates.pending.putBack(frame.resolve(ack));
    }
    const notice = response.notice;
    if (notice?.reason === ErrorReason.UNAUTHENTICATED) {
      this.#tokens?.start(notice.graceMs);
    } else if (notice !== undefined) {
      this.#isLeaving = true;
      this.#leader = notice.leader;
    }
    if (response.acks.length > 0) this.#creates.announce();
    if (this.#isLeaving || this.#creates.isClosing) this.wake();
  }

  /** Sends a fresh token, or ends the stream if it is to be left; what waits goes with it. */
  wake(): void {
    if (this.#isPumpDue || this.#isWriting || this.#call === undefined) return;
    this.#isPumpDue = true;
    queueMicrotask(() => {
      this.#isPumpDue = false;
      this.pump();
    });
  }

  /** Sends what waits. */
  pump(): void {
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
    } else if (this.#isLeaving || (this.#creates.isClosing && this.#creates.pending.isEmpty)) {
      // The server answers the frames that it has read, then ends the call.
      this.#isHalfClosed = true;
      call.end();
    }
  }

  #write(call: Call, chunks: readonly Uint8Array[]): void {
    this.#isWriting = true;
    call.write(framed(chunks), () => {
      this.#isWriting = false;
      if (this.#call === call) this.pump();
    });
  }

  /** Bytes that may be sent now. */
  get #room(): number {
    const limits = this.#limits;
    if (limits === undefined || this.#isLeaving || this.#isHalfClosed || this.#unacked.length >= limits.unackedFramesMax) return 0;
    return Math.min(Number(limits.frameBytesMax), DEFAULTS.frameBytesMax, Number(limits.unackedBytesMax) - this.#unackedBytes);
  }

  #cut(): Frame | undefined {
    const room = this.#room;
    const tasksMax = Math.min(this.#limits?.frameTasksMax ?? 0, DEFAULTS.frameTasksMax);
    return room > 0 ? this.#creates.pending.cut(tasksMax, room) : undefined;
  }

  #loseUnacked(error: CodeqError): void {
    const frames = this.#unacked;
    this.#unacked = [];
    this.#unackedBytes = 0;
    if (frames.length === 0) return;
    const lost = new CodeqError("OUTCOME_UNKNOWN", `sent, but the stream broke: ${error.message}`, { cause: error });
    this.#creates.pending.putBack(frames.flatMap((frame) => frame.lose(lost)));
  }
}
