import type { DeliveredTask } from "./records.js";

/** The way in which a task's run ended, as the metrics hook sees it. */
export type EndKind = "completed" | "failed" | "nacked" | "snoozed" | "abandoned" | "dropped";

/** Callbacks for metrics; an error that they throw is ignored. None is needed. */
export interface Metrics {
  /** A handler is about to run. */
  taskStarted?(task: DeliveredTask): void;
  /** A handler has ended; `dropped` if its lease was lost, so that its outcome is not sent. */
  taskEnded?(task: DeliveredTask, end: EndKind, seconds: number): void;
  /** A create was answered, with the task's id or not. */
  created?(command: string, isCreated: boolean, seconds: number): void;
}

/** The context of a task's trace, as W3C headers. */
export interface TraceContext {
  traceparent?: string | undefined;
  tracestate?: string | undefined;
}

/**
 * Connects the SDK to a tracer; `openTelemetry()` of `@codeq/sdk/opentelemetry` returns one. An error that a method
 * throws outside of `run` is ignored.
 */
export interface Telemetry {
  /** Returns the context of the caller of a create, to be sent with the task. */
  inject(command: string): TraceContext;
  /** Runs a handler in a span that belongs to the task's producer. */
  run<T>(task: DeliveredTask, handler: () => Promise<T>): Promise<T>;
}

/** Wraps each run of a handler: calls `next` once, and may look at the task, its outcome, or an error. */
export type Middleware = (task: DeliveredTask, next: () => Promise<unknown>) => Promise<unknown>;

/** Calls a hook; its errors are ignored. */
export function quietly(hook: () => void): void {
  try {
    hook();
  } catch {
    // Metrics must not change what happens to tasks.
  }
}
