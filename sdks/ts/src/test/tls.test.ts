import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import http2 from "node:http2";
import type { AddressInfo } from "node:net";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { Client } from "../client.js";
import { isCodeqError } from "../errors.js";
import { GetTaskResponseSchema } from "../gen/codeq/v1/task_service_pb.js";
import { ServerCall } from "./scripted-server.js";
import { KeptLogger } from "./support.js";

let folder: string;

/** Makes a self-signed certificate for localhost. */
function certificate(name: string): { cert: string; key: string } {
  const [cert, key] = [join(folder, `${name}.crt`), join(folder, `${name}.key`)];
  const args = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost".split(" ");
  const names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
  execFileSync("openssl", [...args, ...names, "-keyout", key, "-out", cert], { stdio: "pipe" });
  return { cert, key };
}

before(() => {
  folder = mkdtempSync(join(tmpdir(), "codeq-tls-"));
});

after(() => rmSync(folder, { recursive: true, force: true }));

function answer(stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders): void {
  const call = new ServerCall(stream, headers);
  if (!String(headers[":path"]).endsWith("GetTask")) return call.fail({ code: 12 });
  call.send(GetTaskResponseSchema, { task: { id: "a" } });
  call.ok();
}

async function serving(server: http2.Http2SecureServer | http2.Http2Server, where: { port: number } | { path: string }, work: (port: number) => Promise<void>): Promise<void> {
  const sessions = new Set<http2.Http2Session>();
  server.on("session", (session) => sessions.add(session));
  server.on("stream", answer);
  server.on("sessionError", () => undefined);
  await new Promise<void>((resolve) => server.listen({ host: "127.0.0.1", ...where }, () => resolve()));
  try {
    await work((server.address() as AddressInfo).port);
  } finally {
    for (const session of sessions) session.destroy();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  }
}

test("files of TLS are used, and read again for the next connection", async () => {
  const first = certificate("first");
  const second = certificate("second");
  const ca = join(folder, "ca.crt");
  const options = (pair: { cert: string; key: string }) => ({ cert: readFileSync(pair.cert), key: readFileSync(pair.key) });
  copyFileSync(first.cert, ca);
  let port = 0;
  let client: Client | undefined;
  await serving(http2.createSecureServer(options(first)), { port: 0 }, async (given) => {
    port = given;
    client = new Client({ addresses: `127.0.0.1:${port}`, tls: { ca }, token: "t", logger: new KeptLogger() });
    assert.equal((await client.get("a")).id, "a");
    await using plain = new Client({ addresses: `127.0.0.1:${port}`, tls: true, token: "t", timeoutSeconds: 2, logger: new KeptLogger() });
    await assert.rejects(plain.get("a"), (error) => isCodeqError(error, "UNAVAILABLE") && /self-signed/.test(error.message));
  });
  await serving(http2.createSecureServer(options(second)), { port }, async () => {
    await assert.rejects((client as Client).get("a"), (error) => isCodeqError(error, "UNAVAILABLE"));
    copyFileSync(second.cert, ca);
    assert.equal((await (client as Client).get("a")).id, "a");
  });
  await client?.close();
});

test("a client's certificate is shown", async () => {
  const server = certificate("server");
  const own = certificate("own");
  const options = { cert: readFileSync(server.cert), key: readFileSync(server.key), requestCert: true, rejectUnauthorized: true, ca: readFileSync(own.cert) };
  await serving(http2.createSecureServer(options), { port: 0 }, async (port) => {
    await using shown = new Client({ addresses: `localhost:${port}`, tls: { ca: server.cert, ...own }, logger: new KeptLogger() });
    assert.equal((await shown.get("a")).id, "a");
    await using none = new Client({ addresses: `localhost:${port}`, tls: { ca: server.cert }, timeoutSeconds: 2, logger: new KeptLogger() });
    await assert.rejects(none.get("a"), (error) => isCodeqError(error, "UNAVAILABLE"));
  });
});

test("insecureSkipVerify accepts any certificate, and says so loudly", async () => {
  const pair = certificate("any");
  await serving(http2.createSecureServer({ cert: readFileSync(pair.cert), key: readFileSync(pair.key) }), { port: 0 }, async (port) => {
    const logger = new KeptLogger();
    await using client = new Client({ addresses: `127.0.0.1:${port}`, tls: { insecureSkipVerify: true }, token: "t", logger });
    assert.equal((await client.get("a")).id, "a");
    assert.ok(logger.lines.some((line) => line.startsWith("warn") && line.includes("NOT verified")));
  });
});

test("a Unix socket", async () => {
  const path = join(folder, "codeq.sock");
  await serving(http2.createServer(), { path }, async () => {
    await using client = new Client({ addresses: `unix:${path}`, token: "t", logger: new KeptLogger() });
    assert.equal((await client.get("a")).id, "a");
  });
});

test("proxy variables are ignored", async () => {
  process.env["http_proxy"] = process.env["HTTP_PROXY"] = "http://127.0.0.1:1";
  try {
    await serving(http2.createServer(), { port: 0 }, async (port) => {
      await using client = new Client({ addresses: `127.0.0.1:${port}`, token: "t", logger: new KeptLogger() });
      assert.equal((await client.get("a")).id, "a");
    });
  } finally {
    delete process.env["http_proxy"];
    delete process.env["HTTP_PROXY"];
  }
});

test("a server that does not speak HTTP/2, or says nothing, is an error within the timeout", async () => {
  for (const reply of ["HTTP/1.1 400 Bad Request\r\n\r\n", ""]) {
    const server = net.createServer((socket) => {
      socket.on("error", () => undefined);
      if (reply) socket.end(reply);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const port = (server.address() as AddressInfo).port;
    await using client = new Client({ addresses: `127.0.0.1:${port}`, token: "t", timeoutSeconds: 0.5, logger: new KeptLogger() });
    const begun = performance.now();
    await assert.rejects(client.get("a"), (error) => isCodeqError(error, "UNAVAILABLE", "DEADLINE_EXCEEDED"));
    assert.ok(performance.now() - begun < 3000);
    server.close();
  }
});
