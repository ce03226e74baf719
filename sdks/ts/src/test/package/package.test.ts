// Tests the package as users get it: packed, installed beside other packages, type-checked, and bundled.
import assert from "node:assert/strict";
import { execFile, execFileSync, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { WorkRequestSchema, WorkResponseSchema } from "../../gen/codeq/v1/worker_service_pb.js";
import { ScriptedServer, welcomeWorker } from "../scripted-server.js";
import { VERSION } from "../../version.js";

const run = promisify(execFile);

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const BIN = join(ROOT, "node_modules", ".bin");
const EXAMPLES = join(ROOT, "..", "..", "examples", "ts");

let folder: string;
let tarball: string;

before(() => {
  folder = mkdtempSync(join(tmpdir(), "codeq-package-"));
  // Packed from the sources alone, as in a fresh clone: packing has to build.
  const sources = join(folder, "sources");
  mkdirSync(sources);
  for (const name of ["src", "package.json", "tsconfig.json", "README.md"]) {
    cpSync(join(ROOT, name), join(sources, name), { recursive: true });
  }
  symlinkSync(join(ROOT, "node_modules"), join(sources, "node_modules"));
  const packing = ["pack", "--json", "--silent", "--pack-destination", folder];
  const packed = execFileSync("npm", packing, { cwd: sources, encoding: "utf8" });
  const told = JSON.parse(packed) as { filename: string }[] | Record<string, { filename: string }>;
  tarball = join(folder, (Object.values(told)[0] as { filename: string }).filename);
  const modules = join(folder, "node_modules");
  mkdirSync(join(modules, "@codeq", "sdk"), { recursive: true });
  execFileSync("tar", ["-xzf", tarball, "-C", join(modules, "@codeq", "sdk"), "--strip-components=1"]);
  for (const name of readdirSync(join(ROOT, "node_modules"))) {
    if (!name.startsWith(".")) symlinkSync(join(ROOT, "node_modules", name), join(modules, name));
  }
  writeFileSync(join(folder, "package.json"), '{"type":"module","private":true}');
});

after(() => rmSync(folder, { recursive: true, force: true }));

/** Returns the errors of the compiler. */
function compile(...files: string[]): string[] {
  const options = {
    target: "es2022",
    lib: ["es2024", "esnext.disposable", "dom"],
    module: "nodenext",
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    skipLibCheck: false,
    noEmit: true,
    types: ["node"],
  };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions: options, files }));
  const told = spawnSync(join(BIN, "tsc"), ["-p", folder], { encoding: "utf8" }).stdout;
  // Continuation lines are indented. The types of Node 20 contradict each other without skipLibCheck; that is not ours.
  return told.split("\n").filter((line) => line.includes("error TS") && !line.includes("node_modules/@types/node/"));
}

test("the package has what it needs and no tests", () => {
  const root = join(folder, "node_modules", "@codeq", "sdk");
  const files = readdirSync(root, { recursive: true, encoding: "utf8" });
  for (const wanted of ["dist/index.js", "dist/index.d.ts", "dist/renewals.js", "dist/testing.js", "README.md"]) {
    assert.ok(files.includes(wanted), wanted);
  }
  assert.deepEqual(files.filter((file) => file.startsWith("dist/test/")), []);
  const told = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string; dependencies?: object };
  assert.equal(told.version, VERSION);
  assert.equal(told.dependencies, undefined);
});

test("the types resolve for every kind of import that an ESM package has", () => {
  const args = [tarball, "--profile", "esm-only", "--format", "ascii", "--entrypoints", ".", "testing", "opentelemetry"];
  const told = spawnSync(join(BIN, "attw"), args, { encoding: "utf8", cwd: folder });
  assert.equal(told.status, 0, told.stdout + told.stderr);
});

test("the examples and a program with Connect, zod and valibot are type-checked, libraries included", () => {
  const names = readdirSync(EXAMPLES).filter((name) => name.endsWith(".ts"));
  assert.ok(names.includes("quickstart.ts"));
  for (const name of names) cpSync(join(EXAMPLES, name), join(folder, name));
  writeFileSync(join(folder, "consumer.ts"), CONSUMER);
  assert.deepEqual(compile(...names, "consumer.ts"), []);
});

test("what the types must refuse is refused", () => {
  writeFileSync(join(folder, "wrong.ts"), WRONG);
  const lines = compile("wrong.ts");
  assert.equal(lines.length, WRONG.match(/\/\/ wrong/g)?.length, lines.join("\n"));
});

test("the quick start of the README is the example", () => {
  const readme = readFileSync(join(ROOT, "README.md"), "utf8");
  const program = /```ts\n(import \{ Producer, Worker \}[\s\S]*?)```/.exec(readme)?.[1];
  assert.equal(program, readFileSync(join(EXAMPLES, "quickstart.ts"), "utf8"));
  assert.ok((program?.trim().split("\n").length ?? 99) <= 15);
});

const APP = `
import { Worker } from "@codeq/sdk";
const logger = { debug() {}, info() {}, warn: (text) => console.log(text), error: (text) => console.log(text) };
const worker = new Worker({ addresses: process.argv[2], token: "t", leaseSeconds: 1, logger });
worker.on("A", () => { for (const end = Date.now() + 2500; Date.now() < end; ); });
const running = worker.run();
while (worker.stats.settled < 1) await new Promise((resolve) => setTimeout(resolve, 20));
await worker.stop();
await running;
console.log("ran, lost " + worker.stats.lost);
`;

/** Runs a bundle against a server that takes leases away: its handler blocks the event loop for two leases and a half. */
async function runBundle(path: string): Promise<{ told: string; streams: number; heartbeats: number }> {
  let heartbeats = 0;
  await using server = await ScriptedServer.start({
    Work: async (call) => {
      await welcomeWorker(call);
      for (let next = await call.read(WorkRequestSchema); next; next = await call.read(WorkRequestSchema)) {
        if (next.addCredits === 16) call.send(WorkResponseSchema, { tasks: [{ id: "a", command: "A", leaseToken: 7n }] });
        heartbeats += next.heartbeats.length;
        const extended = next.heartbeats.map(({ taskId, leaseToken }) => ({ taskId, leaseToken }));
        call.send(WorkResponseSchema, { extended, settled: next.outcomes.length });
      }
      call.ok();
    },
  });
  // Nothing of the package is beside the bundle.
  const { stdout } = await run(process.execPath, [path, server.address], { timeout: 30_000 });
  return { told: stdout.trim(), streams: server.count("Work"), heartbeats };
}

/** Returns an empty folder outside of the one with the packages. */
function outside(): string {
  const made = mkdtempSync(join(tmpdir(), "codeq-bundle-"));
  after(() => rmSync(made, { recursive: true, force: true }));
  return made;
}

const THREAD = "node_modules/@codeq/sdk/dist/renewals.js";

async function assertRenews(path: string): Promise<void> {
  const { told, streams, heartbeats } = await runBundle(path);
  assert.equal(told, "ran, lost 0");
  assert.equal(streams, 2, "the renewal thread has a stream of its own");
  assert.ok(heartbeats >= 3, `${heartbeats} renewals`);
}

test("an esbuild bundle renews leases in its thread, as one file each and split", async () => {
  writeFileSync(join(folder, "app.mjs"), APP);
  for (const more of [[], ["--splitting"], ["--minify"]]) {
    const out = outside();
    writeFileSync(join(out, "package.json"), '{"type":"module"}');
    const args = ["app.mjs", THREAD, "--bundle", "--platform=node", "--format=esm", `--outdir=${out}`, "--entry-names=[name]", ...more];
    execFileSync(join(BIN, "esbuild"), args, { cwd: folder, stdio: "pipe" });
    await assertRenews(join(out, "app.js"));
  }
});

test("an esbuild bundle that leaves the SDK outside needs nothing", async () => {
  writeFileSync(join(folder, "app.mjs"), APP);
  const file = join(folder, "outside.mjs");
  const args = ["app.mjs", "--bundle", "--packages=external", "--platform=node", "--format=esm", `--outfile=${file}`];
  execFileSync(join(BIN, "esbuild"), args, { cwd: folder, stdio: "pipe" });
  await assertRenews(file);
});

test("a Vite bundle with the SDK inside renews leases in its thread", async () => {
  writeFileSync(join(folder, "app.mjs"), APP);
  const out = outside();
  writeFileSync(join(out, "package.json"), '{"type":"module"}');
  const output = { entryFileNames: "[name].js", chunkFileNames: "[name].js" };
  const build = { ssr: true, outDir: out, emptyOutDir: false, rollupOptions: { input: { app: "app.mjs", renewals: THREAD }, output } };
  const config = { logLevel: "error", ssr: { noExternal: true }, build };
  writeFileSync(join(folder, "vite.config.mjs"), `export default ${JSON.stringify(config)};`);
  execFileSync(process.execPath, [join(ROOT, "node_modules/vite/bin/vite.js"), "build"], { cwd: folder, stdio: "pipe" });
  assert.deepEqual(readFileSync(join(out, "app.js"), "utf8").match(/from "@codeq/), null, "the SDK is inside");
  await assertRenews(join(out, "app.js"));
});

test("a bundle without the thread's file says so", async () => {
  writeFileSync(join(folder, "app.mjs"), APP.replace("2500", "0"));
  const out = outside();
  const file = join(out, "app.mjs");
  execFileSync(join(BIN, "esbuild"), ["app.mjs", "--bundle", "--platform=node", "--format=esm", `--outfile=${file}`], { cwd: folder, stdio: "pipe" });
  const { told, streams } = await runBundle(file);
  assert.match(told, /renewal thread failed[\s\S]*ran, lost 0/);
  assert.equal(streams, 1);
});

const CONSUMER = `
import { createClient, type Client as ConnectClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { Client, Failed, isCodeqError, Producer, Worker, type DeliveredTask, type Reason } from "@codeq/sdk";
import { openTelemetry } from "@codeq/sdk/opentelemetry";
import { startTestServer } from "@codeq/sdk/testing";
import { TaskService } from "@codeq/sdk/gen/codeq/v1/task_service_pb.js";
import * as v from "valibot";
import { z } from "zod";

const connect: ConnectClient<typeof TaskService> = createClient(TaskService, createGrpcTransport({ baseUrl: "http://localhost:9092" }));
export const read = async (id: string): Promise<string | undefined> => (await connect.getTask({ taskId: id })).task?.command;

const worker = new Worker({ telemetry: openTelemetry(), metrics: { taskStarted: (task) => void task.id } });
worker.on("ZOD", (task) => task.payload.name.length, { schema: z.object({ name: z.string() }) });
worker.on("VALIBOT", async (task, { signal }) => (signal.aborted ? new Failed("x") : task.payload.n + 1), { schema: v.object({ n: v.number() }) });
worker.on<{ a: number[] }>("TYPED", ({ payload }: DeliveredTask<{ a: number[] }>) => payload.a[0]?.toFixed());

export async function calls(): Promise<void> {
  await using server = await startTestServer();
  await using producer = new Producer({ addresses: server.producerAddress, token: async () => "t" });
  const result = await producer.createAndWait<{ n: number }>("A", { x: 1 }, { priority: 3, idempotencyKey: undefined });
  const n: number | undefined = result.result?.n;
  await using client = new Client();
  const ready: bigint = (await client.queue("A")).ready;
  const token: string | undefined = (await client.get("x")).leaseToken;
  try {
    await client.call(TaskService.method.getTask, { taskId: "x" });
  } catch (error) {
    if (isCodeqError(error, "TASK_NOT_FOUND", "RATE_LIMITED")) {
      const reason: "TASK_NOT_FOUND" | "RATE_LIMITED" = error.reason;
      const any: Reason = reason;
      console.log(any, error.violations[0]?.field, n, ready, token);
    }
  }
  for await (const task of client.tasks({ statuses: ["DLQ"] })) console.log(task.payload);
}
`;

const WRONG = `
import { Client, Producer, Worker } from "@codeq/sdk";
import { z } from "zod";
const worker = new Worker({ concurency: 3 }); // wrong
worker.on("A", (task) => task.payload.name); // wrong
worker.on("B", (task) => task.payload.name.toFixed(), { schema: z.object({ name: z.string() }) }); // wrong
new Producer().create("A", 1, { delay: 3 }); // wrong
const ready: number = (await new Client().queue("A")).ready; // wrong
for await (const task of new Client().tasks({ statuses: ["DONE"] })) console.log(task); // wrong
`;
