import assert from "node:assert/strict";
import { test } from "node:test";
import { Servers } from "../servers.js";
import { ShardSearch } from "../shard-search.js";
import { Share } from "../worker-places.js";

const CONCURRENCY = 24;

/** Returns numbers below a bound that look random, the same ones for the same seed. */
function numbers(seed: number): (bound: number) => number {
  let state = seed;
  return (bound) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
    return (state >>> 8) % bound;
  };
}

/** A stream and its server: what either has sent reaches the other later, in order. */
class Link {
  readonly share: Share;
  running = 0;
  isOpen = false;
  isMoving = false;
  isRetired = false;
  credits = 0;
  readonly requests: { credits: number; back: number }[] = [];
  readonly responses: { tasks: number; returned: number | undefined }[] = [];

  constructor(all: Set<Share>, places: number) {
    this.share = new Share(all, places);
    this.share.isTaking = () => this.isOpen && !this.isMoving;
  }

  /** Tasks that run, or may come. */
  get used(): number {
    const sent = this.requests.reduce((sum, { credits }) => sum + credits, 0);
    return this.running + this.credits + sent + this.responses.reduce((sum, { tasks }) => sum + tasks, 0);
  }

  open(): void {
    this.isOpen = true;
    this.share.open(65_536, this.running);
  }

  close(): void {
    this.isOpen = this.isMoving = false;
    this.credits = this.requests.length = this.responses.length = 0;
    this.share.close();
  }

  send(): void {
    if (!this.isOpen) return;
    const credits = this.isMoving ? 0 : this.share.grant();
    const back = this.share.ask(this.isMoving);
    if (credits + back > 0) this.requests.push({ credits, back });
  }

  serve(): void {
    const request = this.requests.shift();
    if (request === undefined) return;
    this.credits += request.credits;
    if (request.back === 0) return;
    const returned = Math.min(request.back, this.credits);
    this.credits -= returned;
    this.responses.push({ tasks: 0, returned });
  }

  deliver(tasks: number): void {
    const count = Math.min(tasks, this.credits);
    this.credits -= count;
    if (count > 0) this.responses.push({ tasks: count, returned: undefined });
  }

  receive(): void {
    const response = this.responses.shift();
    if (response === undefined) return;
    this.share.spend(response.tasks);
    this.running += response.tasks;
    if (response.returned !== undefined) this.share.returned(response.returned);
  }

  end(): void {
    if (this.running === 0) return;
    this.running -= 1;
    this.share.free();
  }
}

test("whatever happens, streams never use more places than there are, lose none, and keep one each", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  for (let seed = 1; seed <= 300; seed += 1) {
    const next = numbers(seed);
    const all = new Set<Share>();
    const links = [6, 6, 6, 6].map((places) => new Link(all, places));
    const check = (): void => {
      const used = links.reduce((sum, link) => sum + link.used, 0);
      assert.ok(used <= CONCURRENCY, `seed ${seed}: ${used} places are used`);
      assert.equal(links.reduce((sum, { share }) => sum + share.places, 0), CONCURRENCY);
      assert.ok(links.every(({ share, isRetired }) => isRetired || share.places >= 1), `seed ${seed}: a stream has no place`);
    };
    for (let step = 0; step < 400; step += 1) {
      const link = links[next(links.length)] as Link;
      const action = next(40);
      if (action === 0) link.close();
      else if (action === 1 && link.isOpen) link.isMoving = true;
      else if (action === 2) t.mock.timers.tick(50);
      else if (action === 3 && step > 300 && !link.isRetired && links.filter(({ isRetired }) => !isRetired).length > 1) {
        const free = link.share.retire(link.running);
        link.close();
        link.isRetired = true;
        links.push(new Link(all, free));
        if (free === 0) break; // as long as tasks run, a new stream may have none
      } else if (!link.isOpen && !link.isRetired && next(2) === 0) link.open();
      else if (action < 14) link.send();
      else if (action < 20) link.serve();
      else if (action < 26) link.deliver(1 + next(4));
      else if (action < 33) link.receive();
      else link.end();
      if (link.isMoving && !link.share.isGranted) link.close();
      check();
    }
    for (const link of links) {
      while (link.running > 0 || link.responses.length > 0) {
        link.receive();
        link.end();
      }
      link.close();
    }
    for (const link of links.filter(({ isRetired }) => !isRetired)) {
      link.open();
      link.send();
      link.serve();
    }
    check();
    assert.equal(links.reduce((sum, { credits }) => sum + credits, 0), CONCURRENCY, `seed ${seed}: every place is granted`);
  }
});

test("a place stays with its stream if another one has only one fewer", () => {
  const all = new Set<Share>();
  const [larger, smaller] = [new Link(all, 5), new Link(all, 4)];
  for (const link of [larger, smaller]) {
    link.open();
    link.send();
    link.serve();
    link.deliver(5);
  }
  for (const link of [larger, smaller]) link.receive();
  larger.end();
  assert.deepEqual([larger.share.places, larger.share.grant(), smaller.share.grant()], [5, 1, 0]);
});

const ELSEWHERE = { shard: 0, shards: 2 };

/** Fails as often as connections are opened for one search; returns how many these were. */
function miss(search: ShardSearch): number {
  for (let tries = 1; ; tries += 1) if (search.meets(search.next(), ELSEWHERE)) return tries;
}

test("a search gives up after 16 connections; the pauses before the next one double up to five minutes", () => {
  const search = new ShardSearch(new Servers(["a:1"]), 1, 2);
  const pauses = Array.from({ length: 7 }, () => [miss(search), search.pauseMs]);
  assert.deepEqual(pauses, [10, 20, 40, 80, 160, 300, 300].map((seconds) => [16, seconds * 1000]));
  assert.ok(search.meets("a:1", { shard: 1, shards: 2 }));
  assert.equal(search.pauseMs, undefined);
  assert.deepEqual([miss(search), search.pauseMs], [16, 10_000], "then they are short again");
});

test("a stream over all shards, since the server has another number of them, leads nowhere better", () => {
  const search = new ShardSearch(new Servers(["a:1"]), 1, 2);
  assert.ok(search.meets("a:1", { shard: 0, shards: 3 }));
  assert.equal(search.pauseMs, undefined);
});

test("a search goes round the servers, begins where the process was met, and passes over those that are away", () => {
  const search = new ShardSearch(new Servers(["a:1", "b:1", "c:1"]), 1, 3);
  assert.equal(search.next(), "b:1");
  assert.ok(!search.meets("b:1", { shard: 0, shards: 3 }));
  assert.equal(search.next(), "c:1");
  assert.ok(search.meets("c:1", { shard: 1, shards: 3 }));
  assert.equal(search.next(), "c:1", "its home");
  assert.ok(search.failed("c:1"));
  assert.equal(search.next(), "b:1");
  assert.ok(search.failed("b:1"));
  assert.equal(search.next(), "a:1");
  assert.ok(!search.failed("a:1"), "none is left");
  assert.equal(search.next(), "c:1");
});
