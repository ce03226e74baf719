// A scripted server with several shards, whose streams a test drives.
import { WorkRequestSchema, WorkResponseSchema, type WorkRequest } from "../gen/codeq/v1/worker_service_pb.js";
import { Worker, type WorkerOptions } from "../worker.js";
import { ScriptedServer, welcomeBack, type ServerCall } from "./scripted-server.js";
import { KeptLogger, until } from "./support.js";

const BYTES = new TextEncoder();

/** The server's side of a stream that has sent a message after its hello. */
export class ShardStream {
  readonly call: ServerCall;
  /** The only shard that the worker chose; undefined: none. */
  readonly chosen: number | undefined;
  /** The shard of the process to which the stream leads. */
  readonly shard: number;
  /** What the worker has sent since the hello. */
  readonly sent: WorkRequest[] = [];
  /** Whether the worker has half-closed the stream, or the call has ended. */
  isEnded = false;
  #read = 0;

  constructor(call: ServerCall, chosen: number | undefined, shard: number) {
    this.call = call;
    this.chosen = chosen;
    this.shard = shard;
  }

  /** Returns the next message for which the condition holds; others are passed over. */
  async next(what: string, condition: (request: WorkRequest) => boolean): Promise<WorkRequest> {
    for (;;) {
      await until(() => this.sent.length > this.#read, what);
      const request = this.sent[this.#read++] as WorkRequest;
      if (condition(request)) return request;
    }
  }

  /** Returns the number of credits of the next message that grants some. */
  async granted(): Promise<number> {
    return (await this.next("credits", ({ addCredits }) => addCredits > 0)).addCredits;
  }

  /** Returns the number of credits of the next message that asks for some back. */
  async askedBack(): Promise<number> {
    return (await this.next("a request for credits", ({ returnCredits }) => returnCredits > 0)).returnCredits;
  }

  /** Delivers tasks, whose payload is their id. */
  deliver(...ids: string[]): void {
    const tasks = ids.map((id) => ({ id, command: "A", payload: BYTES.encode(JSON.stringify(id)), attempts: 1, leaseToken: 7n }));
    this.call.send(WorkResponseSchema, { tasks });
  }

  /** Returns credits. */
  giveBack(returnedCredits: number): void {
    this.call.send(WorkResponseSchema, { returnedCredits });
  }

  /** Reads what the worker sends until it half-closes; settles outcomes, unless `settles` is false. */
  async read(first: WorkRequest, settles: () => boolean): Promise<void> {
    for (let next: WorkRequest | undefined = first; next !== undefined; next = await this.call.read(WorkRequestSchema)) {
      this.sent.push(next);
      if (next.outcomes.length > 0 && settles()) this.call.send(WorkResponseSchema, { settled: next.outcomes.length });
    }
    this.isEnded = true;
    this.call.ok();
  }
}

/** A server whose connections lead to the processes of its shards. */
export class ShardedServer implements AsyncDisposable {
  readonly #server: ScriptedServer;
  /** Number of shards; 0: as a server that is older than the field. */
  shards: number;
  /** Returns the shard of the process to which a stream leads, by the shard that it chose. Default: each second one to it. */
  leads: (chosen: number) => number;
  /** Whether outcomes are settled. */
  settles = true;
  /** Streams over which more than a hello came, in this order. */
  readonly streams: ShardStream[] = [];
  /** Those over which only a hello came until now. */
  readonly silent = new Set<ServerCall>();
  #taken = 0;
  readonly #tries = new Map<number, number>();

  static async start(shards: number, leads?: (chosen: number) => number): Promise<ShardedServer> {
    return new ShardedServer(await ScriptedServer.start(), shards, leads);
  }

  private constructor(server: ScriptedServer, shards: number, leads?: (chosen: number) => number) {
    this.#server = server;
    this.shards = shards;
    this.leads = leads ?? ((chosen) => this.#inTurn(chosen));
    server.on("Work", (call) => this.#work(call));
  }

  /** HOST:PORT of the server. */
  get address(): string {
    return this.#server.address;
  }

  /** Number of streams that were opened. */
  get opened(): number {
    return this.#server.count("Work");
  }

  /** Returns the next stream over which the worker sends more than its hello. */
  async next(): Promise<ShardStream> {
    await until(() => this.streams.length > this.#taken, "a stream");
    return this.streams[this.#taken++] as ShardStream;
  }

  /** Returns the next streams by the shard that each chose, with the credits that each was granted. */
  async each(): Promise<{ streams: ShardStream[]; credits: number[] }> {
    const streams: ShardStream[] = [];
    const credits: number[] = [];
    while (Object.keys(streams).length < this.shards) {
      const stream = await this.next();
      if (stream.sent.every(({ addCredits }) => addCredits === 0)) continue; // it only reports
      streams[stream.chosen ?? 0] = stream;
      credits[stream.chosen ?? 0] = await stream.granted();
    }
    return { streams, credits };
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#server[Symbol.asyncDispose]();
  }

  #inTurn(chosen: number): number {
    const tries = (this.#tries.get(chosen) ?? 0) + 1;
    this.#tries.set(chosen, tries);
    return tries % 2 === 0 ? chosen : (chosen + 1) % this.shards;
  }

  async #work(call: ServerCall): Promise<void> {
    const hello = await call.read(WorkRequestSchema);
    const chosen = hello?.hello?.onlyShard?.shard;
    const place = { shard: this.leads(chosen ?? 0), shards: this.shards };
    welcomeBack(call, 60, place);
    this.silent.add(call);
    const first = await call.read(WorkRequestSchema);
    this.silent.delete(call);
    if (first === undefined) return;
    const stream = new ShardStream(call, chosen, place.shard);
    this.streams.push(stream);
    await stream.read(first, () => this.settles);
  }
}

/** Handles a task, whose payload is its id. */
export type HeldHandler = (id: string, signal: AbortSignal) => unknown;

/** A worker that is stopped at the end of its scope. */
export class RunningWorker implements AsyncDisposable {
  readonly worker: Worker;
  /** Settles when the worker has ended. */
  readonly run: Promise<void>;

  constructor(servers: readonly ShardedServer[], options: WorkerOptions, handler: HeldHandler = () => undefined) {
    const addresses = servers.map((server) => server.address);
    this.worker = new Worker({ addresses, token: "t", logger: new KeptLogger(), ...options });
    this.run = this.worker.on<string>("A", (task) => handler(task.payload, task.signal)).run();
    this.run.catch(() => undefined); // those who await it see the error
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.worker.stop(0);
  }
}
