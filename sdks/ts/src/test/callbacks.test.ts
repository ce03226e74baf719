import assert from "node:assert/strict";
import { test } from "node:test";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { Client } from "../client.js";
import { TaskStatus } from "../gen/codeq/v1/task_pb.js";
import {
  CallbackState,
  DeleteWebhookSecretsRequestSchema,
  DeleteWebhookSecretsResponseSchema,
  GetWebhookSecretsResponseSchema,
  ListCallbacksRequestSchema,
  ListCallbacksResponseSchema,
  ListTaskCallbacksResponseSchema,
  PauseWebhooksRequestSchema,
  PauseWebhooksResponseSchema,
  PutWebhookSecretsRequestSchema,
  PutWebhookSecretsResponseSchema,
  ResumeWebhooksResponseSchema,
  RetryCallbacksRequestSchema,
  RetryCallbacksResponseSchema,
  RetryTaskCallbacksResponseSchema,
  TestWebhookRequestSchema,
  TestWebhookResponseSchema,
} from "../gen/codeq/v1/webhook_service_pb.js";
import { ScriptedServer } from "./scripted-server.js";
import { KeptLogger } from "./support.js";

const AT = new Date("2031-02-03T04:05:06.789Z");
const CALLBACK = {
  deliveryId: "d",
  taskId: "a",
  status: TaskStatus.FAILED,
  state: CallbackState.GAVE_UP,
  attemptsTotal: 13,
  attempts: [{ at: timestampFromDate(AT), status: 500, durationMs: 12n, error: "" }],
};

function clientOf(address: string): Client {
  return new Client({ addresses: address, token: "t", timeoutSeconds: 10, logger: new KeptLogger() });
}

test("callbacks of a task and of a command are read with their attempts", async () => {
  const asked: unknown[] = [];
  await using server = await ScriptedServer.start({
    ListTaskCallbacks: (call) => {
      call.send(ListTaskCallbacksResponseSchema, { callbacks: [CALLBACK] });
      call.ok();
    },
    ListCallbacks: async (call) => {
      const request = await call.read(ListCallbacksRequestSchema);
      asked.push([request?.command, request?.state, request?.pageSize, request?.tenant, request?.pageToken]);
      const callbacks = [{ ...CALLBACK, deliveryId: `d${request?.pageToken}` }];
      const nextPageToken = request?.pageToken === "" ? "2" : "";
      call.send(ListCallbacksResponseSchema, { callbacks, nextPageToken, pausedHosts: ["h:443"] });
      call.ok();
    },
  });
  await using client = clientOf(server.address);
  const [callback] = await client.taskCallbacks("a");
  assert.deepEqual([callback?.status, callback?.state, callback?.url], ["FAILED", "GAVE_UP", undefined]);
  assert.deepEqual(callback?.attempts, [{ at: AT, status: 500, durationMs: 12n, error: "" }]);
  const ids: string[] = [];
  for await (const { deliveryId } of client.callbacks("A", { state: "GAVE_UP", pageSize: 7, tenant: "shop" })) ids.push(deliveryId);
  assert.deepEqual(ids, ["d", "d2"]);
  assert.deepEqual((await client.callbacksPage("A")).pausedHosts, ["h:443"]);
  assert.deepEqual(asked, [
    ["A", CallbackState.GAVE_UP, 7, "shop", ""],
    ["A", CallbackState.GAVE_UP, 7, "shop", "2"],
    ["A", CallbackState.UNSPECIFIED, 0, "", ""],
  ]);
});

test("callbacks are retried: those of a task, or those of a command that were given up in a time", async () => {
  let range: unknown[] = [];
  await using server = await ScriptedServer.start({
    RetryTaskCallbacks: (call) => {
      call.send(RetryTaskCallbacksResponseSchema, { retried: 1n });
      call.ok();
    },
    RetryCallbacks: async (call) => {
      const request = await call.read(RetryCallbacksRequestSchema);
      range = [request?.command, request?.from, request?.to, request?.pageToken];
      call.send(RetryCallbacksResponseSchema, { retried: 2n, nextPageToken: "next" });
      call.ok();
    },
  });
  await using client = clientOf(server.address);
  assert.equal(await client.retryTaskCallbacks("a"), 1n);
  assert.deepEqual(await client.retryCallbacks("A", { from: AT, pageToken: "2" }), { retried: 2n, nextPageToken: "next" });
  assert.deepEqual(range, ["A", timestampFromDate(AT), undefined, "2"]);
});

test("webhooks are signed, paused, resumed and tested", async () => {
  const seen: unknown[] = [];
  const secrets = { endpoint: "https://h/a", fingerprints: ["0123456789abcdef"], changedAt: timestampFromDate(AT) };
  await using server = await ScriptedServer.start({
    PutWebhookSecrets: async (call) => {
      const request = await call.read(PutWebhookSecretsRequestSchema);
      seen.push([request?.endpoint, request?.secrets, request?.tenant]);
      call.send(PutWebhookSecretsResponseSchema, { secrets });
      call.ok();
    },
    GetWebhookSecrets: (call) => {
      call.send(GetWebhookSecretsResponseSchema, { endpoints: [secrets] });
      call.ok();
    },
    DeleteWebhookSecrets: async (call) => {
      const request = await call.read(DeleteWebhookSecretsRequestSchema);
      seen.push([request?.endpoint, request?.tenant]);
      call.send(DeleteWebhookSecretsResponseSchema, {});
      call.ok();
    },
    PauseWebhooks: async (call) => {
      seen.push((await call.read(PauseWebhooksRequestSchema))?.host);
      call.send(PauseWebhooksResponseSchema, { pausedHosts: ["h:443"] });
      call.ok();
    },
    ResumeWebhooks: (call) => {
      call.send(ResumeWebhooksResponseSchema, {});
      call.ok();
    },
    TestWebhook: async (call) => {
      seen.push((await call.read(TestWebhookRequestSchema))?.url);
      call.send(TestWebhookResponseSchema, { status: 204, durationMs: 3n });
      call.ok();
    },
  });
  await using client = clientOf(server.address);
  const given = ["a-secret-of-16-b", "an-older-secret-"];
  const put = await client.putWebhookSecrets(given, { endpoint: "https://h/a", tenant: "shop" });
  assert.deepEqual(put, { endpoint: "https://h/a", fingerprints: ["0123456789abcdef"], changedAt: AT });
  assert.deepEqual(await client.webhookSecrets(), [put]);
  await client.deleteWebhookSecrets();
  assert.deepEqual(await client.pauseWebhooks("h:443"), ["h:443"]);
  assert.deepEqual(await client.resumeWebhooks("h:443"), []);
  assert.deepEqual(await client.testWebhook("https://h/a?b"), { status: 204, error: "", durationMs: 3n, excerpt: "" });
  assert.deepEqual(seen, [["https://h/a", given, "shop"], ["", ""], "h:443", "https://h/a?b"]);
});
