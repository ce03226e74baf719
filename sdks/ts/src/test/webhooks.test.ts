import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { WebhookRejected, verifyWebhook } from "../webhooks.js";

interface Vector {
  readonly name: string;
  readonly body: string;
  readonly headers: Record<string, string>;
  readonly secrets: readonly string[];
  readonly now: number;
  readonly valid: boolean;
  readonly error?: string;
}

const TABLE = new URL("../../../../tests/golden/webhook_signatures.json", import.meta.url);

test("requests are verified as the table of all SDKs says", () => {
  const vectors = JSON.parse(readFileSync(TABLE, "utf8")) as Vector[];
  assert.ok(vectors.length > 10);
  for (const { name, body, headers, secrets, now, valid, error } of vectors) {
    const verify = (): string => verifyWebhook(body, headers, secrets, new Date(now * 1000));
    if (valid) assert.equal(verify(), new Headers(headers).get("webhook-id") ?? "", name);
    else assert.throws(verify, new WebhookRejected(error), name);
  }
});

test("headers of fetch are understood, and a request without signatures is rejected", () => {
  assert.throws(() => verifyWebhook("{}", new Headers({ "webhook-id": "1" }), ["a secret of some length"]), WebhookRejected);
});
