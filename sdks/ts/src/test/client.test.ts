import assert from "node:assert/strict";
import { test } from "node:test";
import { context, propagation, SpanKind, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import { W3CTraceContextPropagator } from "@opentelemetry/core";
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from "@opentelemetry/sdk-trace-base";
import { Client } from "../client.js";
import { isCodeqError } from "../errors.js";
import { GetTopologyResponseSchema } from "../gen/codeq/v1/cluster_service_pb.js";
import { TaskSchema, TaskStatus } from "../gen/codeq/v1/task_pb.js";
import {
  AbandonTaskRequestSchema,
  AbandonTaskResponseSchema,
  CreateTaskRequestSchema,
  CreateTaskResponseSchema,
  GetTaskResponseSchema,
} from "../gen/codeq/v1/task_service_pb.js";
import { create } from "@bufbuild/protobuf";
import { openTelemetry } from "../opentelemetry.js";
import { Abandon, Failed, Nack, Snooze } from "../outcomes.js";
import { DeliveredTask } from "../records.js";
import { ScriptedServer } from "./scripted-server.js";
import { KeptLogger } from "./support.js";


function clientOf(addresses: string | string[], timeoutSeconds = 10): Client {
  return new Client({ addresses, token: "t", timeoutSeconds, logger: new KeptLogger() });
}

test("a call that a rate limit refuses waits as long as the server asks for", async () => {
  await using server = await ScriptedServer.start({
    GetTask: (call, number) => {
      if (number === 0) return call.fail({ code: 8, reason: "RATE_LIMITED", retryAfterSeconds: 0.3 });
      call.send(GetTaskResponseSchema, { task: { id: "a" } });
      call.ok();
    },
  });
  await using client = clientOf(server.address);
  const begun = performance.now();
  assert.equal((await client.get("a")).id, "a");
  assert.ok(performance.now() - begun >= 290);
  server.on("GetTask", (call) => call.fail({ code: 8, reason: "RATE_LIMITED", retryAfterSeconds: 60 }));
  await assert.rejects(client.get("a"), (error) => isCodeqError(error, "RATE_LIMITED") && error.retryAfter === 60);
});

test("a follower's answer leads to the leader, whose members are then known", async () => {
  await using leader = await ScriptedServer.start({
    GetTask: (call) => {
      call.send(GetTaskResponseSchema, { task: { id: "a" } });
      call.ok();
    },
    GetTopology: (call) => {
      call.send(GetTopologyResponseSchema, { topology: { raftEnabled: true, members: [{ id: "b", grpcAddr: "127.0.0.1:1" }] } });
      call.ok();
    },
  });
  await using follower = await ScriptedServer.start({
    GetTask: (call) => call.fail({ code: 14, reason: "NOT_LEADER", metadata: { leaderGrpc: leader.address } }),
  });
  await using client = clientOf(follower.address);
  assert.equal((await client.get("a")).id, "a");
  assert.equal((await client.get("a")).id, "a");
  assert.equal(follower.count("GetTask"), 1, "the second call goes to the leader at once");
});

test("a lost answer: a read is sent again to another server, a create without a key only in a cluster, with one", async () => {
  const keys: (string | undefined)[] = [];
  await using second = await ScriptedServer.start({
    CreateTask: async (call) => {
      keys.push((await call.read(CreateTaskRequestSchema))?.spec?.idempotencyKey);
      call.send(CreateTaskResponseSchema, { task: { id: "a" } });
      call.ok();
    },
  });
  await using first = await ScriptedServer.start({
    CreateTask: async (call) => {
      keys.push((await call.read(CreateTaskRequestSchema))?.spec?.idempotencyKey);
      call.cut();
    },
  });
  await using alone = clientOf(first.address);
  await assert.rejects(alone.create("A"), (error) => isCodeqError(error, "UNAVAILABLE"));
  assert.equal(first.count("CreateTask"), 1);
  await using many = clientOf([first.address, second.address]);
  assert.equal((await many.create("A")).id, "a");
  assert.equal(keys[0], undefined);
  assert.match(keys[1] ?? "", /^[0-9a-f]{32}$/);
  assert.equal(keys[2], keys[1]);
  await assert.rejects(
    clientOf([first.address, second.address]).create("A", 1, { taskId: "mine" }),
    (error) => isCodeqError(error, "UNAVAILABLE"),
  );
});

test("a call ends when its signal aborts, or at its timeout", async () => {
  await using server = await ScriptedServer.start({ GetTask: () => undefined });
  await using client = clientOf(server.address);
  const controller = new AbortController();
  const call = client.get("a", { signal: controller.signal });
  setTimeout(() => controller.abort(), 50);
  await assert.rejects(call, (error) => isCodeqError(error, "CANCELLED"));
  await assert.rejects(client.get("a", { timeoutSeconds: 0.1 }), (error) => isCodeqError(error, "DEADLINE_EXCEEDED"));
  const open = client.get("a");
  setTimeout(() => void client.close(), 20);
  await assert.rejects(open, (error) => isCodeqError(error, "CLOSED"));
  await assert.rejects(client.get("a"), (error) => isCodeqError(error, "CLOSED"));
});

test("OpenTelemetry: a create carries its context, and the handler's span is linked to it", async () => {
  const exporter = new InMemorySpanExporter();
  const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] });
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  propagation.setGlobalPropagator(new W3CTraceContextPropagator());
  const tracer = provider.getTracer("test");
  const telemetry = openTelemetry({ tracer });
  assert.deepEqual(telemetry.inject("A"), {});
  const told = tracer.startActiveSpan("request", (span) => {
    const carried = telemetry.inject("A");
    span.end();
    return carried;
  });
  assert.match(told.traceparent ?? "", /^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/);
  const message = create(TaskSchema, { id: "a", command: "A", attempts: 1, ...(told.traceparent ? { traceparent: told.traceparent } : {}) });
  const task = new DeliveredTask(message, () => undefined);
  await telemetry.run(task, async () => assert.ok(trace.getActiveSpan()));
  await assert.rejects(openTelemetry({ tracer, relation: "child" }).run(task, async () => Promise.reject(new RangeError("no"))));
  const verdicts = [new Failed("no"), new Nack("no"), new Abandon(), new Snooze(1)];
  for (const verdict of verdicts) await telemetry.run(task, async () => Promise.resolve(verdict));
  const [request, linked, child, ...others] = exporter.getFinishedSpans();
  assert.equal(linked?.name, "process A");
  assert.equal(linked?.kind, SpanKind.CONSUMER);
  assert.equal(linked?.links[0]?.context.spanId, request?.spanContext().spanId);
  assert.notEqual(linked?.spanContext().traceId, request?.spanContext().traceId);
  assert.equal(child?.spanContext().traceId, request?.spanContext().traceId);
  assert.equal(child?.links[0]?.context.spanId, request?.spanContext().spanId);
  assert.equal(child?.attributes["error.type"], "RangeError");
  assert.deepEqual(
    others.map((span) => span.attributes["error.type"]),
    ["Failed", "Nack", undefined, undefined],
  );
  context.disable();
  propagation.disable();
});

test("the key of a task is parked for a while", async () => {
  await using server = await ScriptedServer.start({
    AbandonTask: async (call) => {
      const { taskId, leaseToken, delaySeconds, parkKey } = (await call.read(AbandonTaskRequestSchema)) ?? {};
      assert.deepEqual({ taskId, leaseToken, delaySeconds, parkKey }, { taskId: "a", leaseToken: 7n, delaySeconds: 60, parkKey: true });
      call.send(AbandonTaskResponseSchema, { status: TaskStatus.PENDING, delaySeconds: 60 });
      call.ok();
    },
  });
  await using client = clientOf(server.address);
  assert.equal((await client.parkKey({ taskId: "a", leaseToken: 7n }, 60)).delaySeconds, 60);
});
