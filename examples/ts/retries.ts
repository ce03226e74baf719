import { Client, Failed, Producer, RetryAfter, Worker } from "@codeq/sdk";

const token = process.env["CODEQ_TOKEN"] ?? "dev-token";
const producer = new Producer({ token });
const client = new Client({ token });
const worker = new Worker({ token });

worker.on<{ kind: string }>("FLAKY", (task) => {
  switch (task.payload.kind) {
    case "busy":
      if (task.attempts < 3) throw new RetryAfter(1, "the service is busy"); // again in a second
      return { attempts: task.attempts };
    case "broken":
      throw new Failed("the order does not exist"); // never again
    default:
      throw new RetryAfter(0, "still no luck"); // until the attempts are used up
  }
});
const running = worker.run();

for (const kind of ["busy", "broken", "hopeless"]) {
  const result = await producer.createAndWait("FLAKY", { kind }, { maxAttempts: 3 });
  console.log(kind, "->", result.status, result.result ?? result.error);
}

const { total, groups } = await client.deadLettersPage("FLAKY");
console.log(`${total} dead letters:`, groups);
const redriven = await client.redriveQueue("FLAKY", { errorContains: "luck", dryRun: true });
console.log(`${redriven.matched} of them would be tried again`);

await worker.stop();
await running;
await producer.close();
await client.close();
