import { monotonicMs, timer } from "./clock.js";
import { invalidArgument } from "./errors.js";
import { quietly, type EndKind, type Metrics, type Middleware, type Telemetry } from "./hooks.js";
import type { Logger } from "./logger.js";
import { kindOf, Nack, outcomeOfThrown, outcomeOfValue, type Outcome } from "./outcomes.js";
import type { DeliveredTask, StopKind } from "./records.js";
import { Queue } from "./queue.js";
import { validated, type StandardSchema } from "./schema.js";
import { textOf } from "./texts.js";

/** What a handler gets besides its task. */
export interface HandlerContext {
  /** Aborts when the handler should stop; its reason is a `TaskStopped`. */
  readonly signal: AbortSignal;
  /** Aborts when the worker begins to stop, `drainSeconds` before `signal` does: see `DeliveredTask.draining`. */
  readonly draining: AbortSignal;
}

/** Processes a task. The return value, or the thrown value, is the task's outcome. */
export type Handler<Payload = unknown> = (task: DeliveredTask<Payload>, context: HandlerContext) => unknown;

/** Options of a handler. */
export interface HandlerOptions<Payload = unknown> {
  /** Tasks of the command that run at once; further ones wait inside the worker. Default: the worker's concurrency. */
  readonly limit?: number | undefined;
  /** Checks and converts the payload (Standard Schema: zod, valibot, arktype); an invalid one fails the task. */
  readonly schema?: StandardSchema<Payload> | undefined;
  /** Seconds after which the handler's signal aborts; the lease is kept for a second more. Default: none. */
  readonly timeoutSeconds?: number | undefined;
}

/** A registered handler. */
export interface Registered {
  readonly handler: Handler;
  readonly options: HandlerOptions;
}

/** Time after which a handler that ignores its signal counts as stuck, and its lease is no longer renewed. */
export const STUCK_MS = 1000;

/** Runs handlers within the limits of their commands. Whatever a handler does, its task is reported exactly once. */
export class Executor {
  readonly #byCommand: ReadonlyMap<string, Registered>;
  readonly #default: Registered | undefined;
  readonly #middleware: readonly Middleware[];
  readonly #metrics: Metrics | undefined;
  readonly #telemetry: Telemetry | undefined;
  readonly #logger: Logger;
  readonly #running = new Map<string, number>();
  readonly #waiting = new Map<string, Queue<Run>>();

  constructor(options: {
    byCommand: ReadonlyMap<string, Registered>;
    default: Registered | undefined;
    middleware: readonly Middleware[];
    metrics: Metrics | undefined;
    telemetry: Telemetry | undefined;
    logger: Logger;
  }) {
    this.#byCommand = options.byCommand;
    this.#default = options.default;
    this.#middleware = options.middleware;
    this.#metrics = options.metrics;
    this.#telemetry = options.telemetry;
    this.#logger = options.logger;
  }

  /** Returns the timeout of a command's handler in milliseconds; undefined: none. */
  timeoutMs(command: string): number | undefined {
    const seconds = this.#of(command)?.options.timeoutSeconds;
    return seconds === undefined ? undefined : seconds * 1000;
  }

  /** Runs a task, once its command has room; `finish` gets its outcome, once. */
  start(run: Run): void {
    const { command } = run.task;
    const limit = this.#of(command)?.options.limit;
    if (limit === undefined) {
      void this.#run(run);
      return;
    }
    if ((this.#running.get(command) ?? 0) >= limit) {
      let waiting = this.#waiting.get(command);
      if (waiting === undefined) this.#waiting.set(command, (waiting = new Queue<Run>()));
      waiting.push(run);
      return;
    }
    this.#runLimited(run);
  }

  #of(command: string): Registered | undefined {
    return this.#byCommand.get(command) ?? this.#default;
  }

  #runLimited(run: Run): void {
    const { command } = run.task;
    this.#running.set(command, (this.#running.get(command) ?? 0) + 1);
    void this.#run(run).finally(() => {
      this.#running.set(command, (this.#running.get(command) ?? 1) - 1);
      const next = this.#waiting.get(command)?.shift();
      if (next !== undefined) this.#runLimited(next);
    });
  }

  async #run(run: Run): Promise<void> {
    const { task } = run;
    if (task.signal.aborted) {
      run.finish(new Nack("the task was given up before its handler ran")); // nobody waits for it any more
      return;
    }
    const begun = monotonicMs();
    const metrics = this.#metrics;
    if (metrics?.taskStarted !== undefined) quietly(() => metrics.taskStarted?.(task));
    const registered = this.#of(task.command);
    const guard = registered?.options.timeoutSeconds === undefined ? undefined : this.#limit(run, registered.options.timeoutSeconds);
    let outcome: Outcome;
    try {
      outcome =
        registered === undefined
          ? new Nack(`no handler for command ${task.command}`)
          : outcomeOfValue(await this.#handle(registered, task));
    } catch (error) {
      try {
        outcome = this.#thrown(error, task);
      } catch {
        outcome = new Nack("the handler threw something that cannot be read"); // a proxy whose traps throw
      }
    }
    clearTimeout(guard);
    const isDropped = run.isDropped();
    run.finish(outcome);
    if (metrics?.taskEnded === undefined) return;
    const end: EndKind = isDropped ? "dropped" : END_KINDS[kindOf(outcome) ?? "completed"];
    quietly(() => metrics.taskEnded?.(task, end, (monotonicMs() - begun) / 1000));
  }

  #handle(registered: Registered, task: DeliveredTask): unknown {
    const { handler, options } = registered;
    const context: HandlerContext = {
      signal: task.signal,
      get draining() {
        return task.draining;
      },
    };
    const call = (): unknown => handler(task, context);
    if (options.schema === undefined && this.#middleware.length === 0 && this.#telemetry === undefined) return call();
    const { schema } = options;
    let next = async (): Promise<unknown> => {
      if (schema !== undefined) task.setPayload(await validated(schema, task.payload));
      return call();
    };
    for (const middleware of this.#middleware.toReversed()) {
      const inner = next;
      next = () => middleware(task, inner);
    }
    return this.#telemetry === undefined ? next() : this.#telemetry.run(task, next);
  }

  #thrown(error: unknown, task: DeliveredTask): Outcome {
    const outcome = outcomeOfThrown(error);
    if (outcome !== error && !task.signal.aborted) {
      const text = error instanceof Error && typeof error.stack === "string" ? error.stack : textOf(error);
      this.#logger.error(`handler of ${task.command} failed on task ${task.id}: ${text}`);
    }
    return outcome;
  }

  #limit(run: Run, seconds: number): NodeJS.Timeout {
    return timer(() => {
      run.stop("timeout", `the handler has run for ${seconds} s`);
    }, seconds * 1000);
  }
}

/** A task to run. */
export interface Run {
  readonly task: DeliveredTask;
  /** Takes the outcome. */
  finish(outcome: Outcome): void;
  /** Returns whether the outcome will be dropped, since the lease is gone. */
  isDropped(): boolean;
  /** Asks the handler to stop. */
  stop(kind: StopKind, message: string): void;
}

const END_KINDS = {
  completed: "completed",
  failed: "failed",
  nack: "nacked",
  snooze: "snoozed",
  abandon: "abandoned",
} as const satisfies Record<string, EndKind>;

/** Checks a handler and its options. */
export function checkHandler(handler: unknown, field: string): void {
  if (typeof handler !== "function") throw invalidArgument(field, `must be a function, not a ${typeof handler}`);
  const tag = Object.prototype.toString.call(handler);
  if (tag.includes("Generator")) throw invalidArgument(field, "must return its result, not yield it");
}

