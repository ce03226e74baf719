import assert from "node:assert/strict";
import { test } from "node:test";
import { create, fromBinary, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { isCodeqError } from "../errors.js";
import { ProduceRequestSchema } from "../gen/codeq/v1/producer_service_pb.js";
import { OutcomeKind, TaskSpecSchema } from "../gen/codeq/v1/task_pb.js";
import { WorkRequestSchema, WorkResponseSchema } from "../gen/codeq/v1/worker_service_pb.js";
import { MessageReader, framed, timeoutHeader } from "../grpc.js";
import { Abandon, Completed, Failed, Nack, ParkKey, RetryAfter, Snooze, type Outcome } from "../outcomes.js";
import { RawJson } from "../payloads.js";
import { encodeTask, type NewTask } from "../new-tasks.js";
import { readWorkerMessage } from "../worker-messages.js";
import { reportOf } from "../worker-reports.js";
import { KeptLogger } from "./support.js";

const BYTES = new TextEncoder();
const LEASE = { taskId: "task-1", token: 2n ** 63n + 1n };

function decodedTask(task: NewTask, key?: string) {
  const item = encodeTask(task, key === undefined ? undefined : () => key);
  const request = fromBinary(ProduceRequestSchema, item.data);
  assert.equal(request.tasks.length, 1);
  return { spec: request.tasks[0], isKeyed: item.isKeyed, data: item.data };
}

test("a task is encoded as protobuf-es encodes it", () => {
  const runAt = new Date("2031-02-03T04:05:06.789Z");
  const cases: [NewTask, MessageInitShape<typeof TaskSpecSchema>][] = [
    [{ command: "A" }, { command: "A", payload: BYTES.encode("null") }],
    [
      { command: "Größe-€-😀".repeat(9), payload: { a: "ü".repeat(200), n: [1, 2.5, null] }, priority: 9, maxAttempts: 1000 },
      {
        command: "Größe-€-😀".repeat(9),
        payload: BYTES.encode(JSON.stringify({ a: "ü".repeat(200), n: [1, 2.5, null] })),
        priority: 9,
        maxAttempts: 1000,
      },
    ],
    [
      { command: "A", payload: new RawJson("1e400"), runAt, expireSeconds: 0.2, idempotencyKey: "k".repeat(256) },
      { command: "A", payload: BYTES.encode("1e400"), runAt: timestampFromDate(runAt), expireSeconds: 1, idempotencyKey: "k".repeat(256) },
    ],
    [
      { command: "A", payload: BYTES.encode(" 1 "), delaySeconds: 0, taskId: "id.1", traceparent: "00-ab", tracestate: "a=b" },
      { command: "A", payload: BYTES.encode(" 1 "), delaySeconds: 0, taskId: "id.1", traceparent: "00-ab", tracestate: "a=b" },
    ],
    [{ command: "A", payload: "x".repeat(100_000) }, { command: "A", payload: BYTES.encode(JSON.stringify("x".repeat(100_000))) }],
  ];
  for (const [task, spec] of cases) {
    const { data } = decodedTask(task);
    assert.deepEqual(Buffer.from(data), Buffer.from(toBinary(ProduceRequestSchema, create(ProduceRequestSchema, { tasks: [spec] }))));
  }
});

test("a task gets a key only if it has neither key nor id", () => {
  assert.equal(decodedTask({ command: "A" }, "new").spec?.idempotencyKey, "new");
  assert.equal(decodedTask({ command: "A", idempotencyKey: "own" }, "new").spec?.idempotencyKey, "own");
  const named = decodedTask({ command: "A", taskId: "id" }, "new");
  assert.equal(named.spec?.idempotencyKey, undefined);
  assert.equal(named.isKeyed, false);
});

test("arguments that cannot be sent are refused, and named", () => {
  const cycle: Record<string, unknown> = {};
  cycle["self"] = cycle;
  const refused: [string, NewTask][] = [
    ["payload", { command: "A", payload: cycle }],
    ["payload", { command: "A", payload: 1n }],
    ["payload", { command: "A", payload: () => 1 }],
    ["priority", { command: "A", priority: 1.5 }],
    ["priority", { command: "A", priority: -1 }],
    ["delaySeconds", { command: "A", delaySeconds: Number.NaN }],
    ["runAt", { command: "A", runAt: new Date("x") }],
    ["runAt", { command: "A", runAt: new Date(), delaySeconds: 1 }],
    ["idempotencyKey", { command: "A", idempotencyKey: "\ud83d" }],
    ["command", { command: 7 as unknown as string }],
  ];
  for (const [field, task] of refused) {
    assert.throws(
      () => encodeTask(task, undefined),
      (error) => isCodeqError(error, "INVALID_ARGUMENT") && error.violations[0]?.field === field,
      field,
    );
  }
  assert.throws(() => encodeTask({ command: "A", payload: "x".repeat(1 << 20) }, undefined), (error) => isCodeqError(error, "TOO_LARGE"));
});

test("outcomes are encoded as protobuf-es encodes them", () => {
  const logger = new KeptLogger();
  const base = { taskId: LEASE.taskId, leaseToken: LEASE.token };
  const cases: [Outcome, object][] = [
    [new Completed(), { kind: OutcomeKind.COMPLETED }],
    [new Completed(null), { kind: OutcomeKind.COMPLETED, result: BYTES.encode("null") }],
    [new Completed({ ü: 1 }), { kind: OutcomeKind.COMPLETED, result: BYTES.encode('{"ü":1}') }],
    [new Failed(new TypeError("no")), { kind: OutcomeKind.FAILED, error: "TypeError: no" }],
    [new Failed(" "), { kind: OutcomeKind.FAILED, error: "no error was given" }],
    [new Nack("busy", 1.2), { kind: OutcomeKind.NACK, error: "busy", delaySeconds: 2 }],
    [new Nack("x".repeat(5000)), { kind: OutcomeKind.NACK, error: `${"x".repeat(4095)}…` }],
    [new Nack("half \ud83d"), { kind: OutcomeKind.NACK, error: "half \ufffd" }],
    [new RetryAfter(3), { kind: OutcomeKind.NACK, error: "", delaySeconds: 3 }],
    [new Snooze(5), { kind: OutcomeKind.ABANDON, delaySeconds: 5 }],
    [new ParkKey(5), { kind: OutcomeKind.ABANDON, delaySeconds: 5, parkKey: true }],
    [new Abandon(), { kind: OutcomeKind.ABANDON }],
  ];
  for (const [outcome, fields] of cases) {
    const wanted = toBinary(WorkRequestSchema, create(WorkRequestSchema, { outcomes: [{ ...base, ...fields }] }));
    assert.deepEqual(Buffer.from(reportOf(LEASE, outcome, logger).data), Buffer.from(wanted), outcome.constructor.name);
  }
  assert.deepEqual(logger.lines, []);
});

test("an outcome that cannot be sent becomes a nack that says why", () => {
  const logger = new KeptLogger();
  function* artifacts() {
    yield { name: "a", content: "x" };
    throw new Error("the disk is gone");
  }
  const cases: [Outcome, RegExp][] = [
    [new Completed(1n), /not JSON.*BigInt/],
    [new Completed("x".repeat(1 << 20)), /limit is 1048576/],
    [new Completed(1, artifacts()), /the disk is gone/],
    [new Completed(1, [{ name: "a", content: new Uint8Array(7 << 20) }]), /artifacts have more than/],
    [new Nack("x", -1), /delaySeconds must be/],
    [new Completed({ toJSON: () => { throw new Error("no json"); } }), /no json/],
  ];
  for (const [outcome, text] of cases) {
    const decoded = fromBinary(WorkRequestSchema, reportOf(LEASE, outcome, logger).data);
    assert.equal(decoded.outcomes[0]?.kind, OutcomeKind.NACK);
    assert.match(decoded.outcomes[0]?.error ?? "", text);
  }
  assert.equal(logger.lines.length, cases.length);
});

test("artifacts travel with their outcome", () => {
  const outcome = new Completed(1, [
    { name: "a.txt", content: "hello", contentType: "text/plain" },
    { name: "b", url: "https://files.example.com/b" },
  ]);
  const decoded = fromBinary(WorkRequestSchema, reportOf(LEASE, outcome, new KeptLogger()).data);
  assert.equal(decoded.artifacts[0]?.leaseToken, LEASE.token);
  assert.deepEqual(decoded.artifacts[0]?.artifacts.map(({ name, url, content }) => [name, url, content && Buffer.from(content).toString()]), [
    ["a.txt", "", "hello"],
    ["b", "https://files.example.com/b", undefined],
  ]);
});

test("messages arrive whole, however the connection cuts them", () => {
  const messages = [Buffer.alloc(0), Buffer.from("a"), Buffer.alloc(70_000, 7), Buffer.from("end")];
  const data = Buffer.concat(messages.map((message) => framed([message])));
  for (const size of [1, 3, 5, 7, 16_384, data.length]) {
    const found: Buffer[] = [];
    const reader = new MessageReader((message) => found.push(Buffer.from(message)));
    for (let at = 0; at < data.length; at += size) reader.take(data.subarray(at, at + size));
    assert.deepEqual(found, messages, `in pieces of ${size}`);
  }
});

test("compressed and oversized messages are refused", () => {
  const take = (head: number[]) => () => new MessageReader(() => undefined).take(Buffer.from(head));
  assert.throws(take([1, 0, 0, 0, 0]), /compressed/);
  assert.throws(take([0, 0xff, 0, 0, 0]), /bytes/);
});

test("a worker's message is read with the size of each task", () => {
  const init = {
    tasks: [{ id: "a", leaseToken: 1n }, { id: "b", leaseToken: 2n, payload: BYTES.encode("1") }],
    settled: 300,
    outcomeErrors: [{ number: 7n, taskId: "c", reason: 15 }],
    lost: [{ taskId: "d", leaseToken: 4n }],
  };
  const message = create(WorkResponseSchema, init);
  const read = readWorkerMessage(toBinary(WorkResponseSchema, message));
  assert.deepEqual(read.tasks.map((each) => each.message), message.tasks);
  assert.ok(read.tasks.every((each) => each.bytes > 0));
  assert.equal(read.settled, 300);
  assert.deepEqual(read.rest, create(WorkResponseSchema, { ...init, tasks: [], settled: 0 }));
});

test("timeouts keep to gRPC's eight digits", () => {
  assert.equal(timeoutHeader(0.2), "1m");
  assert.equal(timeoutHeader(30_000), "30000m");
  assert.equal(timeoutHeader(99_999_999), "99999999m");
  assert.equal(timeoutHeader(100_000_000), "100000S");
});
