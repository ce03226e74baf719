import { fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { AdminClient } from "./admin-client.js";
import { plain, type ArtifactContent, type Explanation, type Returned } from "./admin-records.js";
import { CodeqError, fromReason, invalidArgument } from "./errors.js";
import { ProduceRequestSchema } from "./gen/codeq/v1/producer_service_pb.js";
import { TaskStatus as WireStatus, type TaskSpec } from "./gen/codeq/v1/task_pb.js";
import { ExplainTaskResponseSchema, TaskService } from "./gen/codeq/v1/task_service_pb.js";
import { kindOf, type Completed, type Failed, type NewArtifact } from "./outcomes.js";
import { pages, type Page } from "./paging.js";
import { encode } from "./payloads.js";
import { dateOf, Task, TaskResult, type TaskStatus } from "./records.js";
import { times } from "./requests.js";
import { encodeTask, wholeSeconds, type NewTask, type TaskOptions } from "./new-tasks.js";
import { printable } from "./texts.js";
import type { CallOptions } from "./unary.js";
import { encodeArtifacts } from "./worker-reports.js";

/** Options of a create by a single call. */
export interface SingleCreateOptions extends TaskOptions, CallOptions {}

/** Options of a batch by a single call. */
export interface SingleBatchOptions extends CallOptions {
  /** Whether to create either all tasks or none. Default: false. */
  readonly atomic?: boolean | undefined;
  /** Key of an atomic batch. Default: none, or a random one in a cluster. */
  readonly idempotencyKey?: string | undefined;
}

/** Options of a call that waits. */
export interface WaitOptions extends CallOptions {
  /** Seconds to wait, rounded up. Default: 0. */
  readonly waitSeconds?: number | undefined;
}

/** Options of a claim. */
export interface ClaimOptions extends WaitOptions {
  /** Most tasks, 1 to 100. Default: 1. */
  readonly count?: number | undefined;
  /** Length of the leases in seconds, 1 to 43200. Default: as the policy of the command says, else 60. */
  readonly leaseSeconds?: number | undefined;
}

/** A lease to act on: a claimed task, or its id, with the token if the caller has it. */
export type LeaseOf = Task | string | { readonly taskId: string; readonly leaseToken?: string | bigint | undefined };

/** Which tasks to list. */
export interface ListOptions extends CallOptions {
  /** Command of the tasks. Default: all. */
  readonly command?: string | undefined;
  /** Their statuses. Default: all. */
  readonly statuses?: readonly TaskStatus[] | undefined;
  /** Earliest time of acceptance, inclusive. Default: no limit. */
  readonly createdFrom?: Date | undefined;
  /** Latest time of acceptance, exclusive. Default: no limit. */
  readonly createdTo?: Date | undefined;
  /** Tasks of a page, 1 to 500. Default: 100. */
  readonly pageSize?: number | undefined;
  /** `nextPageToken` of an earlier page. Default: the first page. */
  readonly pageToken?: string | undefined;
  /** Which tasks come first. Default: oldest. */
  readonly orderBy?: "oldest" | "newest" | undefined;
}

/** Makes single calls. Use a Producer and a Worker for many tasks: their streams cost a fraction of what calls cost. */
export class Client extends AdminClient {
  /** Creates a task and returns it; `isDuplicate` tells that it existed. */
  async create(command: string, payload?: unknown, options: SingleCreateOptions = {}): Promise<Task> {
    const spec = this.#spec({ ...options, command, payload });
    const reply = await this.send(TaskService.method.createTask, { spec }, options);
    return taskOf(reply.task);
  }

  /** Creates up to 1000 tasks; returns for each of them, in order, the task or the error that rejected it. */
  async createBatch(tasks: readonly NewTask[], options: SingleBatchOptions = {}): Promise<(Task | CodeqError)[]> {
    const { atomic = false, idempotencyKey } = options;
    const key = idempotencyKey === undefined ? {} : { idempotencyKey };
    const request = { tasks: tasks.map((task) => this.#spec(task)), atomic, ...key };
    const reply = await this.send(TaskService.method.batchCreateTasks, request, options);
    return reply.results.map(({ task, error }) => (error === undefined ? taskOf(task) : fromReason(error.reason, error.message)));
  }

  /** Reads a task. */
  async get(taskId: string, options: CallOptions = {}): Promise<Task> {
    const reply = await this.send(TaskService.method.getTask, { taskId }, options);
    return taskOf(reply.task);
  }

  /** Waits for a task to end, at most 60 s; rejects with RESULT_NOT_FOUND if it has not ended by then. */
  async result<Result = unknown>(taskId: string, options: WaitOptions = {}): Promise<TaskResult<Result>> {
    const waitSeconds = wholeSeconds(options.waitSeconds ?? 0, "waitSeconds");
    const reply = await this.send(TaskService.method.getTaskResult, { taskId, waitSeconds }, options, waitSeconds);
    if (reply.result === undefined) throw noReply("result");
    return new TaskResult<Result>(reply.result);
  }

  /** Reads a file of a result. */
  async artifact(taskId: string, name: string, options: CallOptions = {}): Promise<ArtifactContent> {
    const method = TaskService.method.getTaskArtifact;
    const { contentType, content, sha256 } = await this.send(method, { taskId, name }, options);
    return { name, contentType, content, sha256 };
  }

  /** Says why a task waits. */
  async explain(taskId: string, options: CallOptions = {}): Promise<Explanation> {
    const reply = await this.send(TaskService.method.explainTask, { taskId }, options);
    return plain<Explanation>(ExplainTaskResponseSchema, reply);
  }

  /** Reads a page of tasks. */
  async tasksPage(options: ListOptions = {}): Promise<Page<Task>> {
    const { command = "", statuses = [], createdFrom, createdTo, pageSize = 0, pageToken = "", orderBy = "" } = options;
    const request = {
      command,
      status: statuses.map((status) => WireStatus[status]),
      ...times({ createdFrom, createdTo }),
      pageSize,
      pageToken,
      orderBy,
    };
    const reply = await this.send(TaskService.method.listTasks, request, options);
    return { items: reply.tasks.map((task) => new Task(task)), nextPageToken: reply.nextPageToken };
  }

  /** Yields tasks, page by page. */
  tasks(options: ListOptions = {}): AsyncGenerator<Task, void, undefined> {
    return pages((pageToken) => this.tasksPage({ ...options, pageToken }), options.pageToken);
  }

  /** Ends a task as CANCELLED, whether it waits or runs. */
  async cancel(task: Task | string, reason: unknown = "", options: CallOptions = {}): Promise<Task> {
    const request = { taskId: typeof task === "string" ? task : task.id, reason: printable(reason) };
    const reply = await this.send(TaskService.method.cancelTask, request, options);
    return taskOf(reply.task);
  }

  /** Moves a DLQ, FAILED or CANCELLED task back to the tail of its queue. `tenant` is for operators. */
  async redrive(taskId: string, options: CallOptions & { readonly tenant?: string } = {}): Promise<Task> {
    const request = { taskId, tenant: options.tenant ?? "" };
    const reply = await this.send(TaskService.method.redriveTask, request, options);
    return taskOf(reply.task);
  }

  /**
   * Leases up to `count` tasks, whose leases the program has to renew. Without tasks it waits for up to `waitSeconds`
   * (30 at most), then returns none.
   */
  async claim(commands: readonly string[] = [], options: ClaimOptions = {}): Promise<Task[]> {
    const waitSeconds = wholeSeconds(options.waitSeconds ?? 0, "waitSeconds");
    const { leaseSeconds, count = 1 } = options;
    const request = { commands: [...commands], count, waitSeconds, ...(leaseSeconds === undefined ? {} : { leaseSeconds }) };
    const reply = await this.send(TaskService.method.claimTasks, request, options, waitSeconds);
    return reply.tasks.map((task) => new Task(task));
  }

  /** Extends a lease; returns its end. Default length: that of the lease. */
  async heartbeat(lease: LeaseOf, extendSeconds?: number, options: CallOptions = {}): Promise<Date> {
    const request = { ...leaseOf(lease), ...(extendSeconds === undefined ? {} : { extendSeconds }) };
    const reply = await this.send(TaskService.method.heartbeatTask, request, options);
    return dateOf(reply.leaseUntil) ?? new Date(0);
  }

  /** Stores a task's progress, and extends its lease if asked; returns the end of the lease. */
  async reportProgress(lease: LeaseOf, progress: unknown, extendSeconds?: number, options: CallOptions = {}): Promise<Date> {
    const request = {
      ...leaseOf(lease),
      progress: encode(progress, "progress", 65_536),
      ...(extendSeconds === undefined ? {} : { extendSeconds }),
    };
    const reply = await this.send(TaskService.method.reportProgress, request, options);
    return dateOf(reply.leaseUntil) ?? new Date(0);
  }

  /** Ends a task as COMPLETED; undefined: without a result. */
  complete(lease: LeaseOf, result?: unknown, artifacts: Iterable<NewArtifact> = [], options: CallOptions = {}): Promise<TaskResult> {
    return this.#submit(submission(lease, WireStatus.COMPLETED, result, "", artifacts), options);
  }

  /** Ends a task as FAILED; it is not retried. */
  fail(lease: LeaseOf, error: unknown, artifacts: Iterable<NewArtifact> = [], options: CallOptions = {}): Promise<TaskResult> {
    return this.#submit(submission(lease, WireStatus.FAILED, undefined, error, artifacts), options);
  }

  /** Ends up to 1000 tasks; returns for each of them, in order, its result or the error that rejected it. */
  async submitBatch(
    outcomes: readonly { readonly lease: LeaseOf; readonly outcome: Completed | Failed }[],
    options: CallOptions = {},
  ): Promise<(TaskResult | CodeqError)[]> {
    const results = outcomes.map(({ lease, outcome }) =>
      kindOf(outcome) === "failed"
        ? submission(lease, WireStatus.FAILED, undefined, (outcome as Failed).error, outcome.artifacts)
        : submission(lease, WireStatus.COMPLETED, (outcome as Completed).result, "", outcome.artifacts),
    );
    const reply = await this.send(TaskService.method.batchSubmitResults, { results }, options);
    return reply.results.map(({ result, error }) => {
      if (error !== undefined) return fromReason(error.reason, error.message);
      return result === undefined ? noReply("result") : new TaskResult(result);
    });
  }

  /** Gives a delivery back as failed; without a delay, the server's backoff decides when it is retried. */
  async nack(lease: LeaseOf, reason: unknown = "", delaySeconds?: number, options: CallOptions = {}): Promise<Returned> {
    const delay = delaySeconds === undefined ? {} : { delaySeconds: wholeSeconds(delaySeconds, "delaySeconds") };
    const request = { ...leaseOf(lease), reason: printable(reason), ...delay };
    const reply = await this.send(TaskService.method.nackTask, request, options);
    return returned(reply);
  }

  /** Gives a delivery back unused; with a delay, the task waits for that time first. */
  async abandon(lease: LeaseOf, delaySeconds?: number, options: CallOptions = {}): Promise<Returned> {
    const delay = delaySeconds === undefined ? {} : { delaySeconds: wholeSeconds(delaySeconds, "delaySeconds") };
    const request = { ...leaseOf(lease), ...delay };
    const reply = await this.send(TaskService.method.abandonTask, request, options);
    return returned(reply);
  }

  /**
   * Gives a claimed task back without counting an attempt; no task with its rate key, or without one its concurrency
   * key, is delivered for the given time.
   */
  async parkKey(lease: LeaseOf, delaySeconds: number, options: CallOptions = {}): Promise<Returned> {
    const request = { ...leaseOf(lease), delaySeconds: wholeSeconds(delaySeconds, "delaySeconds"), parkKey: true };
    return returned(await this.send(TaskService.method.abandonTask, request, options));
  }

  async #submit(request: Submission, options: CallOptions): Promise<TaskResult> {
    const reply = await this.send(TaskService.method.submitResult, request, options);
    if (reply.result === undefined) throw noReply("result");
    return new TaskResult(reply.result);
  }

  #spec(task: NewTask): TaskSpec {
    // The field `tasks` of a frame is read back, so that all creates share one encoding and its checks.
    const { data } = encodeTask(task, undefined);
    return fromBinary(ProduceRequestSchema, data).tasks[0] as TaskSpec;
  }
}

type Submission = MessageInitShape<(typeof TaskService.method.submitResult)["input"]>;

function submission(
  lease: LeaseOf,
  status: WireStatus,
  result: unknown,
  error: unknown,
  artifacts: Iterable<NewArtifact>,
): Submission {
  const isFailed = status === WireStatus.FAILED;
  return {
    ...leaseOf(lease),
    status,
    ...(result === undefined ? {} : { result: encode(result, "result") }),
    error: isFailed ? printable(error) || "no error was given" : "",
    artifacts: encodeArtifacts(artifacts),
  };
}

function leaseOf(lease: LeaseOf): { taskId: string; leaseToken?: bigint } {
  if (typeof lease === "string") return { taskId: lease };
  const taskId = "taskId" in lease ? lease.taskId : lease.id;
  const token = lease.leaseToken;
  if (token === undefined) return { taskId };
  try {
    return { taskId, leaseToken: BigInt(token) };
  } catch (error) {
    throw invalidArgument("leaseToken", `must be a whole number as text or bigint, not ${String(token)}`, error);
  }
}

function returned(reply: { status: WireStatus; delaySeconds: number }): Returned {
  const status = WireStatus[reply.status];
  return { status, delaySeconds: reply.delaySeconds };
}

function taskOf(task: ConstructorParameters<typeof Task>[0] | undefined): Task {
  if (task === undefined) throw noReply("task");
  return new Task(task);
}

function noReply(what: string): CodeqError {
  return new CodeqError("INTERNAL", `the server sent no ${what}`);
}
