import assert from "node:assert/strict";
import { test } from "node:test";
import { isCodeqError } from "../errors.js";
import { ErrorReason } from "../gen/codeq/v1/error_pb.js";
import { ProduceRequestSchema, ProduceResponseSchema } from "../gen/codeq/v1/producer_service_pb.js";
import { GetTaskResultRequestSchema, GetTaskResultResponseSchema } from "../gen/codeq/v1/task_service_pb.js";
import { GetTopologyResponseSchema } from "../gen/codeq/v1/cluster_service_pb.js";
import { TaskStatus } from "../gen/codeq/v1/task_pb.js";
import { Producer, type ProducerOptions } from "../producer.js";
import { ScriptedServer, welcomeProducer, type ServerCall } from "./scripted-server.js";
import { KeptLogger, gate, until } from "./support.js";

let ids = 0;

/** Acks frames until the client half-closes; returns the sizes of the frames. */
async function ackAll(call: ServerCall): Promise<number[]> {
  const sizes: number[] = [];
  for (let request = await call.read(ProduceRequestSchema); request !== undefined; request = await call.read(ProduceRequestSchema)) {
    if (request.tasks.length === 0) continue;
    sizes.push(request.tasks.length);
    call.send(ProduceResponseSchema, { acks: [{ taskIds: request.tasks.map(() => `id-${(ids += 1)}`) }] });
  }
  call.ok();
  return sizes;
}

function producerOf(server: ScriptedServer, options: ProducerOptions = {}): Producer {
  return new Producer({ addresses: server.address, token: "t", logger: new KeptLogger(), ...options });
}

test("the hello names the SDK, and an old server is told of once", async () => {
  const logger = new KeptLogger();
  let hello: unknown;
  await using server = await ScriptedServer.start({
    Produce: async (call) => {
      hello = (await welcomeProducer(call, 0)).hello?.client;
      await ackAll(call);
    },
  });
  for (let round = 0; round < 2; round += 1) {
    await using producer = producerOf(server, { logger });
    await producer.create("A");
  }
  assert.deepEqual({ ...(hello as object) }, { $typeName: "codeq.v1.ClientInfo", sdk: "codeq-ts", version: "0.1.0", protocol: 1 });
  const warnings = logger.lines.filter((line) => line.includes("older"));
  assert.equal(warnings.length, 1);
  assert.match(warnings[0] ?? "", /9\.9\.9.*0\.1\.0/);
});

test("concurrent creates share frames, and each gets its own id", async () => {
  let sizes: number[] = [];
  const done = gate();
  await using server = await ScriptedServer.start({
    Produce: async (call) => {
      await welcomeProducer(call);
      sizes = await ackAll(call);
      done.open();
    },
  });
  const producer = producerOf(server);
  const found = await Promise.all(Array.from({ length: 500 }, (_, index) => producer.create("A", { index })));
  assert.equal(new Set(found).size, 500);
  await producer.close();
  await done.promise;
  assert.ok(sizes.length < 10, `500 creates took ${sizes.length} frames`);
});

test("a rejected task fails alone", async () => {
  await using server = await ScriptedServer.start({
    Produce: async (call) => {
      await welcomeProducer(call);
      await call.read(ProduceRequestSchema);
      const errors = [{ index: 1, reason: ErrorReason.IDEMPOTENCY_CONFLICT, message: "used" }];
      call.send(ProduceResponseSchema, { acks: [{ taskIds: ["a", "", "c"], errors, duplicates: [2] }] });
    },
  });
  await using producer = producerOf(server);
  const results = await producer.createBatch([{ command: "A" }, { command: "A" }, { command: "A", payload: 1n }, { command: "A" }]);
  assert.equal(results[0], "a");
  assert.ok(isCodeqError(results[1], "IDEMPOTENCY_CONFLICT"));
  assert.ok(isCodeqError(results[2], "INVALID_ARGUMENT"), "a task that cannot be encoded does not shift the others");
  assert.equal(results[3], "c", "a duplicate is not an error");
});

test("after a cut, a create with a key is sent again and one without is unknown", async () => {
  const commands: string[][] = [];
  await using server = await ScriptedServer.start({
    Produce: async (call, number) => {
      await welcomeProducer(call);
      if (number > 0) return void ackAll(call);
      const request = await call.read(ProduceRequestSchema);
      commands.push(request?.tasks.map((task) => task.command) ?? []);
      call.cut();
    },
  });
  await using producer = producerOf(server);
  const [keyed, plain] = await Promise.allSettled([
    producer.create("KEYED", 1, { idempotencyKey: "k" }),
    producer.create("PLAIN", 1),
  ]);
  assert.equal(keyed.status, "fulfilled");
  assert.equal(plain.status, "rejected");
  assert.ok(isCodeqError((plain as PromiseRejectedResult).reason, "OUTCOME_UNKNOWN"));
  assert.deepEqual(commands, [["KEYED", "PLAIN"]]);
  assert.equal(server.count("Produce"), 2);
});

test("a create that is answered as unknown after it was sent again stays unknown", async () => {
  await using server = await ScriptedServer.start({
    Produce: async (call, number) => {
      if (number > 0) return call.fail({ code: 16, reason: "UNAUTHENTICATED" });
      await welcomeProducer(call);
      await call.read(ProduceRequestSchema);
      call.cut();
    },
  });
  await using producer = producerOf(server, { requestKeys: true });
  await assert.rejects(producer.create("A"), (error) => isCodeqError(error, "OUTCOME_UNKNOWN"));
});

test("with several servers every create gets a key", async () => {
  let key: string | undefined;
  await using server = await ScriptedServer.start({
    Produce: async (call) => {
      await welcomeProducer(call);
      const request = await call.read(ProduceRequestSchema);
      key = request?.tasks[0]?.idempotencyKey;
      call.send(ProduceResponseSchema, { acks: [{ taskIds: ["a"] }] });
    },
  });
  await using producer = producerOf(server, { addresses: [server.address, "127.0.0.1:1"] });
  await producer.create("A");
  assert.match(key ?? "", /^[0-9a-f]{32}$/);
});

test("NOT_LEADER is followed to the leader that it names, at once", async () => {
  await using leader = await ScriptedServer.start({
    Produce: async (call) => {
      await welcomeProducer(call);
      await ackAll(call);
    },
  });
  await using follower = await ScriptedServer.start({
    Produce: (call) => call.fail({ code: 14, reason: "NOT_LEADER", metadata: { leaderGrpc: leader.address } }),
  });
  await using producer = producerOf(follower);
  await producer.create("A");
  assert.equal(leader.count("Produce"), 1);
});

test("a drain notice is obeyed: what was sent is answered, the rest goes to the leader that it names", async () => {
  await using next = await ScriptedServer.start({
    Produce: async (call) => {
      await welcomeProducer(call);
      await ackAll(call);
    },
  });
  const halfClosed = gate();
  await using server = await ScriptedServer.start({
    Produce: async (call) => {
      await welcomeProducer(call);
      await call.read(ProduceRequestSchema);
      call.send(ProduceResponseSchema, { notice: { reason: ErrorReason.DRAINING, graceMs: 5000, leader: next.address } });
      assert.equal(await call.read(ProduceRequestSchema), undefined, "no frame follows the notice");
      halfClosed.open();
      call.send(ProduceResponseSchema, { acks: [{ taskIds: ["first"] }] });
      call.ok();
    },
  });
  await using producer = producerOf(server);
  const first = producer.create("A");
  await halfClosed.promise;
  const second = await producer.create("B");
  assert.equal(await first, "first");
  assert.notEqual(second, "first");
  assert.equal(next.count("Produce"), 1);
});

test("GOAWAY without a notice: the stream ends, and creates go on over another connection", async () => {
  await using server = await ScriptedServer.start({
    Produce: async (call, number) => {
      await welcomeProducer(call);
      if (number > 0) return void ackAll(call);
      await call.read(ProduceRequestSchema);
      call.goAway();
      call.send(ProduceResponseSchema, { acks: [{ taskIds: ["first"] }] });
      call.ok();
    },
  });
  await using producer = producerOf(server, { requestKeys: true });
  assert.equal(await producer.create("A"), "first");
  assert.match(await producer.create("A"), /^id-/);
});

test("a fresh token goes out on the stream before the old one expires", async () => {
  const told = gate<string>();
  await using server = await ScriptedServer.start({
    Produce: async (call) => {
      await welcomeProducer(call);
      call.send(ProduceResponseSchema, { notice: { reason: ErrorReason.UNAUTHENTICATED, graceMs: 10_000 } });
      for (let request = await call.read(ProduceRequestSchema); request; request = await call.read(ProduceRequestSchema)) {
        if (request.token) told.open(request.token);
        if (request.tasks.length > 0) call.send(ProduceResponseSchema, { acks: [{ taskIds: ["a"] }] });
      }
      call.ok();
    },
  });
  let asked = 0;
  await using producer = producerOf(server, { token: () => `token-${(asked += 1)}` });
  await producer.create("A");
  assert.equal(await told.promise, "token-2");
  assert.equal(server.count("Produce"), 1);
});

test("a refused token ends waiting creates at once", async () => {
  await using server = await ScriptedServer.start({ Produce: (call) => call.fail({ code: 16, reason: "UNAUTHENTICATED" }) });
  await using producer = producerOf(server);
  await assert.rejects(producer.create("A"), (error) => isCodeqError(error, "UNAUTHENTICATED"));
});

test("a create ends within its timeout, whether it was sent or not", async () => {
  await using server = await ScriptedServer.start({
    Produce: async (call) => {
      await welcomeProducer(call);
    },
  });
  await using producer = producerOf(server);
  await assert.rejects(producer.create("A", 1, { timeoutSeconds: 0.2 }), (error) => isCodeqError(error, "OUTCOME_UNKNOWN"));
  await using nowhere = new Producer({ addresses: "127.0.0.1:1", token: "t", logger: new KeptLogger() });
  await assert.rejects(
    nowhere.create("A", 1, { timeoutSeconds: 0.2 }),
    (error) => isCodeqError(error, "DEADLINE_EXCEEDED") && error.message.includes("ECONNREFUSED"),
  );
});

test("a token function that hangs or fails does not outlast the timeout", async () => {
  await using hanging = new Producer({ addresses: "127.0.0.1:1", token: () => new Promise(() => undefined), timeoutSeconds: 0.2, logger: new KeptLogger() });
  await assert.rejects(hanging.create("A"), (error) => isCodeqError(error, "DEADLINE_EXCEEDED"));
  const failing = new Producer({ addresses: "127.0.0.1:1", token: () => { throw new Error("vault sealed"); }, timeoutSeconds: 0.3, logger: new KeptLogger() });
  await assert.rejects(failing.create("A"), (error) => isCodeqError(error, "DEADLINE_EXCEEDED") && /vault sealed/.test(error.message));
  await failing.close();
});

test("creates wait at inFlightTasksMax, or fail at once with failFast", async () => {
  const acking = gate();
  const read: number[] = [];
  await using server = await ScriptedServer.start({
    Produce: async (call) => {
      await welcomeProducer(call);
      for (let request = await call.read(ProduceRequestSchema); request; request = await call.read(ProduceRequestSchema)) {
        read.push(request.tasks.length);
        await acking.promise;
        call.send(ProduceResponseSchema, { acks: [{ taskIds: request.tasks.map(() => "a") }] });
      }
      call.ok();
    },
  });
  await using producer = producerOf(server, { inFlightTasksMax: 2 });
  const creates = Promise.all([producer.create("A"), producer.create("A"), producer.create("A"), producer.create("A")]);
  await until(() => read.length > 0);
  assert.deepEqual(read, [2]);
  acking.open();
  await creates;
  assert.deepEqual(read, [2, 2]);
  await using hasty = producerOf(server, { inFlightTasksMax: 1, failFast: true });
  const [first, second] = await Promise.allSettled([hasty.create("A"), hasty.create("A")]);
  assert.equal(first.status, "fulfilled");
  assert.ok(isCodeqError((second as PromiseRejectedResult).reason, "LIMIT_REACHED"));
});

test("createAll reads its source only as fast as results are taken, and keeps their order", async () => {
  await using server = await ScriptedServer.start({
    Produce: async (call) => {
      await welcomeProducer(call);
      await ackAll(call);
    },
  });
  await using producer = producerOf(server);
  let read = 0;
  async function* source() {
    for (; read < 100; read += 1) yield { command: "A", payload: read === 3 ? 1n : read };
  }
  const results: unknown[] = [];
  for await (const result of producer.createAll(source(), { inFlight: 10 })) {
    assert.ok(read - results.length <= 11);
    results.push(result);
  }
  assert.equal(results.length, 100);
  assert.ok(isCodeqError(results[3], "INVALID_ARGUMENT"));
  assert.equal(results.filter((each) => typeof each === "string").length, 99);
});

test("createAndWait polls until the task has ended", async () => {
  await using server = await ScriptedServer.start({
    Produce: async (call) => {
      await welcomeProducer(call);
      await ackAll(call);
    },
    GetTopology: (call) => {
      call.send(GetTopologyResponseSchema, {});
      call.ok();
    },
    GetTaskResult: async (call, number) => {
      const request = await call.read(GetTaskResultRequestSchema);
      if (number === 0) return call.fail({ code: 5, reason: "RESULT_NOT_FOUND" });
      const result = { taskId: request?.taskId ?? "", status: TaskStatus.COMPLETED, result: new TextEncoder().encode('{"n":9007199254740993}') };
      call.send(GetTaskResultResponseSchema, { result });
      call.ok();
    },
  });
  await using producer = producerOf(server);
  const result = await producer.createAndWait("A", 1, { timeoutSeconds: 10 });
  assert.equal(result.status, "COMPLETED");
  assert.equal(result.resultText, '{"n":9007199254740993}');
  server.on("GetTaskResult", (call) => call.fail({ code: 5, reason: "RESULT_NOT_FOUND" }));
  await assert.rejects(
    producer.createAndWait("A", 1, { timeoutSeconds: 0.2 }),
    (error) => isCodeqError(error, "DEADLINE_EXCEEDED") && /^id-/.test(error.metadata["taskId"] ?? ""),
  );
});

test("after close, creates fail with CLOSED and nothing keeps the process alive", async () => {
  await using server = await ScriptedServer.start({
    Produce: async (call) => {
      await welcomeProducer(call);
      await ackAll(call);
    },
  });
  const producer = producerOf(server);
  const last = producer.create("A");
  await producer.close();
  assert.match(await last, /^id-/, "close waits for what was under way");
  await assert.rejects(producer.create("A"), (error) => isCodeqError(error, "CLOSED"));
  await producer.close();
});

test("options out of range are refused by name", () => {
  const wrong: [string, ProducerOptions][] = [
    ["timeoutSeconds", { timeoutSeconds: 0 }],
    ["timeoutSeconds", { timeoutSeconds: Number.NaN }],
    ["inFlightTasksMax", { inFlightTasksMax: 0 }],
    ["clientName", { clientName: "x".repeat(129) }],
    ["addresses", { addresses: "nowhere" }],
    ["token", { token: 7 as unknown as string }],
    ["tls", { tls: { cert: "a.pem" } }],
    ["tls.ca", { tls: { ca: "/does/not/exist.pem" } }],
  ];
  for (const [field, options] of wrong) {
    assert.throws(() => new Producer(options), (error) => isCodeqError(error, "INVALID_ARGUMENT") && error.violations[0]?.field === field, field);
  }
});
