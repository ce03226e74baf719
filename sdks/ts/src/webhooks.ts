import { createHmac, timingSafeEqual } from "node:crypto";

/** Seconds of age, or of advance of the sender's clock, beyond which a request is rejected as a replay. */
export const WEBHOOK_TOLERANCE_SECONDS = 300;

/** A request is not signed, not with a known secret, or not just now; `message` says which. */
export class WebhookRejected extends Error {
  override readonly name = "WebhookRejected";
}

/** Headers as `fetch` has them, or as Node does. */
export type WebhookHeaders = Headers | Readonly<Record<string, string | readonly string[] | undefined>>;

/**
 * Verifies that a callback or a signal comes from the server, and returns its id.
 *
 * Two families of headers carry the same: X-CodeQ-Timestamp with X-CodeQ-Signature, and those of Standard Webhooks. One
 * valid signature is enough. A request can arrive more than once: remember the id, and ignore an id seen before.
 *
 * @param body Body as it was received.
 * @param headers Headers of the request; their case does not matter.
 * @param secrets Secrets that may have signed it, such as the new and the old one.
 * @param now The time. Default: the present.
 * @throws WebhookRejected
 */
export function verifyWebhook(
  body: Uint8Array | string,
  headers: WebhookHeaders,
  secrets: readonly string[],
  now: Date = new Date(),
): string {
  const given = headersOf(headers);
  const id = given.get("webhook-id") ?? "";
  const signedAt: (string | undefined)[] = [];
  const own = given.get("x-codeq-signature");
  if (own) {
    const seconds = given.get("x-codeq-timestamp");
    signedAt.push(seconds);
    for (const secret of isRecent(seconds, now) ? secrets : []) {
      if (isSame(sign(Buffer.from(secret), `${seconds}.`, body).toString("hex"), own)) return id;
    }
  }
  const signatures = (given.get("webhook-signature") ?? "").split(" ").filter(Boolean);
  if (signatures.length > 0) {
    const seconds = given.get("webhook-timestamp");
    signedAt.push(seconds);
    for (const secret of isRecent(seconds, now) ? secrets : []) {
      const mine = `v1,${sign(keyOf(secret), `${id}.${seconds}.`, body).toString("base64")}`;
      if (signatures.some((each) => isSame(mine, each))) return id;
    }
  }
  if (signedAt.length === 0) throw new WebhookRejected("the request is not signed");
  if (!signedAt.some((seconds) => isRecent(seconds, now))) {
    throw new WebhookRejected(`the time of the request is more than ${WEBHOOK_TOLERANCE_SECONDS} seconds off`);
  }
  throw new WebhookRejected("the request is not signed with a known secret");
}

function headersOf(headers: WebhookHeaders): Map<string, string> {
  const entries = headers instanceof Headers ? [...headers] : Object.entries(headers);
  return new Map(
    entries.flatMap(([name, value]) => (typeof value === "string" ? [[name.toLowerCase(), value] as const] : [])),
  );
}

function sign(key: Uint8Array, head: string, body: Uint8Array | string): Buffer {
  return createHmac("sha256", key).update(head).update(body).digest();
}

function isSame(mine: string, theirs: string): boolean {
  const [one, other] = [Buffer.from(mine), Buffer.from(theirs)];
  return one.length === other.length && timingSafeEqual(one, other);
}

function isRecent(seconds: string | undefined, now: Date): boolean {
  if (seconds === undefined || !/^[0-9]{1,12}$/.test(seconds)) return false;
  return Math.abs(Number(seconds) - now.getTime() / 1000) <= WEBHOOK_TOLERANCE_SECONDS;
}

/** Returns the key of Standard Webhooks: the decoded rest of `whsec_…`, or the bytes of any other text. */
function keyOf(secret: string): Uint8Array {
  const rest = secret.startsWith("whsec_") ? secret.slice("whsec_".length) : undefined;
  const isEncoded = rest !== undefined && rest.length % 4 === 0 && /^[A-Za-z0-9+/]*={0,2}$/.test(rest);
  return Buffer.from(isEncoded ? rest : secret, isEncoded ? "base64" : "utf8");
}
