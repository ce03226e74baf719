/** Every default and limit of the SDK, by the names that the SDKs of all languages share. Times say their unit. */
export interface Defaults {
  /** Tasks that a worker runs at once; these are its credits. */
  readonly concurrency: number;
  /** Length of leases. */
  readonly leaseSeconds: number;
  /** A lease is renewed this many times within its length. */
  readonly renewalsPerLease: number;
  /** Time for running tasks to finish once a worker is stopped. */
  readonly drainSeconds: number;
  /** Longest wait for the server to settle outcomes at the end. */
  readonly leaveSecondsMax: number;
  /** Bytes of payload that a worker holds at once. */
  readonly windowBytes: number;
  /** Timeout of a call or a create. */
  readonly timeoutSeconds: number;
  /** Outcomes not yet settled by the server at which a worker asks for no more tasks. */
  readonly unsettledMax: number;
  /** Outcomes, or heartbeats, in one worker message. */
  readonly messageItemsMax: number;
  /** Bytes of outcomes in one worker message, unless its first outcome is larger. */
  readonly messageBytesMax: number;
  /** Tasks in one producer frame; the server may allow fewer. */
  readonly frameTasksMax: number;
  /** Bytes of one producer frame; the server may allow fewer. */
  readonly frameBytesMax: number;
  /** Creates that wait in a producer; further callers wait, or fail with LIMIT_REACHED if `failFast` is set. */
  readonly inFlightTasksMax: number;
  /** Upper bound of the first random delay before a reconnect. */
  readonly backoffMinMs: number;
  /** Highest upper bound of that delay. */
  readonly backoffMaxMs: number;
  /** Growth of the upper bound with each failed attempt. */
  readonly backoffFactor: number;
  /** Shortest random delay before another server of a cluster is tried. */
  readonly followMinMs: number;
  /** Longest such delay. */
  readonly followMaxMs: number;
  /** Interval between refreshes of the cluster's members. */
  readonly refreshSeconds: number;
  /** Time after which a call that can be repeated moves on to another server. */
  readonly stallSeconds: number;
  /** Interval between pings of a server while calls are open. */
  readonly keepaliveSeconds: number;
  /** Longest wait for the answer to a ping. */
  readonly keepaliveTimeoutSeconds: number;
}

export const DEFAULTS: Defaults = Object.freeze({
  concurrency: 16,
  leaseSeconds: 60,
  renewalsPerLease: 3,
  drainSeconds: 30,
  leaveSecondsMax: 5,
  windowBytes: 16 * 1024 * 1024,
  timeoutSeconds: 30,
  unsettledMax: 4096,
  messageItemsMax: 4096,
  messageBytesMax: 2 * 1024 * 1024,
  frameTasksMax: 4096,
  frameBytesMax: 8 * 1024 * 1024,
  inFlightTasksMax: 65_536,
  backoffMinMs: 200,
  backoffMaxMs: 10_000,
  backoffFactor: 2,
  followMinMs: 50,
  followMaxMs: 500,
  refreshSeconds: 60,
  stallSeconds: 5,
  keepaliveSeconds: 15,
  keepaliveTimeoutSeconds: 5,
});

/** Returns every default and limit of the SDK. */
export function defaults(): Defaults {
  return DEFAULTS;
}
