import type { RawJson } from "./payloads.js";

/** How long a task waits after a nack that names no delay. */
export interface BackoffPolicy {
  /** How the delay grows with the number of deliveries. Default: as configured. */
  readonly policy?: "fixed" | "linear" | "exponential" | "exp_equal_jitter" | "exp_full_jitter" | undefined;
  /** First delay in seconds, 1 to 43200. Default, also for 0: as configured. */
  readonly baseSeconds?: number | undefined;
  /** Largest delay in seconds, 1 to 43200. Default, also for 0: as configured. */
  readonly maxSeconds?: number | undefined;
}

/** How a queue treats its tasks. The server's defaults apply in place of undefined values, and of numbers that are 0. */
export interface QueuePolicy {
  /** Priorities that tasks may have: up to 10 different ones, 0 to 9. Default, also for none: all. */
  readonly priorityTiers?: readonly number[] | undefined;
  /** Most deliveries of a task, 1 to 1000: the default, and the most that a task may ask for. */
  readonly maxAttempts?: number | undefined;
  /** Command that gets a new task for each task that goes to the dead-letter queue. */
  readonly deadLetterTopicRef?: string | undefined;
  /** Seconds for which ended tasks are kept. */
  readonly retentionSeconds?: number | undefined;
  /** Most tasks that may be leased at a time, 1 to 10000. */
  readonly maxConsumers?: number | undefined;
  /** Priority of tasks created with priority 0, or none; one of the tiers. */
  readonly defaultPriority?: number | undefined;
  /** As `retentionSeconds`, for COMPLETED tasks. */
  readonly completedRetentionSeconds?: number | undefined;
  /** As `retentionSeconds`, for FAILED and CANCELLED tasks. */
  readonly failedRetentionSeconds?: number | undefined;
  /** As `retentionSeconds`, for tasks in the dead-letter queue. */
  readonly dlqRetentionSeconds?: number | undefined;
  /** Seconds of the leases of claims and streams that name no length, 1 to 43200. */
  readonly defaultLeaseSeconds?: number | undefined;
  /** `expireSeconds` of tasks that name none, up to 315360000 (10 years). */
  readonly defaultExpireSeconds?: number | undefined;
  /** Delay after a nack that names none. */
  readonly backoff?: BackoffPolicy | undefined;
  /** URL to which the ends of tasks that name no webhook are reported. Viewers do not see it. */
  readonly webhook?: string | undefined;
  /** Largest payload in bytes, up to 1048576. */
  readonly payloadBytesMax?: number | undefined;
  /** JSON Schema (2020-12) that payloads must fit: an object. A topic as it is read has it as `RawJson`. */
  readonly payloadSchema?: Readonly<Record<string, unknown>> | RawJson | undefined;
  /** Most tasks with the same concurrency key that may be leased at a time, 1 to 10000. */
  readonly concurrencyPerKey?: number | undefined;
  /** Deliveries per second on average, 0.001 to 1000000. */
  readonly ratePerSecond?: number | undefined;
  /** Deliveries at once after a pause, of the queue and of a rate key, 1 to 1000000. Default: as many as in a second. */
  readonly rateBurst?: number | undefined;
  /** Deliveries of tasks with the same rate key per second on average, 0.001 to 1000000. */
  readonly ratePerKeyPerSecond?: number | undefined;
  /** What happens to a task whose concurrency key is at the limit. Default: it waits. */
  readonly atKeyLimit?: "wait" | "cancel_running" | "drop_newest" | undefined;
  /** Concurrency key of tasks that name none: a JSON pointer into the payload, such as /customer/id. */
  readonly concurrencyKeyPath?: string | undefined;
  /** The same for the rate key. */
  readonly rateKeyPath?: string | undefined;
  /** The same for the ordering key. */
  readonly orderingKeyPath?: string | undefined;
}

/** The policy of a command. */
export interface Topic {
  /** Tenant and command, separated by a dot. */
  readonly topicId: string;
  /** Tenant. */
  readonly tenantId: string;
  /** Command. */
  readonly topicName: string;
  /** The policy, with the tiers in ascending order. */
  readonly policy: QueuePolicy | undefined;
  /** Number of the policy: 1 for the first one since the topic was created, then one more with each change. */
  readonly version: bigint;
  /** Time at which the topic was created. */
  readonly createdAt: Date | undefined;
  /** Time of the last change. */
  readonly updatedAt: Date | undefined;
  /** Whether the call created the topic. Set by `putTopic`. */
  readonly created: boolean | undefined;
}
