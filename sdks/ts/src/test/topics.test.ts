import assert from "node:assert/strict";
import { test } from "node:test";
import { toBinary } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { Client } from "../client.js";
import { isCodeqError } from "../errors.js";
import {
  DeleteTopicRequestSchema,
  DeleteTopicResponseSchema,
  GetTopicResponseSchema,
  ListTopicsRequestSchema,
  ListTopicsResponseSchema,
  PutTopicRequestSchema,
  PutTopicResponseSchema,
} from "../gen/codeq/v1/topic_service_pb.js";
import { ScriptedServer } from "./scripted-server.js";
import { KeptLogger } from "./support.js";

const CREATED_AT = new Date("2031-02-03T04:05:06.789Z");
const TOPIC = {
  topicId: "shop.ORDER",
  tenantId: "shop",
  topicName: "ORDER",
  policy: { priorityTiers: [1, 5], maxConsumers: 3, backoff: { policy: "fixed", baseSeconds: 2 } },
  version: 2n ** 60n,
  createdAt: timestampFromDate(CREATED_AT),
};

function clientOf(address: string): Client {
  return new Client({ addresses: address, token: "t", timeoutSeconds: 10, logger: new KeptLogger() });
}

test("a policy is sent as it was read", async () => {
  const sent: Uint8Array[] = [];
  await using server = await ScriptedServer.start({
    GetTopic: (call) => {
      call.send(GetTopicResponseSchema, { topic: TOPIC });
      call.ok();
    },
    PutTopic: async (call) => {
      const request = await call.read(PutTopicRequestSchema);
      if (request) sent.push(toBinary(PutTopicRequestSchema, request));
      call.send(PutTopicResponseSchema, { topic: { ...TOPIC, created: true } });
      call.ok();
    },
  });
  await using client = clientOf(server.address);
  const topic = await client.topic("ORDER");
  assert.deepEqual([topic.version, topic.createdAt, topic.updatedAt, topic.created], [2n ** 60n, CREATED_AT, undefined, undefined]);
  assert.deepEqual(topic.policy?.priorityTiers, [1, 5]);
  assert.deepEqual([topic.policy.maxConsumers, topic.policy.maxAttempts], [3, undefined]);
  assert.deepEqual(topic.policy.backoff, { policy: "fixed", baseSeconds: 2, maxSeconds: undefined });
  assert.equal((await client.putTopic("ORDER", topic.policy, { tenant: "shop" })).created, true);
  const given = { priorityTiers: [1, 5], maxConsumers: 3, backoff: { policy: "fixed", baseSeconds: 2 } } as const;
  await client.putTopic("ORDER", given, { tenant: "shop" });
  assert.equal(sent.length, 2);
  assert.deepEqual(sent[0], sent[1]);
});

test("a policy of the wrong form is refused by the name of its field", async () => {
  await using server = await ScriptedServer.start();
  await using client = clientOf(server.address);
  await assert.rejects(
    client.putTopic("ORDER", { maxConsumers: 1.5 }),
    (error) => isCodeqError(error, "INVALID_ARGUMENT") && error.violations[0]?.field === "maxConsumers",
  );
  assert.equal(server.count("PutTopic"), 0);
});

test("topics are listed page by page, and deleted with the policy that the server asks for", async () => {
  const deleted: (readonly string[])[] = [];
  await using server = await ScriptedServer.start({
    ListTopics: async (call) => {
      const request = await call.read(ListTopicsRequestSchema);
      const topics = [{ topicName: `${request?.tenant}${request?.pageSize}${request?.pageToken}` }];
      call.send(ListTopicsResponseSchema, { topics, nextPageToken: request?.pageToken === "" ? "next" : "" });
      call.ok();
    },
    DeleteTopic: async (call) => {
      const request = await call.read(DeleteTopicRequestSchema);
      if (request) deleted.push([request.command, request.deletionPolicy, request.tenant]);
      call.send(DeleteTopicResponseSchema, {});
      call.ok();
    },
  });
  await using client = clientOf(server.address);
  const names: string[] = [];
  for await (const { topicName } of client.topics({ tenant: "shop", pageSize: 7 })) names.push(topicName);
  assert.deepEqual(names, ["shop7", "shop7next"]);
  assert.equal(await client.deleteTopic("ORDER", { tenant: "shop" }), undefined);
  assert.deepEqual(deleted, [["ORDER", "Delete", "shop"]]);
});
