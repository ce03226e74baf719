import { Completed, Failed, Worker } from "@codeq/sdk";

interface Resize {
  readonly image: string;
  readonly widths: readonly number[];
}

const worker = new Worker({
  token: process.env["CODEQ_TOKEN"] ?? "dev-token",
  name: "resizer",
  concurrency: 32,
  handleSignals: true,
});

// At most four at once, since they need much memory; the others of the worker's 32 places are for other commands.
worker.on<Resize>(
  "RESIZE",
  async (task, { signal }) => {
    const { image, widths } = task.payload;
    if (widths.length === 0) throw new Failed("no widths"); // a retry would not help
    const files = [];
    for (const [index, width] of widths.entries()) {
      signal.throwIfAborted(); // cancelled, lease lost, timed out, or shutting down
      files.push({ name: `${width}.txt`, content: `${image} at ${width}`, contentType: "text/plain" });
      task.progress({ done: index + 1, of: widths.length });
    }
    return new Completed({ files: files.length }, files);
  },
  { limit: 4, timeoutSeconds: 60 },
);
worker.on("PING", () => "pong");

console.log("working; Ctrl-C stops");
await worker.run();
console.log(worker.stats);
