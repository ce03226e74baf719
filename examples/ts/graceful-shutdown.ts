// Start it, then press Ctrl-C: the running task has 20 s to finish. A second Ctrl-C gives it back at once.
import { setTimeout as sleep } from "node:timers/promises";
import { isCodeqError, Producer, TaskStopped, Worker } from "@codeq/sdk";

const token = process.env["CODEQ_TOKEN"] ?? "dev-token";
const producer = new Producer({ token });
await producer.create("SLOW", { seconds: 10 });
await producer.close();

const worker = new Worker({ token, drainSeconds: 20 });
worker.on<{ seconds: number }>("SLOW", async (task, { signal }) => {
  console.log(`working on ${task.id} for ${task.payload.seconds} s`);
  try {
    await sleep(task.payload.seconds * 1000, undefined, { signal });
  } catch (error) {
    const reason: unknown = signal.reason;
    if (reason instanceof TaskStopped) console.log(`stopped: ${reason.kind}`); // the server delivers the task again
    throw error;
  }
});

// The worker leaves signals alone unless `handleSignals` is set, so the program decides on the order of things.
for (const name of ["SIGINT", "SIGTERM"] as const) process.on(name, () => void worker.stop());

try {
  await worker.run();
  console.log("stopped:", worker.stats);
} catch (error) {
  if (!isCodeqError(error)) throw error;
  console.error(`the server refuses this worker: ${error.message}`);
  process.exitCode = 1;
}
