// Creates 10,000 tasks from a generator, works on them, and counts the results.
import { isCodeqError, Producer, Worker } from "@codeq/sdk";

const COUNT = 10_000;
const token = process.env["CODEQ_TOKEN"] ?? "dev-token";
const producer = new Producer({ token });
const worker = new Worker({ token, concurrency: 256 });

let sum = 0;
let done = 0;
const all = new Promise<void>((resolve) => {
  worker.on<number>("SQUARE", (task) => {
    sum += task.payload ** 2;
    done += 1;
    if (done === COUNT) resolve();
  });
});
const running = worker.run();

function* tasks() {
  for (let number = 1; number <= COUNT; number += 1) yield { command: "SQUARE", payload: number };
}

const begun = performance.now();
let created = 0;
for await (const result of producer.createAll(tasks())) {
  if (isCodeqError(result)) console.error(`not created: ${result.message}`);
  else created += 1;
}
await all;
const seconds = (performance.now() - begun) / 1000;
console.log(`${created} created and ${done} done in ${seconds.toFixed(1)} s; the sum of squares is ${sum}`);
await worker.stop();
await running;
await producer.close();
