import type { TaskStatus } from "./records.js";

/** State of a callback. */
export type CallbackState = "PENDING" | "DELIVERED" | "GAVE_UP";

/** An attempt to deliver a callback. */
export interface CallbackAttempt {
  /** Start of the attempt. */
  readonly at: Date | undefined;
  /** HTTP status of the answer; 0: there was none. */
  readonly status: number;
  /** Duration in milliseconds. */
  readonly durationMs: bigint;
  /** Why there was no answer. */
  readonly error: string;
}

/** The report of a task's end to the task's webhook. */
export interface Callback {
  /** Id, the same in every attempt: the header `webhook-id`. */
  readonly deliveryId: string;
  /** Task that ended. */
  readonly taskId: string;
  /** Status with which it ended. */
  readonly status: TaskStatus | undefined;
  /** Time at which it ended. */
  readonly completedAt: Date | undefined;
  /** URL of the webhook; undefined for viewers. */
  readonly url: string | undefined;
  /** State of the callback. */
  readonly state: CallbackState | undefined;
  /** Attempts so far. */
  readonly attemptsTotal: number;
  /** Time of the next attempt, if it waits for one. */
  readonly nextAttemptAt: Date | undefined;
  /** The last ten attempts, oldest first. */
  readonly attempts: readonly CallbackAttempt[];
}

/** Why a host gets no callbacks: an administrator or the server has paused it, or it keeps failing. */
export type HostHold = "PAUSED" | "DISABLED" | "FAILING";

/** A host that gets no callbacks at the moment. */
export interface HeldHost {
  /** Host and port, such as `hooks.example.com:443`. */
  readonly host: string;
  /** Reason. */
  readonly reason: HostHold | undefined;
  /** Time since which it has been paused; undefined if it is FAILING. */
  readonly since: Date | undefined;
  /** Time of the next attempt, if it is FAILING. */
  readonly until: Date | undefined;
}

/** A page of callbacks. */
export interface Callbacks {
  /** Callbacks, in the order in which their tasks ended. */
  readonly callbacks: readonly Callback[];
  /** Token of the next page; empty on the last page. */
  readonly nextPageToken: string;
  /** Hosts whose callbacks the tenant has paused. */
  readonly pausedHosts: readonly string[];
  /** Hosts that get no callbacks at the moment: those that are paused, and those of these callbacks that keep failing. */
  readonly heldHosts: readonly HeldHost[];
}

/** What a retry of callbacks did. */
export interface CallbacksRetried {
  /** Callbacks that are attempted. */
  readonly retried: bigint;
  /** Token of the next call; empty if all callbacks were examined. */
  readonly nextPageToken: string;
}

/** Which secrets there are for an endpoint, without the secrets. */
export interface WebhookSecrets {
  /** URL without its query; empty: all endpoints without secrets of their own. */
  readonly endpoint: string;
  /** First 16 hexadecimal digits of the SHA-256 of each secret, newest first. */
  readonly fingerprints: readonly string[];
  /** Time of the last change. */
  readonly changedAt: Date | undefined;
}

/** The answer of an endpoint to a test. */
export interface WebhookAnswer {
  /** HTTP status; 0: there was no answer. */
  readonly status: number;
  /** Why there was no answer. */
  readonly error: string;
  /** Duration in milliseconds. */
  readonly durationMs: bigint;
  /** First 1024 bytes of the body, as text. */
  readonly excerpt: string;
}
