// Sends requests with Node's fetch: lines of method, URL and base64 of the body (-: none) on stdin; lines of status and
// base64 of the reply's body on stdout.
import { createInterface } from "node:readline";

const headers = { Authorization: "Bearer dev-token", "Content-Type": "application/json" };

for await (const line of createInterface({ input: process.stdin })) {
  const [method, url, sent] = line.split(" ");
  const body = sent === "-" ? undefined : Buffer.from(sent, "base64");
  const reply = await fetch(url, { method, headers, body });
  const content = Buffer.from(await reply.arrayBuffer());
  process.stdout.write(`${reply.status} ${content.toString("base64")}\n`);
}
