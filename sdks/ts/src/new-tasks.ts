import { randomUUID } from "node:crypto";
import { FieldWriter } from "./codec.js";
import { CodeqError, invalidArgument } from "./errors.js";
import { encode } from "./payloads.js";

/** Options of a new task. */
export interface TaskOptions {
  /** 0 to 9; the highest is delivered first. Default: 0. */
  readonly priority?: number | undefined;
  /** Seconds before the first delivery, rounded up to whole ones; not together with `runAt`. Default: 0. */
  readonly delaySeconds?: number | undefined;
  /** Time of the earliest delivery. Default: at once. */
  readonly runAt?: Date | undefined;
  /** Seconds after which the task, if it still waits, ends as FAILED with the error EXPIRED. Default: never. */
  readonly expireSeconds?: number | undefined;
  /** Deliveries after which the task goes to the dead-letter queue, 1 to 1000. Default: the server's, usually 5. */
  readonly maxAttempts?: number | undefined;
  /** Key of 1 to 256 printable ASCII characters that makes repeated creates return the same task. Default: none. */
  readonly idempotencyKey?: string | undefined;
  /** Id of the task; not together with a key. Default: the server assigns one. */
  readonly taskId?: string | undefined;
  /** Trace context (W3C traceparent). Default: that of the current OpenTelemetry context, if `telemetry` is set. */
  readonly traceparent?: string | undefined;
  /** Vendor part of the trace context (W3C tracestate). */
  readonly tracestate?: string | undefined;
  /** URL (http or https) to which the server reports the end of the task; see `verifyWebhook`. Default: none. */
  readonly webhook?: string | undefined;
  /** Tasks of the command with the same key run at most as many at a time as its policy allows. Default: none. */
  readonly concurrencyKey?: string | undefined;
  /** Tasks of the command with the same key are delivered no faster than its policy allows. Default: none. */
  readonly rateKey?: string | undefined;
  /** Tasks of the command with the same key run one at a time, in the order of acceptance. Default: none. */
  readonly orderingKey?: string | undefined;
}

/** A task to create. */
export interface NewTask<Payload = unknown> extends TaskOptions {
  /** Name of the queue. */
  readonly command: string;
  /** Anything that JSON.stringify takes, RawJson, or bytes of JSON; at most 1 MiB. Default: null. */
  readonly payload?: Payload;
}

/** An encoded task. */
export interface Item {
  /** Encoded ProduceRequest with one task; concatenated they form one request with all of them. */
  readonly data: Uint8Array;
  /** Whether it can be sent again when its answer is lost. */
  readonly isKeyed: boolean;
}

const INT32_MAX = 2 ** 31 - 1;

/** Most bytes of an encoded task without its payload, as the server's limits of the fields say. */
export const OVERHEAD_BYTES_MAX = 4096;

const writer = new FieldWriter();
const stamp = new FieldWriter();

/**
 * Encodes a task as a field `tasks` of a ProduceRequest.
 *
 * @param key Idempotency key of a task that has neither key nor id; undefined: none.
 * @throws CodeqError INVALID_ARGUMENT or TOO_LARGE.
 */
export function encodeTask(task: NewTask, newKey: (() => string) | undefined): Item {
  const { command, priority, delaySeconds, runAt, expireSeconds, maxAttempts, taskId, traceparent, tracestate } = task;
  const { concurrencyKey, rateKey, orderingKey } = task;
  if (typeof command !== "string") throw invalidArgument("command", "must be a text");
  const payload = encode(task.payload, "payload");
  const key = task.idempotencyKey ?? (taskId === undefined ? newKey?.() : undefined);
  if (runAt !== undefined && delaySeconds !== undefined) {
    throw invalidArgument("runAt", "and delaySeconds cannot both be set");
  }
  const to = writer.begin();
  if (command) to.text(0x0a, text(command, "command"));
  to.bytes(0x12, payload);
  if (priority !== undefined && priority !== 0) to.number(0x18, whole(priority, "priority"));
  if (maxAttempts !== undefined) to.number(0x20, whole(maxAttempts, "maxAttempts"));
  if (runAt !== undefined) to.bytes(0x2a, timestamp(runAt, "runAt"));
  if (delaySeconds !== undefined) to.number(0x30, wholeSeconds(delaySeconds, "delaySeconds"));
  if (task.webhook !== undefined) to.text(0x3a, text(task.webhook, "webhook"));
  if (key !== undefined) to.text(0x42, text(key, "idempotencyKey"));
  if (taskId !== undefined) to.text(0x4a, text(taskId, "taskId"));
  if (expireSeconds !== undefined) to.number(0x50, wholeSeconds(expireSeconds, "expireSeconds"));
  if (traceparent !== undefined) to.text(0x5a, text(traceparent, "traceparent"));
  if (tracestate !== undefined) to.text(0x62, text(tracestate, "tracestate"));
  if (concurrencyKey !== undefined) to.text(0x6a, text(concurrencyKey, "concurrencyKey"));
  if (rateKey !== undefined) to.text(0x72, text(rateKey, "rateKey"));
  if (orderingKey !== undefined) to.text(0x7a, text(orderingKey, "orderingKey"));
  return { data: to.asField(0x12), isKeyed: key !== undefined };
}

/** Returns a new, unique idempotency key. */
export function newKey(): string {
  return randomUUID().replaceAll("-", "");
}

/** Returns a whole number of int32 that is not negative. */
export function whole(value: number, field: string): number {
  if (!Number.isInteger(value) || value < 0 || value > INT32_MAX) {
    throw invalidArgument(field, `must be a whole number from 0 to ${INT32_MAX}, not ${String(value)}`);
  }
  return value;
}

/** Returns a time in seconds, rounded up to whole ones. */
export function wholeSeconds(value: number, field: string): number {
  if (typeof value !== "number" || Number.isNaN(value) || value < 0 || value > INT32_MAX) {
    throw invalidArgument(field, `must be a number of seconds from 0 to ${INT32_MAX}, not ${String(value)}`);
  }
  return Math.ceil(value);
}

/** Returns an encoded google.protobuf.Timestamp. */
function timestamp(value: Date, field: string): Uint8Array {
  const ms = value instanceof Date ? value.getTime() : Number.NaN;
  if (Number.isNaN(ms)) throw invalidArgument(field, "must be a valid Date");
  const seconds = Math.floor(ms / 1000);
  if (seconds < 0) throw invalidArgument(field, "must be after 1970");
  const to = stamp.begin();
  to.number(0x08, seconds);
  to.number(0x10, (ms - seconds * 1000) * 1_000_000);
  // The field's own tag and length are written by the caller.
  return to.asField(0x0a).subarray(2);
}

function text(value: string, field: string): string {
  if (typeof value !== "string") throw invalidArgument(field, "must be a text");
  if (!value.isWellFormed()) {
    throw new CodeqError("INVALID_ARGUMENT", `${field} has an unpaired surrogate`, {
      violations: [{ field, description: "has an unpaired surrogate" }],
    });
  }
  return value;
}
