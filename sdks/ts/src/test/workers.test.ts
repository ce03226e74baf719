import assert from "node:assert/strict";
import { test } from "node:test";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { Client } from "../client.js";
import { ListWorkersRequestSchema, ListWorkersResponseSchema } from "../gen/codeq/v1/queue_service_pb.js";
import { ScriptedServer } from "./scripted-server.js";
import { KeptLogger } from "./support.js";

const CONNECTED_AT = new Date("2031-02-03T04:05:06.789Z");

test("connected workers are listed page by page", async () => {
  await using server = await ScriptedServer.start({
    ListWorkers: async (call) => {
      const request = await call.read(ListWorkersRequestSchema);
      const workerId = `${request?.tenant}${request?.pageSize}${request?.pageToken}`;
      const workers = [{ workerId, commands: ["A"], claimed: 2n ** 60n, credits: 1n, connectedAt: timestampFromDate(CONNECTED_AT) }];
      call.send(ListWorkersResponseSchema, { workers, nextPageToken: request?.pageToken === "" ? "next" : "" });
      call.ok();
    },
  });
  await using client = new Client({ addresses: server.address, token: "t", timeoutSeconds: 10, logger: new KeptLogger() });
  const ids: string[] = [];
  for await (const worker of client.workers({ tenant: "shop", pageSize: 7 })) {
    assert.deepEqual([worker.commands, worker.claimed, worker.credits], [["A"], 2n ** 60n, 1n]);
    assert.deepEqual([worker.sdk, worker.connectedAt], ["", CONNECTED_AT]);
    ids.push(worker.workerId);
  }
  assert.deepEqual(ids, ["shop7", "shop7next"]);
  assert.equal((await client.workersPage({ pageToken: "next" })).nextPageToken, "");
});
