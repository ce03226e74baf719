import type { Timestamp } from "@bufbuild/protobuf/wkt";
import {
  AttemptEnd as WireEnd,
  TaskStatus as WireStatus,
  type Artifact as WireArtifact,
  type Task as WireTask,
  type TaskResult as WireResult,
} from "./gen/codeq/v1/task_pb.js";
import { textOfJson } from "./payloads.js";

/** State of a task. */
export type TaskStatus = Exclude<keyof typeof WireStatus, "UNSPECIFIED">;

/** The way in which a delivery ended. */
export type AttemptEnd = Exclude<keyof typeof WireEnd, "UNSPECIFIED">;

/** A delivery that has ended. */
export interface Attempt {
  /** Worker that had the task. */
  readonly workerId: string;
  /** Time at which the worker got the task. */
  readonly startedAt: Date;
  /** Time at which the delivery ended. */
  readonly endedAt: Date;
  /** How it ended. */
  readonly end: AttemptEnd;
  /** Error of a failure or reason of a nack, cut to 512 characters. */
  readonly error: string | undefined;
}

/** A file of a result. */
export interface Artifact {
  /** Name, unique within the result. */
  readonly name: string;
  /** Where the content is, if the server does not store it. */
  readonly url: string | undefined;
  /** Bytes of the content, if the server stores it. */
  readonly size: bigint | undefined;
  /** Media type, if the worker sent one. */
  readonly contentType: string | undefined;
  /** SHA-256 of the content in hexadecimal, if the server stores it. */
  readonly sha256: string | undefined;
}

/** A task as the server returns it. Values that do not apply are undefined. */
export class Task<Payload = unknown> {
  readonly #message: WireTask;
  #payload: { value: Payload } | undefined;

  /** @internal */
  constructor(message: WireTask) {
    this.#message = message;
  }

  /** Id, unique within the tenant. */
  get id(): string {
    return this.#message.id;
  }
  /** Command: the name of the task's queue. */
  get command(): string {
    return this.#message.command;
  }
  /** Payload, parsed once by JSON.parse. Numbers that JavaScript cannot hold exactly are exact in `payloadText`. */
  get payload(): Payload {
    this.#payload ??= { value: JSON.parse(this.payloadText) as Payload };
    return this.#payload.value;
  }
  /** Replaces the payload by a validated one. @internal */
  setPayload(value: unknown): void {
    this.#payload = { value: value as Payload };
  }
  /** Payload as JSON text, byte for byte as it was created. */
  get payloadText(): string {
    return textOfJson(this.#message.payload);
  }
  /** Payload as bytes of JSON in UTF-8. */
  get payloadBytes(): Uint8Array {
    return this.#message.payload;
  }
  /** Priority, 0 to 9. */
  get priority(): number {
    return this.#message.priority;
  }
  /** Deliveries so far, this one included. */
  get attempts(): number {
    return this.#message.attempts;
  }
  /** Deliveries after which the task goes to the dead-letter queue. */
  get maxAttempts(): number {
    return this.#message.maxAttempts;
  }
  /** Time of acceptance, with a precision of milliseconds. */
  get createdAt(): Date {
    return dateOf(this.#message.createdAt) ?? new Date(0);
  }
  /** Token of the lease: a 64-bit number as text. Set while CLAIMED. */
  get leaseToken(): string | undefined {
    return this.#message.leaseToken?.toString();
  }
  /** End of the lease unless it is extended. Set while CLAIMED. */
  get leaseUntil(): Date | undefined {
    return dateOf(this.#message.leaseUntil);
  }
  /** Trace context of the producer (W3C traceparent). */
  get traceparent(): string | undefined {
    return this.#message.traceparent;
  }
  /** Vendor part of the trace context (W3C tracestate). */
  get tracestate(): string | undefined {
    return this.#message.tracestate;
  }
  /** URL to which the end of the task is reported. */
  get webhook(): string | undefined {
    return this.#message.webhook;
  }
  /** Key that limits how many tasks run at a time. */
  get concurrencyKey(): string | undefined {
    return this.#message.concurrencyKey;
  }
  /** Key that limits how fast tasks are delivered. */
  get rateKey(): string | undefined {
    return this.#message.rateKey;
  }
  /** Key that keeps tasks in order. */
  get orderingKey(): string | undefined {
    return this.#message.orderingKey;
  }
  /** State. Undefined if only a newer server knows it. */
  get status(): TaskStatus | undefined {
    return nameOf(WireStatus, this.#message.status);
  }
  /** Tenant. Empty in deliveries of a worker. */
  get tenantId(): string {
    return this.#message.tenantId;
  }
  /** Worker that holds the lease, or that ended the task. */
  get workerId(): string | undefined {
    return this.#message.workerId;
  }
  /** Error of the latest failure, nack, expired lease or move to the dead-letter queue. */
  get error(): string | undefined {
    return this.#message.error;
  }
  /** Earliest time of the next delivery. Set while SCHEDULED. */
  get runAt(): Date | undefined {
    return dateOf(this.#message.runAt);
  }
  /** Time at which the task expires if it still waits. */
  get expireAt(): Date | undefined {
    return dateOf(this.#message.expireAt);
  }
  /** Time of the last change of state. */
  get updatedAt(): Date | undefined {
    return dateOf(this.#message.updatedAt);
  }
  /** Time at which the task ended. */
  get finishedAt(): Date | undefined {
    return dateOf(this.#message.finishedAt);
  }
  /** Progress that was reported last, as JSON text. */
  get progressText(): string | undefined {
    return this.#message.progress === undefined ? undefined : textOfJson(this.#message.progress);
  }
  /** Dead letter for which the server created the task, as a policy says. */
  get originTaskId(): string | undefined {
    return this.#message.originTaskId;
  }
  /** Command of that dead letter. */
  get originCommand(): string | undefined {
    return this.#message.originCommand;
  }
  /** Whether an earlier request had created the task. Set in answers to creates. */
  get isDuplicate(): boolean {
    return this.#message.duplicate ?? false;
  }
  /** The last ten ended deliveries, oldest first. Set by `Client.get`. */
  get attemptHistory(): readonly Attempt[] {
    return this.#message.attemptHistory.map((each) => ({
      workerId: each.workerId,
      startedAt: dateOf(each.startedAt) ?? new Date(0),
      endedAt: dateOf(each.endedAt) ?? new Date(0),
      end: nameOf(WireEnd, each.end) ?? "RETURNED",
      error: each.error,
    }));
  }
  /** Returns the task's values for logs and for JSON.stringify. */
  toJSON(): Record<string, unknown> {
    const { id, command, priority, attempts, maxAttempts, createdAt, leaseToken, status, error } = this;
    return { id, command, payload: this.payload, priority, attempts, maxAttempts, createdAt, leaseToken, status, error };
  }
}

/** Why a handler should stop: the reason of its signal. */
export type StopKind = "leaseLost" | "cancelled" | "shutdown" | "timeout";

/** Reason of a handler's signal. */
export class TaskStopped extends Error {
  override readonly name = "TaskStopped";
  /** Why: the lease is lost, the task was cancelled, the worker shuts down, or the handler's time is up. */
  readonly kind: StopKind;

  /** @internal */
  constructor(kind: StopKind, message: string) {
    super(message);
    this.kind = kind;
  }
}

/** A task that a worker runs. */
export class DeliveredTask<Payload = unknown> extends Task<Payload> {
  readonly #abort = new AbortController();
  /** Made when it is asked for: most handlers never do. */
  #drain: AbortController | undefined;
  #isDraining = false;
  readonly #report: (task: DeliveredTask, progress: unknown) => void;

  /** @internal */
  constructor(message: WireTask, report: (task: DeliveredTask, progress: unknown) => void) {
    super(message);
    this.#report = report;
  }

  /** Aborts when the handler should stop; its reason is a `TaskStopped`. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /**
   * Aborts when the worker begins to stop, with a `TaskStopped` of the kind `shutdown` as its reason. The handler may go on
   * for the worker's `drainSeconds`, until `signal` aborts; a long one may rather save its state and return a `Snooze` or
   * an `Abandon`.
   */
  get draining(): AbortSignal {
    this.#drain ??= new AbortController();
    if (this.#isDraining) this.#tellDrain();
    return this.#drain.signal;
  }

  /**
   * Reports progress: anything that JSON.stringify takes, at most 64 KiB. A later value replaces an earlier one, and
   * the last one reaches the server before the task's outcome.
   */
  progress(value: unknown): void {
    this.#report(this as DeliveredTask, value);
  }

  /** @internal */
  drain(): void {
    this.#isDraining = true;
    this.#tellDrain();
  }

  #tellDrain(): void {
    if (this.#drain?.signal.aborted === false) this.#drain.abort(new TaskStopped("shutdown", "the worker begins to stop"));
  }

  /** @internal */
  stop(kind: StopKind, message: string): void {
    if (!this.#abort.signal.aborted) this.#abort.abort(new TaskStopped(kind, message));
  }
}

/** How a task ended. */
export class TaskResult<Result = unknown> {
  readonly #message: WireResult;

  /** @internal */
  constructor(message: WireResult) {
    this.#message = message;
  }

  /** Id of the task. */
  get taskId(): string {
    return this.#message.taskId;
  }
  /** COMPLETED, FAILED, DLQ or CANCELLED. Undefined if only a newer server knows it. */
  get status(): TaskStatus | undefined {
    return nameOf(WireStatus, this.#message.status);
  }
  /** Result, parsed by JSON.parse; undefined: the worker sent none. */
  get result(): Result | undefined {
    const text = this.resultText;
    return text === undefined ? undefined : (JSON.parse(text) as Result);
  }
  /** Result as JSON text, byte for byte as the worker sent it. */
  get resultText(): string | undefined {
    return this.#message.result === undefined ? undefined : textOfJson(this.#message.result);
  }
  /** Error of a task that was not completed. */
  get error(): string | undefined {
    return this.#message.error;
  }
  /** Time at which the task ended. */
  get completedAt(): Date {
    return dateOf(this.#message.completedAt) ?? new Date(0);
  }
  /** Files, in the order in which the worker sent them. */
  get artifacts(): readonly Artifact[] {
    return this.#message.artifacts.map(artifactOf);
  }
}

function artifactOf(message: WireArtifact): Artifact {
  const { name, url, size, contentType, sha256 } = message;
  return { name, url, size, contentType, sha256 };
}

/** Returns the time of a timestamp, in milliseconds. */
export function dateOf(value: Timestamp | undefined): Date | undefined {
  return value === undefined ? undefined : new Date(Number(value.seconds) * 1000 + Math.floor(value.nanos / 1e6));
}

/** Returns the name of an enum's value; undefined for unspecified ones, and for those that only newer servers know. */
export function nameOf<E extends Record<string, string | number>>(
  names: E,
  value: number,
): Exclude<keyof E & string, "UNSPECIFIED"> | undefined {
  const name = names[value];
  return typeof name === "string" && name !== "UNSPECIFIED"
    ? (name as Exclude<keyof E & string, "UNSPECIFIED">)
    : undefined;
}
