// How workers and producers stop, and what their handlers learn of it.
import assert from "node:assert/strict";
import net, { type AddressInfo } from "node:net";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { isCodeqError } from "../errors.js";
import { OutcomeKind, TaskSchema } from "../gen/codeq/v1/task_pb.js";
import { WorkRequestSchema, WorkResponseSchema } from "../gen/codeq/v1/worker_service_pb.js";
import { Snooze } from "../outcomes.js";
import { Producer } from "../producer.js";
import { DeliveredTask, TaskStopped } from "../records.js";
import { Worker } from "../worker.js";
import { ScriptedServer, welcomeWorker } from "./scripted-server.js";
import { KeptLogger, gate, until } from "./support.js";

/** Far below the 5 s and 30 s of the waits that used to hold up a stop. */
const SOON_MS = 2500;

/** Accepts connections, and never says a word. */
async function silentServer(): Promise<{ address: string; connected: () => boolean } & AsyncDisposable> {
  const sockets = new Set<net.Socket>();
  const server = net.createServer((socket) => void sockets.add(socket.on("error", () => undefined)));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    connected: () => sockets.size > 0,
    [Symbol.asyncDispose]: async () => {
      sockets.forEach((socket) => socket.destroy());
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function isSoon(stopping: Promise<unknown>): Promise<void> {
  const begun = performance.now();
  await stopping;
  assert.ok(performance.now() - begun < SOON_MS, `it took ${performance.now() - begun} ms`);
}

test("a worker without tasks stops at once, though its server is silent or its token function hangs", async () => {
  await using server = await silentServer();
  const silent = new Worker({ addresses: server.address, token: "t", logger: new KeptLogger() }).on("A", () => 1);
  const run = silent.run();
  await until(() => server.connected());
  await isSoon(silent.stop());
  await run;
  const asked = gate();
  const token = (): Promise<string> => (asked.open(), new Promise<string>(() => undefined));
  const hanging = new Worker({ addresses: server.address, token, logger: new KeptLogger() }).on("A", () => 1);
  const other = hanging.run();
  await asked.promise;
  await isSoon(hanging.stop());
  await other;
});

test("a producer without creates closes at once, though its server is silent or its token function hangs", async () => {
  await using server = await silentServer();
  const options = { addresses: server.address, logger: new KeptLogger(), timeoutSeconds: 0.1 };
  for (const token of ["t", () => new Promise<string>(() => undefined)]) {
    const producer = new Producer({ ...options, token });
    await assert.rejects(producer.create("A"), (error) => isCodeqError(error, "DEADLINE_EXCEEDED"));
    await isSoon(producer.close());
  }
});

test("a handler that throws what cannot be read gives its task back, and its place", async () => {
  const kinds: OutcomeKind[] = [];
  await using server = await ScriptedServer.start({
    Work: async (call) => {
      await welcomeWorker(call);
      call.send(WorkResponseSchema, { tasks: [{ id: "a", command: "A", leaseToken: 7n }] });
      for (let request = await call.read(WorkRequestSchema); request; request = await call.read(WorkRequestSchema)) {
        kinds.push(...request.outcomes.map((each) => each.kind));
        call.send(WorkResponseSchema, { settled: request.outcomes.length });
      }
      call.ok();
    },
  });
  const no = (): never => {
    throw new Error("no");
  };
  const evil = new Proxy({}, { get: no, getPrototypeOf: no, has: no, ownKeys: no });
  const worker = new Worker({ addresses: server.address, token: "t", logger: new KeptLogger() });
  const run = worker.on("A", () => { throw evil; }).run();
  await until(() => worker.stats.settled === 1);
  await isSoon(worker.stop());
  await run;
  assert.deepEqual(kinds, [OutcomeKind.NACK]);
});

test("handlers that ask learn of a stop when it begins, long before their signal aborts", async () => {
  const kinds: OutcomeKind[] = [];
  await using server = await ScriptedServer.start({
    Work: async (call) => {
      await welcomeWorker(call);
      call.send(WorkResponseSchema, { tasks: ["a", "b"].map((id) => ({ id, command: "A", leaseToken: 7n })) });
      for (let request = await call.read(WorkRequestSchema); request; request = await call.read(WorkRequestSchema)) {
        kinds.push(...request.outcomes.map((each) => each.kind));
        if (request.outcomes.length > 0) call.send(WorkResponseSchema, { settled: request.outcomes.length });
      }
      call.ok();
    },
  });
  const told: unknown[] = [];
  const worker = new Worker({ addresses: server.address, token: "t", logger: new KeptLogger() });
  const begun = gate();
  const run = worker
    .on("A", async (task, { signal, draining }) => {
      assert.ok(!draining.aborted);
      if (task.id === "b") begun.open();
      await new Promise((resolve) => draining.addEventListener("abort", resolve));
      assert.ok(!signal.aborted && task.draining === draining);
      told.push(draining.reason);
      return new Snooze(5);
    })
    .run();
  await begun.promise;
  await isSoon(worker.stop(60));
  await run;
  assert.deepEqual(told.map((each) => each instanceof TaskStopped && each.kind), ["shutdown", "shutdown"]);
  assert.deepEqual(kinds, [OutcomeKind.ABANDON, OutcomeKind.ABANDON]);
});

test("a handler that asks only after the stop has begun is told, too", () => {
  const task = new DeliveredTask(create(TaskSchema, { id: "a" }), () => undefined);
  task.drain();
  assert.equal(task.draining.aborted, true);
  assert.equal(task.signal.aborted, false);
});
