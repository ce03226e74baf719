import { count, name, secondsOrZero, seconds } from "./arguments.js";
import { timer, within } from "./clock.js";
import { DEFAULTS } from "./defaults.js";
import { Endpoint, type ConnectionOptions } from "./endpoint.js";
import { invalidArgument } from "./errors.js";
import type { Metrics, Middleware, Telemetry } from "./hooks.js";
import { LeaseTable } from "./lease-table.js";
import { Renewals, SHORT_LEASE_SECONDS } from "./renewing.js";
import { onSignals } from "./signals.js";
import { Branches } from "./worker-branches.js";
import { checkHandler, Executor, type Handler, type HandlerOptions, type Registered } from "./worker-handlers.js";
import type { WorkerSettings } from "./worker-stream.js";
import type { Renewing, WorkerStats } from "./worker-tasks.js";

const CREDITS_MAX = 65_536;
const LEASE_SECONDS_MAX = 43_200;
const WINDOW_BYTES_MAX = 1 << 30;
const COMMANDS_MAX = 256;

/** Interval between two looks at the leases; a twelfth of a lease if that is less. */
const CARE_MS_MAX = 500;

/** Longest wait for the renewal thread before a worker with short leases takes tasks without it. */
const RENEWALS_READY_MS_MAX = 5000;

/** Options of a worker. */
export interface WorkerOptions extends ConnectionOptions {
  /** Name within the token's subject, at most 64 characters of `A-Z a-z 0-9 . _ -`. Default: none. */
  readonly name?: string | undefined;
  /**
   * Tasks that run at once, 1 to 65536. With at least four for each shard of the server, the worker has a stream to the
   * process of each. Default: 16.
   */
  readonly concurrency?: number | undefined;
  /** Seconds until the tasks of a vanished worker are delivered again, 1 to 43200. Default: 60. */
  readonly leaseSeconds?: number | undefined;
  /** Seconds that running tasks have to finish once the worker is stopped, 0 to 86400. Default: 30. */
  readonly drainSeconds?: number | undefined;
  /** Bytes of tasks that the worker holds at once, 1 to 1 GiB. Default: 16 MiB. */
  readonly windowBytes?: number | undefined;
  /** Stop on SIGTERM and SIGINT; a second signal stops at once. Default: false, signals are left alone. */
  readonly handleSignals?: boolean | undefined;
  /** Wrap each run of a handler, the first one outermost. Default: none. */
  readonly middleware?: readonly Middleware[] | undefined;
  /** Callbacks for metrics. Default: none. */
  readonly metrics?: Metrics | undefined;
  /** Tracer that runs each handler in a span. Default: none. */
  readonly telemetry?: Telemetry | undefined;
}

/**
 * Takes tasks over a stream, or over one for each shard of the server, runs a handler for each of them, renews their leases
 * in a thread of its own, and reports their outcomes. It reconnects as long as it runs.
 */
export class Worker implements AsyncDisposable {
  readonly #endpoint: Endpoint;
  readonly #options: WorkerOptions;
  readonly #settings: Omit<WorkerSettings, "commands">;
  readonly #handlers = new Map<string, Registered>();
  #default: Registered | undefined;
  #branches: Branches | undefined;
  #running: Promise<void> | undefined;
  #stopAsked: number | undefined;
  #earlier: WorkerStats = { streams: 0, received: 0, settled: 0, refused: 0, lost: 0, stuck: 0, lateRenewals: 0 };

  /** Makes a worker; throws INVALID_ARGUMENT for options out of range. It connects when it runs. */
  constructor(options: WorkerOptions = {}) {
    this.#endpoint = Endpoint.forWorker(options);
    this.#options = options;
    this.#settings = {
      name: name(options.name ?? "", "name", 64, /^[A-Za-z0-9._-]*$/, "A-Z a-z 0-9 . _ -"),
      concurrency: count(options.concurrency ?? DEFAULTS.concurrency, "concurrency", CREDITS_MAX),
      leaseSeconds: count(options.leaseSeconds ?? DEFAULTS.leaseSeconds, "leaseSeconds", LEASE_SECONDS_MAX),
      windowBytes: count(options.windowBytes ?? DEFAULTS.windowBytes, "windowBytes", WINDOW_BYTES_MAX),
      drainSeconds: secondsOrZero(options.drainSeconds ?? DEFAULTS.drainSeconds, "drainSeconds"),
    };
  }

  /** Counters since the worker was made. */
  get stats(): WorkerStats {
    const now = this.#branches?.stats;
    const sum = (key: keyof WorkerStats): number => this.#earlier[key] + (now?.[key] ?? 0);
    return {
      streams: sum("streams"),
      received: sum("received"),
      settled: sum("settled"),
      refused: sum("refused"),
      lost: sum("lost"),
      stuck: sum("stuck"),
      lateRenewals: sum("lateRenewals"),
    };
  }

  /**
   * Registers the handler of a command. What it returns is the task's result, unless it is an outcome; what it throws is
   * a `Nack`, unless it is an outcome. With a schema, the payload has the schema's type.
   *
   * @throws CodeqError INVALID_ARGUMENT if the command has a handler already, or an option is out of range.
   */
  on<Payload = unknown>(command: string, handler: Handler<Payload>, options: HandlerOptions<Payload> = {}): this {
    if (typeof command !== "string" || command === "") throw invalidArgument("command", "must be a text");
    if (this.#handlers.has(command)) throw invalidArgument("command", `${command} has a handler already`);
    if (this.#handlers.size === COMMANDS_MAX) throw invalidArgument("command", `is one of more than ${COMMANDS_MAX}`);
    this.#handlers.set(command, this.#registered(handler, options));
    return this;
  }

  /** Registers the handler of all commands that have none; the worker then takes all commands that its token allows. */
  onAny<Payload = unknown>(handler: Handler<Payload>, options: HandlerOptions<Payload> = {}): this {
    this.#default = this.#registered(handler, options);
    return this;
  }

  /**
   * Works until `stop` is called.
   *
   * @throws CodeqError UNAUTHENTICATED, MISSING_SCOPE, COMMAND_NOT_ALLOWED, INVALID_FIELD and others if the server
   *   refuses the worker for good; INVALID_ARGUMENT if it has no handler or runs already.
   */
  run(): Promise<void> {
    if (this.#running !== undefined) return Promise.reject(invalidArgument("run", "was called while the worker runs"));
    if (this.#handlers.size === 0 && this.#default === undefined) {
      return Promise.reject(invalidArgument("on", "was never called: no handler"));
    }
    this.#running = this.#run().finally(() => {
      this.#running = undefined;
      this.#stopAsked = undefined;
    });
    return this.#running;
  }

  /**
   * Stops taking tasks; `run` resolves once the running ones have ended. Those that do not end in time go back to the
   * server, without losing an attempt. A second call stops at once. Before `run`, it makes the next `run` return at once.
   *
   * @param drainSeconds Seconds for running tasks, 0 to 86400. Default: the worker's.
   * @returns Resolves when the worker has stopped; its errors are those of `run`, and are not repeated here.
   */
  async stop(drainSeconds?: number): Promise<void> {
    const given = drainSeconds === undefined ? this.#settings.drainSeconds : secondsOrZero(drainSeconds, "drainSeconds");
    this.#stopAsked = this.#stopAsked === undefined ? given : 0;
    this.#branches?.stop(this.#stopAsked);
    await this.#running?.catch(() => undefined);
  }

  /** Stops the worker. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#running === undefined ? Promise.resolve() : this.stop();
  }

  #registered<Payload>(handler: Handler<Payload>, options: HandlerOptions<Payload>): Registered {
    checkHandler(handler, "handler");
    const { limit, timeoutSeconds } = options;
    if (limit !== undefined) count(limit, "limit", this.#settings.concurrency);
    if (timeoutSeconds !== undefined) seconds(timeoutSeconds, "timeoutSeconds");
    return { handler: handler as Handler, options: options as HandlerOptions };
  }

  async #run(): Promise<void> {
    const { logger } = this.#endpoint;
    const commands = this.#default === undefined ? [...this.#handlers.keys()] : [];
    const settings: WorkerSettings = { ...this.#settings, commands };
    const leases = new LeaseTable(settings.concurrency);
    const executor = new Executor({
      byCommand: this.#handlers,
      default: this.#default,
      middleware: this.#options.middleware ?? [],
      metrics: this.#options.metrics,
      telemetry: this.#options.telemetry,
      logger,
    });
    const renewing: Renewing = { isHere: true, isReady: settings.leaseSeconds > SHORT_LEASE_SECONDS };
    const branches = new Branches(this.#endpoint, settings, executor, leases, renewing);
    const ready = (): void => {
      if (!renewing.isReady) branches.ready();
    };
    const late = timer(ready, RENEWALS_READY_MS_MAX);
    const renewals = new Renewals(this.#endpoint, {
      isUp: (isUp) => {
        renewing.isHere = !isUp;
        ready();
      },
      lost: (taskId, token) => branches.lost(taskId, token, "leaseLost"),
    });
    this.#branches = branches;
    if (this.#stopAsked !== undefined) branches.stop(this.#stopAsked);
    const restore = this.#options.handleSignals ? onSignals((signal) => this.#signalled(signal)) : undefined;
    leases.beat();
    const caring = setInterval(
      () => {
        leases.beat();
        branches.care();
      },
      Math.min(CARE_MS_MAX, (settings.leaseSeconds * 1000) / 12),
    );
    caring.unref();
    try {
      void renewals.start(leases, settings);
      await branches.run();
      // Handlers that were asked to stop get a moment to do so.
      const ms = this.#stopAsked === 0 ? 0 : DEFAULTS.leaveSecondsMax * 1000;
      await within(branches.idle(), ms, () => new Error("handlers still run")).catch(() => undefined);
    } finally {
      clearInterval(caring);
      clearTimeout(late);
      restore?.();
      this.#earlier = this.stats;
      this.#branches = undefined;
      await renewals.end();
    }
  }

  #signalled(signal: string): void {
    const running = this.#branches?.running ?? 0;
    const { drainSeconds } = this.#settings;
    if (this.#stopAsked === undefined && running > 0 && drainSeconds > 0) {
      const tasks = running === 1 ? "1 task" : `${running} tasks`;
      this.#endpoint.logger.warn(`draining ${tasks} for up to ${drainSeconds} s; ${signal} again to stop now`);
    }
    void this.stop();
  }
}

