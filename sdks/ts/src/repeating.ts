import type { TaskSpec } from "./gen/codeq/v1/task_pb.js";
import { newKey } from "./new-tasks.js";

/** Calls that may run twice, whatever they say: reads, and those that only reach a state. */
const REPEATABLE: ReadonlySet<string> = new Set([
  "GetTask",
  "GetTaskResult",
  "GetTaskArtifact",
  "ListTasks",
  "ExplainTask",
  "ClaimTask", // tasks in a lost answer are delivered again when their leases expire
  "ClaimTasks",
  "HeartbeatTask",
  "CancelTask",
  "ListQueues",
  "GetQueue",
  "ListWorkers",
  "PauseQueue",
  "ResumeQueue",
  "ListDeadLetters",
  "ListTopics",
  "GetTopic",
  "PutTopic",
  "DeleteTopic",
  "ListSchedules",
  "GetSchedule",
  "PutSchedule",
  "PauseSchedule",
  "ResumeSchedule",
  "BackfillSchedule",
  "RecomputeSchedule",
  "GetScheduleHistory",
  "HeartbeatSubscription",
  "GetSubscription",
  "ListSubscriptions",
  "ListTenantSubscriptions",
  "ListTenants",
  "GetTenant",
  "UpdateTenant",
  "GetUsage",
  "ListAuditRecords",
  "GetServerInfo",
  "GetRaftStatus",
  "GetTopology",
  "ListTaskCallbacks",
  "ListCallbacks",
  "PutWebhookSecrets",
  "GetWebhookSecrets",
  "DeleteWebhookSecrets",
  "PauseWebhooks",
  "ResumeWebhooks",
]);

/** Calls that may run twice if they name their lease. */
const FENCED: ReadonlySet<string> = new Set(["SubmitResult", "NackTask", "AbandonTask", "ReportProgress"]);

/** The fields that decide on it, of requests of all kinds. */
interface Request {
  readonly leaseToken?: bigint | undefined;
  readonly results?: readonly Request[];
  readonly spec?: TaskSpec | undefined;
  readonly tasks?: readonly TaskSpec[];
  readonly atomic?: boolean;
  readonly idempotencyKey?: string | undefined;
  readonly dryRun?: boolean;
}

/** Returns whether a call may run twice, so that it is sent again when its answer is lost. */
export function isRepeatable(method: string, request: object): boolean {
  if (REPEATABLE.has(method)) return true;
  const { leaseToken, results = [], spec, tasks = [], atomic, idempotencyKey, dryRun } = request as Request;
  if (FENCED.has(method)) return leaseToken !== undefined;
  switch (method) {
    case "BatchSubmitResults":
      return results.every((each) => each.leaseToken !== undefined);
    case "CreateTask":
      return spec?.idempotencyKey !== undefined;
    case "BatchCreateTasks":
      return atomic ? idempotencyKey !== undefined : tasks.every((each) => each.idempotencyKey !== undefined);
    case "RedriveTasks":
      return dryRun === true;
    default:
      return false;
  }
}

/** Gives each create of a request that has neither key nor id a random key, so that it may run twice. */
export function addKeys(method: string, request: object): void {
  const { spec, tasks = [], atomic } = request as Request;
  if (method === "CreateTask" && spec !== undefined) addKey(spec);
  if (method !== "BatchCreateTasks") return;
  if (!atomic) tasks.forEach(addKey);
  else if (tasks.every((each) => each.taskId === undefined)) {
    (request as { idempotencyKey?: string }).idempotencyKey ??= newKey();
  }
}

function addKey(spec: TaskSpec): void {
  if (spec.taskId === undefined) spec.idempotencyKey ??= newKey();
}
