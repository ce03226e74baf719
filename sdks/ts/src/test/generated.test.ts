// Tests the generated messages and services as a client would use them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { create, fromBinary, fromJson, toBinary, toJson } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { ErrorReason } from "../gen/codeq/v1/error_pb.js";
import { ProducerService } from "../gen/codeq/v1/producer_service_pb.js";
import { QueueService } from "../gen/codeq/v1/queue_service_pb.js";
import { ServerService } from "../gen/codeq/v1/server_service_pb.js";
import { TaskSchema, TaskStatus } from "../gen/codeq/v1/task_pb.js";
import { TaskService } from "../gen/codeq/v1/task_service_pb.js";
import { WorkerService } from "../gen/codeq/v1/worker_service_pb.js";

// A lease token above 2^53, where a JavaScript number would lose digits.
const LEASE_TOKEN = 2n ** 63n + 1n;

function claimedTask() {
  return create(TaskSchema, {
    id: "order-42",
    command: "PROCESS_ORDER",
    payload: new TextEncoder().encode('{"total":12.30}'),
    priority: 9,
    maxAttempts: 5,
    status: TaskStatus.CLAIMED,
    tenantId: "shop",
    attempts: 1,
    workerId: "billing/1",
    leaseToken: LEASE_TOKEN,
    createdAt: timestampFromDate(new Date("2030-01-02T03:04:05.678Z")),
  });
}

test("a task survives the binary form with every field", () => {
  const task = claimedTask();
  assert.deepEqual(fromBinary(TaskSchema, toBinary(TaskSchema, task)), task);
});

test("a task survives the JSON form with every field", () => {
  const task = claimedTask();
  assert.deepEqual(fromJson(TaskSchema, toJson(TaskSchema, task)), task);
});

test("the JSON form keeps the lease token as a string and times in UTC", () => {
  const json = toJson(TaskSchema, claimedTask()) as Record<string, unknown>;
  assert.equal(json["leaseToken"], LEASE_TOKEN.toString());
  assert.equal(json["createdAt"], "2030-01-02T03:04:05.678Z");
});

test("an absent optional field differs from its zero value", () => {
  const task = create(TaskSchema, { id: "order-42" });
  assert.equal(task.leaseToken, undefined);
  assert.equal(fromBinary(TaskSchema, toBinary(TaskSchema, { ...task, leaseToken: 0n })).leaseToken, 0n);
});

test("an unknown JSON field is refused", () => {
  assert.throws(() => fromJson(TaskSchema, { id: "order-42", colour: "red" }), /colour/);
});

test("the services have the documented methods", () => {
  const methods = (service: { methods: { name: string; methodKind: string }[] }) =>
    Object.fromEntries(service.methods.map((method) => [method.name, method.methodKind]));
  assert.deepEqual(methods(ProducerService), { Produce: "bidi_streaming" });
  assert.deepEqual(methods(WorkerService), { Work: "bidi_streaming" });
  assert.deepEqual(methods(QueueService), {
    ListQueues: "unary",
    GetQueue: "unary",
    ListWorkers: "unary",
    PauseQueue: "unary",
    ResumeQueue: "unary",
    PurgeQueue: "unary",
    ListDeadLetters: "unary",
    RedriveTasks: "unary",
  });
  assert.deepEqual(methods(ServerService), { GetServerInfo: "unary", BackUp: "unary" });
  assert.deepEqual(Object.keys(methods(TaskService)), [
    "CreateTask",
    "BatchCreateTasks",
    "ClaimTask",
    "ClaimTasks",
    "HeartbeatTask",
    "SubmitResult",
    "BatchSubmitResults",
    "NackTask",
    "AbandonTask",
    "ReportProgress",
    "CancelTask",
    "GetTask",
    "ListTasks",
    "ExplainTask",
    "RedriveTask",
    "CleanupTasks",
    "GetTaskResult",
    "GetTaskArtifact",
  ]);
});

test("error reasons have their numbers of the wire", () => {
  assert.equal(ErrorReason.STALE_LEASE_TOKEN, 15);
});
