import assert from "node:assert/strict";
import { test } from "node:test";
import { addressesOf, parseAddress } from "../addresses.js";
import { Backoff } from "../backoff.js";
import { CodeqError, NotSent, isCodeqError } from "../errors.js";
import { Following } from "../following.js";
import { Servers } from "../servers.js";
import { defaults } from "../defaults.js";

const NOT_LEADER = new CodeqError("NOT_LEADER", "x");

function following(servers: Servers, repeatable: boolean): Following {
  return new Following(servers, { repeatable, nowMs: 0, timeoutMs: 30_000, waitMs: 0 });
}

test("a named leader is followed at once, but only once", () => {
  const servers = new Servers(["a:1"]);
  assert.equal(servers.left("a:1", "b:1"), 0);
  assert.equal(servers.current, "b:1");
  assert.equal(servers.left("b:1", "a:1"), 0);
  assert.ok(servers.left("a:1", "b:1") >= 50, "two servers that name each other must not make a loop");
});

test("without a leader the servers are tried in turn, after 50 to 500 ms", () => {
  const servers = new Servers(["a:1", "b:1", "c:1"], () => 0.999);
  const tried = Array.from({ length: 4 }, () => {
    const delay = servers.left(servers.current);
    assert.ok(delay >= 50 && delay <= 500, String(delay));
    return servers.current;
  });
  assert.deepEqual(tried, ["b:1", "c:1", "a:1", "b:1"]);
});

test("members that were learned replace earlier ones, not the configured ones", () => {
  const servers = new Servers(["a:1"]);
  servers.learn(["b:1", "c:1"]);
  assert.deepEqual(servers.known, ["a:1", "b:1", "c:1"]);
  servers.learn(["d:1"]);
  assert.deepEqual(servers.known, ["a:1", "d:1"]);
});

test("members are refreshed every minute", () => {
  const servers = new Servers(["a:1"]);
  assert.ok(servers.isRefreshDue(5));
  assert.ok(!servers.isRefreshDue(60_004));
  assert.ok(servers.isRefreshDue(60_005));
});

test("NOT_LEADER is always followed, a lost connection only if the call may run twice", () => {
  const lost = new CodeqError("UNAVAILABLE", "x");
  const alone = new Servers(["a:1"]);
  assert.notEqual(following(alone, false).delayMsAfter(NOT_LEADER, 0), undefined);
  assert.equal(following(alone, true).delayMsAfter(lost, 0), undefined);
  const many = (): Servers => new Servers(["a:1", "b:1"]);
  assert.equal(following(many(), false).delayMsAfter(lost, 0), undefined);
  assert.notEqual(following(many(), true).delayMsAfter(lost, 0), undefined);
  assert.notEqual(following(many(), false).delayMsAfter(new NotSent("x"), 0), undefined);
  assert.notEqual(following(many(), false).delayMsAfter(new CodeqError("DRAINING", "x"), 0), undefined);
});

test("a rate limit is waited for only if the timeout allows", () => {
  const call = following(new Servers(["a:1"]), false);
  assert.equal(call.delayMsAfter(new CodeqError("RATE_LIMITED", "x", { retryAfter: 2.5 }), 0), 2500);
  assert.equal(call.delayMsAfter(new CodeqError("RATE_LIMITED", "x"), 0), 1000);
  assert.equal(call.delayMsAfter(new CodeqError("RATE_LIMITED", "x", { retryAfter: 31 }), 0), undefined);
});

test("an attempt of a call that can be repeated moves on after 5 s", () => {
  assert.equal(following(new Servers(["a:1", "b:1"]), true).timeoutMs(0), 5000);
  assert.equal(following(new Servers(["a:1", "b:1"]), false).timeoutMs(0), 30_000);
  assert.equal(following(new Servers(["a:1"]), true).timeoutMs(1000), 29_000);
});

test("the backoff doubles up to 10 s, with full jitter", () => {
  const most = new Backoff(() => 1);
  assert.deepEqual([1, 2, 3, 6, 7, 100].map((attempt) => most.delayMs(attempt)), [200, 400, 800, 6400, 10_000, 10_000]);
  assert.equal(new Backoff(() => 0).delayMs(5), 0);
});

test("addresses", () => {
  assert.deepEqual(parseAddress("[::1]:9092"), { host: "::1", port: 9092, authority: "[::1]:9092" });
  assert.deepEqual(parseAddress("unix:/run/codeq.sock"), { host: "/run/codeq.sock", port: undefined, authority: "localhost" });
  assert.deepEqual(addressesOf(" a:1, b:2 ,"), ["a:1", "b:2"]);
  for (const wrong of ["localhost", "::1:9092", "a:0", "a:65536", "http://a:1", "a:x", "", ":1", []]) {
    assert.throws(() => addressesOf(wrong), (error) => isCodeqError(error, "INVALID_ARGUMENT"), String(wrong));
  }
});

test("the defaults are those of the other SDKs", () => {
  const { concurrency, leaseSeconds, inFlightTasksMax, backoffMaxMs, keepaliveSeconds } = defaults();
  assert.deepEqual(
    { concurrency, leaseSeconds, inFlightTasksMax, backoffMaxMs, keepaliveSeconds },
    { concurrency: 16, leaseSeconds: 60, inFlightTasksMax: 65_536, backoffMaxMs: 10_000, keepaliveSeconds: 15 },
  );
});
