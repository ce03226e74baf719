import assert from "node:assert/strict";
import net, { type AddressInfo } from "node:net";
import { test } from "node:test";
import { isCodeqError, type CodeqError } from "../errors.js";
import { Channel, type CallHandler } from "../transport.js";
import { ScriptedServer } from "./scripted-server.js";
import { gate, until } from "./support.js";

const KEEPALIVE = { keepaliveSeconds: 0.02, keepaliveTimeoutSeconds: 0.2 };

/** A handler that keeps how its call ended. */
function ending(): { handler: CallHandler; ended: Promise<CodeqError | undefined> } {
  const end = gate<CodeqError | undefined>();
  return { handler: { message: () => undefined, ended: end.open }, ended: end.promise };
}

/** Passes bytes to a server and back until it is muted; then its connections stay open, but nothing gets through. */
async function silencer(server: ScriptedServer): Promise<{ address: string; mute: () => void } & AsyncDisposable> {
  const sockets = new Set<net.Socket>();
  const proxy = net.createServer((client) => {
    const upstream = net.connect(Number(server.address.split(":")[1]), "127.0.0.1");
    for (const [from, to] of [[client, upstream], [upstream, client]] as const) {
      sockets.add(from);
      from.pipe(to);
      from.on("error", () => undefined);
    }
  });
  await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  return {
    address: `127.0.0.1:${(proxy.address() as AddressInfo).port}`,
    mute: () => sockets.forEach((socket) => socket.unpipe().pause()),
    [Symbol.asyncDispose]: async () => {
      sockets.forEach((socket) => socket.destroy());
      await new Promise((resolve) => proxy.close(resolve));
    },
  };
}

/**
 * Makes calls until one is on a second connection, and returns how that one ends. Those before the notice arrives share the
 * first connection, whose server takes them or ignores them.
 */
async function callElsewhere(channel: Channel, server: ScriptedServer): Promise<{ ended: Promise<CodeqError | undefined> }> {
  for (;;) {
    const taken = server.count("Get");
    const { handler, ended } = ending();
    let isOver = false;
    void ended.then(() => (isOver = true));
    await channel.call("/a/Get", {}, handler);
    await until(() => isOver || server.count("Get") > taken);
    if (server.connections > 1) return { ended };
  }
}

test("a channel that is closed while it connects ends its calls, and crashes nothing", async () => {
  await using server = await ScriptedServer.start({ Get: () => undefined });
  const channel = new Channel(server.address, undefined);
  const { handler } = ending();
  const call = channel.call("/a/Get", {}, handler);
  channel.close();
  await assert.rejects(call, (error) => isCodeqError(error, "UNAVAILABLE"));
});

test("close ends the calls on every connection, also on one that its server is leaving", async () => {
  await using server = await ScriptedServer.start({
    Get: (call, number) => void (number === 0 && call.goAway()),
  });
  const channel = new Channel(server.address, undefined);
  const first = ending();
  await channel.call("/a/Get", {}, first.handler);
  await until(() => server.count("Get") === 1);
  const second = await callElsewhere(channel, server);
  channel.close();
  assert.ok(isCodeqError(await first.ended, "UNAVAILABLE"));
  assert.ok(isCodeqError(await second.ended, "UNAVAILABLE"));
});

test("a call on a server that falls silent ends, and an idle server that answers pings keeps its call", async () => {
  await using server = await ScriptedServer.start({ Get: () => undefined });
  await using between = await silencer(server);
  const warnings: Error[] = [];
  const warned = (warning: Error): void => void warnings.push(warning);
  process.on("warning", warned);
  const channel = new Channel(between.address, undefined, KEEPALIVE);
  const { handler, ended } = ending();
  const call = await channel.call("/a/Get", {}, handler);
  await until(() => server.pings > 12);
  assert.ok(!call.isOver, "the call ended though its server answered all pings");
  between.mute();
  const begun = performance.now();
  assert.ok(isCodeqError(await ended, "UNAVAILABLE"));
  assert.ok(performance.now() - begun < 5000); // far less than without pings, where it would never end
  channel.close();
  process.off("warning", warned);
  assert.deepEqual(warnings, [], "each ping left a listener behind");
});

test("a second connection is watched while a call is open on the first", async () => {
  await using server = await ScriptedServer.start({ Get: (call, number) => void (number === 0 && call.goAway()) });
  await using between = await silencer(server);
  const channel = new Channel(between.address, undefined, KEEPALIVE);
  const first = ending();
  await channel.call("/a/Get", {}, first.handler);
  await until(() => server.count("Get") === 1);
  const second = await callElsewhere(channel, server);
  between.mute();
  assert.ok(isCodeqError(await second.ended, "UNAVAILABLE"));
  assert.ok(isCodeqError(await first.ended, "UNAVAILABLE"));
  channel.close();
});

test("a connection that was idle for long is pinged at its next call", async (t) => {
  await using server = await ScriptedServer.start({ Get: (call, number) => (number === 0 ? call.ok() : undefined) });
  await using between = await silencer(server);
  const channel = new Channel(between.address, undefined, { keepaliveSeconds: 600, keepaliveTimeoutSeconds: 0.2 });
  const [first, second] = [ending(), ending()];
  await channel.call("/a/Get", {}, first.handler);
  assert.equal(await first.ended, undefined);
  between.mute();
  const now = performance.now();
  t.mock.method(performance, "now", () => now + 601_000);
  await channel.call("/a/Get", {}, second.handler);
  assert.ok(isCodeqError(await second.ended, "UNAVAILABLE"));
  assert.equal(server.connections, 1);
  channel.close();
});
