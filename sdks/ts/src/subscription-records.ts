/** How subscriptions share the signals of a command. */
export type DeliveryMode = "fanout" | "group" | "hash";

/** A URL that gets signals when work becomes ready. */
export interface Subscription {
  /** Id, a UUID. */
  readonly subscriptionId: string;
  /** URL that gets the signals. */
  readonly callbackUrl: string;
  /** Commands whose work is signalled; none: every command of the tenant. */
  readonly eventTypes: readonly string[];
  /** How subscriptions share signals. */
  readonly deliveryMode: DeliveryMode;
  /** Name of the group; empty unless the mode is `group`. */
  readonly groupId: string;
  /** Shortest time between two signals of one command in seconds; 0: none. */
  readonly minIntervalSeconds: number;
  /** Time to live without a heartbeat in seconds. */
  readonly ttlSeconds: number;
  /** Time of its creation. */
  readonly createdAt: Date | undefined;
  /** Time at which it ends without a heartbeat. */
  readonly expiresAt: Date | undefined;
  /** Subject of the token that made it. */
  readonly subject: string;
}

/** The id of a subscription, and how long it lasts. */
export interface Subscribed {
  /** Id, a UUID. */
  readonly subscriptionId: string;
  /** Time at which it ends without a heartbeat. */
  readonly expiresAt: Date | undefined;
}
