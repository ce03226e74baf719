// Completes a task with openapi-fetch and the types that openapi-typescript generated: one_task.js URL TOKEN COMMAND.
import createClient from "openapi-fetch";

import type { paths } from "./generated.js";

const [baseUrl, token, command] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${token}` } });

const created = await client.POST("/v1/codeq/tasks", { body: { command, payload: { n: 20 } } });
if (created.data === undefined) throw new Error(created.error.reason);
const claimed = await client.POST("/v1/codeq/tasks/claim", { body: { commands: [command], waitSeconds: 20 } });
if (claimed.data?.id !== created.data.id) throw new Error(claimed.error?.reason ?? "another task came");
const params = { path: { task_id: claimed.data.id } };
const result = await client.POST("/v1/codeq/tasks/{task_id}/result", {
  params,
  body: { status: "COMPLETED", leaseToken: claimed.data.leaseToken, result: { n: 21 } },
});
if (result.data === undefined) throw new Error(result.error.reason);
const ended = await client.GET("/v1/codeq/tasks/{task_id}/result", {
  params: { ...params, query: { waitSeconds: 20 } },
});
if (ended.data?.result === undefined) throw new Error(ended.error?.reason ?? "no result");
console.log(ended.data.task?.status, (ended.data.result.result as { n: number }).n);
