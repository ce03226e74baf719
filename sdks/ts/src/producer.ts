import { name, seconds, count } from "./arguments.js";
import { Backoff } from "./backoff.js";
import { monotonicMs, timer } from "./clock.js";
import { DEFAULTS } from "./defaults.js";
import { Endpoint, type ConnectionOptions } from "./endpoint.js";
import { asCodeqError, CodeqError, isCodeqError } from "./errors.js";
import { TaskService } from "./gen/codeq/v1/task_service_pb.js";
import { quietly, type Metrics, type Telemetry } from "./hooks.js";
import { Job, type CreateResult } from "./producer-frames.js";
import { ProducerStream } from "./producer-stream.js";
import { TaskResult } from "./records.js";
import { encodeTask, newKey, type Item, type NewTask, type TaskOptions } from "./new-tasks.js";
import { Caller } from "./unary.js";

/** Longest wait of one call for a result; the server allows 60 s. */
const WAIT_SECONDS_MAX = 30;

/** Options of a producer. */
export interface ProducerOptions extends ConnectionOptions {
  /** Name for the server's log, at most 128 characters. Default: none. */
  readonly clientName?: string | undefined;
  /** Seconds within which a call ends, at most a day. Default: 30. */
  readonly timeoutSeconds?: number | undefined;
  /**
   * Add a random key to each create that has neither key nor id, so that it can be sent again. Default: if several
   * servers are known.
   */
  readonly requestKeys?: boolean | undefined;
  /** Tasks in flight, 1 to 1048576; further creates wait. Default: 65536. */
  readonly inFlightTasksMax?: number | undefined;
  /** Fail with LIMIT_REACHED instead of waiting at `inFlightTasksMax`. Default: false. */
  readonly failFast?: boolean | undefined;
  /** Callbacks for metrics. Default: none. */
  readonly metrics?: Metrics | undefined;
  /** Tracer that gives each task its trace context. Default: none. */
  readonly telemetry?: Telemetry | undefined;
}

/** Options of a create. */
export interface CreateOptions extends TaskOptions {
  /** Seconds within which the call ends. Default: the producer's. */
  readonly timeoutSeconds?: number | undefined;
}

/** Options of a batch. */
export interface BatchOptions {
  /** Seconds within which the call ends. Default: the producer's. */
  readonly timeoutSeconds?: number | undefined;
}

/** Options of `createAll`. */
export interface CreateAllOptions extends BatchOptions {
  /** Creates in flight at once, 1 to 65536. Default: 4096. */
  readonly inFlight?: number | undefined;
}

/**
 * Creates tasks over one stream, which concurrent calls share. It connects on the first create, and reconnects when
 * the stream breaks. Close it, or declare it with `await using`.
 */
export class Producer implements AsyncDisposable {
  readonly #endpoint: Endpoint;
  readonly #caller: Caller;
  readonly #stream: ProducerStream;
  readonly #timeoutMs: number;
  readonly #requestKeys: boolean | undefined;
  readonly #inFlightMax: number;
  readonly #failFast: boolean;
  readonly #metrics: Metrics | undefined;
  readonly #telemetry: Telemetry | undefined;
  #inFlight = 0;
  #waiting: { count: number; go: () => void; isGone: boolean }[] = [];
  #isClosed = false;

  /** Makes a producer; throws INVALID_ARGUMENT for options out of range. */
  constructor(options: ProducerOptions = {}) {
    this.#endpoint = Endpoint.forProducer(options);
    this.#caller = new Caller(this.#endpoint);
    const clientName = name(options.clientName ?? "", "clientName", 128, /^[^\ud800-\udfff]*$/u, "text");
    this.#stream = new ProducerStream(this.#endpoint, clientName, new Backoff());
    this.#timeoutMs = seconds(options.timeoutSeconds ?? DEFAULTS.timeoutSeconds, "timeoutSeconds") * 1000;
    this.#requestKeys = options.requestKeys;
    this.#inFlightMax = count(options.inFlightTasksMax ?? DEFAULTS.inFlightTasksMax, "inFlightTasksMax", 1 << 20);
    this.#failFast = options.failFast ?? false;
    this.#metrics = options.metrics;
    this.#telemetry = options.telemetry;
  }

  /**
   * Creates a task; once this resolves, the task is durable. A repeated create with the same key is not an error.
   *
   * @returns Id of the task.
   * @throws CodeqError INVALID_FIELD, TOO_LARGE, IDEMPOTENCY_CONFLICT, TASK_ID_TAKEN, UNAUTHENTICATED and others if the
   *   server refuses it; OUTCOME_UNKNOWN if it was sent but not answered; DEADLINE_EXCEEDED if it was not sent in time;
   *   INVALID_ARGUMENT; CLOSED.
   */
  create<Payload = unknown>(command: string, payload?: Payload, options: CreateOptions = {}): Promise<string> {
    return new Promise((resolve, reject) => {
      const item = this.#encode({ ...options, command, payload });
      this.#send([item], [command], options.timeoutSeconds, ([result]) => {
        if (typeof result === "string") resolve(result);
        else reject(result);
      });
    });
  }

  /**
   * Creates tasks; each of them succeeds or fails on its own.
   *
   * @returns For each task, in order, its id or the error that `create` would throw.
   */
  createBatch(tasks: readonly NewTask[], options: BatchOptions = {}): Promise<CreateResult[]> {
    return new Promise((resolve) => {
      const refused = new Map<number, CodeqError>();
      const items: Item[] = [];
      const commands: string[] = [];
      tasks.forEach((task, index) => {
        try {
          items.push(this.#encode(task));
          commands.push(task.command);
        } catch (error) {
          refused.set(index, asCodeqError(error));
        }
      });
      const finish = (results: readonly CreateResult[]): void => {
        let at = 0;
        resolve(tasks.map((_, index) => refused.get(index) ?? (results[at++] as CreateResult)));
      };
      if (items.length === 0) finish([]);
      else this.#send(items, commands, options.timeoutSeconds, finish);
    });
  }

  /**
   * Creates the tasks of an iterable, with a bounded number in flight, and yields an id or an error for each, in order.
   * The iterable is read only as fast as results are taken.
   */
  async *createAll(
    tasks: AsyncIterable<NewTask> | Iterable<NewTask>,
    options: CreateAllOptions = {},
  ): AsyncGenerator<CreateResult, void, undefined> {
    const most = count(options.inFlight ?? 4096, "inFlight", 65_536);
    const { timeoutSeconds } = options;
    const flying: Promise<CreateResult>[] = [];
    for await (const task of tasks) {
      flying.push(this.create(task.command, task.payload, { ...task, timeoutSeconds }).catch(asCodeqError));
      if (flying.length >= most) yield flying.shift() as Promise<CreateResult>;
    }
    yield* flying;
  }

  /**
   * Creates a task and waits for its end.
   *
   * @returns How the task ended, whatever its status.
   * @throws CodeqError DEADLINE_EXCEEDED if it has not ended in time (its id is in `metadata.taskId`), and the errors of `create`.
   */
  async createAndWait<Result = unknown, Payload = unknown>(
    command: string,
    payload?: Payload,
    options: CreateOptions = {},
  ): Promise<TaskResult<Result>> {
    const total = seconds(options.timeoutSeconds ?? this.#timeoutMs / 1000, "timeoutSeconds") * 1000;
    const deadline = monotonicMs() + total;
    const taskId = await this.create(command, payload, options);
    for (;;) {
      const left = deadline - monotonicMs();
      const waitSeconds = Math.floor(Math.min(WAIT_SECONDS_MAX, Math.max(0, left / 1000)));
      const timeoutMs = Math.max(1, left - waitSeconds * 1000);
      const how = { waitSeconds, timeoutMs };
      try {
        const reply = await this.#caller.call(TaskService.method.getTaskResult, { taskId, waitSeconds }, how);
        if (reply.result === undefined) throw new CodeqError("INTERNAL", "the server sent no result");
        return new TaskResult<Result>(reply.result);
      } catch (error) {
        if (!isCodeqError(error, "RESULT_NOT_FOUND") && !isCodeqError(error, "DEADLINE_EXCEEDED")) throw error;
        if (monotonicMs() < deadline) continue;
        const text = `task ${taskId} has not ended within ${total / 1000} s`;
        throw new CodeqError("DEADLINE_EXCEEDED", text, { metadata: { taskId }, cause: error });
      }
    }
  }

  /** Waits for the creates in flight, at most for their timeouts, then disconnects. Later creates fail with CLOSED. */
  async close(): Promise<void> {
    this.#isClosed = true;
    for (const each of this.#waiting) each.go();
    await this.#stream.close();
    this.#caller.close();
  }

  /** Closes the producer. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #encode(task: NewTask): Item {
    const keys = this.#requestKeys ?? this.#endpoint.servers.areMany;
    if (this.#telemetry === undefined || task.traceparent !== undefined) return encodeTask(task, keys ? newKey : undefined);
    let context = {};
    quietly(() => {
      context = this.#telemetry?.inject(task.command) ?? {};
    });
    return encodeTask({ ...task, ...context }, keys ? newKey : undefined);
  }

  #send(items: Item[], commands: string[], timeoutSeconds: number | undefined, done: (results: CreateResult[]) => void): void {
    const timeoutMs = timeoutSeconds === undefined ? this.#timeoutMs : seconds(timeoutSeconds, "timeoutSeconds") * 1000;
    const begun = monotonicMs();
    const job = new Job(items, begun + timeoutMs, (results) => {
      this.#leave(items.length);
      if (this.#metrics?.created !== undefined) this.#tell(this.#metrics, commands, results, begun);
      done(results);
    });
    if (this.#hasRoom(items.length)) {
      this.#inFlight += items.length;
      this.#stream.submit(job);
    } else {
      this.#wait(job, timeoutMs);
    }
  }

  #hasRoom(tasks: number): boolean {
    return this.#waiting.length === 0 && (this.#inFlight === 0 || this.#inFlight + tasks <= this.#inFlightMax);
  }

  /** Keeps a job back until there is room, its deadline has passed, or the producer is closed. */
  #wait(job: Job, timeoutMs: number): void {
    const most = this.#inFlightMax;
    const items = job.items.length;
    const refuse = (error: CodeqError): void => {
      this.#inFlight += items; // the job gives its places back when it ends
      job.fail(error, error);
    };
    if (this.#failFast) {
      refuse(new CodeqError("LIMIT_REACHED", `${most} tasks are in flight`, { retryable: true }));
      return;
    }
    const late = timer(() => {
      waiter.isGone = true;
      refuse(new CodeqError("DEADLINE_EXCEEDED", `not sent within the timeout: ${most} tasks are in flight`));
    }, timeoutMs);
    const waiter = {
      count: items,
      isGone: false,
      go: (): void => {
        clearTimeout(late);
        if (waiter.isGone) return;
        waiter.isGone = true;
        this.#inFlight += items;
        this.#stream.submit(job);
      },
    };
    this.#waiting.push(waiter);
  }

  #leave(tasks: number): void {
    this.#inFlight -= tasks;
    while (this.#waiting.length > 0) {
      const next = this.#waiting[0];
      if (next === undefined) return;
      const fits = this.#inFlight === 0 || this.#inFlight + next.count <= this.#inFlightMax;
      if (!next.isGone && !fits && !this.#isClosed) return;
      this.#waiting.shift();
      next.go();
    }
  }

  #tell(metrics: Metrics, commands: readonly string[], results: readonly CreateResult[], begun: number): void {
    const took = (monotonicMs() - begun) / 1000;
    results.forEach((result, index) => {
      quietly(() => metrics.created?.(commands[index] ?? "", typeof result === "string", took));
    });
  }
}
