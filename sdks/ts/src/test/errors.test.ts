import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { CodeqError, copyOf, fromReason, fromStatus, invalidArgument, isCodeqError } from "../errors.js";
import { REASONS } from "../reasons.js";

const ROOT = new URL("../../", import.meta.url);

function any(type: string, value: Uint8Array): Uint8Array {
  return new BinaryWriter().uint32(10).string(`type.googleapis.com/${type}`).uint32(18).bytes(value).finish();
}

function status(...details: Uint8Array[]): Uint8Array {
  const writer = new BinaryWriter().uint32(8).int32(8).uint32(18).string("no");
  for (const each of details) writer.uint32(26).bytes(each);
  return writer.finish();
}

function info(reason: string, domain: string, metadata: Record<string, string> = {}): Uint8Array {
  const writer = new BinaryWriter().uint32(10).string(reason).uint32(18).string(domain);
  for (const [key, value] of Object.entries(metadata)) {
    writer.uint32(26).bytes(new BinaryWriter().uint32(10).string(key).uint32(18).string(value).finish());
  }
  return any("google.rpc.ErrorInfo", writer.finish());
}

test("the table of reasons is that of error.proto", async () => {
  const script = new URL("scripts/reasons.mjs", ROOT).href;
  const { reasonsModule } = (await import(script)) as { reasonsModule: () => string };
  assert.equal(readFileSync(new URL("src/reasons.ts", ROOT), "utf8"), reasonsModule());
  assert.equal(REASONS.RATE_LIMITED.retryable, true);
  assert.equal(REASONS.TASK_NOT_FOUND.retryable, false);
});

test("details of a failed call become the fields of its error", () => {
  const violation = new BinaryWriter().uint32(10).string("spec.priority").uint32(18).string("must be 0 to 9").finish();
  const bad = any("google.rpc.BadRequest", new BinaryWriter().uint32(10).bytes(violation).finish());
  const delay = new BinaryWriter().uint32(8).int64(2).uint32(16).int32(500_000_000).finish();
  const retry = any("google.rpc.RetryInfo", new BinaryWriter().uint32(10).bytes(delay).finish());
  const error = fromStatus(8, "slow down", status(info("RATE_LIMITED", "codeq", { scope: "producer" }), bad, retry));
  assert.equal(error.reason, "RATE_LIMITED");
  assert.equal(error.retryable, true);
  assert.equal(error.retryAfter, 2.5);
  assert.deepEqual(error.violations, [{ field: "spec.priority", description: "must be 0 to 9" }]);
  assert.deepEqual(error.metadata, { scope: "producer" });
  assert.equal(error.message, "RATE_LIMITED: slow down");
});

test("a failure of another domain, or without details, has the name of its gRPC code", () => {
  assert.equal(fromStatus(8, "x", status(info("RATE_LIMITED", "example.com"))).reason, "RESOURCE_EXHAUSTED");
  assert.equal(fromStatus(14, "x", new Uint8Array()).reason, "UNAVAILABLE");
  assert.equal(fromStatus(14, "x", new Uint8Array()).retryable, true);
  assert.equal(fromStatus(99, "x", new Uint8Array([255, 255])).reason, "UNKNOWN");
});

test("errors are recognised by shape, also those of another copy of the SDK", async () => {
  const error = new CodeqError("TASK_NOT_FOUND", "no such task");
  const other = (await import(`../errors.js?copy=${process.pid}`)) as typeof import("../errors.js");
  assert.notEqual(other.CodeqError, CodeqError);
  assert.ok(other.isCodeqError(error));
  assert.ok(isCodeqError(new other.CodeqError("CLOSED", "x"), "CLOSED", "UNAVAILABLE"));
  assert.ok(!isCodeqError(error, "CLOSED"));
  for (const value of [undefined, null, 1, "x", {}, new Error("x"), { reason: "CLOSED" }]) assert.ok(!isCodeqError(value));
});

test("a reason that only a newer server knows stays recognisable", () => {
  const error = fromReason(9999, "new");
  assert.equal(error.reason, "REASON_9999");
  assert.equal(error.retryable, false);
});

test("a copy of an error is equal, with a stack of its own", () => {
  const error = invalidArgument("priority", "must be 0 to 9");
  const copy = copyOf(error);
  assert.notEqual(copy, error);
  assert.equal(copy.message, "INVALID_ARGUMENT: priority must be 0 to 9");
  assert.deepEqual(copy.violations, [{ field: "priority", description: "must be 0 to 9" }]);
});
