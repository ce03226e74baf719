import assert from "node:assert/strict";
import { test } from "node:test";
import { isCodeqError } from "../errors.js";
import { ErrorReason } from "../gen/codeq/v1/error_pb.js";
import { OutcomeKind, type Outcome } from "../gen/codeq/v1/task_pb.js";
import { WorkRequestSchema, WorkResponseSchema, type WorkRequest } from "../gen/codeq/v1/worker_service_pb.js";
import { Abandon, Failed, RetryAfter, Snooze } from "../outcomes.js";
import { TaskStopped, type DeliveredTask } from "../records.js";
import { Worker, type WorkerOptions } from "../worker.js";
import { ScriptedServer, welcomeWorker, type ServerCall } from "./scripted-server.js";
import { KeptLogger, gate, until } from "./support.js";

const BYTES = new TextEncoder();

function deliver(call: ServerCall, ...ids: string[]): void {
  const tasks = ids.map((id) => ({ id, command: "A", payload: BYTES.encode(`{"id":"${id}"}`), attempts: 1, leaseToken: 7n }));
  call.send(WorkResponseSchema, { tasks });
}

/** Reads messages until the client half-closes, settling each outcome. */
async function settleAll(call: ServerCall, take: (request: WorkRequest) => void = () => undefined): Promise<void> {
  for (let request = await call.read(WorkRequestSchema); request; request = await call.read(WorkRequestSchema)) {
    take(request);
    if (request.outcomes.length > 0) call.send(WorkResponseSchema, { settled: request.outcomes.length });
  }
  call.ok();
}

function workerOf(server: ScriptedServer, options: WorkerOptions = {}): Worker {
  return new Worker({ addresses: server.address, token: "t", logger: new KeptLogger(), ...options });
}

/** Runs one task through a handler and returns its outcome. */
async function outcomeOf(handler: (task: DeliveredTask) => unknown, options: Parameters<Worker["on"]>[2] = {}): Promise<Outcome> {
  const found = gate<Outcome>();
  await using server = await ScriptedServer.start({
    Work: async (call) => {
      await welcomeWorker(call);
      deliver(call, "a");
      await settleAll(call, ({ outcomes }) => outcomes[0] && found.open(outcomes[0]));
    },
  });
  const worker = workerOf(server).on("A", handler, options);
  const run = worker.run();
  const outcome = await found.promise;
  await worker.stop();
  await run;
  return outcome;
}

test("what a handler returns or throws is the task's outcome", async () => {
  const cases: [() => unknown, OutcomeKind, string | RegExp, number | undefined][] = [
    [() => ({ done: true }), OutcomeKind.COMPLETED, "", undefined],
    [() => undefined, OutcomeKind.COMPLETED, "", undefined],
    [() => new Failed("broken"), OutcomeKind.FAILED, "broken", undefined],
    [() => { throw new RetryAfter(3, "busy"); }, OutcomeKind.NACK, "busy", 3],
    [() => { throw new Snooze(4); }, OutcomeKind.ABANDON, "", 4],
    [() => { throw new Abandon(); }, OutcomeKind.ABANDON, "", undefined],
    [() => { throw new RangeError("out of cheese"); }, OutcomeKind.NACK, "RangeError: out of cheese", undefined],
    [() => { throw "a text"; }, OutcomeKind.NACK, "a text", undefined],
    [() => { throw undefined; }, OutcomeKind.NACK, "", undefined],
    [() => { throw { get message() { throw new Error("evil"); }, toJSON() { throw new Error("evil"); } }; }, OutcomeKind.NACK, /without a text/, undefined],
    [() => 1n, OutcomeKind.NACK, /not JSON/, undefined],
  ];
  for (const [handler, kind, error, delay] of cases) {
    for (const each of [handler, async () => handler()]) {
      const outcome = await outcomeOf(each);
      assert.equal(outcome.kind, kind);
      if (typeof error === "string") assert.equal(outcome.error, error);
      else assert.match(outcome.error, error);
      assert.equal(outcome.delaySeconds, delay);
      assert.equal(outcome.leaseToken, 7n);
    }
  }
});

test("a payload that its schema refuses fails the task, and says where", async () => {
  let isCalled = false;
  const schema = {
    "~standard": {
      version: 1 as const,
      vendor: "test",
      validate: async () => ({ issues: [{ message: "must be a number", path: ["items", 3, { key: "price" }] }] }),
    },
  };
  const outcome = await outcomeOf(() => (isCalled = true), { schema });
  assert.equal(outcome.kind, OutcomeKind.FAILED);
  assert.equal(outcome.error, "invalid payload: payload.items[3].price: must be a number");
  assert.ok(!isCalled);
});

test("the first message has the hello, and credits for the concurrency and the window", async () => {
  const requests: WorkRequest[] = [];
  await using server = await ScriptedServer.start({
    Work: async (call) => {
      requests.push(await welcomeWorker(call));
      await settleAll(call, (request) => requests.push(request));
    },
  });
  const worker = workerOf(server, { name: "alice", concurrency: 5, windowBytes: 1000, leaseSeconds: 30 }).on("A", () => 1).on("B", () => 1);
  const run = worker.run();
  await until(() => requests.length === 2);
  await worker.stop();
  await run;
  const hello = requests[0]?.hello;
  assert.deepEqual([hello?.name, hello?.commands, hello?.leaseSeconds, hello?.client?.sdk], ["alice", ["A", "B"], 30, "codeq-ts"]);
  assert.deepEqual([requests[1]?.addCredits, requests[1]?.addCreditBytes], [5, 1000n]);
  assert.equal(requests[2]?.drain, true);
});

test("an ended task gives back one credit and exactly the bytes that it cost", async () => {
  let credits = 0;
  let bytes = 0n;
  await using server = await ScriptedServer.start({
    Work: async (call) => {
      await welcomeWorker(call);
      deliver(call, "a", "b", "c");
      await settleAll(call, (request) => {
        credits += request.addCredits;
        bytes += request.addCreditBytes;
      });
    },
  });
  const worker = workerOf(server, { concurrency: 3, windowBytes: 5000 }).on("A", () => 1);
  const run = worker.run();
  await until(() => worker.stats.settled === 3 && credits === 6);
  await worker.stop();
  await run;
  // Three tasks with `command`, `payload`, `attempts`, `id` and `lease_token`: 22 bytes each on the wire, as protobuf-es counts.
  const { create, toBinary } = await import("@bufbuild/protobuf");
  const { TaskSchema } = await import("../gen/codeq/v1/task_pb.js");
  const one = toBinary(TaskSchema, create(TaskSchema, { id: "a", command: "A", payload: BYTES.encode('{"id":"a"}'), attempts: 1, leaseToken: 7n }));
  assert.equal(bytes, 5000n + 3n * BigInt(one.length));
});

test("a command's limit holds, and the tasks above it wait in the worker", async () => {
  let running = 0;
  let most = 0;
  await using server = await ScriptedServer.start({
    Work: async (call) => {
      await welcomeWorker(call);
      deliver(call, "a", "b", "c", "d", "e");
      await settleAll(call);
    },
  });
  const handler = async (): Promise<void> => {
    running += 1;
    most = Math.max(most, running);
    await new Promise((resolve) => setTimeout(resolve, 5));
    running -= 1;
  };
  const worker = workerOf(server).on("A", handler, { limit: 2 });
  const run = worker.run();
  await until(() => worker.stats.settled === 5);
  await worker.stop();
  await run;
  assert.equal(most, 2);
});

test("an outcome that was not settled is sent again over the next stream, and not lost by a cut", async () => {
  const sent: string[] = [];
  await using server = await ScriptedServer.start({
    Work: async (call, number) => {
      await welcomeWorker(call);
      if (number === 0) deliver(call, "a");
      for (let request = await call.read(WorkRequestSchema); request; request = await call.read(WorkRequestSchema)) {
        for (const { taskId, leaseToken } of request.outcomes) sent.push(`${number}:${taskId}:${leaseToken}`);
        if (number === 0 && request.outcomes.length > 0) return call.cut();
        if (request.outcomes.length > 0) call.send(WorkResponseSchema, { settled: 1 });
      }
      call.ok();
    },
  });
  const worker = workerOf(server).on("A", () => 1);
  const run = worker.run();
  await until(() => worker.stats.settled === 1);
  await worker.stop();
  await run;
  assert.deepEqual(sent, ["0:a:7", "1:a:7"]);
  assert.equal(worker.stats.streams, 2);
});

test("a rejected outcome is counted; one that is too large is replaced by a nack that says why", async () => {
  const kinds: OutcomeKind[] = [];
  await using server = await ScriptedServer.start({
    Work: async (call) => {
      await welcomeWorker(call);
      deliver(call, "stale", "large");
      let number = 0n;
      for (let request = await call.read(WorkRequestSchema); request; request = await call.read(WorkRequestSchema)) {
        for (const { taskId, kind } of request.outcomes) {
          number += 1n;
          kinds.push(kind);
          const reason = taskId === "stale" ? ErrorReason.STALE_LEASE_TOKEN : ErrorReason.TOO_LARGE;
          const outcomeErrors = number <= 2n ? [{ number, taskId, reason, message: "no" }] : [];
          call.send(WorkResponseSchema, { settled: 1, outcomeErrors });
        }
      }
      call.ok();
    },
  });
  const worker = workerOf(server).on("A", () => 1);
  const run = worker.run();
  await until(() => worker.stats.settled === 1);
  await worker.stop();
  await run;
  assert.deepEqual(kinds, [OutcomeKind.COMPLETED, OutcomeKind.COMPLETED, OutcomeKind.NACK]);
  assert.equal(worker.stats.refused, 2);
});

test("progress reaches the server before the outcome, and the last value counts", async () => {
  const told: string[] = [];
  await using server = await ScriptedServer.start({
    Work: async (call) => {
      await welcomeWorker(call);
      deliver(call, "a");
      await settleAll(call, (request) => {
        for (const each of request.progress) told.push(Buffer.from(each.progress).toString());
        if (request.outcomes.length > 0) told.push("outcome");
      });
    },
  });
  const worker = workerOf(server).on("A", (task) => {
    for (let percent = 0; percent <= 100; percent += 10) task.progress({ percent });
  });
  const run = worker.run();
  await until(() => worker.stats.settled === 1);
  await worker.stop();
  await run;
  assert.deepEqual(told, ['{"percent":100}', "outcome"]);
});

test("a cancelled task's signal says so, and its outcome is dropped", async () => {
  const reasons: unknown[] = [];
  let outcomes = 0;
  let running = 0;
  await using server = await ScriptedServer.start({
    Work: async (call) => {
      await welcomeWorker(call);
      deliver(call, "a", "b");
      await until(() => running === 2);
      call.send(WorkResponseSchema, { cancelled: [{ taskId: "a", leaseToken: 7n, reason: ErrorReason.TASK_ENDED }] });
      call.send(WorkResponseSchema, { lost: [{ taskId: "b", leaseToken: 7n, reason: ErrorReason.STALE_LEASE_TOKEN }] });
      await settleAll(call, (request) => (outcomes += request.outcomes.length));
    },
  });
  const worker = workerOf(server).on("A", async (_, { signal }) => {
    running += 1;
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    reasons.push(signal.reason);
  });
  const run = worker.run();
  await until(() => worker.stats.refused === 2);
  await worker.stop();
  await run;
  assert.deepEqual(reasons.map((each) => each instanceof TaskStopped && each.kind).sort(), ["cancelled", "leaseLost"]);
  assert.equal(outcomes, 0);
  assert.equal(worker.stats.lost, 2);
});

test("a drain notice: the worker leaves, keeps its handlers, and reports to the next server", async () => {
  const ended = gate();
  const outcomes: string[] = [];
  await using next = await ScriptedServer.start({
    Work: async (call) => {
      await welcomeWorker(call);
      ended.open();
      await settleAll(call, (request) => outcomes.push(...request.outcomes.map((each) => each.taskId)));
    },
  });
  await using server = await ScriptedServer.start({
    Work: async (call) => {
      await welcomeWorker(call);
      deliver(call, "a");
      call.send(WorkResponseSchema, { notice: { reason: ErrorReason.NOT_LEADER, graceMs: 5000, leader: next.address } });
    },
  });
  const worker = workerOf(server).on("A", async (_, { signal }) => {
    await ended.promise;
    assert.ok(!signal.aborted);
  });
  const run = worker.run();
  await until(() => outcomes.length === 1);
  await worker.stop();
  await run;
  assert.deepEqual(outcomes, ["a"]);
});

test("stop: no more tasks, running ones finish, and what crossed the drain goes back", async () => {
  const kinds = new Map<string, OutcomeKind>();
  const release = gate();
  await using server = await ScriptedServer.start({
    Work: async (call) => {
      await welcomeWorker(call);
      deliver(call, "running");
      await settleAll(call, (request) => {
        for (const { taskId, kind } of request.outcomes) kinds.set(taskId, kind);
        if (request.drain) {
          assert.equal(request.addCredits, 0);
          deliver(call, "late");
        }
        if (kinds.has("late")) release.open();
      });
    },
  });
  const worker = workerOf(server).on("A", () => release.promise);
  const run = worker.run();
  await until(() => worker.stats.received === 1);
  await worker.stop();
  await run;
  assert.deepEqual([...kinds], [["late", OutcomeKind.ABANDON], ["running", OutcomeKind.COMPLETED]]);
});

test("tasks that outlast the drain go back by the half-close, and their signal says shutdown; a second stop is at once", async () => {
  for (const stops of [1, 2]) {
    let outcomes = 0;
    const reason = gate<unknown>();
    await using server = await ScriptedServer.start({
      Work: async (call) => {
        await welcomeWorker(call);
        deliver(call, "a");
        await settleAll(call, (request) => (outcomes += request.outcomes.length));
      },
    });
    const worker = workerOf(server, { drainSeconds: stops === 1 ? 0.2 : 60 }).on("A", async (_, { signal }) => {
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
      reason.open(signal.reason);
    });
    const run = worker.run();
    await until(() => worker.stats.received === 1);
    const begun = performance.now();
    void worker.stop();
    if (stops === 2) void worker.stop();
    await run;
    assert.ok(performance.now() - begun < 3000);
    assert.equal(((await reason.promise) as TaskStopped).kind, "shutdown");
    assert.equal(outcomes, 0);
  }
});

test("a worker that the server refuses ends with the reason", async () => {
  await using server = await ScriptedServer.start({ Work: (call) => call.fail({ code: 7, reason: "COMMAND_NOT_ALLOWED" }) });
  await assert.rejects(workerOf(server).on("A", () => 1).run(), (error) => isCodeqError(error, "COMMAND_NOT_ALLOWED"));
});

test("a token that has expired is renewed by the function; a fixed one ends the worker", async () => {
  const script = async (call: ServerCall, number: number): Promise<void> => {
    if (number === 0) return call.fail({ code: 16, reason: "UNAUTHENTICATED", metadata: { expiredAt: "2026-01-01T00:00:00Z" } });
    await welcomeWorker(call);
    deliver(call, "a");
    await settleAll(call);
  };
  let asked = 0;
  await using server = await ScriptedServer.start({ Work: script });
  const worker = workerOf(server, { token: () => `t${(asked += 1)}` }).on("A", () => 1);
  const run = worker.run();
  await until(() => worker.stats.settled === 1);
  await worker.stop();
  await run;
  assert.deepEqual(server.calls.filter((call) => call.method === "Work").map((call) => call.token), ["t1", "t2"]);
  await using other = await ScriptedServer.start({ Work: script });
  await assert.rejects(workerOf(other).on("A", () => 1).run(), (error) => isCodeqError(error, "UNAUTHENTICATED"));
});

test("the timeout of a handler aborts its signal, and its outcome still counts", async () => {
  const outcome = await outcomeOf(
    async (task) => {
      await new Promise((resolve) => task.signal.addEventListener("abort", resolve));
      return (task.signal.reason as TaskStopped).kind;
    },
    { timeoutSeconds: 0.05 },
  );
  assert.equal(Buffer.from(outcome.result ?? []).toString(), '"timeout"');
});

test("middleware wraps the handler, the first one outermost, and metrics see what happened", async () => {
  const seen: string[] = [];
  await using server = await ScriptedServer.start({
    Work: async (call) => {
      await welcomeWorker(call);
      deliver(call, "a");
      await settleAll(call);
    },
  });
  const worker = workerOf(server, {
    middleware: [
      async (_, next) => {
        seen.push("outer");
        const result = await next();
        seen.push(`result ${String(result)}`);
        return result;
      },
      async (_, next) => {
        seen.push("inner");
        return next();
      },
    ],
    metrics: {
      taskStarted: (task) => seen.push(`started ${task.id}`),
      taskEnded: (task, end, seconds) => {
        seen.push(`ended ${task.id} ${end} ${seconds >= 0}`);
        throw new Error("a broken metric harms nothing");
      },
    },
  }).on("A", () => {
    seen.push("handler");
    return 1;
  });
  const run = worker.run();
  await until(() => worker.stats.settled === 1);
  await worker.stop();
  await run;
  assert.deepEqual(seen, ["started a", "outer", "inner", "handler", "result 1", "ended a completed true"]);
});

test("signals are left alone unless asked for, and other listeners stay", async () => {
  await using server = await ScriptedServer.start({
    Work: async (call) => {
      await welcomeWorker(call);
      await settleAll(call);
    },
  });
  const before = process.listenerCount("SIGTERM");
  const quiet = workerOf(server).on("A", () => 1);
  const first = quiet.run();
  assert.equal(process.listenerCount("SIGTERM"), before);
  await quiet.stop();
  await first;
  let heard = 0;
  const own = (): void => void (heard += 1);
  process.on("SIGTERM", own);
  const asked = workerOf(server, { handleSignals: true }).on("A", () => 1);
  const second = asked.run();
  await until(() => asked.stats.streams === 1);
  process.kill(process.pid, "SIGTERM");
  await second;
  assert.equal(heard, 1);
  process.off("SIGTERM", own);
  assert.equal(process.listenerCount("SIGTERM"), before);
});

test("arguments out of range are refused by name", async () => {
  await assert.rejects(new Worker({ token: "t" }).run(), (error) => isCodeqError(error, "INVALID_ARGUMENT"));
  const worker = new Worker({ token: "t" });
  const wrong: [string, () => unknown][] = [
    ["concurrency", () => new Worker({ concurrency: 0 })],
    ["leaseSeconds", () => new Worker({ leaseSeconds: 43_201 })],
    ["drainSeconds", () => new Worker({ drainSeconds: -1 })],
    ["windowBytes", () => new Worker({ windowBytes: 1.5 })],
    ["name", () => new Worker({ name: "a/b" })],
    ["limit", () => worker.on("A", () => 1, { limit: 17 })],
    ["timeoutSeconds", () => worker.on("A", () => 1, { timeoutSeconds: 0 })],
    ["handler", () => worker.on("A", 7 as never)],
    ["handler", () => worker.on("A", function* () { yield 1; })],
    ["command", () => worker.on("B", () => 1).on("B", () => 1)],
  ];
  for (const [field, act] of wrong) {
    assert.throws(act, (error) => isCodeqError(error, "INVALID_ARGUMENT") && error.violations[0]?.field === field, field);
  }
});
