// What callers of a producer wait for: results, sources of tasks, and their own signals.
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import { Client } from "../client.js";
import { Endpoint } from "../endpoint.js";
import { isCodeqError } from "../errors.js";
import { ProduceRequestSchema, ProduceResponseSchema } from "../gen/codeq/v1/producer_service_pb.js";
import { GetTaskResultRequestSchema, GetTaskResultResponseSchema } from "../gen/codeq/v1/task_service_pb.js";
import { TaskStatus } from "../gen/codeq/v1/task_pb.js";
import type { NewTask } from "../new-tasks.js";
import { Producer, type ProducerOptions } from "../producer.js";
import { ScriptedServer, welcomeProducer, type ServerCall } from "./scripted-server.js";
import { KeptLogger, gate, until } from "./support.js";

function producerOf(server: ScriptedServer, options: ProducerOptions = {}): Producer {
  return new Producer({ addresses: server.address, token: "t", logger: new KeptLogger(), ...options });
}

/** Acks each task with its command as its id. */
async function produce(call: ServerCall): Promise<void> {
  await welcomeProducer(call);
  for (let request = await call.read(ProduceRequestSchema); request; request = await call.read(ProduceRequestSchema)) {
    if (request.tasks.length > 0) call.send(ProduceResponseSchema, { acks: [{ taskIds: request.tasks.map((task) => task.command) }] });
  }
  call.ok();
}

function complete(call: ServerCall, taskId = "A"): void {
  call.send(GetTaskResultResponseSchema, { result: { taskId, status: TaskStatus.COMPLETED } });
  call.ok();
}

test("createAndWait outlives a server that is away for a moment", async () => {
  await using server = await ScriptedServer.start({
    Produce: produce,
    GetTaskResult: (call, number) => (number === 0 ? call.cut() : complete(call)),
  });
  await using producer = producerOf(server);
  assert.equal((await producer.createAndWait("A", 1, { timeoutSeconds: 20 })).status, "COMPLETED");
});

test("createAndWait never asks in a tight loop", async () => {
  const waits: number[] = [];
  await using server = await ScriptedServer.start({
    Produce: produce,
    GetTaskResult: async (call) => {
      waits.push((await call.read(GetTaskResultRequestSchema))?.waitSeconds ?? 0);
      call.fail({ code: 5, reason: "RESULT_NOT_FOUND" });
    },
  });
  await using producer = producerOf(server);
  await assert.rejects(producer.createAndWait("A", 1, { timeoutSeconds: 0.5 }), (error) => isCodeqError(error, "DEADLINE_EXCEEDED"));
  assert.ok(waits.length <= 6, `${waits.length} questions within half a second`);
  assert.ok(waits.every((wait) => wait === 1));
});

test("an error of createAndWait names the task that exists", async () => {
  await using server = await ScriptedServer.start({
    Produce: produce,
    GetTaskResult: (call) => call.fail({ code: 7, reason: "MISSING_SCOPE", metadata: { scope: "x" } }),
  });
  await using producer = producerOf(server);
  await assert.rejects(
    producer.createAndWait("A"),
    (error) => isCodeqError(error, "MISSING_SCOPE") && error.metadata["taskId"] === "A" && error.metadata["scope"] === "x",
  );
});

test("createAll gives each answer at once, so a source may wait for the answer of the task before", async () => {
  await using server = await ScriptedServer.start({ Produce: produce });
  await using producer = producerOf(server);
  let next = gate();
  const answers: unknown[] = [];
  async function* source(): AsyncGenerator<NewTask> {
    for (const command of ["A", "B", "C"]) {
      yield { command };
      await next.promise;
      next = gate();
    }
  }
  for await (const answer of producer.createAll(source())) {
    answers.push(answer);
    next.open();
  }
  assert.deepEqual(answers, ["A", "B", "C"]);
});

test("createAll answers the tasks before it throws what its source threw, and ends a source that is left", async () => {
  await using server = await ScriptedServer.start({ Produce: produce });
  await using producer = producerOf(server);
  function* broken(): Generator<NewTask> {
    yield { command: "A" };
    yield null as never;
    throw new RangeError("no more");
  }
  const answers: unknown[] = [];
  await assert.rejects(async () => {
    for await (const answer of producer.createAll(broken())) answers.push(answer);
  }, RangeError);
  assert.equal(answers[0], "A");
  assert.ok(isCodeqError(answers[1], "INVALID_ARGUMENT"));
  let isEnded = false;
  async function* left(): AsyncGenerator<NewTask> {
    try {
      for (;;) yield { command: "B" };
    } finally {
      isEnded = true;
    }
  }
  for await (const answer of producer.createAll(left(), { inFlight: 2 })) {
    assert.equal(answer, "B");
    break;
  }
  await until(() => isEnded);
});

test("a signal ends the wait for a create, and the error tells whether the task may exist", async () => {
  const read = gate();
  await using server = await ScriptedServer.start({
    Produce: async (call) => {
      await welcomeProducer(call);
      await call.read(ProduceRequestSchema);
      read.open();
    },
  });
  const producer = producerOf(server, { inFlightTasksMax: 1 });
  const why = new Error("the user went away");
  const sent = new AbortController();
  const waiting = new AbortController();
  const first = producer.create("A", 1, { signal: sent.signal });
  const second = producer.create("B", 1, { signal: waiting.signal });
  const isCancelled = (text: RegExp) => (error: unknown) =>
    isCodeqError(error, "CANCELLED") && error.cause === why && text.test(error.message);
  await read.promise;
  waiting.abort(why);
  await assert.rejects(second, isCancelled(/was not sent/));
  sent.abort(why);
  await assert.rejects(first, isCancelled(/may exist/));
  await assert.rejects(producer.create("C", 1, { signal: sent.signal }), isCancelled(/was not sent/));
  await producer.close();
});

test("a signal ends a batch, which keeps the answers that it has, and createAndWait, whose error names the task", async () => {
  const asked = gate();
  await using server = await ScriptedServer.start({
    Produce: async (call) => {
      const { frameTasksMax } = { frameTasksMax: 1 };
      await call.read(ProduceRequestSchema);
      const welcome = { unackedFramesMax: 1, unackedBytesMax: 16n << 20n, frameTasksMax, frameBytesMax: 8n << 20n, protocol: 1 };
      call.send(ProduceResponseSchema, { welcome });
      for (let count = 0; count < 2; count += 1) {
        await call.read(ProduceRequestSchema);
        if (count === 0) call.send(ProduceResponseSchema, { acks: [{ taskIds: ["a"] }] });
        else asked.open();
      }
    },
  });
  const producer = producerOf(server);
  const controller = new AbortController();
  const batch = producer.createBatch([{ command: "A" }, { command: "B" }, { command: "C" }], { signal: controller.signal });
  await asked.promise;
  controller.abort();
  const [a, b, c] = await batch;
  assert.equal(a, "a");
  assert.ok(isCodeqError(b, "CANCELLED") && /may exist/.test(b.message));
  assert.ok(isCodeqError(c, "CANCELLED") && /not sent/.test(c.message));
  assert.equal((b.cause as Error).name, "AbortError");
  await producer.close();
  const waited = new AbortController();
  await using other = await ScriptedServer.start({ Produce: produce, GetTaskResult: () => waited.abort() });
  await using waiting = producerOf(other);
  await assert.rejects(
    waiting.createAndWait("A", 1, { signal: waited.signal }),
    (error) => isCodeqError(error, "CANCELLED") && error.metadata["taskId"] === "A" && /task A exists/.test(error.message),
  );
});

test("one signal for many calls raises no warning, and is left without listeners", async () => {
  await using server = await ScriptedServer.start({ Produce: produce, GetTask: () => undefined });
  const warnings: Error[] = [];
  const warned = (warning: Error): void => void warnings.push(warning);
  process.on("warning", warned);
  const { signal } = new AbortController();
  await using producer = producerOf(server);
  await Promise.all(Array.from({ length: 40 }, () => producer.create("A", 1, { signal })));
  const client = new Client({ addresses: server.address, token: "t", logger: new KeptLogger() });
  const calls = Array.from({ length: 40 }, () => client.get("a", { signal }));
  const ended = Promise.allSettled(calls);
  await until(() => server.count("GetTask") === 40);
  await client.close();
  await ended;
  await new Promise((resolve) => setImmediate(resolve));
  process.off("warning", warned);
  assert.deepEqual(warnings, []);
});

test("asking again and again for a fresh token leaves no listeners behind", async () => {
  const { TokenRenewal } = await import("../streams.js");
  const warnings: Error[] = [];
  const warned = (warning: Error): void => void warnings.push(warning);
  process.on("warning", warned);
  const most = EventEmitter.defaultMaxListeners;
  EventEmitter.defaultMaxListeners = 2;
  const endpoint = Endpoint.forProducer({ addresses: "127.0.0.1:1", token: () => "old", logger: new KeptLogger() });
  const late = gate();
  const renewal = new TokenRenewal(endpoint, await endpoint.metadata(), () => late.open());
  renewal.start(500);
  await late.promise;
  EventEmitter.defaultMaxListeners = most;
  await new Promise((resolve) => setImmediate(resolve));
  process.off("warning", warned);
  assert.ok(renewal.isLate);
  assert.deepEqual(warnings.filter((warning) => warning.message.includes("AbortSignal")), []);
});

test("values that would be sent as something else are refused by name", async () => {
  await using server = await ScriptedServer.start({});
  await using producer = producerOf(server);
  await using client = new Client({ addresses: server.address, token: "t", logger: new KeptLogger() });
  const wrong: [string, () => Promise<unknown>][] = [
    ["priority", () => producer.create("A", 1, { priority: Number.NaN })],
    ["command", () => producer.create("\ud83d", 1)],
    ["count", () => client.claim([], { count: 1.5 })],
    ["pageSize", () => client.tasksPage({ pageSize: 1e12 })],
  ];
  for (const [field, act] of wrong) {
    await assert.rejects(act, (error) => isCodeqError(error, "INVALID_ARGUMENT") && error.violations[0]?.field === field, field);
  }
  assert.throws(
    () => new Producer({ token: "t\n" }),
    (error) => isCodeqError(error, "INVALID_ARGUMENT") && error.violations[0]?.field === "token",
  );
});
