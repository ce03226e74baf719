import { Backoff } from "./backoff.js";
import { monotonicMs } from "./clock.js";
import type { Endpoint } from "./endpoint.js";
import type { LeaseTable } from "./lease-table.js";
import type { StopKind } from "./records.js";
import { SHARDS_MAX, ShardSearch } from "./shard-search.js";
import type { Executor } from "./worker-handlers.js";
import { Share } from "./worker-places.js";
import { WorkerStream, type WorkerSettings } from "./worker-stream.js";
import { WorkerTasks, type Renewing, type WorkerCounts, type WorkerStats } from "./worker-tasks.js";

/** Places for each shard below which one stream is better: a stream without work keeps a place. */
const PLACES_MIN = 4;

/**
 * Shortest time between two changes of the number of shards that the streams follow. Addresses of servers that have
 * different numbers must not make them start over without end; until then, streams are over all shards.
 */
const CHANGE_MS_MIN = 10_000;

/** A stream and its tasks. */
interface Branch {
  readonly tasks: WorkerTasks;
  readonly stream: WorkerStream;
}

/**
 * The streams of one worker: one, or one for each shard of a server that has several. The process of a shard serves a
 * stream for that shard without a hop between processes. Streams whose server turns out to have another number of shards
 * retire: they only report the tasks that they have, and new ones take over their places.
 */
export class Branches {
  readonly #endpoint: Endpoint;
  readonly #settings: WorkerSettings;
  readonly #executor: Executor;
  readonly #leases: LeaseTable;
  readonly #renewing: Renewing;
  readonly #counts: WorkerCounts = { streams: 0, received: 0, settled: 0, refused: 0, lost: 0, stuck: 0 };
  readonly #shares = new Set<Share>();
  /** Those that take tasks, in the order of their shards; then those that retire. */
  #all: Branch[] = [];
  #shards = 1;
  #changedMs = Number.NEGATIVE_INFINITY;
  readonly #running = new Set<Promise<void>>();
  #failure: unknown;

  constructor(endpoint: Endpoint, settings: WorkerSettings, executor: Executor, leases: LeaseTable, renewing: Renewing) {
    this.#endpoint = endpoint;
    this.#settings = settings;
    this.#executor = executor;
    this.#leases = leases;
    this.#renewing = renewing;
    this.#all = this.#branches(settings.concurrency);
  }

  /** Number of tasks whose handlers have not ended. */
  get running(): number {
    return this.#all.reduce((sum, { tasks }) => sum + tasks.running, 0);
  }

  /** Counters. */
  get stats(): WorkerStats {
    return { ...this.#counts, lateRenewals: this.#leases.lateRenewals };
  }

  /** Works until stopped; rejects if the server refuses the worker for good. */
  async run(): Promise<void> {
    for (const branch of this.#all) this.#start(branch);
    while (this.#running.size > 0) await Promise.all(this.#running); // others may have started meanwhile
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Stops taking tasks, and ends `run` once the running ones have ended, at the latest after `drainSeconds`. */
  stop(drainSeconds: number): void {
    for (const { stream } of this.#all) stream.stop(drainSeconds);
  }

  /** Resolves once no handler runs. */
  async idle(): Promise<void> {
    await Promise.all(this.#all.map(({ tasks }) => tasks.idle()));
  }

  /** Looks after leases and handlers; called a few times per lease. */
  care(): void {
    for (const { tasks } of this.#all) tasks.care();
  }

  /** Gives up a lease that the server no longer knows. */
  lost(taskId: string, token: bigint, kind: StopKind): void {
    for (const { tasks } of this.#all) tasks.lost(taskId, token, kind);
  }

  /** Takes that leases can be renewed now. */
  ready(): void {
    this.#renewing.isReady = true;
    for (const { tasks } of this.#all) tasks.onChange();
  }

  /** Returns new branches, over which places are divided evenly. */
  #branches(places: number): Branch[] {
    const count = this.#shards;
    return Array.from({ length: count }, (_, shard) => {
      const tasks = new WorkerTasks({
        logger: this.#endpoint.logger,
        executor: this.#executor,
        leases: this.#leases,
        renewing: this.#renewing,
        counts: this.#counts,
        share: new Share(this.#shares, Math.ceil((places - shard) / count)),
        windowBytes: Math.ceil(this.#settings.windowBytes / count),
        leaseSeconds: this.#settings.leaseSeconds,
        countsFirst: shard === 0,
      });
      const stream = new WorkerStream(this.#endpoint, this.#settings, tasks, new Backoff(), {
        search: count === 1 ? undefined : new ShardSearch(this.#endpoint.servers, shard, count),
        startsOver: (shards) => this.#startsOver(shards),
      });
      return { tasks, stream };
    });
  }

  #start(branch: Branch): void {
    const running = branch.stream
      .run()
      .catch((error: unknown) => {
        this.#failure ??= error;
        for (const { stream } of this.#all) stream.abort();
      })
      .finally(() => {
        this.#running.delete(running);
        if (!branch.stream.isRetired || branch.tasks.running > 0) return;
        branch.tasks.share.leave();
        this.#all = this.#all.filter((each) => each !== branch);
      });
    this.#running.add(running);
  }

  /** Replaces the streams if a server has another number of shards than they are for; returns whether it does. */
  #startsOver(shards: number): boolean {
    const isKnown = shards > 0; // else the server is older than the field
    const places = this.#settings.concurrency / PLACES_MIN;
    const count = shards <= Math.min(SHARDS_MAX, places) ? Math.max(1, shards) : 1;
    const now = monotonicMs();
    if (!isKnown || count === this.#shards || now - this.#changedMs < CHANGE_MS_MIN) return false;
    if (this.#shards > 1) this.#changedMs = now;
    this.#shards = count;
    let free = 0;
    for (const { stream } of this.#all) if (!stream.isRetired) free += stream.retire();
    const fresh = this.#branches(free);
    this.#all = [...fresh, ...this.#all];
    for (const branch of fresh) this.#start(branch);
    return true;
  }
}
