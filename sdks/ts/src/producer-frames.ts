import { CodeqError, copyOf, fromReason } from "./errors.js";
import type { FrameAck } from "./gen/codeq/v1/producer_service_pb.js";
import type { Item } from "./new-tasks.js";

/** Id of a created task, or why it was not created. */
export type CreateResult = string | CodeqError;

/** Tasks that one caller waits for. */
export class Job {
  readonly items: readonly Item[];
  /** Time at which the caller stops waiting. */
  readonly deadlineMs: number;
  /** Items that are in a frame, or were. */
  taken = 0;
  readonly #results: (CreateResult | undefined)[];
  #missing: number;
  readonly #done: (results: CreateResult[]) => void;
  #isDone = false;

  /** @param done Takes the results, once. */
  constructor(items: readonly Item[], deadlineMs: number, done: (results: CreateResult[]) => void) {
    this.items = items;
    this.deadlineMs = deadlineMs;
    this.#missing = items.length;
    this.#results = new Array<CreateResult | undefined>(items.length);
    this.#done = done;
  }

  /** Whether the caller no longer waits. */
  get isDone(): boolean {
    return this.#isDone;
  }

  /** Records the answer of an item; the last one wakes the caller. */
  resolve(index: number, result: CreateResult): void {
    if (this.#results[index] !== undefined) return;
    this.#results[index] = result;
    this.#missing -= 1;
    if (this.#missing === 0) this.#finish();
  }

  /** Ends the job now: items not yet sent fail with `unsent`, those without an answer with `unanswered`. */
  fail(unsent: CodeqError, unanswered: CodeqError): void {
    for (let index = 0; index < this.items.length; index += 1) {
      this.#results[index] ??= copyOf(index < this.taken ? unanswered : unsent);
    }
    this.#finish();
  }

  #finish(): void {
    if (this.#isDone) return;
    this.#isDone = true;
    this.#done(this.#results as CreateResult[]);
  }
}

/** A run of a job's items. */
export interface Part {
  readonly job: Job;
  readonly start: number;
  readonly count: number;
}

/** Items that travel together, and the jobs that wait for their answers. */
export class Frame {
  readonly chunks: readonly Uint8Array[];
  readonly bytes: number;
  readonly #parts: readonly Part[];

  constructor(chunks: readonly Uint8Array[], bytes: number, parts: readonly Part[]) {
    this.chunks = chunks;
    this.bytes = bytes;
    this.#parts = parts;
  }

  /** The jobs of the frame. */
  *jobs(): Generator<Job> {
    for (const part of this.#parts) yield part.job;
  }

  /**
   * Passes the answers of the frame to its jobs; throws if the ack does not fit the frame.
   *
   * @returns The items to send again: keyed ones of which the server does not know whether they exist.
   */
  resolve(ack: FrameAck): Part[] {
    const ids = ack.taskIds;
    const tasks = this.chunks.length;
    if (ids.length !== tasks) {
      throw new CodeqError("INTERNAL", `ack of ${ids.length} tasks for a frame of ${tasks}`);
    }
    const errors = new Map<number, CodeqError>();
    for (const item of ack.errors) errors.set(item.index, fromReason(item.reason, item.message));
    const again: Part[] = [];
    let at = 0;
    for (const { job, start, count } of this.#parts) {
      for (let index = start; index < start + count; index += 1, at += 1) {
        const error = errors.size === 0 ? undefined : errors.get(at);
        if (error?.reason === "OUTCOME_UNKNOWN" && job.items[index]?.isKeyed) again.push({ job, start: index, count: 1 });
        else job.resolve(index, error ?? (ids[at] as string));
      }
    }
    return again;
  }

  /** Answers the items that cannot be sent again with an error, and returns runs of the others. */
  lose(error: CodeqError): Part[] {
    const again: Part[] = [];
    for (const { job, start, count } of this.#parts) {
      for (let index = start; index < start + count; index += 1) {
        if (job.isDone) continue;
        if (job.items[index]?.isKeyed) again.push({ job, start: index, count: 1 });
        else job.resolve(index, copyOf(error));
      }
    }
    return again;
  }
}

/** Items that are in no frame, first in, first out. */
export class Pending {
  #parts: Part[] = [];
  #head = 0;

  /** Whether something waits to be sent. */
  get isEmpty(): boolean {
    while (this.#head < this.#parts.length && this.#parts[this.#head]?.job.isDone) this.#head += 1;
    if (this.#head === this.#parts.length && this.#head > 0) {
      this.#parts = [];
      this.#head = 0;
    }
    return this.#parts.length === 0;
  }

  /** The jobs with waiting items. */
  *jobs(): Generator<Job> {
    for (let at = this.#head; at < this.#parts.length; at += 1) yield (this.#parts[at] as Part).job;
  }

  /** Adds a job. */
  add(job: Job): void {
    this.#parts.push({ job, start: 0, count: job.items.length });
  }

  /** Puts items that have to be sent again before all others. */
  putBack(parts: readonly Part[]): void {
    if (parts.length === 0) return;
    this.#parts = [...parts, ...this.#parts.slice(this.#head)];
    this.#head = 0;
  }

  /** Returns the next frame; undefined: nothing waits, or the next item is larger than `bytesMax`. */
  cut(tasksMax: number, bytesMax: number): Frame | undefined {
    const chunks: Uint8Array[] = [];
    const parts: Part[] = [];
    let bytes = 0;
    while (chunks.length < tasksMax && !this.isEmpty) {
      const part = this.#parts[this.#head] as Part;
      const { job, start } = part;
      const end = start + Math.min(part.count, tasksMax - chunks.length);
      let at = start;
      for (; at < end; at += 1) {
        const data = (job.items[at] as Item).data;
        if (bytes + data.length > bytesMax) break;
        bytes += data.length;
        chunks.push(data);
      }
      if (at > start) {
        parts.push({ job, start, count: at - start });
        job.taken = Math.max(job.taken, at);
      }
      if (at < start + part.count) {
        this.#parts[this.#head] = { job, start: at, count: start + part.count - at };
        break;
      }
      this.#head += 1;
    }
    return parts.length === 0 ? undefined : new Frame(chunks, bytes, parts);
  }
}
