import type { RawJson } from "./payloads.js";

/** The definition of a schedule. Exactly one of `cron`, `every` and `at` says when it fires. */
export interface ScheduleSpec {
  /** Cron expression of 5 fields, or 6 (seconds first), or `@yearly` to `@hourly` and `@every DURATION`. */
  readonly cron?: string | undefined;
  /** Interval such as `90s` or `1h30m`, counted from `startAt` or else from the creation. At most 3660 days. */
  readonly every?: string | undefined;
  /** The only instant, in the future. */
  readonly at?: Date | undefined;
  /** IANA name of the time zone of `cron`. Default: UTC. */
  readonly timeZone?: string | undefined;
  /** Command of the tasks. */
  readonly command: string;
  /**
   * Payload of the tasks, at most 64 KiB of JSON. In its strings, `{{scheduledAt}}` is replaced by the instant. Default:
   * null. The server's answers have a RawJson with the text as it was sent.
   */
  readonly payload?: unknown;
  /** Priority of the tasks, 0 to 9. Default: 0. */
  readonly priority?: number | undefined;
  /** Deliveries after which a task goes to the dead-letter queue, 1 to 1000. Default: the queue's. */
  readonly maxAttempts?: number | undefined;
  /** Delay of the tasks after they are created, in seconds, at most 315360000 (10 years). Default: 0. */
  readonly delaySeconds?: number | undefined;
  /** Seconds after which a task that still waits ends as FAILED with the error EXPIRED. Default: never. */
  readonly expireSeconds?: number | undefined;
  /** What happens at an instant if a task of the schedule has not ended. Default: allow, which creates another. */
  readonly overlap?: "allow" | "skip" | "queueOne" | "cancelRunning" | undefined;
  /** Which missed instants fire: the latest one (default), none, or the latest `misfireMax`. */
  readonly misfire?: "one" | "skip" | "all" | undefined;
  /** Most missed instants that `all` fires, 1 to 100. Default: 100. */
  readonly misfireMax?: number | undefined;
  /** Longest delay of a fire in seconds, at most 86400; the delay is a hash of schedule and instant. Default: 0. */
  readonly jitterSeconds?: number | undefined;
  /** Time before which there are no instants. Default: no limit. */
  readonly startAt?: Date | undefined;
  /** Time after which there are no instants. Default: no limit. */
  readonly endAt?: Date | undefined;
  /** Whether the schedule is paused. Default: false. */
  readonly paused?: boolean | undefined;
}

/** A schedule, which creates tasks at the instants of its definition. */
export interface Schedule {
  /** Name, unique within the tenant. */
  readonly name: string;
  /** Definition, with the defaults filled in. */
  readonly spec: ScheduleSpec & { readonly payload: RawJson };
  /** The next instants, at most ten, in RFC 3339 with the offset of the time zone; empty in lists. */
  readonly next: readonly string[];
  /** Whether no instants follow. */
  readonly finished: boolean;
  /** Version of the time zone data with which the stored instants were computed. */
  readonly tzdataVersion: string;
  /** Time of creation. */
  readonly createdAt: Date | undefined;
  /** Time of the last change of the definition. */
  readonly updatedAt: Date | undefined;
  /** Tasks created, including triggered and backfilled ones. */
  readonly firedTotal: bigint;
  /** Instants left out because of `overlap`. */
  readonly skippedTotal: bigint;
  /** Missed instants left out because of `misfire`. */
  readonly missedTotal: bigint;
  /** Ids of the tasks that may not have ended, oldest first; empty if `overlap` is `allow`. */
  readonly running: readonly string[];
  /** Instant that waits until a task has ended, because `overlap` is `queueOne`. */
  readonly queuedAt: Date | undefined;
}

/** A task that a schedule created. */
export interface ScheduleFire {
  /** Instant for which the task was created; for a trigger, the time of the call. */
  readonly scheduledAt: Date | undefined;
  /** Time at which the task was created. */
  readonly firedAt: Date | undefined;
  /** Why: the instant came, or a call asked for it. */
  readonly kind: "INSTANT" | "TRIGGER" | "BACKFILL" | undefined;
  /** Id of the task. */
  readonly taskId: string;
}

/** What a backfill did. */
export interface Backfilled {
  /** Tasks that it created, in the order of their instants. */
  readonly fires: readonly ScheduleFire[];
  /** Instants whose task was already stored. */
  readonly duplicates: number;
}

/** What a new computation of a schedule's instants changed. */
export interface Recomputed {
  /** Whether any stored instant changed. */
  readonly moved: boolean;
  /** Instants stored before, in RFC 3339 with the offset of the time zone. */
  readonly before: readonly string[];
  /** Instants stored now. */
  readonly after: readonly string[];
  /** Version of the time zone data used. */
  readonly tzdataVersion: string;
}
