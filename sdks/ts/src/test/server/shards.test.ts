// Against a real server with two shards, which are processes of their own.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Client } from "../../client.js";
import { Producer } from "../../producer.js";
import { startTestServer, type TestServer } from "../../testing.js";
import { Worker } from "../../worker.js";
import { KeptLogger, gate, until } from "../support.js";

let server: TestServer;
let producer: Producer;
let client: Client;

before(async () => {
  server = await startTestServer({ env: { PERSISTENCE_CONFIG: '{"numShards":2}' } });
  producer = new Producer({ addresses: server.producerAddress, token: server.token });
  client = new Client({ addresses: server.producerAddress, token: server.token });
});

after(async () => {
  await producer.close();
  await client.close();
  await server.stop();
});

/** Returns the credits of each stream that takes tasks. */
async function credits(): Promise<bigint[]> {
  const found: bigint[] = [];
  for await (const worker of client.workers()) if (worker.credits > 0n) found.push(worker.credits);
  return found;
}

/** Returns the shard to which the FNV-1a hash of an id leads. */
function shardOf(id: string): string {
  let hash = 0xcbf29ce484222325n;
  for (const byte of Buffer.from(id)) hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  return String(hash % 2n);
}

/** Creates tasks that are spread over the shards, and returns their ids. */
async function created(command: string, tasks: number): Promise<string[]> {
  const keyed = Array.from({ length: tasks }, (_, n) => ({ command, payload: n, idempotencyKey: `${command}-${n}` }));
  const results = await producer.createBatch(keyed);
  return results.map((result) => {
    if (typeof result !== "string") throw result;
    return result;
  });
}

test("creates of one producer go to the shards in turn, to the process of each", async () => {
  const shards = new Set<string>();
  await using own = new Producer({ addresses: server.producerAddress, token: server.token });
  for (let n = 0; shards.size < 2; n += 1) shards.add(shardOf(await own.create("TURNS", n)));
  const ids: string[] = [];
  for (let n = 0; n < 40; n += 1) ids.push(await own.create("TURNS", n));
  assert.deepEqual(ids.map(shardOf).filter((shard) => shard === "0").length, 20);
});

test("a worker has a stream to each shard, takes the tasks of all, and never runs more than it may", async () => {
  const [order, done] = [gate(), new Set<string>()];
  let running = 0;
  let most = 0;
  const worker = new Worker({ addresses: server.workerAddress, token: server.token, concurrency: 9, logger: new KeptLogger() });
  worker.on("SPREAD", async (task) => {
    running += 1;
    most = Math.max(most, running);
    if (done.size === 0) await order.promise;
    await new Promise((resolve) => setTimeout(resolve, 1));
    running -= 1;
    done.add(task.id);
  });
  const run = worker.run();
  while ((await credits()).length < 2);
  assert.deepEqual((await credits()).sort(), [4n, 5n]);
  const ids = await created("SPREAD", 300);
  await until(() => running === 9, "every place is in use");
  order.open();
  await until(() => worker.stats.settled === 300);
  assert.deepEqual([done.size, most, worker.stats.streams, worker.stats.refused], [new Set(ids).size, 9, 1, 0]);
  await worker.stop();
  await run;
  assert.deepEqual(await credits(), []);
});
