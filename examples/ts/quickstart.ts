import { Producer, Worker } from "@codeq/sdk";

const token = process.env["CODEQ_TOKEN"] ?? "dev-token";
const producer = new Producer({ token });
const worker = new Worker({ token });
worker.on<{ name: string }>("GREET", (task) => ({ text: `Hello, ${task.payload.name}!` }));
const running = worker.run();
const result = await producer.createAndWait<{ text: string }>("GREET", { name: "Ada" });
console.log(result.status, result.result?.text);
await worker.stop();
await running;
await producer.close();
