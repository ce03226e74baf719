// curl -d '{"to":"ada@example.com"}' -H 'Content-Type: application/json' localhost:3000/mails
// curl localhost:3000/mails/ID
import express from "express";
import { Client, isCodeqError, Producer } from "@codeq/sdk";

const token = process.env["CODEQ_TOKEN"] ?? "dev-token";
const producer = new Producer({ token });
const client = new Client({ token });
const app = express();
app.use(express.json());

// Creates a task and answers at once. The caller's key makes its retries safe.
app.post("/mails", async (request, response) => {
  const idempotencyKey = request.get("Idempotency-Key");
  const id = await producer.create("SEND_MAIL", request.body, { idempotencyKey });
  response.status(202).json({ id });
});

// Waits for up to 10 s for the result.
app.get("/mails/:id", async (request, response) => {
  try {
    const result = await client.result(request.params.id, { waitSeconds: 10 });
    response.json({ status: result.status, result: result.result, error: result.error });
  } catch (error) {
    if (isCodeqError(error, "RESULT_NOT_FOUND")) response.status(202).json({ status: "working" });
    else if (isCodeqError(error, "TASK_NOT_FOUND")) response.status(404).json({ error: "no such mail" });
    else throw error;
  }
});

const server = app.listen(3000, () => console.log("listening on http://localhost:3000"));
process.once("SIGTERM", () => {
  server.close(() => void Promise.all([producer.close(), client.close()]));
});
