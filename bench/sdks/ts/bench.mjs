// Measures the TypeScript SDK against a running server, and prints one JSON line; started by bench/sdks/run.py.
//
// A cycle is a task that is created by its own call, delivered to a worker of the same process, and settled. CPU is that
// of this process, all its threads included.
import { createRequire } from "node:module";
import { parseArgs } from "node:util";
import { Producer, Worker } from "../../../sdks/ts/dist/index.js";
import { bareCreates } from "./bare-call.mjs";

const require = createRequire(new URL("../../../sdks/ts/package.json", import.meta.url));

const { values } = parseArgs({
  options: {
    producer: { type: "string" },
    worker: { type: "string" },
    token: { type: "string" },
    seconds: { type: "string", default: "8" },
    warmup: { type: "string", default: "2" },
    callers: { type: "string", default: "256" },
    concurrency: { type: "string", default: "256" },
    lone: { type: "string", default: "400" },
  },
});
const PAYLOAD = { orderId: "42", items: [1, 2, 3], note: "a payload of ordinary size, about a hundred bytes in all" };

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function median(numbers) {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];
}

async function cycles(server) {
  const options = { token: server.token };
  const producer = new Producer({ ...options, addresses: server.producerAddress });
  const worker = new Worker({ ...options, addresses: server.workerAddress, concurrency: Number(values.concurrency) });
  worker.on("BENCH", () => ({ ok: true }));
  const run = worker.run();
  let isOver = false;
  const callers = Array.from({ length: Number(values.callers) }, async () => {
    while (!isOver) await producer.create("BENCH", PAYLOAD);
  });
  await sleep(Number(values.warmup) * 1000);
  const before = { settled: worker.stats.settled, cpu: process.cpuUsage(), at: performance.now() };
  await sleep(Number(values.seconds) * 1000);
  const cpu = process.cpuUsage(before.cpu);
  const settled = worker.stats.settled - before.settled;
  const seconds = (performance.now() - before.at) / 1000;
  isOver = true;
  await Promise.all(callers);
  await worker.stop();
  await run;
  await producer.close();
  return { cycles_per_s: Math.round(settled / seconds), client_cpu_us_per_cycle: round((cpu.user + cpu.system) / settled) };
}

async function lone(server) {
  const count = Number(values.lone);
  const producer = new Producer({ addresses: server.producerAddress, token: server.token });
  const bare = bareCreates(require("@grpc/grpc-js"), server, PAYLOAD);
  const sdk = [];
  const raw = [];
  // In turn, so that a noisy neighbour hits both alike.
  for (let at = 0; at < count; at += 1) {
    sdk.push(await timed(() => producer.create("LONE", PAYLOAD)));
    raw.push(await timed(() => bare.create()));
  }
  bare.close();
  await producer.close();
  return { lone_create_ms: round(median(sdk)), bare_call_ms: round(median(raw)) };
}

async function timed(call) {
  const begun = performance.now();
  await call();
  return performance.now() - begun;
}

function round(number) {
  return Math.round(number * 1000) / 1000;
}

const server = { producerAddress: values.producer, workerAddress: values.worker, token: values.token };
const alone = await lone(server);
console.log(JSON.stringify({ ...(await cycles(server)), ...alone }));
