// Against a real server, whose command is in CODEQ_SERVER_COMMAND, or `codeq` of the PATH.
import assert from "node:assert/strict";
import http from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import { Client } from "../../client.js";
import { isCodeqError } from "../../errors.js";
import { Abandon, Completed, Failed, RetryAfter, Snooze } from "../../outcomes.js";
import { RawJson } from "../../payloads.js";
import { Producer } from "../../producer.js";
import { startTestServer, type TestServer } from "../../testing.js";
import { Worker, type WorkerOptions } from "../../worker.js";
import { KeptLogger, until } from "../support.js";

let server: TestServer;
let producer: Producer;
let client: Client;

before(async () => {
  server = await startTestServer({ env: { BACKOFF_BASE_SECONDS: "1" } });
  producer = new Producer({ addresses: server.producerAddress, token: server.token });
  client = new Client({ addresses: server.producerAddress, token: server.token });
});

after(async () => {
  await producer.close();
  await client.close();
  await server.stop();
});

async function working(worker: Worker, work: () => Promise<void>): Promise<void> {
  const run = worker.run();
  try {
    await work();
  } finally {
    await worker.stop(0);
    await run;
  }
}

function workerOf(options: WorkerOptions = {}): Worker {
  return new Worker({ addresses: server.workerAddress, token: server.token, logger: new KeptLogger(), ...options });
}

test("payloads and results keep their bytes", async () => {
  const text = ' {"n":9007199254740993,"x":1e400,"half":"\\ud83d"} ';
  const worker = workerOf().on("BYTES", (task) => new RawJson(task.payloadText));
  await working(worker, async () => {
    const result = await producer.createAndWait("BYTES", new RawJson(text));
    assert.equal(result.resultText, text);
  });
});

test("every outcome has its effect", async () => {
  let snoozes = 0;
  let abandons = 0;
  const worker = workerOf().on<string>("OUTCOMES", (task) => {
    if (task.payload === "files") return new Completed({ ok: true }, [{ name: "a.txt", content: "hello", contentType: "text/plain" }]);
    if (task.payload === "fail") throw new Failed("broken");
    if (task.payload === "retry" && task.attempts < 3) throw new RetryAfter(0, "busy");
    if (task.payload === "snooze" && snoozes++ === 0) throw new Snooze(1);
    if (task.payload === "abandon" && abandons++ === 0) throw new Abandon();
    return task.attempts;
  });
  await working(worker, async () => {
    const files = await producer.createAndWait("OUTCOMES", "files");
    assert.deepEqual(files.artifacts.map(({ name, size }) => [name, size]), [["a.txt", 5n]]);
    assert.equal(Buffer.from((await client.artifact(files.taskId, "a.txt")).content).toString(), "hello");
    const failed = await producer.createAndWait("OUTCOMES", "fail");
    assert.deepEqual([failed.status, failed.error], ["FAILED", "broken"]);
    assert.equal((await producer.createAndWait("OUTCOMES", "retry")).result, 3);
    const snoozed = await producer.createAndWait("OUTCOMES", "snooze");
    assert.equal(snoozed.result, 1, "a snooze costs no attempt");
    assert.equal((await producer.createAndWait("OUTCOMES", "abandon")).result, 1, "an abandon costs no attempt");
  });
});

test("a handler that never yields keeps its lease for three leases", async () => {
  const worker = workerOf({ leaseSeconds: 1 }).on("BUSY", (task) => {
    for (const until = performance.now() + 3200; performance.now() < until; );
    return task.attempts;
  });
  await working(worker, async () => {
    assert.equal((await producer.createAndWait("BUSY", 1, { timeoutSeconds: 60 })).result, 1);
    assert.equal(worker.stats.lost, 0);
  });
});

test("trace context travels from the create to the handler", async () => {
  const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  const worker = workerOf().on("TRACE", (task) => [task.traceparent, task.tracestate]);
  await working(worker, async () => {
    const result = await producer.createAndWait("TRACE", 1, { traceparent, tracestate: "a=b" });
    assert.deepEqual(result.result, [traceparent, "a=b"]);
  });
});

test("single calls: claim, heartbeat, complete, cancel, explain, lists, queues", async () => {
  const made = await client.create("CALLS", { n: 1 }, { idempotencyKey: "calls-1" });
  assert.equal((await client.create("CALLS", { n: 1 }, { idempotencyKey: "calls-1" })).isDuplicate, true);
  assert.equal((await client.explain(made.id)).reason, "NO_WORKER");
  const [claimed] = await client.claim(["CALLS"], { leaseSeconds: 30 });
  assert.ok(claimed);
  assert.match(claimed.leaseToken ?? "", /^[1-9][0-9]*$/);
  assert.ok((await client.heartbeat(claimed, 60)) > (claimed.leaseUntil ?? new Date()));
  await client.reportProgress(claimed, { percent: 50 });
  assert.equal((await client.get(made.id)).progressText, '{"percent":50}');
  assert.equal((await client.complete(claimed, { done: true })).status, "COMPLETED");
  await assert.rejects(client.nack({ taskId: made.id, leaseToken: "1" }), (error) => isCodeqError(error, "STALE_LEASE_TOKEN"));
  await client.createBatch(Array.from({ length: 5 }, (_, n) => ({ command: "PAGES", payload: n })));
  const listed: string[] = [];
  for await (const task of client.tasks({ command: "PAGES", pageSize: 2 })) listed.push(task.payloadText);
  assert.deepEqual(listed, ["0", "1", "2", "3", "4"]);
  assert.equal((await client.queue("PAGES")).ready, 5n);
  const names: string[] = [];
  for await (const queue of client.queues({ pageSize: 1 })) names.push(queue.command);
  assert.ok(names.includes("CALLS") && names.includes("PAGES"));
  assert.equal((await client.pauseQueue("PAGES")).paused, true);
  assert.equal((await client.resumeQueue("PAGES")).paused, false);
  assert.equal((await client.serverInfo()).batchItemsMax, 1000);
  assert.equal((await client.topology()).raftEnabled, false);
  assert.ok((await client.usage()).usage);
  await assert.rejects(client.result(listed[0] ?? ""), (error) => isCodeqError(error, "TASK_NOT_FOUND"));
  await assert.rejects(client.get("x".repeat(65)), (error) => isCodeqError(error, "INVALID_FIELD") && error.violations.length === 1);
});

test("topics: a policy limits its queue until it is deleted", async () => {
  const topic = await client.putTopic("POLICED", { priorityTiers: [5, 1], maxAttempts: 3, backoff: { policy: "fixed" } });
  assert.deepEqual([topic.version, topic.created, topic.policy?.priorityTiers], [1n, true, [1, 5]]);
  await assert.rejects(client.create("POLICED", 1, { priority: 2 }), (error) => isCodeqError(error, "POLICY_VIOLATION"));
  assert.equal((await client.create("POLICED", 1, { priority: 5 })).maxAttempts, 3);
  assert.equal((await client.putTopic("POLICED", topic.policy!)).version, 1n, "what was read changes nothing");
  await assert.rejects(client.putTopic("POLICED", { priorityTiers: [1], defaultPriority: 2 }), (error) => isCodeqError(error, "INVALID_POLICY"));
  const names: string[] = [];
  for await (const { topicName } of client.topics()) names.push(topicName);
  assert.deepEqual(names, ["POLICED"]);
  await client.deleteTopic("POLICED");
  await client.deleteTopic("POLICED");
  await assert.rejects(client.topic("POLICED"), (error) => isCodeqError(error, "TOPIC_NOT_FOUND"));
});

test("schedules: one is defined, fired, listed and deleted", async () => {
  const payload = new RawJson('{"n":9007199254740993}');
  const daily = await client.putSchedule("daily", { cron: "0 6 * * *", timeZone: "Europe/Berlin", command: "FIRED", payload });
  assert.equal(daily.next.length, 10);
  assert.equal(daily.spec.payload.text, payload.text);
  const { updatedAt } = await client.putSchedule("daily", daily.spec);
  assert.deepEqual(updatedAt, daily.updatedAt, "what was read changes nothing");
  assert.equal((await client.pauseSchedule("daily")).spec.paused, true);
  const fire = await client.triggerSchedule("daily");
  assert.equal(fire.kind, "TRIGGER");
  assert.equal((await client.get(fire.taskId)).payloadText, payload.text);
  assert.equal((await client.resumeSchedule("daily")).spec.paused, false);
  const [from, to] = [new Date("2026-01-01T12:00:00Z"), new Date("2026-01-04T12:00:00Z")];
  const filled = await client.backfillSchedule("daily", from, to);
  assert.deepEqual([filled.fires.length, filled.duplicates], [3, 0]);
  assert.equal((await client.backfillSchedule("daily", from, to)).duplicates, 3);
  assert.equal((await client.scheduleHistory("daily")).length, 4);
  assert.equal((await client.recomputeSchedule("daily")).moved, false);
  const names: string[] = [];
  for await (const { name } of client.schedules()) names.push(name);
  assert.deepEqual(names, ["daily"]);
  await client.deleteSchedule("daily");
  await assert.rejects(client.schedule("daily"), (error) => isCodeqError(error, "SCHEDULE_NOT_FOUND"));
});

test("callbacks and signals: the end of a task and new work are posted to a receiver", async () => {
  const posted: Record<string, unknown>[] = [];
  const receiver = http.createServer((request, response) => {
    let body = "";
    request.on("data", (chunk: Buffer) => (body += chunk.toString()));
    request.on("end", () => {
      posted.push(JSON.parse(body) as Record<string, unknown>);
      response.end();
    });
  });
  await new Promise<void>((resolve) => receiver.listen(0, "127.0.0.1", resolve));
  const host = `127.0.0.1:${(receiver.address() as AddressInfo).port}`;
  const url = `http://${host}/hook`;
  try {
    assert.equal((await client.testWebhook(url)).status, 200);
    const put = await client.putWebhookSecrets(["a-secret-of-16-b"], { endpoint: url });
    assert.deepEqual(await client.webhookSecrets(), [put]);
    await client.deleteWebhookSecrets({ endpoint: url });
    assert.deepEqual(await client.pauseWebhooks(host), [host]);
    assert.deepEqual(await client.resumeWebhooks(host), []);
    const { subscriptionId } = await client.createSubscription(url, { eventTypes: ["HOOKED"], minIntervalSeconds: 0 });
    assert.deepEqual((await client.subscription(subscriptionId)).eventTypes, ["HOOKED"]);
    assert.ok((await client.heartbeatSubscription(subscriptionId, 60)).expiresAt);
    const { id } = await client.create("HOOKED", 1, { webhook: url });
    await until(() => posted.some((each) => each["eventType"] === "HOOKED"), "the signal");
    const [claimed] = await client.claim(["HOOKED"]);
    await client.complete(claimed ?? id);
    await until(() => posted.some((each) => each["taskId"] === id), "the callback");
    assert.equal((await client.taskCallbacks(id))[0]?.taskId, id);
    for await (const { deliveryId } of client.callbacks("HOOKED", { state: "GAVE_UP" })) assert.fail(deliveryId);
    assert.equal(await client.retryTaskCallbacks(id), 0n);
    const ids: string[] = [];
    for await (const each of client.subscriptions()) ids.push(each.subscriptionId);
    for await (const each of client.tenantSubscriptions()) ids.push(each.subscriptionId);
    assert.deepEqual(ids, [subscriptionId, subscriptionId]);
    await client.deleteSubscription(subscriptionId);
    await assert.rejects(client.removeTenantSubscription(subscriptionId), (error) => isCodeqError(error, "SUBSCRIPTION_NOT_FOUND"));
  } finally {
    receiver.closeAllConnections();
    receiver.close();
  }
});

test("a cancel reaches the handler", async () => {
  let kind = "";
  const worker = workerOf().on("CANCEL", async (_, { signal }) => {
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    kind = String((signal.reason as { kind: string }).kind);
  });
  await working(worker, async () => {
    const id = await producer.create("CANCEL", 1);
    while (worker.stats.received === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    await client.cancel(id, "not needed");
    assert.equal((await client.result(id, { waitSeconds: 5 })).error, "not needed");
    while (kind === "") await new Promise((resolve) => setTimeout(resolve, 5));
    assert.equal(kind, "cancelled");
  });
});

test("a stop hands back what runs, without losing an attempt", async () => {
  const id = await producer.create("STOP", 1);
  const worker = workerOf({ drainSeconds: 0 }).on("STOP", (_, { signal }) => new Promise((resolve) => signal.addEventListener("abort", resolve)));
  const run = worker.run();
  while (worker.stats.received === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  await worker.stop();
  await run;
  const task = await client.get(id);
  assert.deepEqual([task.status, task.attempts], ["PENDING", 0]);
});

test("the command of the server is told if it does not work", async () => {
  await assert.rejects(startTestServer({ command: "/does/not/exist" }), (error) => isCodeqError(error, "UNAVAILABLE"));
});
