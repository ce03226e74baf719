import { getOption, isMessage, type DescEnum, type DescField, type DescMessage, type Message } from "@bufbuild/protobuf";
import { reflect, type ReflectMessage } from "@bufbuild/protobuf/reflect";
import { TimestampSchema } from "@bufbuild/protobuf/wkt";
import { json_embedded } from "./gen/codeq/options/v1/options_pb.js";
import { TaskSchema } from "./gen/codeq/v1/task_pb.js";
import { RawJson, textOfJson } from "./payloads.js";
import { dateOf, Task } from "./records.js";

/** A queue: the tasks of one command of one tenant. Counts are exact. */
export interface Queue {
  /** Command. */
  readonly command: string;
  /** Tasks that wait and can be claimed. */
  readonly ready: bigint;
  /** Tasks that wait for their due time. */
  readonly scheduled: bigint;
  /** Leased tasks. */
  readonly claimed: bigint;
  /** Tasks in the dead-letter queue. */
  readonly dlq: bigint;
  /** Age of the oldest claimable task in seconds; 0: there is none. */
  readonly oldestAgeSeconds: number;
  /** Whether the queue is paused: it accepts tasks but delivers none. */
  readonly paused: boolean;
  /** Tasks created per second, as a moving average over about a minute. */
  readonly createdRate: number;
  /** Tasks completed per second, averaged in the same way. */
  readonly completedRate: number;
  /** Whether a purge is in progress, during which nothing is delivered. */
  readonly purging: boolean;
  /** Tasks that have ended as FAILED since the queue was created. */
  readonly failedTotal: bigint;
}

/** An open stream of a worker. */
export interface ConnectedWorker {
  /** Worker id, which holds the leases. */
  readonly workerId: string;
  /** Commands that it asked for, as far as the caller sees their tasks; empty: all that its token allows. */
  readonly commands: readonly string[];
  /** Tasks in progress that were delivered over the stream. */
  readonly claimed: bigint;
  /** Further tasks that it accepts at the moment. */
  readonly credits: bigint;
  /** SDK, such as codeq-go; empty if it did not say. */
  readonly sdk: string;
  /** Version of the SDK; empty if it did not say. */
  readonly version: string;
  /** Address from which it is connected. */
  readonly origin: string;
  /** When it connected. */
  readonly connectedAt: Date | undefined;
}

/** Dead letters with the same error. */
export interface DeadLetterGroup {
  /** The error. */
  readonly error: string;
  /** Number of tasks. */
  readonly count: bigint;
}

/** A page of dead letters. */
export interface DeadLetters {
  /** Tasks, in the requested order. */
  readonly tasks: readonly Task[];
  /** Token of the next page; empty on the last page. */
  readonly nextPageToken: string;
  /** The largest groups of equal errors; only on the first page. */
  readonly groups: readonly DeadLetterGroup[];
  /** Tasks in the dead-letter queue. */
  readonly total: bigint;
}

/** What a redrive did. */
export interface Redriven {
  /** Tasks that matched. */
  readonly matched: bigint;
  /** Tasks redriven; 0 for a dry run and in the background. */
  readonly redriven: bigint;
  /** Whether it continues in the background. */
  readonly inBackground: boolean;
  /** Token of the next call; empty if nothing is left. */
  readonly nextPageToken: string;
}

/** What a task waits for. */
export type WaitReason = "QUEUED" | "PAUSED" | "DELAYED" | "NO_WORKER" | "LEASED" | "ENDED" | "PURGING" | "LIMITED" | "KEY";

/** A kind of keys of tasks. */
export type KeyKind = "CONCURRENCY" | "RATE" | "ORDERING";

/** The key that a task waits for. */
export interface KeyWait {
  /** Kind of the key. */
  readonly kind: KeyKind | undefined;
  /** The key. */
  readonly key: string;
  /** Tasks leased at a time, or deliveries per second; undefined: no limit. */
  readonly limit: number | undefined;
  /** Tasks with the key that are leased or about to be. */
  readonly holders: bigint;
  /** Approximate position among those that wait for the key, from 1. */
  readonly position: bigint;
  /** Time until which a worker has parked the key; undefined: it is not parked. */
  readonly parkedUntil: Date | undefined;
}

/** Why a task waits. Values that do not apply are undefined. */
export interface Explanation {
  /** Id of the task. */
  readonly taskId: string;
  /** State of the task. */
  readonly status: string | undefined;
  /** The first thing that it waits for. */
  readonly reason: WaitReason | undefined;
  /** Whether its queue is paused. */
  readonly paused: boolean;
  /** Approximate number of tasks that are delivered before it. */
  readonly ahead: bigint | undefined;
  /** Seconds until it is due, or until the queue's rate allows a delivery. */
  readonly delaySeconds: number | undefined;
  /** Worker that holds it. */
  readonly workerId: string | undefined;
  /** End of its lease unless it is extended. */
  readonly leaseUntil: Date | undefined;
  /** Time at which it expires if it still waits. */
  readonly expireAt: Date | undefined;
  /** Limit of its queue's policy that it waits for: maxConsumers or ratePerSecond. */
  readonly limit: string | undefined;
  /** Value of maxConsumers. */
  readonly limitMax: bigint | undefined;
  /** Number of tasks that count for maxConsumers. */
  readonly limitUsed: bigint | undefined;
  /** The key that it waits for. */
  readonly keyWait: KeyWait | undefined;
}

/** A rate limit: a token bucket that refills evenly. */
export interface RateLimit {
  /** Cost that flows back per minute; 0: not limited. */
  readonly requestsPerMinute: bigint;
  /** Cost that the bucket holds; 0: not limited. */
  readonly burstSize: bigint;
}

/** Limits of a tenant. An undefined one inherits: a tenant's from `_default`, and that one's from the server. */
export interface TenantLimits {
  /** Tasks created and cancelled per minute by all producers together. */
  readonly producer?: RateLimit | undefined;
  /** Tasks claimed per minute by all workers together. */
  readonly worker?: RateLimit | undefined;
  /** Administrative calls per minute. */
  readonly admin?: RateLimit | undefined;
  /** As `producer`, for each token. */
  readonly producerToken?: RateLimit | undefined;
  /** As `worker`, for each token. */
  readonly workerToken?: RateLimit | undefined;
  /** As `admin`, for each token. */
  readonly adminToken?: RateLimit | undefined;
  /** Tasks that wait; 0: not limited. */
  readonly waitingTasksMax?: bigint | undefined;
  /** Bytes of payloads and results that are stored; 0: not limited. */
  readonly storedBytesMax?: bigint | undefined;
  /** Leased tasks; 0: not limited. */
  readonly leasesMax?: bigint | undefined;
  /** Queues; 0: only the server's limits apply. */
  readonly queuesMax?: bigint | undefined;
  /** Open streams; 0: only the server's limit applies. A running worker has two. */
  readonly streamsMax?: bigint | undefined;
  /** Queues that may be created per minute; 0: not limited. */
  readonly newQueuesPerMinute?: bigint | undefined;
}

/** What a tenant uses now, and what it has used so far. */
export interface TenantUsage {
  /** Tasks that wait. */
  readonly waitingTasks: bigint;
  /** Leased tasks. */
  readonly leases: bigint;
  /** Bytes of payloads and results that are stored; an estimate if tasks differ in size. */
  readonly storedBytes: bigint;
  /** Queues. */
  readonly queues: bigint;
  /** Open streams on the queried server. */
  readonly streams: bigint;
  /** Tasks created since the first one. */
  readonly createdTotal: bigint;
  /** Deliveries since the first one. */
  readonly deliveredTotal: bigint;
  /** Tasks completed since the first one. */
  readonly completedTotal: bigint;
  /** Tasks that ended as FAILED since the first one. */
  readonly failedTotal: bigint;
  /** Bytes of payloads and results accepted since the first one. */
  readonly acceptedBytesTotal: bigint;
  /** Calls and frames refused or delayed by a rate limit since the server started. */
  readonly rateLimitedTotal: bigint;
  /** Calls and items refused by a quota since the server started. */
  readonly quotaRefusedTotal: bigint;
}

/** A tenant with its limits and its usage. */
export interface Tenant {
  /** Name; `_default` for the limits of all tenants without limits of their own. */
  readonly name: string;
  /** Limits of its own. */
  readonly limits: TenantLimits | undefined;
  /** Limits in force. */
  readonly effective: TenantLimits | undefined;
  /** Usage; undefined for `_default`. */
  readonly usage: TenantUsage | undefined;
}

/** An administrative act, or a refused access. */
export interface AuditRecord {
  /** Time of the decision. */
  readonly at: Date | undefined;
  /** Subject of the caller's token; empty: the token was not accepted. */
  readonly subject: string;
  /** Tenant that the call acted on; empty: the whole server. */
  readonly tenant: string;
  /** Name of the RPC. */
  readonly call: string;
  /** What the call acted on. */
  readonly object: string;
  /** State before the act, as JSON. */
  readonly before: string | undefined;
  /** State after the act, as JSON. */
  readonly after: string | undefined;
  /** `OK`, or the reason of the rejection. */
  readonly outcome: string;
  /** Address of the caller. */
  readonly origin: string;
  /** Number of refusals that the record stands for; 0: an act that was carried out. */
  readonly count: bigint;
}

/** A server, for its clients. */
export interface ServerInfo {
  /** Version. */
  readonly version: string;
  /** Mode, such as `single`. */
  readonly mode: string;
  /** Whether every acknowledgement waits for fsync. */
  readonly fsync: boolean;
  /** Storage engine. */
  readonly persistenceProvider: string;
  /** Number of shards. */
  readonly numShards: number;
  /** Largest payload or result in bytes. */
  readonly payloadBytesMax: number;
  /** Most items of a batch call. */
  readonly batchItemsMax: number;
  /** Whether the code of the hot paths is compiled. */
  readonly compiled: boolean;
}

/** A copy of the store and its artifacts. */
export interface Backup {
  /** Name of its folder. */
  readonly name: string;
  /** Time at which it was completed. */
  readonly createdAt: Date | undefined;
  /** Number of artifact files. */
  readonly artifacts: bigint;
}

/** A member of a cluster. */
export interface TopologyMember {
  /** Name. */
  readonly id: string;
  /** Address of its gRPC services. */
  readonly grpcAddr: string | undefined;
  /** Base URL of its REST API. */
  readonly httpAddr: string | undefined;
  /** Whether it leads. */
  readonly isLeader: boolean;
}

/** The members of a cluster, as the queried server knows them. */
export interface Topology {
  /** Whether the server is a member of a cluster. */
  readonly raftEnabled: boolean;
  /** Name of the leader; empty: none is known. */
  readonly leaderId: string;
  /** Address of the leader's gRPC services. */
  readonly leaderGrpcAddr: string | undefined;
  /** Base URL of the leader's REST API. */
  readonly leaderHttpAddr: string | undefined;
  /** Members ordered by name; empty without a cluster. */
  readonly members: readonly TopologyMember[];
}

/** What became of a task that was given back. */
export interface Returned {
  /** PENDING, SCHEDULED or DLQ. */
  readonly status: string | undefined;
  /** Delay applied in seconds, rounded up. */
  readonly delaySeconds: number;
}

/** The content of a file of a result. */
export interface ArtifactContent {
  /** Name. */
  readonly name: string;
  /** Media type; empty: unknown. */
  readonly contentType: string;
  /** Content. */
  readonly content: Uint8Array;
  /** SHA-256 of the content in hexadecimal. */
  readonly sha256: string;
}

/**
 * Returns the plain form of a message: times as Date, enums by name, tasks as Task, JSON as RawJson, 64-bit numbers as
 * bigint. The interfaces of records describe these forms; a test compares them with the protos.
 */
export function plain<T>(schema: DescMessage, message: Message): T {
  return plainOf(reflect(schema, message)) as T;
}

function plainOf(message: ReflectMessage): unknown {
  if (isMessage(message.message, TimestampSchema)) return dateOf(message.message);
  if (isMessage(message.message, TaskSchema)) return new Task(message.message);
  const record: Record<string, unknown> = {};
  for (const field of message.fields) record[field.localName] = valueOf(message, field);
  return record;
}

function valueOf(message: ReflectMessage, field: DescField): unknown {
  switch (field.fieldKind) {
    case "list": {
      const items = [...message.get(field)];
      return field.listKind === "message" ? items.map((each) => plainOf(each as ReflectMessage)) : items;
    }
    case "message":
      return message.isSet(field) ? plainOf(message.get(field)) : undefined;
    case "enum":
      return enumName(field.enum, message.get(field));
    case "scalar":
      if (field.proto.proto3Optional && !message.isSet(field)) return undefined;
      return getOption(field, json_embedded) ? new RawJson(textOfJson(message.get(field) as Uint8Array)) : message.get(field);
    default:
      return undefined;
  }
}

function enumName(type: DescEnum, value: number): string | undefined {
  const name = type.value[value]?.localName;
  return name === "UNSPECIFIED" ? undefined : name;
}
