// A gRPC server on loopback whose streams and calls follow a script: for answers that a real server gives rarely.
import http2 from "node:http2";
import type { AddressInfo } from "node:net";
import { create, fromBinary, toBinary, type DescMessage, type MessageInitShape, type MessageShape } from "@bufbuild/protobuf";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { ProduceRequestSchema, ProduceResponseSchema, type ProduceRequest } from "../gen/codeq/v1/producer_service_pb.js";
import { WorkRequestSchema, WorkResponseSchema, type WorkRequest } from "../gen/codeq/v1/worker_service_pb.js";
import { MessageReader, framed } from "../grpc.js";

/** A failure of a call. */
export interface Failure {
  readonly code: number;
  readonly message?: string;
  readonly reason?: string;
  readonly metadata?: Record<string, string>;
  readonly retryAfterSeconds?: number;
}

/** The server's side of one call. */
export class ServerCall {
  readonly headers: http2.IncomingHttpHeaders;
  readonly #stream: http2.ServerHttp2Stream;
  readonly #messages: Uint8Array[] = [];
  #wake: (() => void) | undefined;
  #isEnded = false;

  constructor(stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders) {
    this.#stream = stream;
    this.headers = headers;
    const reader = new MessageReader((data) => {
      this.#messages.push(Buffer.from(data));
      this.#wake?.();
    });
    stream.on("data", (chunk: Buffer) => reader.take(chunk));
    stream.on("end", () => this.#end());
    stream.on("error", () => this.#end());
    stream.on("close", () => this.#end());
    stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
  }

  /** The caller's token. */
  get token(): string {
    return String(this.headers["authorization"] ?? "").replace("Bearer ", "");
  }

  /** Returns the next message; undefined: the client half-closed, or the call has ended. */
  async read<S extends DescMessage>(schema: S): Promise<MessageShape<S> | undefined> {
    while (this.#messages.length === 0 && !this.#isEnded) await new Promise<void>((resolve) => (this.#wake = resolve));
    const data = this.#messages.shift();
    return data === undefined ? undefined : fromBinary(schema, data);
  }

  /** Sends a message. */
  send<S extends DescMessage>(schema: S, message: MessageInitShape<S>): void {
    if (!this.#stream.destroyed) this.#stream.write(framed([toBinary(schema, create(schema, message))]));
  }

  /** Ends the call with OK. */
  ok(): void {
    this.#finish({ "grpc-status": "0" });
  }

  /** Ends the call with an error. */
  fail(failure: Failure): void {
    const details = Buffer.from(statusOf(failure)).toString("base64");
    this.#finish({
      "grpc-status": String(failure.code),
      "grpc-message": encodeURIComponent(failure.message ?? "scripted"),
      ...(failure.reason === undefined ? {} : { "grpc-status-details-bin": details }),
    });
  }

  /** Breaks the connection. */
  cut(): void {
    this.#stream.session?.destroy();
  }

  /** Tells the client that no more calls are taken on this connection. */
  goAway(): void {
    this.#stream.session?.goaway();
  }

  #finish(trailers: http2.OutgoingHttpHeaders): void {
    if (this.#stream.destroyed) return;
    this.#stream.on("wantTrailers", () => this.#stream.sendTrailers(trailers));
    this.#stream.end();
  }

  #end(): void {
    this.#isEnded = true;
    this.#wake?.();
  }
}

/** What the server does with calls of a method, by number from 0. */
export type Script = (call: ServerCall, number: number) => void | Promise<void>;

/** A scripted server. */
export class ScriptedServer {
  readonly #server = http2.createServer();
  readonly #sessions = new Set<http2.ServerHttp2Session>();
  readonly #scripts = new Map<string, Script>();
  readonly calls: { method: string; token: string }[] = [];
  connections = 0;
  /** Pings that clients have sent. */
  pings = 0;

  /** Starts a server on a free port. */
  static async start(scripts: Record<string, Script> = {}): Promise<ScriptedServer> {
    const server = new ScriptedServer();
    for (const [method, script] of Object.entries(scripts)) server.on(method, script);
    await new Promise<void>((resolve) => server.#server.listen(0, "127.0.0.1", resolve));
    return server;
  }

  private constructor() {
    const counts = new Map<string, number>();
    this.#server.on("session", (session) => {
      this.connections += 1;
      this.#sessions.add(session);
      session.on("close", () => this.#sessions.delete(session));
      session.on("error", () => undefined);
      session.on("ping", () => (this.pings += 1));
    });
    this.#server.on("stream", (stream, headers) => {
      const method = String(headers[":path"]).split("/").at(-1) ?? "";
      const call = new ServerCall(stream, headers);
      this.calls.push({ method, token: call.token });
      const number = counts.get(method) ?? 0;
      counts.set(method, number + 1);
      const script = this.#scripts.get(method);
      if (script === undefined) call.fail({ code: 12, message: `${method} is not scripted` });
      else void script(call, number);
    });
  }

  /** HOST:PORT of the server. */
  get address(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Scripts the calls of a method. */
  on(method: string, script: Script): void {
    this.#scripts.set(method, script);
  }

  /** Number of calls of a method so far. */
  count(method: string): number {
    return this.calls.filter((call) => call.method === method).length;
  }

  /** Ends the server and its connections. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const session of this.#sessions) session.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}

/** The shard of the process that serves a stream, and the number of shards. */
export interface Place {
  readonly shard: number;
  readonly shards: number;
}

/** Answers the hello of a producer's stream. */
export async function welcomeProducer(call: ServerCall, protocol = 1, place?: Place): Promise<ProduceRequest> {
  const hello = await call.read(ProduceRequestSchema);
  if (hello === undefined) throw new Error("the producer sent no hello");
  call.send(ProduceResponseSchema, {
    welcome: {
      tenantId: "t",
      subject: "s",
      unackedFramesMax: 256,
      unackedBytesMax: 16n << 20n,
      frameTasksMax: 4096,
      frameBytesMax: 8n << 20n,
      serverVersion: "9.9.9",
      protocol,
      ...place,
    },
  });
  return hello;
}

/** Answers the hello of a worker's stream. */
export async function welcomeWorker(call: ServerCall, leaseSeconds?: number): Promise<WorkRequest> {
  const request = await call.read(WorkRequestSchema);
  if (request?.hello === undefined) throw new Error("the worker sent no hello");
  welcomeBack(call, leaseSeconds ?? request.hello.leaseSeconds ?? 60);
  return request;
}

/** Sends the welcome of a worker's stream, which leads to a place; without one, as a server that is older than the field. */
export function welcomeBack(call: ServerCall, leaseSeconds: number, place?: Place): void {
  call.send(WorkResponseSchema, {
    welcome: {
      tenantId: "t",
      workerId: "w",
      leaseSeconds,
      creditsMax: 65_536,
      serverVersion: "9.9.9",
      protocol: 1,
      ...place,
    },
  });
}

/** Returns an encoded google.rpc.Status with ErrorInfo and RetryInfo. */
function statusOf({ code, message = "", reason, metadata = {}, retryAfterSeconds }: Failure): Uint8Array {
  const info = new BinaryWriter().uint32(10).string(reason ?? "").uint32(18).string("codeq");
  for (const [key, value] of Object.entries(metadata)) {
    info.uint32(26).bytes(new BinaryWriter().uint32(10).string(key).uint32(18).string(value).finish());
  }
  const status = new BinaryWriter().uint32(8).int32(code).uint32(18).string(message);
  status.uint32(26).bytes(anyOf("google.rpc.ErrorInfo", info.finish()));
  if (retryAfterSeconds !== undefined) {
    const seconds = Math.floor(retryAfterSeconds);
    const nanos = Math.round((retryAfterSeconds - seconds) * 1e9);
    const delay = new BinaryWriter().uint32(8).int64(seconds).uint32(16).int32(nanos).finish();
    status.uint32(26).bytes(anyOf("google.rpc.RetryInfo", new BinaryWriter().uint32(10).bytes(delay).finish()));
  }
  return status.finish();
}

function anyOf(type: string, value: Uint8Array): Uint8Array {
  return new BinaryWriter().uint32(10).string(`type.googleapis.com/${type}`).uint32(18).bytes(value).finish();
}
