// The streams of a worker to a server with several shards.
import assert from "node:assert/strict";
import { test } from "node:test";
import { isCodeqError } from "../errors.js";
import { WorkResponseSchema } from "../gen/codeq/v1/worker_service_pb.js";
import { RunningWorker, ShardedServer, type ShardStream } from "./sharded-server.js";
import { gate, until } from "./support.js";

/** A handler that holds its tasks until they are released by their id, or all of them. */
function holding() {
  const held = new Map<string, () => void>();
  const all = gate();
  return {
    held,
    handler: (id: string) => Promise.race([all.promise, new Promise<void>((resolve) => held.set(id, resolve))]),
    release: (id: string) => held.get(id)?.(),
    releaseAll: () => all.open(),
  };
}

test("one shard, an older server, or fewer than four places for each shard: one stream, as ever", async () => {
  for (const [shards, concurrency] of [[1, 16], [0, 16], [3, 11], [33, 200]] as const) {
    await using server = await ShardedServer.start(shards, () => 0);
    await using running = new RunningWorker([server], { concurrency });
    const stream = await server.next();
    assert.equal(await stream.granted(), concurrency);
    stream.deliver("a");
    await until(() => running.worker.stats.settled === 1);
    assert.equal(await stream.granted(), 1);
    const extra = stream.sent.filter(({ addCredits, outcomes, returnCredits }) => returnCredits > 0 || (addCredits === 0 && outcomes.length === 0));
    assert.deepEqual([stream.chosen, server.opened, extra], [undefined, 1, []]);
  }
});

test("the first stream is replaced, before it grants credits, by one for each shard, which divide the places", async () => {
  await using server = await ShardedServer.start(3);
  await using running = new RunningWorker([server], { concurrency: 14, windowBytes: 300 });
  const { streams, credits } = await server.each();
  assert.deepEqual(streams.map(({ chosen, shard }) => [chosen, shard]), [[0, 0], [1, 1], [2, 2]]);
  assert.deepEqual([credits, running.worker.stats.streams], [[5, 5, 4], 1]);
  assert.deepEqual(streams.map(({ sent }) => sent[0]?.addCreditBytes), [100n, 100n, 100n]);
  await until(() => server.silent.size === 0, "the others end without a message");
  assert.equal(server.streams.length, 3);
  streams[2]?.call.cut();
  const again = await server.next();
  assert.deepEqual([again.chosen, await again.granted(), running.worker.stats.streams], [2, 4, 2]);
});

test("sixteen connections are opened for a shard until one leads to its process, and the last one is kept", async () => {
  await using server = await ShardedServer.start(2, () => 0);
  await using _ = new RunningWorker([server], { concurrency: 8 });
  const { streams, credits } = await server.each();
  assert.deepEqual(streams.map(({ chosen, shard }) => [chosen, shard]), [[0, 0], [1, 0]]);
  assert.deepEqual([credits, server.opened], [[4, 4], 1 + 1 + 16]);
});

test("a stream that leads elsewhere looks again after 10 s: it gets its credits back, and keeps its tasks", async (t) => {
  const start = globalThis.setTimeout;
  let looks = 0;
  t.mock.method(globalThis, "setTimeout", ((act: () => void, ms?: number) => {
    if (ms === 10_000) looks += 1;
    return start(act, ms === 10_000 && looks === 1 ? 0 : ms);
  }) as typeof setTimeout);
  const tasks = holding();
  const servers = [await ShardedServer.start(2, () => 0), await ShardedServer.start(2, () => 0)];
  await using running = new RunningWorker(servers, { concurrency: 8 }, tasks.handler);
  await until(() => servers.flatMap(({ streams }) => streams).length === 2, "both streams");
  const [home, away] = servers.flatMap(({ streams }) => streams).sort((one, other) => (one.chosen ?? 0) - (other.chosen ?? 0));
  assert.ok(away !== undefined && home !== undefined);
  assert.deepEqual([await home.granted(), await away.granted(), await away.askedBack()], [4, 4, 4]);
  for (const server of servers) server.settles = false;
  away.deliver("a", "b");
  await until(() => tasks.held.size === 2);
  tasks.release("b");
  await away.next("an outcome", ({ outcomes }) => outcomes[0]?.taskId === "b");
  const [, next] = servers;
  assert.ok(next !== undefined);
  const before = next.streams.length;
  next.leads = () => 1;
  away.giveBack(2); // two credits were spent on tasks
  for (const server of servers) server.settles = true;
  away.call.send(WorkResponseSchema, { settled: 1 });
  await until(() => next.streams.length > before, "the stream to the process");
  const moved = next.streams[before] as ShardStream;
  assert.deepEqual([moved.chosen, moved.shard, await moved.granted()], [1, 1, 3]);
  tasks.releaseAll();
  await until(() => running.worker.stats.settled === 2);
  assert.deepEqual(moved.sent.flatMap(({ outcomes }) => outcomes.map(({ taskId }) => taskId)), ["a"]);
  assert.deepEqual([home.sent.length, running.worker.stats.refused, looks], [1, 0, 1]);
  await running.worker.stop(0);
  for (const server of servers) await server[Symbol.asyncDispose]();
});

test("half the credits of a stream without work are returned for one that has used its own; one stays", async () => {
  const tasks = holding();
  await using server = await ShardedServer.start(2);
  await using _ = new RunningWorker([server], { concurrency: 8 }, tasks.handler);
  const { streams: [busy, idle] } = await server.each();
  assert.ok(busy !== undefined && idle !== undefined);
  busy.deliver("1", "2", "3", "4");
  assert.equal(await idle.askedBack(), 2);
  idle.giveBack(2);
  assert.equal(await busy.granted(), 2);
  busy.deliver("5", "6");
  assert.equal(await idle.askedBack(), 1);
  idle.giveBack(1);
  assert.equal(await busy.granted(), 1);
  busy.deliver("7");
  await until(() => tasks.held.size === 7);
  assert.deepEqual(idle.sent.map(({ returnCredits }) => returnCredits), [0, 2, 1], "the last place is not asked for");
  tasks.releaseAll();
});

test("credits that cross with deliveries count as the answer says; after none, they are asked for again", async () => {
  const tasks = holding();
  await using server = await ShardedServer.start(2);
  await using _ = new RunningWorker([server], { concurrency: 8 }, tasks.handler);
  const { streams: [busy, other] } = await server.each();
  assert.ok(busy !== undefined && other !== undefined);
  busy.deliver("1", "2", "3", "4");
  assert.equal(await other.askedBack(), 2);
  other.giveBack(0);
  assert.equal(await other.askedBack(), 2);
  other.deliver("5", "6", "7");
  other.giveBack(1);
  assert.equal(await busy.granted(), 1);
  busy.deliver("8");
  await until(() => tasks.held.size === 8);
  tasks.release("5");
  assert.equal(await other.granted(), 1, "it has three places, and the other five");
  tasks.releaseAll();
});

test("a place that becomes free goes to a stream that has used all its places, and has fewer", async () => {
  const tasks = holding();
  await using server = await ShardedServer.start(2);
  await using _ = new RunningWorker([server], { concurrency: 8 }, tasks.handler);
  const { streams: [large, small] } = await server.each();
  assert.ok(large !== undefined && small !== undefined);
  large.deliver("1", "2", "3", "4");
  await small.askedBack();
  small.giveBack(2);
  await large.granted();
  large.deliver("5", "6");
  await small.askedBack();
  small.giveBack(1);
  await large.granted();
  large.deliver("7");
  small.deliver("8");
  await until(() => tasks.held.size === 8);
  tasks.release("1");
  assert.equal(await small.granted(), 1);
  tasks.release("8");
  assert.equal(await small.granted(), 1, "a place of the smaller one stays");
  tasks.releaseAll();
});

test("a stream that breaks sends its outcomes again over its own next stream, and the others go on", async () => {
  await using server = await ShardedServer.start(2);
  server.settles = false;
  await using running = new RunningWorker([server], { concurrency: 8 });
  const { streams: [steady, broken] } = await server.each();
  assert.ok(steady !== undefined && broken !== undefined);
  broken.deliver("a");
  await broken.next("the outcome", ({ outcomes }) => outcomes.length === 1);
  server.settles = true;
  broken.call.cut();
  const again = await server.next();
  await again.next("the outcome again", ({ outcomes }) => outcomes[0]?.taskId === "a");
  steady.deliver("b");
  await until(() => running.worker.stats.settled === 2);
  assert.deepEqual(again.chosen, 1);
  assert.deepEqual(steady.sent.flatMap(({ outcomes }) => outcomes.map(({ taskId }) => taskId)), ["b"]);
  assert.deepEqual([running.worker.stats.refused, running.worker.stats.lost, steady.isEnded], [0, 0, false]);
});

test("a cancel stops the handler of a task, whichever stream brought it", async () => {
  const tasks = holding();
  await using server = await ShardedServer.start(2);
  await using running = new RunningWorker([server], { concurrency: 8 }, tasks.handler);
  const { streams } = await server.each();
  streams.forEach((stream, shard) => stream.deliver(`${shard}`));
  await until(() => tasks.held.size === 2);
  streams[1]?.call.send(WorkResponseSchema, { cancelled: [{ taskId: "1", leaseToken: 7n }] });
  await until(() => running.worker.stats.lost === 1);
  tasks.releaseAll();
  await until(() => running.worker.stats.settled === 1);
  assert.equal(running.worker.stats.refused, 1);
});

test("a lease that the renewal thread finds lost stops the handler, whichever stream brought the task", async () => {
  const tasks = holding();
  await using server = await ShardedServer.start(2);
  await using running = new RunningWorker([server], { concurrency: 8, leaseSeconds: 10 }, tasks.handler);
  const { streams } = await server.each();
  streams.forEach((stream, shard) => stream.deliver(`${shard}`));
  await until(() => tasks.held.size === 2 && server.silent.size === 1, "tasks, and the stream of the renewal thread");
  const lost = ["0", "1"].map((taskId) => ({ taskId, leaseToken: 7n }));
  for (const call of server.silent) call.send(WorkResponseSchema, { lost });
  await until(() => running.worker.stats.lost === 2);
  tasks.releaseAll();
});

test("an error for good of one stream ends the worker with it", async () => {
  await using server = await ShardedServer.start(2);
  await using running = new RunningWorker([server], { concurrency: 8 });
  const { streams } = await server.each();
  streams[1]?.call.fail({ code: 7, reason: "COMMAND_NOT_ALLOWED" });
  let reason: unknown;
  running.run.catch((error: unknown) => (reason = error));
  await until(() => reason !== undefined);
  assert.ok(isCodeqError(reason, "COMMAND_NOT_ALLOWED"));
});

test("a stop drains all streams, and waits for the tasks of each", async () => {
  const tasks = holding();
  await using server = await ShardedServer.start(2);
  await using running = new RunningWorker([server], { concurrency: 8 }, tasks.handler);
  const { streams } = await server.each();
  streams[1]?.deliver("a");
  await until(() => tasks.held.size === 1);
  const stopped = running.worker.stop(60);
  for (const stream of streams) await stream.next("a drain", ({ drain }) => drain);
  await until(() => streams[0]?.isEnded === true, "the stream without tasks ends");
  assert.equal(streams[1]?.isEnded, false);
  tasks.releaseAll();
  await stopped;
  await running.run;
  assert.equal(running.worker.stats.settled, 1);
});

test("the tasks of all streams go back when the time of a stop is over, and their handlers have a moment to end", async () => {
  let [running, ended] = [0, 0];
  await using server = await ShardedServer.start(2);
  await using started = new RunningWorker([server], { concurrency: 8 }, async (id, signal) => {
    running += 1;
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    await new Promise((resolve) => setTimeout(resolve, id === "1" ? 200 : 0));
    ended += 1;
  });
  const { streams } = await server.each();
  streams.forEach((stream, shard) => stream.deliver(`${shard}`));
  await until(() => running === 2);
  await started.worker.stop(0.1);
  const outcomes = streams.flatMap(({ sent }) => sent.flatMap((request) => request.outcomes));
  assert.deepEqual([outcomes, streams.map(({ isEnded }) => isEnded), ended], [[], [true, true], 2]);
});

test("until the renewal thread does, each stream renews the leases of its tasks", async (t) => {
  const tasks = holding();
  await using server = await ShardedServer.start(2);
  await using _ = new RunningWorker([server], { concurrency: 8 }, tasks.handler);
  const { streams } = await server.each();
  streams.forEach((stream, shard) => stream.deliver(`${shard}`));
  await until(() => tasks.held.size === 2);
  const [seconds, nanos] = process.hrtime();
  t.mock.method(process, "hrtime", () => [seconds + 21, nanos]);
  for (const [shard, stream] of streams.entries()) {
    const { heartbeats } = await stream.next("a heartbeat", (request) => request.heartbeats.length > 0);
    assert.deepEqual(heartbeats.map(({ taskId }) => taskId), [`${shard}`]);
  }
  t.mock.restoreAll();
  tasks.releaseAll();
});

test("a server that is older than the number of shards in the welcome serves a stream as it is", async () => {
  await using server = await ShardedServer.start(2);
  await using _ = new RunningWorker([server], { concurrency: 8 });
  const { streams } = await server.each();
  server.shards = 0;
  server.leads = () => 0;
  streams[1]?.call.cut();
  const again = await server.next();
  assert.deepEqual([again.chosen, await again.granted(), streams[0]?.isEnded], [1, 4, false]);
});

test("streams go to the nodes of their shards, and to others while a node is away", async () => {
  await using zero = await ShardedServer.start(2, () => 0);
  const one = await ShardedServer.start(2, () => 1);
  await using _ = new RunningWorker([one, zero], { concurrency: 8 });
  const [first, second] = [await zero.next(), await one.next()];
  assert.deepEqual([first.chosen, await first.granted(), second.chosen, await second.granted()], [0, 4, 1, 4]);
  await one[Symbol.asyncDispose]();
  const next = await zero.next();
  assert.deepEqual([next.chosen, await next.granted()], [1, 4]);
});

test("streams start over when the number of shards has changed; tasks that run keep their places until they end", async () => {
  const tasks = holding();
  await using server = await ShardedServer.start(2);
  await using running = new RunningWorker([server], { concurrency: 12 }, tasks.handler);
  const before = await server.each();
  before.streams[0]?.deliver("a", "b");
  before.streams[1]?.deliver("c");
  await until(() => tasks.held.size === 3);
  server.settles = false;
  tasks.release("c");
  await before.streams[1]?.next("an outcome, which is not settled", ({ outcomes }) => outcomes.length === 1);
  server.settles = true;
  server.shards = 3;
  for (const { call } of before.streams) call.cut();
  const { streams, credits } = await server.each();
  assert.deepEqual(streams.map(({ chosen, shard }) => [chosen, shard]), [[0, 0], [1, 1], [2, 2]]);
  assert.deepEqual(credits, [4, 3, 3]);
  for (const [id, shard] of [["a", 1], ["b", 2]] as const) {
    tasks.release(id);
    assert.equal(await streams[shard]?.granted(), 1, "the place goes to the stream with the fewest");
  }
  await until(() => running.worker.stats.settled === 3);
  assert.deepEqual([running.worker.stats.refused, running.worker.stats.lost], [0, 0]);
});

test("streams become one again when the server has one shard, and follow no further change at once", async () => {
  await using server = await ShardedServer.start(2);
  await using running = new RunningWorker([server], { concurrency: 8 });
  const { streams } = await server.each();
  server.shards = 1;
  server.leads = () => 0;
  for (const { call } of streams) call.cut();
  const only = await server.next();
  assert.deepEqual([only.chosen, await only.granted()], [undefined, 8]);
  server.shards = 2;
  only.call.cut();
  const again = await server.next();
  assert.deepEqual([again.chosen, await again.granted()], [undefined, 8]);
  assert.equal(running.worker.stats.refused, 0);
});
