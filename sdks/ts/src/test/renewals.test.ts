import assert from "node:assert/strict";
import { test } from "node:test";
import { WorkRequestSchema, WorkResponseSchema } from "../gen/codeq/v1/worker_service_pb.js";
import { LeaseTable, sharedMs } from "../lease-table.js";
import { RenewalStream } from "../renewal-stream.js";
import { Endpoint } from "../endpoint.js";
import type { RenewalMessage } from "../renewing.js";
import { TaskStopped } from "../records.js";
import { Worker } from "../worker.js";
import { ScriptedServer, welcomeWorker, type ServerCall } from "./scripted-server.js";
import { KeptLogger, gate, until } from "./support.js";

const LEASE_SECONDS = 1;
const LEASE_MS = LEASE_SECONDS * 1000;

/** Lease of the busy handler; longer, since a machine that runs tests in parallel is slow. */
const BUSY_SECONDS = 2;

/** Serves the streams of a worker on another thread, since the handler blocks this one: see busy-server.ts. */
async function busyServer(): Promise<{ address: string; heartbeats: () => Promise<number[]>; end: () => Promise<void> }> {
  const { Worker: Thread } = await import("node:worker_threads");
  const thread = new Thread(new URL("./busy-server.js", import.meta.url));
  const address = await new Promise<string>((resolve) => thread.once("message", resolve));
  return {
    address,
    heartbeats: () =>
      new Promise((resolve) => {
        thread.once("message", resolve);
        thread.postMessage("heartbeats");
      }),
    end: async () => void (await thread.terminate()),
  };
}

test("a handler that never yields keeps its lease for three leases", async () => {
  const server = await busyServer();
  const worker = new Worker({ addresses: server.address, token: "t", leaseSeconds: BUSY_SECONDS, logger: new KeptLogger() });
  worker.on("A", () => {
    for (const until = performance.now() + 3.2 * BUSY_SECONDS * 1000; performance.now() < until; );
  });
  const run = worker.run();
  let gaps: number[] = [];
  try {
    await until(() => worker.stats.settled === 1);
    gaps = await server.heartbeats();
  } finally {
    await worker.stop(0);
    await run;
    await server.end();
  }
  assert.ok(gaps.length >= 3, `${gaps.length} renewals in three leases`);
  assert.ok(Math.max(...gaps) < BUSY_SECONDS * 1000, `the longest gap was ${Math.max(...gaps)} ms`);
  assert.equal(worker.stats.lost, 0);
});

test("short tasks open no second stream", async () => {
  await using server = await ScriptedServer.start({
    Work: async (call) => {
      await welcomeWorker(call);
      call.send(WorkResponseSchema, { tasks: [{ id: "a", command: "A", leaseToken: 7n }] });
      for (let request = await call.read(WorkRequestSchema); request; request = await call.read(WorkRequestSchema)) {
        if (request.outcomes.length > 0) call.send(WorkResponseSchema, { settled: 1 });
      }
      call.ok();
    },
  });
  const worker = new Worker({ addresses: server.address, token: "t", logger: new KeptLogger() }).on("A", () => 1);
  const run = worker.run();
  await until(() => worker.stats.settled === 1);
  await worker.stop();
  await run;
  assert.equal(server.count("Work"), 1);
});

/** A stream of the renewal thread, here on the thread of the test. */
function renewalOf(server: ScriptedServer, table: LeaseTable): { posts: RenewalMessage[] } & Disposable {
  const posts: RenewalMessage[] = [];
  const endpoint = Endpoint.forWorker({ addresses: server.address, token: "t", logger: new KeptLogger() });
  const options = {
    buffer: table.buffer,
    addresses: [server.address],
    tls: undefined,
    token: "t",
    hasTokenFunction: false,
    isEager: false,
    name: "w",
    commands: ["A"],
    leaseSeconds: LEASE_SECONDS,
  };
  const stream = new RenewalStream(endpoint, table, options, (message) => posts.push(message));
  void stream.run();
  return { posts, [Symbol.dispose]: () => stream.end() };
}

async function renewals(call: ServerCall, take: (taskId: string, token: bigint) => object): Promise<void> {
  const request = await welcomeWorker(call, LEASE_SECONDS);
  assert.equal(request.addCredits, 0);
  for (let next = await call.read(WorkRequestSchema); next; next = await call.read(WorkRequestSchema)) {
    assert.equal(next.addCredits, 0, "the renewal stream must not get tasks");
    for (const { taskId, leaseToken } of next.heartbeats) call.send(WorkResponseSchema, take(taskId, leaseToken));
  }
  call.ok();
}

test("leases are renewed while they are in the table, lost ones are told, and the stream ends when none is left", async () => {
  const table = new LeaseTable(4);
  table.beat();
  const seen = new Map<string, number>();
  await using server = await ScriptedServer.start({
    Work: (call) =>
      renewals(call, (taskId, leaseToken) => {
        seen.set(taskId, (seen.get(taskId) ?? 0) + 1);
        if (taskId === "gone") return { lost: [{ taskId, leaseToken, reason: 15 }] };
        return { extended: [{ taskId, leaseToken }] };
      }),
  });
  const kept = table.add("kept", 2n ** 63n + 5n, 60_000);
  table.add("gone", 6n, 60_000);
  const brief = table.add("brief", 7n, 10);
  using renewing = renewalOf(server, table);
  const { posts } = renewing;
  await until(() => (seen.get("kept") ?? 0) >= 3);
  assert.ok(table.sinceExtended(kept) < LEASE_MS);
  assert.deepEqual(posts.find((each) => each.kind === "lost"), { kind: "lost", taskId: "gone", token: 6n });
  assert.equal(seen.get("brief"), undefined, "a lease beyond its limit is not renewed");
  assert.ok(posts.some((each) => each.kind === "log" && each.text.includes("brief")));
  table.remove(kept);
  table.remove(brief);
  table.leases().forEach((lease) => table.remove(lease.slot));
  const before = server.connections;
  await until(() => server.count("Work") === 1 && posts.length > 0);
  assert.equal(before, 1);
});

test("a late renewal is counted and told once", async () => {
  const table = new LeaseTable(1);
  table.beat();
  table.add("a", 1n, 60_000);
  const times: number[] = [];
  await using server = await ScriptedServer.start({
    Work: (call) =>
      renewals(call, (taskId, leaseToken) => {
        times.push(performance.now());
        return times.length < 4 ? {} : { extended: [{ taskId, leaseToken }] };
      }),
  });
  using renewing = renewalOf(server, table);
  const { posts } = renewing;
  await until(() => table.lateRenewals >= 2);
  assert.equal(posts.filter((each) => each.kind === "log" && each.text.includes("later than half")).length, 1);
});

test("the table survives reuse of its slots, and never shows half of a change", () => {
  const table = new LeaseTable(2);
  const opened = new LeaseTable(table.buffer);
  const first = table.add("a".repeat(64), 2n ** 64n - 1n, 5);
  assert.deepEqual(opened.leases().map(({ taskId, token }) => [taskId, token]), [["a".repeat(64), 2n ** 64n - 1n]]);
  const [stale] = opened.leases();
  table.remove(first);
  assert.deepEqual(opened.leases(), []);
  const second = table.add("b", 1n, 5);
  assert.equal(second, first);
  const words = new Int32Array(table.buffer);
  const extendedAt = 8 + first * 26 + 6;
  words[extendedAt] = sharedMs() - 10_000;
  opened.extended(stale as NonNullable<typeof stale>);
  assert.ok(table.sinceExtended(second) >= 10_000, "an answer for the slot's last owner changes nothing");
  assert.notEqual(table.add("c", 1n, 5), -1);
  assert.equal(table.add("d", 1n, 5), -1);
});

test("a worker that no server answers for a whole lease stops its handlers", async () => {
  let calls = 0;
  await using server = await ScriptedServer.start({
    Work: async (call) => {
      calls += 1;
      if (calls > 1) return; // silent from then on
      await welcomeWorker(call, LEASE_SECONDS);
      call.send(WorkResponseSchema, { tasks: [{ id: "a", command: "A", leaseToken: 7n }] });
    },
  });
  let kind = "";
  const worker = new Worker({ addresses: server.address, token: "t", leaseSeconds: LEASE_SECONDS, logger: new KeptLogger() });
  worker.on("A", async (_, { signal }) => {
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    kind = signal.reason instanceof TaskStopped ? signal.reason.kind : "";
  });
  const run = worker.run();
  const begun = performance.now();
  await until(() => kind !== "");
  assert.equal(kind, "leaseLost");
  assert.ok(performance.now() - begun >= LEASE_MS * 0.9);
  void worker.stop(0);
  await server[Symbol.asyncDispose]();
  await run;
});

test("with short leases, tasks come only once their renewal stream is open", async () => {
  const order: string[] = [];
  await using server = await ScriptedServer.start({
    Work: async (call, number) => {
      await welcomeWorker(call);
      order.push(`hello ${number}`);
      for (let request = await call.read(WorkRequestSchema); request; request = await call.read(WorkRequestSchema)) {
        if (request.addCredits > 0) order.push("credits");
      }
      call.ok();
    },
  });
  const worker = new Worker({ addresses: server.address, token: "t", leaseSeconds: 1, logger: new KeptLogger() });
  const run = worker.on("A", () => 1).run();
  await until(() => order.includes("credits"));
  await worker.stop();
  await run;
  assert.deepEqual(order, ["hello 0", "hello 1", "credits"]);
});

test("without a renewal stream, a worker with short leases renews on its own one", async () => {
  let renewed = 0;
  const release = gate();
  await using server = await ScriptedServer.start({
    Work: async (call, number) => {
      if (number > 0) return call.fail({ code: 8, reason: "LIMIT_REACHED" });
      await welcomeWorker(call);
      for (let request = await call.read(WorkRequestSchema); request; request = await call.read(WorkRequestSchema)) {
        if (request.addCredits === 16) call.send(WorkResponseSchema, { tasks: [{ id: "a", command: "A", leaseToken: 7n }] });
        renewed += request.heartbeats.length;
        const extended = request.heartbeats.map(({ taskId, leaseToken }) => ({ taskId, leaseToken }));
        if (renewed >= 4) release.open();
        call.send(WorkResponseSchema, { extended, settled: request.outcomes.length });
      }
      call.ok();
    },
  });
  const worker = new Worker({ addresses: server.address, token: "t", leaseSeconds: 1, logger: new KeptLogger() });
  const run = worker.on("A", () => release.promise).run();
  await until(() => worker.stats.settled === 1);
  await worker.stop();
  await run;
  assert.equal(worker.stats.lost, 0);
});
