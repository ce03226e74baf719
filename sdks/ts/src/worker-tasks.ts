import type { MessageInitShape } from "@bufbuild/protobuf";
import { monotonicMs } from "./clock.js";
import { DEFAULTS } from "./defaults.js";
import { CodeqError, fromReason, isCodeqError } from "./errors.js";
import type { HeartbeatSchema, OutcomeError, ProgressSchema } from "./gen/codeq/v1/worker_service_pb.js";
import type { LeaseTable } from "./lease-table.js";
import type { Logger } from "./logger.js";
import { Abandon, Nack, type Outcome } from "./outcomes.js";
import { encode } from "./payloads.js";
import { Queue } from "./queue.js";
import { DeliveredTask, type StopKind } from "./records.js";
import { STUCK_MS, type Executor } from "./worker-handlers.js";
import type { Delivered } from "./worker-messages.js";
import type { Share } from "./worker-places.js";
import { reportOf, type Report } from "./worker-reports.js";

/** Most progress values in one message; together they have at most 1 MiB. */
const PROGRESS_ITEMS_MAX = 16;

/** Largest progress value in bytes. */
const PROGRESS_BYTES_MAX = 65_536;

/** Longest time for which the lease of a task without a timeout is renewed: a day. */
export const RENEWED_SECONDS_MAX = 86_400;

/** Rejections after which a Nack replaces the outcome, so that the task is retried and says why. */
const REPLACED = ["INVALID_FIELD", "INVALID_BODY", "TOO_LARGE", "LIMIT_REACHED", "STORAGE_FULL", "QUOTA_EXCEEDED"] as const;

/** Answers of a server that no longer decides on the task. */
const UNDECIDED = ["OUTCOME_UNKNOWN", "NOT_LEADER", "DRAINING", "SERVER_UNREACHABLE"] as const;

/** Counters of a worker since it was made. */
export interface WorkerStats {
  /** Streams opened; those that are first opened to the shards of a server count as one. */
  readonly streams: number;
  /** Tasks delivered. */
  readonly received: number;
  /** Outcomes that the server accepted. */
  readonly settled: number;
  /** Outcomes that the server rejected, or that were dropped since their lease was gone. */
  readonly refused: number;
  /** Leases lost, and tasks cancelled, while their handler was running. */
  readonly lost: number;
  /** Handlers that outlived their lease or timeout by a second. */
  readonly stuck: number;
  /** Renewals that came later than half a lease. */
  readonly lateRenewals: number;
}

/** Counters that all streams of a worker share. */
export type WorkerCounts = { -readonly [Name in Exclude<keyof WorkerStats, "lateRenewals">]: WorkerStats[Name] };

/** How leases are renewed. */
export interface Renewing {
  /** Whether the worker's own streams renew them, because the renewal thread does not, or not yet. */
  isHere: boolean;
  /** Whether tasks may come, since their leases can be renewed. */
  isReady: boolean;
}

/** A delivery from its arrival to the end of its handler. */
interface Delivery {
  readonly task: DeliveredTask;
  readonly taskId: string;
  readonly token: bigint;
  readonly bytes: number;
  slot: number;
  /** Whether its lease is gone, so that its outcome is dropped. */
  isDropped: boolean;
  /** Time at which the handler was asked to stop; undefined: it was not. */
  stoppedMs: number | undefined;
  isStuck: boolean;
}

/** The tasks of one stream of a worker: what runs, whose leases are held, and which outcomes wait for the server. No I/O. */
export class WorkerTasks {
  readonly #logger: Logger;
  readonly #executor: Executor;
  readonly #leases: LeaseTable;
  readonly #renewing: Renewing;
  readonly #counts: WorkerCounts;
  readonly #windowBytes: number;
  /** The places for its tasks. */
  readonly share: Share;
  /** Called when something is to be sent. */
  onChange: () => void = () => undefined;
  // Tasks.
  readonly #running = new Set<Delivery>();
  readonly #held = new Map<string, Delivery>();
  #runningBytes = 0;
  #idle: (() => void)[] = [];
  // Outcomes: those to send, and those sent on the stream in the order of their numbers.
  readonly #unsent = new Queue<Report>();
  readonly #unsettled = new Queue<Report>();
  #undecided: Report[] = [];
  #firstUnsettled = 1n;
  readonly #progress = new Map<Delivery, Uint8Array>();
  // The stream.
  #countsStream: boolean;
  #leaseMs: number;
  #bytesOwed = 0;
  readonly #due = new Set<Delivery>();
  readonly #sentMs = new Map<Delivery, number>();

  constructor(options: {
    logger: Logger;
    executor: Executor;
    leases: LeaseTable;
    renewing: Renewing;
    counts: WorkerCounts;
    share: Share;
    windowBytes: number;
    leaseSeconds: number;
    /** Whether the first stream counts. */
    countsFirst: boolean;
  }) {
    this.#logger = options.logger;
    this.#executor = options.executor;
    this.#leases = options.leases;
    this.#renewing = options.renewing;
    this.#counts = options.counts;
    this.share = options.share;
    this.#windowBytes = options.windowBytes;
    this.#leaseMs = options.leaseSeconds * 1000;
    this.#countsStream = options.countsFirst;
  }

  /** Number of tasks whose handlers have not ended. */
  get running(): number {
    return this.#running.size;
  }

  /** Whether outcomes are to be sent, or to be sent again. */
  get owesOutcomes(): boolean {
    return this.#unsent.size > 0 || this.#unsettled.size > 0 || this.#undecided.length > 0;
  }

  /** Whether outcomes were sent on this stream and not settled. */
  get hasUnsettled(): boolean {
    return this.#unsettled.size > 0;
  }

  /** Resolves once no handler runs. */
  idle(): Promise<void> {
    return this.#running.size === 0 ? Promise.resolve() : new Promise((resolve) => this.#idle.push(resolve));
  }

  /** Starts a stream. */
  streamOpened(leaseSeconds: number, creditsMax: number): void {
    if (this.#countsStream) this.#counts.streams += 1;
    this.#countsStream = true;
    this.#firstUnsettled = 1n;
    this.#leaseMs = leaseSeconds * 1000;
    this.share.open(creditsMax, this.#running.size);
    this.#bytesOwed = Math.max(0, this.#windowBytes - this.#runningBytes);
    this.#sentMs.clear();
  }

  /** Ends a stream: outcomes without an answer go out again on the next one. */
  streamEnded(): void {
    this.share.close();
    this.#unsent.putBack([...this.#undecided, ...this.#unsettled.takeAll()]);
    this.#undecided = [];
    this.#due.clear();
  }

  /** Takes deliveries and starts their handlers; while the worker stops, gives them back. */
  receive(deliveries: readonly Delivered[], isStopping: boolean): void {
    this.share.spend(deliveries.length);
    if (isStopping) {
      for (const { message } of deliveries) {
        const { id: taskId, leaseToken: token = 0n } = message;
        this.#unsent.push(reportOf({ taskId, token }, new Abandon(), this.#logger));
      }
      return;
    }
    if (this.#running.size + deliveries.length > this.share.places) {
      throw new CodeqError("INTERNAL", `the server delivered more than ${this.share.places} tasks`);
    }
    this.#counts.received += deliveries.length;
    const started = deliveries.map((each) => this.#hold(each));
    // All leases are in the table before any handler runs: one that blocks the thread must not cost the others theirs.
    queueMicrotask(() => {
      for (const delivery of started) this.#start(delivery);
    });
  }

  /** Records that the server extended a lease over this stream. */
  extended(taskId: string, token: bigint): void {
    const delivery = this.#held.get(taskId);
    if (delivery?.token === token) this.#leases.touch(delivery.slot);
  }

  /** Gives up a lease that the server no longer knows. */
  lost(taskId: string, token: bigint, kind: StopKind): void {
    const delivery = this.#held.get(taskId);
    if (delivery?.token === token) this.#lose(delivery, kind);
  }

  /** Tells the handlers that the worker begins to stop. */
  drain(): void {
    for (const { task } of this.#running) task.drain();
  }

  /** Gives up every lease: the server takes the tasks back. */
  handBack(): void {
    for (const delivery of [...this.#held.values()]) {
      this.#release(delivery);
      delivery.isDropped = true;
      this.#stop(delivery, "shutdown", "the worker shuts down");
    }
  }

  /** Ends the worker. */
  end(): void {
    this.handBack();
    if (this.#unsent.size > 0) {
      this.#logger.warn(`the worker ends with ${this.#unsent.size} outcomes that the server may not have received`);
    }
  }

  /** Settles the first outcomes of the stream; returns whether the server no longer decides, so that it is to be left. */
  settle(count: number, rejected: readonly OutcomeError[]): boolean {
    if (count > this.#unsettled.size) {
      throw new CodeqError("INTERNAL", `${count} outcomes settled, but ${this.#unsettled.size} were sent`);
    }
    const errors = new Map(rejected.map((error) => [Number(error.number - this.#firstUnsettled), error]));
    let isUndecided = false;
    for (let index = 0; index < count; index += 1) {
      const report = this.#unsettled.shift() as Report;
      const told = errors.size === 0 ? undefined : errors.get(index);
      if (told === undefined) {
        this.#counts.settled += 1;
        continue;
      }
      const error = fromReason(told.reason, told.message);
      if (isCodeqError(error, ...UNDECIDED)) {
        // Sent again on the next stream; its token makes that harmless if it took effect before.
        this.#undecided.push(report);
        isUndecided = true;
      } else {
        this.#reject(report, error);
      }
    }
    this.#firstUnsettled += BigInt(count);
    return isUndecided;
  }

  /** Returns the progress to send now. */
  takeProgress(): MessageInitShape<typeof ProgressSchema>[] {
    if (this.#progress.size === 0) return [];
    const items: MessageInitShape<typeof ProgressSchema>[] = [];
    for (const [delivery, progress] of this.#progress) {
      if (items.length === PROGRESS_ITEMS_MAX) break;
      this.#progress.delete(delivery);
      items.push({ taskId: delivery.taskId, leaseToken: delivery.token, progress });
    }
    return items;
  }

  /** Returns encoded outcomes to send now. */
  takeOutcomes(): Uint8Array[] {
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    for (let next = this.#unsent.first; next !== undefined; next = this.#unsent.first) {
      if (chunks.length >= DEFAULTS.messageItemsMax) break;
      if (chunks.length > 0 && bytes + next.data.length > DEFAULTS.messageBytesMax) break;
      // The server handles a message's progress before its outcomes; progress that waits must go out first.
      if (this.#progress.size > 0 && this.#hasProgress(next)) break;
      this.#unsent.shift();
      this.#unsettled.push(next);
      chunks.push(next.data);
      bytes += next.data.length;
    }
    return chunks;
  }

  /** Returns the heartbeats to send now. */
  takeHeartbeats(): MessageInitShape<typeof HeartbeatSchema>[] {
    if (this.#due.size === 0) return [];
    const items = [...this.#due].slice(0, DEFAULTS.messageItemsMax);
    for (const delivery of items) this.#due.delete(delivery);
    return items.map(({ taskId, token }) => ({ taskId, leaseToken: token }));
  }

  /** Returns the credits to send now. */
  takeCredits(): { credits: number; bytes: number } {
    if (!this.#renewing.isReady || this.#unsettled.size >= DEFAULTS.unsettledMax) return { credits: 0, bytes: 0 };
    const taken = { credits: this.share.grant(), bytes: this.#bytesOwed };
    this.#bytesOwed = 0;
    return taken;
  }

  /** Looks after leases and handlers; called a few times per lease. */
  care(): void {
    const now = monotonicMs();
    for (const delivery of this.#held.values()) {
      const since = this.#leases.sinceExtended(delivery.slot);
      if (since >= this.#leaseMs) {
        this.#lose(delivery, "leaseLost"); // no server confirmed it for a whole lease: another worker may have the task
        continue;
      }
      // A thread that is late gets help, too.
      const renewMs = this.#renewing.isHere ? this.#leaseMs / DEFAULTS.renewalsPerLease : this.#leaseMs / 2;
      const sent = this.#sentMs.get(delivery) ?? Number.NEGATIVE_INFINITY;
      if (since >= renewMs && now - sent >= renewMs / 2 && this.#leases.mayRenew(delivery.slot)) {
        this.#sentMs.set(delivery, now);
        this.#due.add(delivery);
      }
    }
    if (this.#due.size > 0) this.onChange();
    for (const delivery of this.#running) {
      if (delivery.stoppedMs !== undefined && now - delivery.stoppedMs >= STUCK_MS) this.#tellStuck(delivery);
    }
  }

  #hold({ message, bytes }: Delivered): Delivery {
    const taskId = message.id;
    const token = message.leaseToken ?? 0n;
    const older = this.#held.get(taskId);
    if (older !== undefined) this.#lose(older, "leaseLost");
    const timeoutMs = this.#executor.timeoutMs(message.command);
    const limitMs = timeoutMs === undefined ? RENEWED_SECONDS_MAX * 1000 : timeoutMs + STUCK_MS;
    const delivery: Delivery = {
      task: new DeliveredTask(message, (_, progress) => this.#keepProgress(delivery, progress)),
      taskId,
      token,
      bytes,
      slot: this.#leases.add(taskId, token, limitMs),
      isDropped: false,
      stoppedMs: undefined,
      isStuck: false,
    };
    this.#held.set(taskId, delivery);
    this.#running.add(delivery);
    this.#runningBytes += delivery.bytes;
    return delivery;
  }

  #start(delivery: Delivery): void {
    this.#executor.start({
      task: delivery.task,
      finish: (outcome) => this.#finish(delivery, outcome),
      isDropped: () => delivery.isDropped,
      stop: (kind, message) => this.#stop(delivery, kind, message),
    });
  }

  #finish(delivery: Delivery, outcome: Outcome): void {
    if (!this.#running.delete(delivery)) return;
    this.#runningBytes -= delivery.bytes;
    this.share.free();
    this.#bytesOwed += delivery.bytes;
    if (this.#held.get(delivery.taskId) === delivery) this.#release(delivery);
    if (delivery.isDropped) this.#counts.refused += 1;
    else this.#unsent.push(reportOf(delivery, outcome, this.#logger));
    if (this.#running.size === 0) for (const idle of this.#idle.splice(0)) idle();
    this.onChange();
  }

  #keepProgress(delivery: Delivery, progress: unknown): void {
    const data = encode(progress, "progress", PROGRESS_BYTES_MAX);
    if (this.#held.get(delivery.taskId) !== delivery) return;
    this.#progress.set(delivery, data);
    this.onChange();
  }

  #hasProgress(report: Report): boolean {
    for (const { taskId } of this.#progress.keys()) if (taskId === report.taskId) return true;
    return false;
  }

  #reject(report: Report, error: CodeqError): void {
    this.#counts.refused += 1;
    this.#logger.warn(`outcome of task ${report.taskId} (lease token ${report.token}) rejected: ${error.message}`);
    if (isCodeqError(error, ...REPLACED) && !report.isReplacement) {
      // Without an outcome the task would only be delivered again when its lease expires, with no trace of the reason.
      this.#unsent.push(reportOf(report, new Nack(`outcome rejected: ${error.message}`), this.#logger, true));
    }
  }

  #lose(delivery: Delivery, kind: StopKind): void {
    this.#release(delivery);
    this.#progress.delete(delivery);
    delivery.isDropped = true;
    this.#counts.lost += 1;
    const text = kind === "cancelled" ? "was cancelled" : "has lost its lease";
    this.#logger.warn(`task ${delivery.taskId} (lease token ${delivery.token}) ${text}`);
    this.#stop(delivery, kind, `the task ${text}`);
  }

  #release(delivery: Delivery): void {
    this.#held.delete(delivery.taskId);
    this.#due.delete(delivery);
    this.#sentMs.delete(delivery);
    this.#leases.remove(delivery.slot);
    delivery.slot = -1;
  }

  #stop(delivery: Delivery, kind: StopKind, message: string): void {
    if (kind !== "shutdown") delivery.stoppedMs ??= monotonicMs(); // `stop` itself says how long handlers may take
    delivery.task.stop(kind, message);
  }

  #tellStuck(delivery: Delivery): void {
    if (delivery.isStuck) return;
    delivery.isStuck = true;
    this.#counts.stuck += 1;
    const { command, id } = delivery.task;
    this.#logger.error(`the handler of ${command} still runs task ${id}, though its signal aborted: it keeps its place`);
  }
}

