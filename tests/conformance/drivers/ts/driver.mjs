// Drives the TypeScript SDK for the conformance suite: requests as JSON lines on stdin, replies and events on stdout.
import { readdirSync, readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { Client, Producer, RawJson, Worker, defaults, isCodeqError, PROTOCOL, SDK_NAME, VERSION } from "../../../../sdks/ts/dist/index.js";
import { AuditService } from "../../../../sdks/ts/dist/gen/codeq/v1/audit_service_pb.js";
import { ClusterService } from "../../../../sdks/ts/dist/gen/codeq/v1/cluster_service_pb.js";
import { QueueService } from "../../../../sdks/ts/dist/gen/codeq/v1/queue_service_pb.js";
import { ScheduleService } from "../../../../sdks/ts/dist/gen/codeq/v1/schedule_service_pb.js";
import { ServerService } from "../../../../sdks/ts/dist/gen/codeq/v1/server_service_pb.js";
import { SubscriptionService } from "../../../../sdks/ts/dist/gen/codeq/v1/subscription_service_pb.js";
import { TaskService } from "../../../../sdks/ts/dist/gen/codeq/v1/task_service_pb.js";
import { TenantService } from "../../../../sdks/ts/dist/gen/codeq/v1/tenant_service_pb.js";
import { TopicService } from "../../../../sdks/ts/dist/gen/codeq/v1/topic_service_pb.js";
import { WebhookService } from "../../../../sdks/ts/dist/gen/codeq/v1/webhook_service_pb.js";
import { handlerOf } from "./behaviours.mjs";
import { fromJson, toJson } from "./json-messages.mjs";
import { layer, metricsOf, telemetryOf } from "./observers.mjs";

const CLOSE_MS_MAX = 8000;

const METHODS = new Map(
  [AuditService, ClusterService, QueueService, ScheduleService, ServerService, SubscriptionService, TaskService, TenantService, TopicService, WebhookService].flatMap(
    (service) => service.methods.map((method) => [method.name, method]),
  ),
);

const producers = new Map();
const clients = new Map();
const workers = new Map();
const runs = new Set();

function emit(told) {
  process.stdout.write(`${JSON.stringify(told)}\n`);
}

const OPS = {
  hello: async () => ({ sdk: SDK_NAME, version: VERSION, protocol: PROTOCOL, defaults: defaults() }),
  stats: async () => ({
    rssBytes: process.memoryUsage.rss(),
    heapBytes: process.memoryUsage().heapUsed,
    threads: Number(/^Threads:\s+(\d+)/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1]),
    openFiles: readdirSync("/proc/self/fd").length,
  }),
  "producer.open": async (args) => {
    const { timeoutSeconds, requestKeys, failFast, inFlightTasksMax } = set(args);
    const settings = { timeoutSeconds, requestKeys, failFast, inFlightTasksMax, ...hooks(args) };
    producers.set(args.name, new Producer({ ...connection(args), ...settings }));
    return {};
  },
  "producer.close": async ({ name }) => {
    await opened(producers, name).close();
    return {};
  },
  "producer.create": async (args) => {
    const taskId = await opened(producers, args.name).create(args.command, payload(args), options(args));
    return { taskId };
  },
  "producer.create_batch": async ({ name, tasks, timeoutSeconds }) => {
    const results = await opened(producers, name).createBatch(tasks.map(newTask), { timeoutSeconds: timeoutSeconds ?? undefined });
    return results.map((each) => (typeof each === "string" ? { taskId: each } : { error: shownError(each) }));
  },
  "producer.create_all": async ({ name, count, template, inFlight, timeoutSeconds }) => {
    const ids = [];
    const errors = [];
    const tasks = (function* () {
      for (let at = 0; at < count; at += 1) yield newTask(template);
    })();
    const how = { inFlight: inFlight ?? undefined, timeoutSeconds: timeoutSeconds ?? undefined };
    for await (const each of opened(producers, name).createAll(tasks, how)) {
      if (typeof each === "string") ids.push(each);
      else errors.push(shownError(each));
    }
    return { ids, errors };
  },
  "producer.create_and_wait": async (args) => {
    const result = await opened(producers, args.name).createAndWait(args.command, payload(args), options(args));
    const { taskId, status, resultText, error, completedAt, artifacts } = result;
    return {
      taskId,
      status,
      ...(resultText === undefined ? {} : { result: { raw: resultText } }),
      ...(error === undefined ? {} : { error }),
      completedAt: completedAt.toISOString(),
      artifacts: artifacts.map((each) => set({ ...each, size: each.size === undefined ? undefined : Number(each.size) })),
    };
  },
  "client.open": async (args) => {
    clients.set(args.name, new Client({ ...connection(args), timeoutSeconds: args.timeoutSeconds ?? undefined }));
    return {};
  },
  "client.close": async ({ name }) => {
    await opened(clients, name).close();
    return {};
  },
  "worker.run": async (args) => {
    const { concurrency, leaseSeconds, drainSeconds, windowBytes, handleSignals, workerName } = set(args);
    const settings = { name: workerName, concurrency, leaseSeconds, drainSeconds, windowBytes, handleSignals };
    const middleware = (args.layers ?? []).map((each) => layer(each, args.name, emit));
    const worker = new Worker({ ...connection(args), ...settings, ...hooks(args), middleware });
    const create = (producer, command) => opened(producers, producer).create(command, 1);
    const handler = handlerOf(args.name, args.behaviour ?? [], emit, create);
    const limits = args.limits ?? {};
    for (const command of new Set([...(args.commands ?? []), ...Object.keys(limits)])) {
      worker.on(command, handler, { limit: limits[command] });
    }
    if ((args.commands ?? []).length === 0) worker.onAny(handler);
    workers.set(args.name, worker);
    const run = worker.run().then(
      () => null,
      (error) => shownError(error),
    ).then((error) => {
      runs.delete(run);
      emit({ event: "ended", worker: args.name, error });
    });
    runs.add(run);
    return {};
  },
  "worker.stop": async ({ name, drainSeconds }) => {
    void opened(workers, name).stop(drainSeconds ?? undefined);
    return {};
  },
  "worker.stats": async ({ name }) => opened(workers, name).stats,
};

async function call(verb, { name, request, ...rest }) {
  const method = METHODS.get(verb);
  if (method === undefined) throw unsupported(`unknown RPC ${verb}`);
  const message = fromJson(method.input, request ?? rest);
  const reply = await opened(clients, name).call(method, message, { waitSeconds: message.waitSeconds ?? 0 });
  return toJson(method.output, reply);
}

async function answer(line) {
  const { id, op, args = {} } = JSON.parse(line);
  try {
    emit({ id, ok: await carryOut(op, args ?? {}) });
  } catch (error) {
    emit({ id, error: shownError(error) });
  }
}

function carryOut(op, args) {
  if (Object.hasOwn(OPS, op)) return OPS[op](args);
  if (op.startsWith("client.")) return call(op.slice("client.".length), args);
  throw unsupported(`unknown op ${op}`);
}

function unsupported(message) {
  return { reason: "UNSUPPORTED", message };
}

function shownError(error) {
  if (isCodeqError(error)) {
    const { reason, retryable, retryAfter, violations, message, metadata } = error;
    return { reason, retryable, retryAfterSeconds: retryAfter ?? null, violations, message, metadata };
  }
  const reason = error?.reason ?? (error instanceof TypeError ? "INVALID_ARGUMENT" : "INTERNAL");
  const message = error?.message ?? String(error);
  return { reason, retryable: false, retryAfterSeconds: null, violations: [], message };
}

function connection({ addresses, token, tokens, tls }) {
  let at = 0;
  return {
    addresses: addresses ?? undefined,
    token: tokens ? () => tokens[Math.min(at++, tokens.length - 1)] : (token ?? undefined),
    tls: tls ? set({ ca: tls.ca, cert: tls.cert, key: tls.key }) : undefined,
  };
}

function hooks(args) {
  return { metrics: metricsOf(args, emit), telemetry: telemetryOf(args) };
}

function opened(known, name) {
  const found = known.get(name);
  if (found === undefined) throw new TypeError(`nothing is open as ${name}`);
  return found;
}

/** Returns the values that are neither null nor undefined. */
function set(values) {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== null && value !== undefined));
}

function payload(args) {
  return typeof args.payloadRaw === "string" ? new RawJson(args.payloadRaw) : args.payload;
}

function options(args) {
  const { priority, delaySeconds, expireSeconds, maxAttempts, idempotencyKey, taskId, traceparent, tracestate, timeoutSeconds } = set(args);
  const { concurrencyKey, rateKey, orderingKey } = set(args);
  const keys = { concurrencyKey, rateKey, orderingKey };
  const runAt = args.runAt === undefined || args.runAt === null ? undefined : new Date(args.runAt);
  return { priority, delaySeconds, runAt, expireSeconds, maxAttempts, idempotencyKey, taskId, traceparent, tracestate, ...keys, timeoutSeconds };
}

function newTask(args) {
  const { timeoutSeconds: _, ...rest } = options(args);
  return { command: args.command, payload: payload(args), ...rest };
}

async function close() {
  for (const worker of workers.values()) void worker.stop(0);
  await Promise.allSettled(runs);
  await Promise.allSettled([...producers.values(), ...clients.values()].map((each) => each.close()));
}

process.stdout.on("error", () => process.exit(0)); // the suite is gone
for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  if (line.trim() !== "") void answer(line);
}
await Promise.race([close(), new Promise((resolve) => setTimeout(resolve, CLOSE_MS_MAX))]);
process.exit(0);
