import { GRPC_CODES, REASONS, REASON_BY_NUMBER, type ServerReason } from "./reasons.js";
import { statusDetailsOf } from "./status-details.js";

/** Reasons that the SDK itself gives, in addition to those of the server. */
export type ClientReason = "UNAVAILABLE" | "CLOSED" | "INVALID_ARGUMENT" | "UNIMPLEMENTED" | "UNKNOWN" | "CANCELLED";

/** Reason of an error: one of the server's or one of the SDK's. */
export type Reason = ServerReason | ClientReason;

/** A field or argument that was refused. */
export interface FieldViolation {
  /** Path of the field, such as `tasks[3].priority`, or name of the argument. */
  readonly field: string;
  /** What is wrong with it. */
  readonly description: string;
}

/** What an error carries besides its text. */
export interface ErrorDetails {
  /** Refused fields. Default: none. */
  readonly violations?: readonly FieldViolation[];
  /** Whether the same call may succeed later. Default: as the server's table says of the reason. */
  readonly retryable?: boolean;
  /** Seconds to wait before a retry, if the server asked for that. */
  readonly retryAfter?: number | undefined;
  /** Machine-readable details of the server. Default: none. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** What caused the error. */
  readonly cause?: unknown;
}

const BRAND = Symbol.for("codeq.CodeqError");

const RETRYABLE_CLIENT_REASONS: ReadonlySet<string> = new Set(["UNAVAILABLE"]);

/** Every error of the SDK. Recognise it with `isCodeqError`, which also works if two copies of the SDK are loaded. */
export class CodeqError extends Error {
  override readonly name: string = "CodeqError";
  /** Reason, such as `TASK_NOT_FOUND`; if the server gave none, the name of the gRPC code. */
  readonly reason: Reason | (string & {});
  /** Text for people, which may change. */
  readonly description: string;
  /** Whether the same call may succeed later. */
  readonly retryable: boolean;
  /** Seconds to wait before a retry, if the server asked for that. */
  readonly retryAfter: number | undefined;
  /** Refused fields; often empty. */
  readonly violations: readonly FieldViolation[];
  /** Machine-readable details of the server by name; often empty. */
  readonly metadata: Readonly<Record<string, string>>;
  /** @internal */
  readonly [BRAND] = true;

  /** Makes an error. */
  constructor(reason: Reason | (string & {}), description: string, details: ErrorDetails = {}) {
    super(`${reason}: ${description}`, details.cause === undefined ? undefined : { cause: details.cause });
    this.reason = reason;
    this.description = description;
    const row = (REASONS as Readonly<Record<string, { retryable: boolean }>>)[reason];
    this.retryable = details.retryable ?? row?.retryable ?? RETRYABLE_CLIENT_REASONS.has(reason);
    this.retryAfter = details.retryAfter;
    this.violations = details.violations ?? [];
    this.metadata = details.metadata ?? {};
  }
}

/** Nothing reached a server, or the server refused a call without looking at it: the call had no effect. */
export class NotSent extends CodeqError {
  constructor(description: string, cause?: unknown) {
    super("UNAVAILABLE", description, { cause });
  }
}

/**
 * Returns whether a value is an error of codeq, of this copy of the SDK or of another one.
 *
 * @param error Anything that was thrown.
 * @param reasons Reasons of which the error must have one; none: any reason.
 */
export function isCodeqError(error: unknown): error is CodeqError;
export function isCodeqError<R extends Reason | (string & {})>(
  error: unknown,
  ...reasons: readonly R[]
): error is CodeqError & { readonly reason: R };
export function isCodeqError(error: unknown, ...reasons: readonly string[]): boolean {
  if (typeof error !== "object" || error === null) return false;
  const branded = error as { [BRAND]?: unknown; reason?: unknown };
  if (branded[BRAND] !== true || typeof branded.reason !== "string") return false;
  return reasons.length === 0 || reasons.includes(branded.reason);
}

/** Returns the error of an argument that is refused before anything is sent. */
export function invalidArgument(field: string, description: string, cause?: unknown): CodeqError {
  return new CodeqError("INVALID_ARGUMENT", `${field} ${description}`, {
    violations: [{ field, description }],
    retryable: false,
    cause,
  });
}

/** Returns the error of a rejected item of a frame or batch. */
export function fromReason(number: number, description: string): CodeqError {
  const name = REASON_BY_NUMBER.get(number);
  return new CodeqError(name ?? `REASON_${number}`, description);
}

const RETRYABLE_CODES: ReadonlySet<string> = new Set([
  "UNAVAILABLE",
  "ABORTED",
  "RESOURCE_EXHAUSTED",
  "DEADLINE_EXCEEDED",
]);

/**
 * Returns the error of a failed call.
 *
 * @param number gRPC status code; not 0.
 * @param description Text of the status.
 * @param details Encoded google.rpc.Status of the trailer grpc-status-details-bin; may be empty.
 */
export function fromStatus(number: number, description: string, details: Uint8Array): CodeqError {
  const code = GRPC_CODES[number] ?? "UNKNOWN";
  const told = statusDetailsOf(details);
  if (told.reason === undefined) {
    const { violations, retryAfter } = told;
    return new CodeqError(code, description, { violations, retryAfter, retryable: RETRYABLE_CODES.has(code) });
  }
  const { violations, retryAfter, metadata } = told;
  return new CodeqError(told.reason, description, { violations, retryAfter, metadata });
}

/** Returns a copy of an error for another caller, with a stack and perhaps more metadata of its own. */
export function copyOf(error: CodeqError, more: Readonly<Record<string, string>> = {}): CodeqError {
  const { violations, retryable, retryAfter, cause } = error;
  const metadata = { ...error.metadata, ...more };
  return new CodeqError(error.reason, error.description, { violations, retryable, retryAfter, metadata, cause });
}

/** Returns the error of a call whose caller aborted it; its cause is the signal's reason. */
export function cancelled(effect: string, reason: unknown): CodeqError {
  return new CodeqError("CANCELLED", `the caller aborted the call; ${effect}`, { cause: reason });
}

/** Returns an error of the SDK for anything thrown. */
export function asCodeqError(error: unknown): CodeqError {
  if (isCodeqError(error)) return error;
  const text = error instanceof Error ? error.message : String(error);
  return new CodeqError("UNAVAILABLE", text, { cause: error });
}
