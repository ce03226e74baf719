import { name, seconds, count } from "./arguments.js";
import { onAbort } from "./aborts.js";
import { monotonicMs, sleep, timer } from "./clock.js";
import { DEFAULTS } from "./defaults.js";
import { Endpoint, type ConnectionOptions } from "./endpoint.js";
import { asCodeqError, cancelled, CodeqError, copyOf, invalidArgument, isCodeqError } from "./errors.js";
import { TaskService } from "./gen/codeq/v1/task_service_pb.js";
import { quietly, type Metrics, type Telemetry } from "./hooks.js";
import { Job, type CreateResult } from "./producer-frames.js";
import { ProducerStreams } from "./producer-stream.js";
import { TaskResult } from "./records.js";
import { encodeTask, newKey, type Item, type NewTask, type TaskOptions } from "./new-tasks.js";
import { Queue } from "./queue.js";
import { textOf } from "./texts.js";
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

/** Shortest interval between two questions for the result of a task. */
const POLL_MS_MIN = 100;

/** Pause before the next one after a server was not reached. */
const POLL_AGAIN_MS = 500;

/** Options of a create. */
export interface CreateOptions extends TaskOptions {
  /** Seconds within which the call ends. Default: the producer's. */
  readonly timeoutSeconds?: number | undefined;
  /**
   * Ends the wait: the call then rejects with CANCELLED, whose `cause` is the signal's reason. A create that was sent
   * is not undone: the task may exist, and the error's text says which it is. Default: none.
   */
  readonly signal?: AbortSignal | undefined;
}

/** Options of a batch. */
export interface BatchOptions {
  /** Seconds within which the call ends. Default: the producer's. */
  readonly timeoutSeconds?: number | undefined;
  /** Ends the wait: tasks without an answer then have the error CANCELLED, as `CreateOptions.signal` says. Default: none. */
  readonly signal?: AbortSignal | undefined;
}

/** Options of `createAll`. */
export interface CreateAllOptions {
  /** Seconds within which each create ends. Default: the producer's. */
  readonly timeoutSeconds?: number | undefined;
  /** Creates in flight at once, 1 to 65536. Default: 4096. */
  readonly inFlight?: number | undefined;
}

/** A job on its way to a stream. */
interface Waiter {
  readonly job: Job;
  /** Whether it counts as in flight. */
  isIn: boolean;
  late: NodeJS.Timeout | undefined;
}

/** What a source of tasks threw. */
class Thrown {
  readonly error: unknown;

  constructor(error: unknown) {
    this.error = error;
  }
}

/**
 * Creates tasks over a stream, or over one for each shard of the server, which concurrent calls share. It connects on the
 * first create, and reconnects when a stream breaks. Close it, or declare it with `await using`.
 */
export class Producer implements AsyncDisposable {
  readonly #endpoint: Endpoint;
  readonly #caller: Caller;
  readonly #streams: ProducerStreams;
  readonly #timeoutMs: number;
  readonly #requestKeys: boolean | undefined;
  readonly #inFlightMax: number;
  readonly #failFast: boolean;
  readonly #metrics: Metrics | undefined;
  readonly #telemetry: Telemetry | undefined;
  #inFlight = 0;
  /** Jobs for which there is no room yet, in the order in which they came. */
  readonly #waiting = new Set<Waiter>();
  #isAdmitting = false;
  #isClosed = false;

  /** Makes a producer; throws INVALID_ARGUMENT for options out of range. */
  constructor(options: ProducerOptions = {}) {
    this.#endpoint = Endpoint.forProducer(options);
    this.#caller = new Caller(this.#endpoint);
    const clientName = name(options.clientName ?? "", "clientName", 128, /^[^\ud800-\udfff]*$/u, "text");
    const spreads = (): boolean => options.requestKeys !== true && !this.#endpoint.servers.areMany;
    this.#streams = new ProducerStreams(this.#endpoint, { clientName, spreads });
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
   *   CANCELLED if its signal aborted; INVALID_ARGUMENT; CLOSED.
   */
  create<Payload = unknown>(command: string, payload?: Payload, options: CreateOptions = {}): Promise<string> {
    return new Promise((resolve, reject) => {
      const item = this.#encode({ ...options, command, payload });
      this.#send([item], [command], options, ([result]) => {
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
          refused.set(index, isCodeqError(error) ? error : invalidArgument(`tasks[${index}]`, `is not a task: ${textOf(error)}`, error));
        }
      });
      const finish = (results: readonly CreateResult[]): void => {
        let at = 0;
        resolve(tasks.map((_, index) => refused.get(index) ?? (results[at++] as CreateResult)));
      };
      if (items.length === 0) finish([]);
      else this.#send(items, commands, options, finish);
    });
  }

  /**
   * Creates the tasks of an iterable, with a bounded number in flight, and yields an id or an error for each, in order
   * and as soon as it is known. The iterable is read only as fast as results are taken.
   *
   * @throws Whatever the iterable throws, once the tasks before are answered.
   */
  async *createAll(
    tasks: AsyncIterable<NewTask> | Iterable<NewTask>,
    options: CreateAllOptions = {},
  ): AsyncGenerator<CreateResult, void, undefined> {
    const most = count(options.inFlight ?? 4096, "inFlight", 65_536);
    const { timeoutSeconds } = options;
    const flying = new Queue<Promise<CreateResult>>();
    const source = Symbol.asyncIterator in tasks ? tasks[Symbol.asyncIterator]() : tasks[Symbol.iterator]();
    let next: Promise<IteratorResult<NewTask> | Thrown> | undefined;
    let thrown: Thrown | undefined;
    let isAtEnd = false;
    try {
      while (!isAtEnd || flying.size > 0) {
        if (!isAtEnd && flying.size < most) next ??= (async () => source.next())().catch((error: unknown) => new Thrown(error));
        // A source that waits, perhaps for the answer of the task before, must not hold up that answer.
        const first = flying.first?.then(() => undefined);
        const read = next === undefined ? await first : await (first === undefined ? next : Promise.race([next, first]));
        if (read === undefined) {
          yield flying.shift() as Promise<CreateResult>;
          continue;
        }
        next = undefined;
        if (read instanceof Thrown) thrown = read;
        isAtEnd = read instanceof Thrown || read.done === true;
        if (!(read instanceof Thrown) && read.done !== true) flying.push(this.#createOne(read.value, timeoutSeconds));
      }
    } finally {
      // The caller wants no more. A source that is being read ends later.
      const ending = isAtEnd ? undefined : Promise.resolve(source.return?.()).catch(() => undefined);
      if (next === undefined) await ending;
    }
    if (thrown !== undefined) throw thrown.error;
  }

  /**
   * Creates a task and waits for its end.
   *
   * @returns How the task ended, whatever its status.
   * @throws CodeqError DEADLINE_EXCEEDED if it has not ended in time, and the errors of `create`. Once the task exists, its
   *   id is in `metadata.taskId`, whatever the error is.
   */
  async createAndWait<Result = unknown, Payload = unknown>(
    command: string,
    payload?: Payload,
    options: CreateOptions = {},
  ): Promise<TaskResult<Result>> {
    const total = seconds(options.timeoutSeconds ?? this.#timeoutMs / 1000, "timeoutSeconds") * 1000;
    const deadline = monotonicMs() + total;
    const taskId = await this.create(command, payload, options);
    const { signal } = options;
    for (;;) {
      const begun = monotonicMs();
      const left = deadline - begun;
      const waitSeconds = Math.max(1, Math.ceil(Math.min(WAIT_SECONDS_MAX, left / 1000)));
      const how = { waitSeconds, timeoutMs: left - waitSeconds * 1000, signal };
      try {
        const reply = await this.#caller.call(TaskService.method.getTaskResult, { taskId, waitSeconds }, how);
        if (reply.result === undefined) throw new CodeqError("INTERNAL", "the server sent no result");
        return new TaskResult<Result>(reply.result);
      } catch (thrown) {
        const error = signal?.aborted ? cancelled(`task ${taskId} exists and goes on`, signal.reason) : asCodeqError(thrown);
        if (!isCodeqError(error, "RESULT_NOT_FOUND", "DEADLINE_EXCEEDED", "UNAVAILABLE")) throw copyOf(error, { taskId });
        if (monotonicMs() >= deadline) {
          const text = `task ${taskId} has not ended within ${total / 1000} s`;
          throw new CodeqError("DEADLINE_EXCEEDED", text, { metadata: { taskId }, cause: error });
        }
        const pauseMs = isCodeqError(error, "UNAVAILABLE") ? POLL_AGAIN_MS : begun + POLL_MS_MIN - monotonicMs();
        await sleep(Math.min(pauseMs, deadline - monotonicMs()), signal);
      }
    }
  }

  /** Waits for the creates in flight, at most for their timeouts, then disconnects. Later creates fail with CLOSED. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#admit();
    await this.#streams.close();
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

  #createOne(task: NewTask, timeoutSeconds: number | undefined): Promise<CreateResult> {
    return this.createBatch([task], { timeoutSeconds }).then(([result]) => result as CreateResult, asCodeqError);
  }

  #send(items: Item[], commands: string[], how: BatchOptions, done: (results: CreateResult[]) => void): void {
    const { timeoutSeconds, signal } = how;
    const timeoutMs = timeoutSeconds === undefined ? this.#timeoutMs : seconds(timeoutSeconds, "timeoutSeconds") * 1000;
    const begun = monotonicMs();
    const job = new Job(items, begun + timeoutMs, (results) => {
      forget?.();
      clearTimeout(waiter.late);
      if (waiter.isIn) this.#inFlight -= items.length;
      this.#waiting.delete(waiter);
      this.#admit();
      if (this.#metrics?.created !== undefined) this.#tell(this.#metrics, commands, results, begun);
      done(results);
    });
    const waiter: Waiter = { job, isIn: false, late: undefined };
    const abort = (): void => {
      const reason: unknown = signal?.reason;
      job.fail(cancelled("the task was not sent", reason), cancelled("it was sent: the task may exist", reason));
    };
    const forget = signal === undefined || signal.aborted ? undefined : onAbort(signal, abort);
    if (signal?.aborted) abort();
    else if (this.#isClosed || (this.#waiting.size === 0 && this.#hasRoom(items.length))) this.#enter(waiter);
    else if (this.#failFast) {
      const error = new CodeqError("LIMIT_REACHED", `${this.#inFlightMax} tasks are in flight`, { retryable: true });
      job.fail(error, error);
    } else this.#wait(waiter, timeoutMs);
  }

  #hasRoom(tasks: number): boolean {
    return this.#inFlight === 0 || this.#inFlight + tasks <= this.#inFlightMax;
  }

  #enter(waiter: Waiter): void {
    this.#waiting.delete(waiter);
    clearTimeout(waiter.late);
    waiter.isIn = true;
    this.#inFlight += waiter.job.items.length;
    this.#streams.submit(waiter.job);
  }

  /** Keeps a job back until there is room, its deadline has passed, or the producer is closed. */
  #wait(waiter: Waiter, timeoutMs: number): void {
    this.#waiting.add(waiter);
    waiter.late = timer(() => {
      const text = `not sent within the timeout: ${this.#inFlightMax} tasks are in flight`;
      const error = new CodeqError("DEADLINE_EXCEEDED", text);
      waiter.job.fail(error, error);
    }, timeoutMs);
  }

  /** Sends the jobs for which there is room now. */
  #admit(): void {
    if (this.#isAdmitting) return; // a job that fails at once ends in here again
    this.#isAdmitting = true;
    for (const waiter of this.#waiting) {
      if (!this.#isClosed && !this.#hasRoom(waiter.job.items.length)) break;
      this.#enter(waiter);
    }
    this.#isAdmitting = false;
  }

  #tell(metrics: Metrics, commands: readonly string[], results: readonly CreateResult[], begun: number): void {
    const took = (monotonicMs() - begun) / 1000;
    results.forEach((result, index) => {
      quietly(() => metrics.created?.(commands[index] ?? "", typeof result === "string", took));
    });
  }
}
