import {
  create,
  fromBinary,
  toBinary,
  type DescMessage,
  type DescMethodUnary,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import { monotonicMs, sleep } from "./clock.js";
import { asCodeqError, cancelled, CodeqError, invalidArgument } from "./errors.js";
import type { Endpoint } from "./endpoint.js";
import { Following } from "./following.js";
import { addKeys, isRepeatable } from "./repeating.js";
import { textOf } from "./texts.js";
import type { Channel } from "./transport.js";

/** Options of one call. */
export interface CallOptions {
  /** Seconds within which the call ends, not counting a wait that it asks of the server. Default: the client's, 30. */
  readonly timeoutSeconds?: number | undefined;
  /** Ends the wait: the call rejects with CANCELLED, whose `cause` is the signal's reason, and may have taken effect. */
  readonly signal?: AbortSignal | undefined;
}

/** How a call is sent. */
export interface Attempting {
  /** Seconds that the server may wait before it answers. Default: 0. */
  readonly waitSeconds?: number;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** Sends unary calls: one channel per server, following the leader. */
export class Caller {
  readonly #endpoint: Endpoint;
  readonly #channels = new Map<string, Channel>(); // bounded by the number of known servers
  #isClosed = false;

  constructor(endpoint: Endpoint) {
    this.#endpoint = endpoint;
  }

  /** Sends a call and returns its reply; rejects with a CodeqError. */
  async call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    how: Attempting,
  ): Promise<MessageShape<O>> {
    if (how.signal?.aborted) throw cancelled("it was not sent", how.signal.reason);
    const filled = create(method.input, request);
    if (this.#endpoint.servers.areMany) addKeys(method.name, filled);
    const message = encoded(method.input, filled);
    const repeatable = isRepeatable(method.name, filled);
    const waitMs = (how.waitSeconds ?? 0) * 1000;
    const { timeoutMs, signal } = how;
    const following = new Following(this.#endpoint.servers, { repeatable, nowMs: monotonicMs(), timeoutMs, waitMs });
    const path = `/${method.parent.typeName}/${method.name}`;
    for (;;) {
      const attemptMs = following.timeoutMs(monotonicMs());
      try {
        const reply = await this.#send(path, message, following.address, attemptMs, signal);
        this.#endpoint.servers.reached();
        return fromBinary(method.output, reply);
      } catch (thrown) {
        const error = asCodeqError(thrown);
        const delay = this.#isClosed || signal?.aborted ? undefined : following.delayMsAfter(error, monotonicMs());
        if (delay === undefined) throw this.#isClosed ? closed() : error;
        await sleep(delay, signal);
        if (signal?.aborted) throw cancelled("an attempt before may have taken effect", signal.reason);
      }
    }
  }

  /** Disconnects; calls in flight fail. */
  close(): void {
    this.#isClosed = true;
    for (const channel of this.#channels.values()) channel.close();
    this.#channels.clear();
  }

  async #send(path: string, message: Uint8Array, address: string, timeoutMs: number, signal?: AbortSignal): Promise<Uint8Array> {
    const begun = monotonicMs();
    const metadata = await this.#endpoint.metadata(timeoutMs, signal);
    if (signal?.aborted) throw cancelled("it was not sent", signal.reason);
    if (this.#isClosed) throw closed();
    let channel = this.#channels.get(address);
    if (channel === undefined) {
      channel = this.#endpoint.channel(address);
      this.#channels.set(address, channel);
    }
    const left = Math.max(1, timeoutMs - (monotonicMs() - begun));
    const reply = await channel.unary(path, message, metadata, left, signal);
    if (this.#endpoint.servers.isRefreshDue(monotonicMs())) void this.#endpoint.refresh(channel, metadata);
    return reply;
  }
}

/** Encodes a request; what a field cannot hold, such as a fraction, is refused by the field's name. */
function encoded<I extends DescMessage>(schema: I, request: MessageShape<I>): Uint8Array {
  try {
    return toBinary(schema, request);
  } catch (error) {
    const field = /field (?:\w+\.)*(\w+) /.exec(textOf(error))?.[1]?.replaceAll(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
    throw invalidArgument(field ?? "request", `cannot be sent: ${textOf(error)}`, error);
  }
}

function closed(): CodeqError {
  return new CodeqError("CLOSED", "the client is closed");
}
