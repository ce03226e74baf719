import type { Backoff } from "./backoff.js";
import { monotonicMs, sleep, timer } from "./clock.js";
import { DEFAULTS } from "./defaults.js";
import { CodeqError, isCodeqError } from "./errors.js";
import { tokenOf, type Endpoint } from "./endpoint.js";
import { framed } from "./grpc.js";
import type { Logger } from "./logger.js";
import type { Call, Channel, Metadata } from "./transport.js";
import { PROTOCOL, SDK_NAME, VERSION } from "./version.js";

/** Longest wait for the first message of a server that accepted the connection. */
const WELCOME_MS_MAX = 10_000;

/** Longest wait for it if other servers are known. */
const WELCOME_OF_MANY_MS_MAX = 3000;

/** Attempts in a row to find the leader of a cluster before the backoff sets in: about 15 seconds. */
const QUICK_ATTEMPTS = 40;

/** A stream that lived this long counts as a success: the next reconnect starts with the shortest delay. */
const STABLE_MS = 5000;

/** Interval at which the log repeats an unchanged reason for being disconnected. */
const REPEAT_MS = 30_000;

/** How long before its token expires a stream is left if there is no fresh one; at most a quarter of the notice. */
const LEAVE_MS = 1000;

/** Longest time between two requests for a fresh token; half of the remaining time if that is less. */
const ASKING_MS_MAX = 5000;

/** Remaining time below which no fresh token is requested. */
const ASKING_MS_MIN = 20;

/** One attempt to run a stream, as the next reconnect sees it. */
export interface Attempt {
  readonly address: string;
  /** The server that was to be used, if a stream may have gone to another one. */
  readonly server?: string;
  /** Leader that a notice named; empty: none. */
  readonly leader: string;
  readonly startedMs: number;
  readonly isWelcomed: boolean;
}

/** Chooses server and delay of the next stream after one has ended, and logs each new problem at once. */
export class Reconnects {
  readonly #name: string;
  readonly #endpoint: Endpoint;
  readonly #backoff: Backoff;
  readonly #logger: Logger;
  #attempt = 0;
  #brokenAt: number | undefined;
  #failures = 0;
  #said = "";
  #saidAt = 0;

  /** @param name Owner of the streams, for the log. */
  constructor(name: string, endpoint: Endpoint, backoff: Backoff) {
    this.#name = name;
    this.#endpoint = endpoint;
    this.#backoff = backoff;
    this.#logger = endpoint.logger;
  }

  /** Returns the milliseconds to wait before the next stream, selects its server, and logs the reason. */
  delayMsAfter(error: CodeqError, attempt: Attempt): number {
    const delay = this.#choose(error, attempt);
    this.#tell(error, attempt.address, delay);
    return delay;
  }

  /** Records that a stream is open, and logs it if an earlier one broke. */
  opened(address: string): void {
    if (this.#brokenAt === undefined) return;
    const seconds = ((monotonicMs() - this.#brokenAt) / 1000).toFixed(1);
    this.#logger.info(`${this.#name} stream to ${address} is open again after ${seconds} s`);
    this.#brokenAt = undefined;
  }

  #choose(error: CodeqError, attempt: Attempt): number {
    const isStable = attempt.isWelcomed && monotonicMs() - attempt.startedMs >= STABLE_MS;
    this.#attempt = isStable ? 1 : this.#attempt + 1;
    const servers = this.#endpoint.servers;
    const leader = attempt.leader || error.metadata["leaderGrpc"] || "";
    if (!leader && !servers.areMany && !isCodeqError(error, "NOT_LEADER")) {
      return Math.max(this.#backoff.delayMs(this.#attempt), (error.retryAfter ?? 0) * 1000);
    }
    const delay = servers.left(attempt.server ?? attempt.address, leader);
    const more = this.#attempt - QUICK_ATTEMPTS;
    return more > 0 ? Math.max(delay, this.#backoff.delayMs(more)) : delay;
  }

  #tell(error: CodeqError, address: string, delay: number): void {
    const now = monotonicMs();
    if (this.#brokenAt === undefined) {
      this.#brokenAt = now;
      this.#failures = 0;
      this.#said = "";
    }
    this.#failures += 1;
    if (error.message === this.#said && now - this.#saidAt < REPEAT_MS) return;
    this.#said = error.message;
    this.#saidAt = now;
    const following = this.#endpoint.servers.current;
    const trouble = `${this.#name} stream to ${address} ended: ${error.message}`;
    const next = `connecting to ${following} in ${(delay / 1000).toFixed(1)} s`;
    if (delay === 0 && isCodeqError(error, "NOT_LEADER")) {
      this.#logger.info(`${trouble}; going to ${following}`); // a redirect to the leader is not a problem
    } else if (this.#failures === 1) {
      this.#logger.warn(`${trouble}; ${next}`);
    } else {
      const since = ((now - this.#brokenAt) / 1000).toFixed(0);
      this.#logger.warn(`${trouble}; ${this.#failures} attempts failed in ${since} s, ${next}`);
    }
  }
}

/** Gets a fresh token for one stream when the server says that the current one is about to expire. */
export class TokenRenewal {
  readonly #endpoint: Endpoint;
  readonly #wake: () => void;
  #current: string;
  #fresh = "";
  #isLate = false;
  #isAsking = false;
  readonly #ended = new AbortController();

  /** @param wake Called when `isLate` or the fresh token has changed. */
  constructor(endpoint: Endpoint, metadata: Metadata, wake: () => void) {
    this.#endpoint = endpoint;
    this.#current = tokenOf(metadata);
    this.#wake = wake;
  }

  /** Whether no fresh token came in time, so that the stream should be left before the server ends it. */
  get isLate(): boolean {
    return this.#isLate;
  }

  /** Returns the fresh token, to be sent now; empty: none. */
  take(): string {
    const token = this.#fresh;
    this.#fresh = "";
    return token;
  }

  /** Starts to ask for a fresh token, because the current one expires in `graceMs`. */
  start(graceMs: number): void {
    if (this.#endpoint.isCertified) {
      // A certificate is only renewed with the connection.
      this.#giveUp();
      return;
    }
    if (this.#isAsking) return;
    this.#isAsking = true;
    void this.#ask(graceMs).finally(() => {
      this.#isAsking = false;
    });
  }

  /** Ends the renewal, with its stream. */
  end(): void {
    this.#ended.abort();
  }

  async #ask(graceMs: number): Promise<void> {
    const until = monotonicMs() + graceMs - Math.min(LEAVE_MS, graceMs / 4);
    let trouble = "the token function returned the same token again";
    for (let left = until - monotonicMs(); left > ASKING_MS_MIN; left = until - monotonicMs()) {
      try {
        const token = await this.#endpoint.token(left);
        if (this.#ended.signal.aborted) return;
        if (token && token !== this.#current) {
          this.#fresh = this.#current = token;
          this.#wake();
          return;
        }
      } catch (error) {
        trouble = error instanceof Error ? error.message : String(error);
      }
      await sleep(Math.min(ASKING_MS_MAX, Math.max(0, until - monotonicMs()) / 2), this.#ended.signal);
      if (this.#ended.signal.aborted) return;
    }
    this.#endpoint.logger.warn(`the token of a stream is about to expire, and there is no fresh one: ${trouble}`);
    this.#giveUp();
  }

  #giveUp(): void {
    this.#isLate = true;
    this.#wake();
  }
}

/** Takes what happens on a stream. An error that a method throws ends the stream. */
export interface StreamHandler {
  /** Takes the first message. */
  opened(call: Call, first: Uint8Array): void;
  /** Takes each later message. */
  message(data: Uint8Array): void;
}

/** Runs a stream: sends its first message, and resolves when the server ends it with OK; rejects with a CodeqError. */
export function runStream(
  endpoint: Endpoint,
  channel: Channel,
  path: string,
  hello: Uint8Array,
  metadata: Metadata,
  handler: StreamHandler,
): Promise<void> {
  return new Promise((resolve, reject) => {
    let call: Call | undefined;
    let isOpen = false;
    const ended = (error: CodeqError | undefined): void => {
      clearTimeout(late);
      if (error !== undefined) reject(error);
      else if (!isOpen) reject(new CodeqError("BAD_HANDSHAKE", "the server ended the stream without a welcome"));
      else resolve();
    };
    const ms = endpoint.servers.areMany ? WELCOME_OF_MANY_MS_MAX : WELCOME_MS_MAX;
    const late = timer(() => {
      const error = new CodeqError("UNAVAILABLE", "the server sent no welcome in time");
      if (call === undefined) channel.close();
      else call.fail(error);
      reject(error);
    }, ms);
    const message = (data: Uint8Array): void => {
      if (isOpen) return handler.message(data);
      if (call === undefined) return;
      clearTimeout(late);
      isOpen = true;
      handler.opened(call, data);
    };
    channel.call(path, metadata, { message, ended }).then((opened) => {
      call = opened;
      opened.write(framed([hello]));
    }, ended);
  });
}

/** Asks for the members of the cluster now and every refreshSeconds; returns a function that ends this. */
export function learning(endpoint: Endpoint, channel: Channel, metadata: Metadata): () => void {
  let current = metadata;
  void endpoint.refresh(channel, current);
  const asking = setInterval(() => {
    void endpoint.metadata().then(
      (fresh) => {
        current = fresh;
        return endpoint.refresh(channel, current);
      },
      () => undefined, // the next refresh asks again
    );
  }, DEFAULTS.refreshSeconds * 1000);
  asking.unref();
  return () => clearInterval(asking);
}

const FINAL_REASONS = [
  "UNAUTHENTICATED",
  "MISSING_SCOPE",
  "WRONG_TOKEN_KIND",
  "NOT_ADMIN",
  "NOT_OPERATOR",
  "NOT_ALLOWED",
  "INVALID_TENANT",
  "COMMAND_NOT_ALLOWED",
  "PERMISSION_DENIED",
  "INVALID_FIELD",
  "UNIMPLEMENTED",
] as const;

/** Returns whether reconnecting is pointless: token or request was rejected, or the server lacks the call. */
export function isFinal(error: CodeqError): boolean {
  return isCodeqError(error, ...FINAL_REASONS);
}

/** Returns whether the token was rejected only because it has expired. */
export function isOfExpiredToken(error: CodeqError): boolean {
  return isCodeqError(error, "UNAUTHENTICATED") && "expiredAt" in error.metadata;
}

/** What the SDK says of itself in each hello. */
export const CLIENT_INFO = { sdk: SDK_NAME, version: VERSION, protocol: PROTOCOL } as const;

let isProtocolTold = false;

/** Warns, once per process, of a server that is older than the protocol that the SDK expects. */
export function checkProtocol(welcome: { protocol: number; serverVersion: string }, logger: Logger): void {
  if (welcome.protocol >= PROTOCOL || isProtocolTold) return;
  isProtocolTold = true;
  const server = `server ${welcome.serverVersion || "of an unknown version"} (protocol ${welcome.protocol})`;
  logger.warn(`${server} is older than ${SDK_NAME} ${VERSION} (protocol ${PROTOCOL}): upgrade it`);
}
