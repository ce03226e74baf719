import { DEFAULTS } from "./defaults.js";
import { NotSent, isCodeqError, type CodeqError } from "./errors.js";
import type { Servers } from "./servers.js";

/** Delay after a refusal by a rate limit that names none. */
const RATE_LIMITED_MS = 1000;

/** What a call's attempts depend on. */
export interface FollowingOptions {
  /** Whether the call may run twice. */
  readonly repeatable: boolean;
  readonly nowMs: number;
  /** Time for all attempts together, not counting `waitMs`. */
  readonly timeoutMs: number;
  /** Time that the server may wait before it answers. */
  readonly waitMs: number;
}

/**
 * The attempts of one call. A server that does not lead, or is stopping, refuses a call without changing anything, so
 * the call moves on. After a lost connection only a repeatable call does. A call refused by a rate limit returns to its
 * server after the delay that the server asked for. With a single server outside a cluster nothing else is retried.
 */
export class Following {
  readonly #servers: Servers;
  readonly #repeatable: boolean;
  readonly #deadlineMs: number;
  readonly #waitMs: number;
  /** Server of the current attempt. */
  address: string;

  constructor(servers: Servers, options: FollowingOptions) {
    this.#servers = servers;
    this.#repeatable = options.repeatable;
    this.#deadlineMs = options.nowMs + options.timeoutMs + options.waitMs;
    this.#waitMs = options.waitMs;
    this.address = servers.current;
  }

  /** Starts an attempt at the current server; returns the milliseconds that it may take. */
  timeoutMs(nowMs: number): number {
    this.address = this.#servers.current;
    const left = Math.max(0, this.#deadlineMs - nowMs);
    const stalls = this.#servers.areMany && this.#repeatable;
    return stalls ? Math.min(left, DEFAULTS.stallSeconds * 1000 + this.#waitMs) : left;
  }

  /** Returns the milliseconds to wait before the next attempt; undefined: no more attempts, the error stands. */
  delayMsAfter(error: CodeqError, nowMs: number): number | undefined {
    let delay: number;
    if (isCodeqError(error, "RATE_LIMITED")) {
      delay = error.retryAfter === undefined ? RATE_LIMITED_MS : error.retryAfter * 1000;
    } else if (this.#isSurvived(error)) {
      delay = this.#servers.left(this.address, error.metadata["leaderGrpc"]);
    } else {
      return undefined;
    }
    return nowMs + delay < this.#deadlineMs ? delay : undefined;
  }

  #isSurvived(error: CodeqError): boolean {
    if (isCodeqError(error, "NOT_LEADER")) return true;
    if (!this.#servers.areMany) return false;
    if (error instanceof NotSent || isCodeqError(error, "DRAINING")) return true;
    return this.#repeatable && isCodeqError(error, "UNAVAILABLE", "OUTCOME_UNKNOWN", "DEADLINE_EXCEEDED", "CANCELLED");
  }
}
