/** A file to add to a result: either content for the server to store, or the URL of content elsewhere. */
export interface NewArtifact {
  /** Name, unique within the result: at most 128 characters, no slash. */
  readonly name: string;
  /** Content: bytes, or a text that is sent as UTF-8. */
  readonly content?: Uint8Array | string | undefined;
  /** Where the content is, if the server does not store it. */
  readonly url?: string | undefined;
  /** Media type, such as `image/png`. Default: unknown. */
  readonly contentType?: string | undefined;
}

const KIND = Symbol.for("codeq.outcome");

/** The work is done. A handler that returns a plain value means this, too. */
export class Completed<Result = unknown> {
  /** @internal */
  readonly [KIND] = "completed";
  /** Result: anything that JSON.stringify takes, RawJson, or bytes of JSON. undefined: no result; null is the JSON null. */
  readonly result: Result | undefined;
  /** Files that belong to the result. */
  readonly artifacts: Iterable<NewArtifact>;

  /** Makes an outcome; at most 16 files with 6 MiB in total. */
  constructor(result?: Result, artifacts: Iterable<NewArtifact> = []) {
    this.result = result;
    this.artifacts = artifacts;
  }
}

/** Base of the outcomes that a handler may throw as well as return. */
abstract class Verdict extends Error {
  /** @internal */
  abstract readonly [KIND]: string;
}

/** The work cannot be done: the task ends as FAILED with this error and is not retried. */
export class Failed extends Verdict {
  override readonly name = "Failed";
  /** @internal */
  readonly [KIND] = "failed";
  /** Anything, such as a caught error; its text is sent. */
  readonly error: unknown;
  /** Files with details, such as a log. */
  readonly artifacts: Iterable<NewArtifact>;

  /** Makes an outcome. */
  constructor(error: unknown, artifacts: Iterable<NewArtifact> = []) {
    super(typeof error === "string" ? error : "the task failed", { cause: error });
    this.error = error;
    this.artifacts = artifacts;
  }
}

/** Another name of `Failed`, for errors that a retry cannot mend. */
export const NonRetryable = Failed;
/** Another name of `Failed`, for errors that a retry cannot mend. */
export type NonRetryable = Failed;

/** This delivery failed: the task is retried, or goes to the dead-letter queue after its last delivery. */
export class Nack extends Verdict {
  override readonly name: string = "Nack";
  /** @internal */
  readonly [KIND] = "nack";
  /** Anything, such as a caught error; its text is stored as the task's error. */
  readonly reason: unknown;
  /** Seconds before the retry, rounded up, at most 12 h; 0: at once; undefined: by the server's backoff. */
  readonly delaySeconds: number | undefined;

  /** Makes an outcome. */
  constructor(reason: unknown = "", delaySeconds?: number) {
    super(typeof reason === "string" ? reason : "the delivery failed", { cause: reason });
    this.reason = reason;
    this.delaySeconds = delaySeconds;
  }
}

/** This delivery failed, and the task is to be retried after a delay: a `Nack` whose delay comes first. */
export class RetryAfter extends Nack {
  override readonly name = "RetryAfter";

  /** Makes an outcome; the delay is in seconds. */
  constructor(delaySeconds: number, reason: unknown = "") {
    super(reason, delaySeconds);
  }
}

/** The task goes back and waits for a time; this costs no attempt (for the first 100 times). */
export class Snooze extends Verdict {
  override readonly name: string = "Snooze";
  /** @internal */
  readonly [KIND] = "snooze";
  /** Seconds until the task can be delivered again, rounded up, at most 12 h. */
  readonly delaySeconds: number;

  /** Makes an outcome; the delay is in seconds. */
  constructor(delaySeconds: number) {
    super("the task is to be delivered later");
    this.delaySeconds = delaySeconds;
  }
}

/**
 * The worker met a rate limit: the task goes back, and no task with its rate key, or without one its concurrency key, is
 * delivered for a time. This costs no attempt.
 */
export class ParkKey extends Snooze {
  override readonly name = "ParkKey";
  /** @internal */
  readonly parksKey = true;
}

/** The task goes back to its place, as if it had never been delivered; this costs no attempt (for the first 100 times). */
export class Abandon extends Verdict {
  override readonly name = "Abandon";
  /** @internal */
  readonly [KIND] = "abandon";

  /** Makes an outcome. */
  constructor() {
    super("the task was given back");
  }
}

/** What a handler may return or, except for `Completed`, throw. */
export type Outcome = Completed | Failed | Nack | Snooze | Abandon;

type Kind = "completed" | "failed" | "nack" | "snooze" | "abandon";

/** Returns the kind of an outcome, of this copy of the SDK or another one; undefined: the value is none. */
export function kindOf(value: unknown): Kind | undefined {
  return typeof value === "object" && value !== null ? (value as { [KIND]?: Kind })[KIND] : undefined;
}

/** Returns the outcome that a handler's return value stands for. */
export function outcomeOfValue(value: unknown): Outcome {
  return kindOf(value) === undefined ? new Completed(value) : (value as Outcome);
}

/** Returns the outcome that a thrown value stands for: itself if it is one, else a Nack by the server's backoff. */
export function outcomeOfThrown(error: unknown): Outcome {
  const kind = kindOf(error);
  return kind === undefined || kind === "completed" ? new Nack(error) : (error as Outcome);
}
