import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { plain, type AuditRecord, type ConnectedWorker, type Queue, type Tenant, type TenantLimits, type TenantUsage } from "../admin-records.js";
import type {
  Callback,
  CallbackAttempt,
  Callbacks,
  CallbacksRetried,
  HeldHost,
  WebhookAnswer,
  WebhookSecrets,
} from "../callback-records.js";
import { AuditRecordSchema } from "../gen/codeq/v1/audit_service_pb.js";
import { GetTopologyResponseSchema, TopologySchema } from "../gen/codeq/v1/cluster_service_pb.js";
import { ConnectedWorkerSchema, QueueSchema } from "../gen/codeq/v1/queue_service_pb.js";
import { ScheduleFireSchema, ScheduleSchema, ScheduleSpecSchema } from "../gen/codeq/v1/schedule_service_pb.js";
import { CreateSubscriptionResponseSchema, SubscriptionSchema } from "../gen/codeq/v1/subscription_service_pb.js";
import { TenantLimitsSchema, TenantSchema, TenantUsageSchema } from "../gen/codeq/v1/tenant_service_pb.js";
import { BackoffSchema, QueuePolicySchema, TopicSchema } from "../gen/codeq/v1/topic_service_pb.js";
import { ExplainTaskResponseSchema, TaskService } from "../gen/codeq/v1/task_service_pb.js";
import {
  CallbackAttemptSchema,
  HeldHostSchema,
  CallbackSchema,
  ListCallbacksResponseSchema,
  RetryCallbacksResponseSchema,
  TestWebhookResponseSchema,
  WebhookSecretsSchema,
} from "../gen/codeq/v1/webhook_service_pb.js";
import { isRepeatable } from "../repeating.js";
import type { Schedule, ScheduleFire, ScheduleSpec } from "../schedule-records.js";
import type { Subscribed, Subscription } from "../subscription-records.js";
import type { BackoffPolicy, QueuePolicy, Topic } from "../topic-records.js";
import { VERSION } from "../version.js";
import { create, type DescMessage, type MessageShape } from "@bufbuild/protobuf";

const ROOT = new URL("../../", import.meta.url);

test("the public API is the one that was reviewed: run scripts/api.mjs after a change of it", async () => {
  const { publicApi } = (await import(new URL("scripts/api.mjs", ROOT).href)) as { publicApi: () => string };
  assert.equal(readFileSync(new URL("api/sdk.api.txt", ROOT), "utf8"), publicApi());
});

test("the reference is the one that the declarations give: run scripts/reference.mjs after a change of them", async () => {
  const { reference } = (await import(new URL("scripts/reference.mjs", ROOT).href)) as { reference: () => string };
  assert.equal(readFileSync(new URL("../../docs/reference/typescript.md", ROOT), "utf8"), reference());
});

test("the version is that of the package", () => {
  assert.equal((JSON.parse(readFileSync(new URL("package.json", ROOT), "utf8")) as { version: string }).version, VERSION);
});

test("the lock file names no registry", () => {
  assert.ok(!readFileSync(new URL("package-lock.json", ROOT), "utf8").includes('"resolved"'));
});

test("plain records have every field of their messages, unset ones as undefined", () => {
  const cases = [
    [QueueSchema, create(QueueSchema, { command: "A", ready: 2n ** 60n })],
    [TenantSchema, create(TenantSchema, { limits: { queuesMax: 5n } })],
    [AuditRecordSchema, create(AuditRecordSchema)],
    [TopologySchema, create(TopologySchema, { members: [{ id: "a" }] })],
    [ExplainTaskResponseSchema, create(ExplainTaskResponseSchema, { reason: 1 })],
    [GetTopologyResponseSchema, create(GetTopologyResponseSchema)],
    [TopicSchema, create(TopicSchema, { policy: {} })],
    [ScheduleSchema, create(ScheduleSchema, { spec: {} })],
  ] as const;
  for (const [schema, message] of cases) {
    assert.deepEqual(Object.keys(plain<object>(schema, message)), schema.fields.map((field) => field.localName));
  }
  const queue = plain<{ ready: bigint; paused: boolean }>(QueueSchema, cases[0][1]);
  assert.deepEqual([queue.ready, queue.paused], [2n ** 60n, false]);
  assert.equal(plain<{ usage: unknown }>(TenantSchema, cases[1][1]).usage, undefined);
  assert.equal(plain<{ reason: string }>(ExplainTaskResponseSchema, cases[4][1]).reason, "QUEUED");
});

/** True if a record has the fields of a message and no others; otherwise false, which does not compile below. */
type Has<Record, Schema extends DescMessage> =
  [keyof Record] extends [Fields<Schema>] ? ([Fields<Schema>] extends [keyof Record] ? true : false) : false;
type Fields<Schema extends DescMessage> = Exclude<keyof MessageShape<Schema>, "$typeName" | "$unknown">;

test("the types of records have the fields of their messages", () => {
  const areWhole: [
    Has<AuditRecord, typeof AuditRecordSchema>,
    Has<Queue, typeof QueueSchema>,
    Has<ConnectedWorker, typeof ConnectedWorkerSchema>,
    Has<Tenant, typeof TenantSchema>,
    Has<TenantLimits, typeof TenantLimitsSchema>,
    Has<TenantUsage, typeof TenantUsageSchema>,
    Has<BackoffPolicy, typeof BackoffSchema>,
    Has<QueuePolicy, typeof QueuePolicySchema>,
    Has<Topic, typeof TopicSchema>,
    Has<Schedule, typeof ScheduleSchema>,
    Has<ScheduleFire, typeof ScheduleFireSchema>,
    Has<ScheduleSpec, typeof ScheduleSpecSchema>,
    Has<Subscription, typeof SubscriptionSchema>,
    Has<Subscribed, typeof CreateSubscriptionResponseSchema>,
    Has<Callback, typeof CallbackSchema>,
    Has<CallbackAttempt, typeof CallbackAttemptSchema>,
    Has<HeldHost, typeof HeldHostSchema>,
    Has<Callbacks, typeof ListCallbacksResponseSchema>,
    Has<CallbacksRetried, typeof RetryCallbacksResponseSchema>,
    Has<WebhookSecrets, typeof WebhookSecretsSchema>,
    Has<WebhookAnswer, typeof TestWebhookResponseSchema>,
  ] = [true, true, true, true, true, true, true, true, true, true, true, true, true, true, true, true, true, true, true, true, true];
  assert.ok(areWhole.every(Boolean));
});

test("which calls may run twice", () => {
  assert.ok(isRepeatable("GetTask", {}));
  assert.ok(!isRepeatable("PurgeQueue", {}));
  assert.ok(!isRepeatable("CreateTask", { spec: {} }));
  assert.ok(isRepeatable("CreateTask", { spec: { idempotencyKey: "k" } }));
  assert.ok(!isRepeatable("SubmitResult", { taskId: "a" }));
  assert.ok(isRepeatable("SubmitResult", { taskId: "a", leaseToken: 1n }));
  assert.ok(!isRepeatable("BatchSubmitResults", { results: [{ leaseToken: 1n }, {}] }));
  assert.ok(isRepeatable("BatchCreateTasks", { atomic: true, idempotencyKey: "k", tasks: [{}] }));
  assert.ok(!isRepeatable("BatchCreateTasks", { atomic: true, tasks: [{}] }));
  assert.ok(isRepeatable("RedriveTasks", { dryRun: true }));
  assert.ok(!isRepeatable("RedriveTasks", {}));
  for (const name of ["PutTopic", "DeleteTopic", "PutSchedule", "HeartbeatSubscription"]) assert.ok(isRepeatable(name, {}), name);
  for (const name of ["DeleteSchedule", "TriggerSchedule", "CreateSubscription", "RetryCallbacks"]) assert.ok(!isRepeatable(name, {}), name);
  assert.equal(TaskService.methods.length, 18);
});
