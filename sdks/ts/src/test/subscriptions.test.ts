import assert from "node:assert/strict";
import { test } from "node:test";
import { create, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { Client } from "../client.js";
import {
  CreateSubscriptionRequestSchema,
  CreateSubscriptionResponseSchema,
  DeleteSubscriptionRequestSchema,
  DeleteSubscriptionResponseSchema,
  GetSubscriptionResponseSchema,
  HeartbeatSubscriptionRequestSchema,
  HeartbeatSubscriptionResponseSchema,
  ListSubscriptionsRequestSchema,
  ListSubscriptionsResponseSchema,
  ListTenantSubscriptionsRequestSchema,
  ListTenantSubscriptionsResponseSchema,
  RemoveTenantSubscriptionRequestSchema,
  RemoveTenantSubscriptionResponseSchema,
} from "../gen/codeq/v1/subscription_service_pb.js";
import { ScriptedServer } from "./scripted-server.js";
import { KeptLogger } from "./support.js";

const END = new Date("2031-02-03T04:05:06.789Z");

function clientOf(address: string): Client {
  return new Client({ addresses: address, token: "t", timeoutSeconds: 10, logger: new KeptLogger() });
}

test("a subscription is made with every field, or with the server's defaults", async () => {
  const sent: Uint8Array[] = [];
  await using server = await ScriptedServer.start({
    CreateSubscription: async (call) => {
      const request = await call.read(CreateSubscriptionRequestSchema);
      if (request) sent.push(toBinary(CreateSubscriptionRequestSchema, request));
      call.send(CreateSubscriptionResponseSchema, { subscriptionId: "s", expiresAt: timestampFromDate(END) });
      call.ok();
    },
  });
  await using client = clientOf(server.address);
  const url = "https://hooks.example.com/a";
  const options = { eventTypes: ["ORDER"], ttlSeconds: 60, deliveryMode: "group", groupId: "g", minIntervalSeconds: 0 } as const;
  assert.deepEqual(await client.createSubscription(url, options), { subscriptionId: "s", expiresAt: END });
  await client.createSubscription(url);
  const wanted: MessageInitShape<typeof CreateSubscriptionRequestSchema>[] = [
    { callbackUrl: url, eventTypes: ["ORDER"], ttlSeconds: 60, deliveryMode: "group", groupId: "g", minIntervalSeconds: 0 },
    { callbackUrl: url },
  ];
  assert.deepEqual(
    sent.map((each) => Buffer.from(each)),
    wanted.map((each) => Buffer.from(toBinary(CreateSubscriptionRequestSchema, create(CreateSubscriptionRequestSchema, each)))),
  );
});

test("a subscription is renewed, read and ended", async () => {
  const seen: unknown[] = [];
  await using server = await ScriptedServer.start({
    HeartbeatSubscription: async (call) => {
      const request = await call.read(HeartbeatSubscriptionRequestSchema);
      seen.push([request?.id, request?.ttlSeconds]);
      call.send(HeartbeatSubscriptionResponseSchema, { subscriptionId: "s", expiresAt: timestampFromDate(END) });
      call.ok();
    },
    GetSubscription: (call) => {
      call.send(GetSubscriptionResponseSchema, { subscription: { subscriptionId: "s", deliveryMode: "hash", expiresAt: timestampFromDate(END) } });
      call.ok();
    },
    DeleteSubscription: async (call) => {
      seen.push((await call.read(DeleteSubscriptionRequestSchema))?.id);
      call.send(DeleteSubscriptionResponseSchema, {});
      call.ok();
    },
    RemoveTenantSubscription: async (call) => {
      const request = await call.read(RemoveTenantSubscriptionRequestSchema);
      seen.push([request?.id, request?.tenant]);
      call.send(RemoveTenantSubscriptionResponseSchema, {});
      call.ok();
    },
  });
  await using client = clientOf(server.address);
  assert.deepEqual((await client.heartbeatSubscription("s")).expiresAt, END);
  await client.heartbeatSubscription("s", 90);
  const { deliveryMode, expiresAt, createdAt } = await client.subscription("s");
  assert.deepEqual([deliveryMode, expiresAt, createdAt], ["hash", END, undefined]);
  await client.deleteSubscription("s");
  await client.removeTenantSubscription("s", { tenant: "shop" });
  assert.deepEqual(seen, [["s", undefined], ["s", 90], "s", ["s", "shop"]]);
});

test("subscriptions are listed page by page, for workers and for administrators", async () => {
  await using server = await ScriptedServer.start({
    ListSubscriptions: async (call) => {
      const token = (await call.read(ListSubscriptionsRequestSchema))?.pageToken;
      call.send(ListSubscriptionsResponseSchema, { subscriptions: [{ subscriptionId: `own${token}` }], nextPageToken: token === "" ? "2" : "" });
      call.ok();
    },
    ListTenantSubscriptions: async (call) => {
      const request = await call.read(ListTenantSubscriptionsRequestSchema);
      const subscriptions = [{ subscriptionId: `${request?.tenant}${request?.pageToken}` }];
      call.send(ListTenantSubscriptionsResponseSchema, { subscriptions, nextPageToken: request?.pageToken === "" ? "2" : "" });
      call.ok();
    },
  });
  await using client = clientOf(server.address);
  const own: string[] = [];
  for await (const { subscriptionId } of client.subscriptions()) own.push(subscriptionId);
  const all: string[] = [];
  for await (const { subscriptionId } of client.tenantSubscriptions({ tenant: "shop" })) all.push(subscriptionId);
  assert.deepEqual([own, all], [["own", "own2"], ["shop", "shop2"]]);
});
