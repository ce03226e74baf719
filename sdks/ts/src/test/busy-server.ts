// A scripted server in a thread of its own, for tests whose handler blocks the main thread.
import { parentPort } from "node:worker_threads";
import { WorkRequestSchema, WorkResponseSchema } from "../gen/codeq/v1/worker_service_pb.js";
import { ScriptedServer, welcomeWorker } from "./scripted-server.js";

const gaps: number[] = [];
let last = 0;

const server = await ScriptedServer.start({
  Work: async (call, number) => {
    await welcomeWorker(call);
    if (number === 0) {
      call.send(WorkResponseSchema, { tasks: [{ id: "a", command: "A", leaseToken: 7n }] });
      last = performance.now();
    }
    for (let request = await call.read(WorkRequestSchema); request; request = await call.read(WorkRequestSchema)) {
      if (request.outcomes.length > 0) call.send(WorkResponseSchema, { settled: request.outcomes.length });
      for (const { taskId, leaseToken } of request.heartbeats) {
        gaps.push(performance.now() - last);
        last = performance.now();
        call.send(WorkResponseSchema, { extended: [{ taskId, leaseToken }] });
      }
    }
    call.ok();
  },
});

parentPort?.on("message", () => parentPort?.postMessage(gaps));
parentPort?.postMessage(server.address);
