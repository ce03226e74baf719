import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { TaskSchema } from "../gen/codeq/v1/task_pb.js";
import { LeaseTable } from "../lease-table.js";
import { Executor, STUCK_MS, type Handler, type HandlerOptions } from "../worker-handlers.js";
import { Share } from "../worker-places.js";
import { WorkerTasks, type Renewing, type WorkerCounts } from "../worker-tasks.js";
import { KeptLogger, gate, until } from "./support.js";

interface Made {
  readonly tasks: WorkerTasks;
  readonly logger: KeptLogger;
  readonly renewing: Renewing;
  readonly counts: WorkerCounts;
}

function tasksOf(handler: Handler, options: HandlerOptions = {}): Made {
  const logger = new KeptLogger();
  const executor = new Executor({
    byCommand: new Map([["A", { handler, options }]]),
    default: undefined,
    middleware: [],
    metrics: undefined,
    telemetry: undefined,
    logger,
  });
  const renewing = { isHere: true, isReady: true };
  const counts = { streams: 0, received: 0, settled: 0, refused: 0, lost: 0, stuck: 0 };
  const settings = { windowBytes: 1000, leaseSeconds: 60, countsFirst: true };
  const share = new Share(new Set(), 4);
  const tasks = new WorkerTasks({ logger, executor, leases: new LeaseTable(4), renewing, counts, share, ...settings });
  return { tasks, logger, renewing, counts };
}

function delivered(id: string) {
  return { message: create(TaskSchema, { id, command: "A", leaseToken: 7n }), bytes: 10 };
}

test("a handler that ignores its signal counts as stuck once, is named, and keeps its place", async (t) => {
  const release = gate();
  const { tasks, logger, counts } = tasksOf(() => release.promise);
  tasks.streamOpened(60, 100);
  assert.deepEqual(tasks.takeCredits(), { credits: 4, bytes: 1000 });
  tasks.receive([delivered("a")], false);
  tasks.lost("a", 7n, "cancelled");
  tasks.care();
  assert.equal(counts.stuck, 0);
  const now = performance.now();
  t.mock.method(performance, "now", () => now + STUCK_MS + 100);
  tasks.care();
  tasks.care();
  assert.equal(counts.stuck, 1);
  assert.equal(logger.lines.filter((line) => line.includes("still runs task a")).length, 1);
  assert.equal(tasks.running, 1);
  assert.deepEqual(tasks.takeCredits(), { credits: 0, bytes: 0 }, "its place stays taken");
  release.open();
  await tasks.idle();
  assert.deepEqual(tasks.takeCredits(), { credits: 1, bytes: 10 });
  assert.equal(tasks.owesOutcomes, false, "the late outcome is dropped");
});

test("a task that is delivered again while its handler runs gives up the older lease", async () => {
  const signals: AbortSignal[] = [];
  const release = gate();
  const { tasks } = tasksOf((_, { signal }) => {
    signals.push(signal);
    return release.promise;
  });
  tasks.streamOpened(60, 100);
  tasks.receive([delivered("a")], false);
  await until(() => signals.length === 1);
  tasks.receive([{ message: create(TaskSchema, { id: "a", command: "A", leaseToken: 8n }), bytes: 10 }], false);
  await until(() => signals.length === 2);
  assert.deepEqual(signals.map((signal) => signal.aborted), [true, false]);
  release.open();
  await tasks.idle();
  assert.equal(tasks.takeOutcomes().length, 1);
});

test("a server that delivers more tasks than it was asked for ends its stream, not the process", () => {
  const { tasks } = tasksOf(() => gate().promise);
  tasks.streamOpened(60, 100);
  assert.throws(() => tasks.receive(["a", "b", "c", "d", "e"].map(delivered), false), /delivered more than 4 tasks/);
  tasks.care();
  assert.equal(tasks.running, 0);
});

test("a stream that reopens asks only for the places that are free", async () => {
  const release = gate();
  const { tasks } = tasksOf(() => release.promise);
  tasks.streamOpened(60, 100);
  tasks.takeCredits();
  tasks.receive([delivered("a"), delivered("b")], false);
  tasks.streamEnded();
  tasks.streamOpened(60, 3);
  assert.deepEqual(tasks.takeCredits(), { credits: 1, bytes: 980 });
  release.open();
  await tasks.idle();
});

test("without the renewal thread, leases are renewed on the worker's own stream", async (t) => {
  const release = gate();
  const { tasks } = tasksOf(() => release.promise);
  tasks.streamOpened(60, 100);
  tasks.receive([delivered("a")], false);
  tasks.care();
  assert.deepEqual(tasks.takeHeartbeats(), [], "not before a third of the lease");
  const [seconds, nanos] = process.hrtime();
  t.mock.method(process, "hrtime", () => [seconds + 21, nanos]);
  tasks.care();
  tasks.care();
  assert.deepEqual(tasks.takeHeartbeats(), [{ taskId: "a", leaseToken: 7n }]);
  release.open();
  await tasks.idle();
});

test("this side helps a renewal thread that is late, but not beyond the time for which a lease may be held", async (t) => {
  for (const [timeoutSeconds, renewed] of [[60, 1], [20, 0]] as const) {
    const release = gate();
    const { tasks, renewing } = tasksOf(() => release.promise, { timeoutSeconds });
    tasks.streamOpened(60, 100);
    renewing.isHere = false;
    tasks.receive([delivered("a")], false);
    const [seconds, nanos] = process.hrtime();
    const clock = t.mock.method(process, "hrtime", () => [seconds + 29, nanos]);
    tasks.care();
    assert.deepEqual(tasks.takeHeartbeats(), [], "the thread has until half of the lease");
    clock.mock.mockImplementation(() => [seconds + 31, nanos]);
    tasks.care();
    assert.equal(tasks.takeHeartbeats().length, renewed);
    clock.mock.restore();
    release.open();
    await tasks.idle();
  }
});
