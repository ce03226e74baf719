// The streams of a producer to a server with several shards.
import assert from "node:assert/strict";
import { test } from "node:test";
import { isCodeqError } from "../errors.js";
import { ProduceRequestSchema, ProduceResponseSchema } from "../gen/codeq/v1/producer_service_pb.js";
import { Producer, type ProducerOptions } from "../producer.js";
import { ScriptedServer, welcomeProducer, type ServerCall } from "./scripted-server.js";
import { KeptLogger, gate, until } from "./support.js";

/** Below the 5 s that a close waits for a server that does not end a stream. */
const SOON_MS = 4000;

/** A server whose streams lead to the processes of its shards; ids name the shard that keeps the task. */
class Shards implements AsyncDisposable {
  readonly server: ScriptedServer;
  /** Tasks accepted by each shard. */
  readonly counts: number[];
  /** The open streams by the shard of their process. */
  readonly open = new Map<number, ServerCall>();
  /** Resolves when the next streams may be welcomed. */
  welcomes: Promise<void> = Promise.resolve();
  /** Called with each frame; returns whether it is answered. */
  answers: (shard: number, call: ServerCall) => boolean | Promise<boolean> = () => true;

  static async start(shards: number, leads = (stream: number): number => stream % shards): Promise<Shards> {
    return new Shards(await ScriptedServer.start(), shards, leads);
  }

  private constructor(server: ScriptedServer, shards: number, leads: (stream: number) => number) {
    this.server = server;
    this.counts = Array.from({ length: Math.max(1, shards) }, () => 0);
    server.on("Produce", async (call, number) => {
      const shard = leads(number);
      await this.welcomes;
      await welcomeProducer(call, 1, { shard, shards });
      this.open.set(shard, call);
      for (let next = await call.read(ProduceRequestSchema); next; next = await call.read(ProduceRequestSchema)) {
        if (!(await this.answers(shard, call))) continue;
        const taskIds = next.tasks.map(() => `${shard}-${(this.counts[shard] = (this.counts[shard] ?? 0) + 1)}`);
        call.send(ProduceResponseSchema, { acks: [{ taskIds }] });
      }
      if (this.open.get(shard) === call) this.open.delete(shard);
      call.ok();
    });
  }

  /** Number of streams that were opened. */
  get opened(): number {
    return this.server.count("Produce");
  }

  producer(options: ProducerOptions = {}): Producer {
    return new Producer({ addresses: this.server.address, token: "t", logger: new KeptLogger(), ...options });
  }

  /** Creates tasks until each of so many shards has one. */
  async spread(producer: Producer, shards = this.counts.length): Promise<void> {
    await producer.create("A");
    await until(() => this.open.size === shards, "the streams");
    while (this.counts.filter((count) => count > 0).length < shards) await producer.create("A");
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.server[Symbol.asyncDispose]();
  }
}

test("creates go to the shards in turn, and a batch goes to one of them", async () => {
  await using shards = await Shards.start(3);
  await using producer = shards.producer();
  await shards.spread(producer);
  const before = [...shards.counts];
  const ids = new Set<string>();
  for (let n = 0; n < 30; n += 1) ids.add(await producer.create("A", n));
  assert.deepEqual([shards.counts.map((count, shard) => count - (before[shard] ?? 0)), ids.size], [[10, 10, 10], 30]);
  const batch = await producer.createBatch(Array.from({ length: 20 }, () => ({ command: "A" })));
  assert.equal(new Set(batch.map((id) => String(id).split("-")[0])).size, 1);
  assert.equal(shards.opened, 3);
});

test("one shard, an older server, own keys or several addresses: one stream, as ever", async () => {
  const cases: [number, ProducerOptions, boolean][] = [
    [1, {}, false],
    [0, {}, false],
    [33, {}, false],
    [2, { requestKeys: true }, false],
    [2, { requestKeys: false }, true],
  ];
  for (const [count, options, isOfMany] of cases) {
    await using shards = await Shards.start(count, () => 0);
    const addresses = isOfMany ? [shards.server.address, "127.0.0.1:1"] : shards.server.address;
    await using producer = shards.producer({ ...options, addresses });
    for (let n = 0; n < 20; n += 1) await producer.create("A");
    assert.deepEqual([shards.opened, shards.counts[0]], [1, 20]);
  }
});

test("sixteen connections are opened for a shard until one leads to its process, and the last one is kept", async () => {
  await using shards = await Shards.start(2, () => 0);
  await using producer = shards.producer();
  await producer.create("A");
  await until(() => shards.opened === 1 + 16);
  const last = shards.open.get(0);
  const seen = new Set<ServerCall>();
  shards.answers = (_, call) => seen.add(call).size > 0;
  while (seen.size < 2) await producer.create("A");
  assert.ok(last !== undefined && seen.has(last));
  assert.equal(shards.opened, 17);
});

test("while a stream is broken, creates go on over the others, and it comes back", async () => {
  await using shards = await Shards.start(2, (stream) => (stream === 0 ? 0 : 1));
  await using producer = shards.producer();
  await shards.spread(producer);
  const before = [...shards.counts];
  const back = gate();
  shards.welcomes = back.promise;
  shards.open.get(1)?.cut();
  const made = await Promise.allSettled([1, 2, 3].map(() => producer.create("A"))); // they may go with the broken stream
  while ((shards.counts[0] ?? 0) < (before[0] ?? 0) + 20) made.push(...(await Promise.allSettled([producer.create("A")])));
  const lost = made.flatMap((each) => (each.status === "rejected" ? [each.reason as unknown] : []));
  assert.ok(lost.length <= 3 && lost.every((error) => isCodeqError(error, "OUTCOME_UNKNOWN")));
  assert.equal(shards.counts[1], before[1]);
  back.open();
  while (shards.counts[1] === before[1]) await producer.create("A");
});

test("a create that a broken stream has lost is sent over another one if it has a key, else its outcome is unknown", async () => {
  await using shards = await Shards.start(2);
  await using producer = shards.producer();
  await shards.spread(producer);
  let isCut = false;
  shards.answers = (_, call) => {
    if (isCut) return true;
    isCut = true;
    call.cut();
    return false;
  };
  const [keyed, plain] = await Promise.allSettled([producer.create("A", 1, { idempotencyKey: "k" }), producer.create("A")]);
  assert.equal(keyed.status, "fulfilled");
  assert.ok(plain.status === "rejected" && isCodeqError(plain.reason, "OUTCOME_UNKNOWN"));
});

test("a further stream that the server refuses fails no create", async () => {
  let refused = 0;
  await using shards = await Shards.start(2);
  shards.server.on("Produce", async (call, number) => {
    if (number > 0) {
      refused += 1;
      return call.fail({ code: 16, reason: "UNAUTHENTICATED" });
    }
    await welcomeProducer(call, 1, { shard: 0, shards: 2 });
    for (let next = await call.read(ProduceRequestSchema); next; next = await call.read(ProduceRequestSchema)) {
      call.send(ProduceResponseSchema, { acks: [{ taskIds: next.tasks.map(() => "id") }] });
    }
    call.ok();
  });
  await using producer = shards.producer();
  while (refused < 2) assert.equal(await producer.create("A"), "id");
});

test("a close waits for what is on its way over every stream, ends them all, and opens none again", async () => {
  await using shards = await Shards.start(2);
  const producer = shards.producer();
  await shards.spread(producer);
  const releases = [gate(), gate()];
  const held = new Set<number>();
  shards.answers = async (shard) => {
    held.add(shard);
    await releases[shard]?.promise;
    return true;
  };
  const made = [producer.create("A")];
  await until(() => held.size === 1);
  made.push(producer.create("A"));
  await until(() => held.size === 2, "each stream has a frame");
  const closed = producer.close();
  await assert.rejects(producer.create("A"), (error) => isCodeqError(error, "CLOSED"));
  for (const [shard, release] of releases.entries()) {
    release.open();
    await until(() => !shards.open.has(shard), "the half-close");
  }
  await Promise.all([closed, ...made]);
  assert.equal(shards.opened, 2);
});

test("a close ends streams without work at once", async () => {
  await using shards = await Shards.start(3);
  const producer = shards.producer();
  await shards.spread(producer);
  const begun = performance.now();
  await producer.close();
  assert.ok(performance.now() - begun < SOON_MS);
  await until(() => shards.open.size === 0);
});
