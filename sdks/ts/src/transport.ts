import http2 from "node:http2";
import net from "node:net";
import { onAbort } from "./aborts.js";
import { parseAddress, type Target } from "./addresses.js";
import { monotonicMs, timer } from "./clock.js";
import { Connection, type Keepalive } from "./connection.js";
import { DEFAULTS } from "./defaults.js";
import { cancelled, CodeqError, NotSent } from "./errors.js";
import { GrpcStatus, MessageReader, framed, timeoutHeader } from "./grpc.js";
import { readTls, type TlsFiles } from "./tls.js";
import { SDK_NAME, VERSION } from "./version.js";

/** Headers of a call besides those of gRPC. */
export type Metadata = Readonly<Record<string, string>>;

/** Longest time to connect to a server, its name resolution and TLS included. */
const CONNECT_MS_MAX = 3000;

/** Bytes that a server may send on a connection before the client has read them. */
const WINDOW_BYTES = 8 * 1024 * 1024;

/** Memory of a session in megabytes after which Node refuses streams; payloads in flight count. */
const SESSION_MEGABYTES_MAX = 256;

/** Takes what happens on a call. */
export interface CallHandler {
  /** Takes a message; the bytes stay valid. An error that it throws ends the call. */
  message(data: Uint8Array): void;
  /** Takes the end of the call, once; without an error the server ended it with OK. */
  ended(error: CodeqError | undefined): void;
}

/** One call on a connection: messages in both directions. */
export class Call {
  readonly #stream: http2.ClientHttp2Stream;
  readonly #handler: CallHandler;
  readonly #reader: MessageReader;
  readonly #status = new GrpcStatus();
  #isOver = false;
  readonly #released: () => void;

  constructor(stream: http2.ClientHttp2Stream, handler: CallHandler, released: () => void) {
    this.#stream = stream;
    this.#handler = handler;
    this.#released = released;
    this.#reader = new MessageReader((data) => handler.message(data));
    stream.on("response", (headers) => this.#status.take(headers));
    stream.on("trailers", (headers) => this.#status.take(headers));
    stream.on("data", (chunk: Buffer) => this.#take(chunk));
    stream.on("end", () => this.#ended());
    stream.on("error", () => undefined); // "close" follows and tells more
    stream.on("close", () => this.#closed());
  }

  /** Whether the call has ended. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /** Sends messages, each of which is already framed; `sent` is called once they have left the process. */
  write(data: Uint8Array, sent?: () => void): void {
    if (this.#isOver || this.#stream.destroyed || this.#stream.writableEnded) return;
    this.#stream.write(data, sent === undefined ? undefined : () => sent());
  }

  /** Half-closes the call: no more messages follow. */
  end(data?: Uint8Array): void {
    if (this.#isOver || this.#stream.destroyed) return;
    if (data === undefined) this.#stream.end();
    else this.#stream.end(data);
  }

  /** Ends the call with an error, and tells the server. */
  fail(error: CodeqError): void {
    this.#finish(error);
    setImmediate(() => this.#stream.close(http2.constants.NGHTTP2_CANCEL)); // see Channel.close
  }

  #take(chunk: Buffer): void {
    if (this.#isOver) return;
    try {
      this.#reader.take(chunk);
    } catch (error) {
      this.fail(error instanceof CodeqError ? error : new CodeqError("INTERNAL", String(error), { cause: error }));
    }
  }

  /** The server has said its last word, and waits for no more of the client's. */
  #ended(): void {
    if (!this.#status.isKnown) return; // the connection is lost, or was reset: "close" follows
    this.#finish(this.#status.error(0));
    if (!this.#stream.writableEnded) this.#stream.close(http2.constants.NGHTTP2_CANCEL);
  }

  #closed(): void {
    this.#finish(this.#status.error(this.#stream.rstCode));
  }

  #finish(error: CodeqError | undefined): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#released();
    this.#handler.ended(error);
  }
}

/** Calls to one server over one connection, which is opened when it is needed. */
export class Channel {
  readonly #target: Target;
  readonly #tls: TlsFiles | undefined;
  readonly #keepalive: Keepalive;
  /** Every session that is not closed: the present one, one that opens, and those that their server is leaving. */
  readonly #sessions = new Set<http2.ClientHttp2Session>();
  #connection: Connection | undefined;
  #opening: Promise<Connection> | undefined;
  #isClosed = false;

  /** @param address HOST:PORT, [IPV6]:PORT or unix:PATH. */
  constructor(address: string, tls: TlsFiles | undefined, keepalive: Keepalive = DEFAULTS) {
    this.#keepalive = keepalive;
    this.#target = parseAddress(address);
    this.#tls = tls;
  }

  /** Starts a call; rejects with NotSent if there is no connection. */
  async call(path: string, metadata: Metadata, handler: CallHandler, timeoutMs?: number): Promise<Call> {
    const connection = await this.#connected();
    const scheme = this.#tls === undefined ? "http" : "https";
    const headers: http2.OutgoingHttpHeaders = {
      ":method": "POST",
      ":path": path,
      ":scheme": scheme,
      ":authority": this.#target.authority,
      te: "trailers",
      "content-type": "application/grpc",
      "user-agent": `${SDK_NAME}/${VERSION}`,
      ...(timeoutMs === undefined ? {} : { "grpc-timeout": timeoutHeader(timeoutMs) }),
      ...metadata,
    };
    let stream: http2.ClientHttp2Stream;
    try {
      stream = connection.request(headers);
    } catch (error) {
      if (this.#connection === connection) this.#connection = undefined; // the next call opens another one
      throw new NotSent(`the connection to ${this.#target.authority} cannot be used: ${String(error)}`, error);
    }
    return new Call(stream, handler, () => connection.release());
  }

  /** Makes a unary call; `timeoutMs` counts from now, with the time to connect. */
  unary(path: string, message: Uint8Array, metadata: Metadata, timeoutMs: number, signal?: AbortSignal): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      const begun = monotonicMs();
      let reply: Uint8Array | undefined;
      let call: Call | undefined;
      let isDone = false;
      const finish = (error: CodeqError | undefined): void => {
        if (isDone) return;
        isDone = true;
        clearTimeout(deadline);
        forget?.();
        if (error !== undefined) reject(error);
        else if (reply === undefined) reject(new CodeqError("INTERNAL", "the server sent no reply"));
        else resolve(reply);
      };
      const give = (error: CodeqError): void => {
        finish(error);
        call?.fail(error);
      };
      const aborted = (): void => {
        const effect = call === undefined ? "it was not sent" : "it was sent, and may have taken effect";
        give(cancelled(effect, signal?.reason));
      };
      const deadline = timer(() => {
        give(new CodeqError("DEADLINE_EXCEEDED", `no answer from ${this.#target.authority} in time`));
      }, timeoutMs);
      const forget = signal === undefined ? undefined : onAbort(signal, aborted);
      if (signal?.aborted) return aborted();
      const handler: CallHandler = { message: (data) => void (reply ??= data), ended: finish };
      const left = Math.max(1, timeoutMs - (monotonicMs() - begun));
      this.call(path, metadata, handler, left).then((opened) => {
        call = opened;
        if (isDone) opened.fail(new CodeqError("CANCELLED", "the call ended before it was sent"));
        else opened.end(framed([message]));
      }, finish);
    });
  }

  /** Disconnects; calls in flight fail. */
  close(): void {
    this.#isClosed = true;
    // Not within a callback of a session, where Node 20 can loop for ever.
    for (const session of this.#sessions) setImmediate(() => session.destroy());
  }

  #connected(): Promise<Connection> {
    if (this.#isClosed) return Promise.reject(new NotSent("the connection is closed"));
    if (this.#connection?.isUsable) return Promise.resolve(this.#connection);
    this.#opening ??= this.#open().finally(() => {
      this.#opening = undefined;
    });
    return this.#opening;
  }

  #open(): Promise<Connection> {
    return new Promise((resolve, reject) => {
      const { host, port, authority } = this.#target;
      const place = port === undefined ? host : authority;
      let session: http2.ClientHttp2Session;
      try {
        session = this.#connect(host, port, authority);
      } catch (error) {
        reject(new NotSent(`cannot connect to ${place}: ${String(error)}`, error));
        return;
      }
      this.#sessions.add(session);
      let cause: unknown = new Error("the connection was closed");
      const late = timer(() => {
        cause = new Error(`no connection within ${CONNECT_MS_MAX / 1000} s`);
        session.destroy();
      }, CONNECT_MS_MAX);
      session.once("connect", () => {
        clearTimeout(late);
        if (this.#isClosed || session.destroyed) {
          session.destroy();
          return; // "close" follows
        }
        session.setLocalWindowSize(WINDOW_BYTES);
        this.#connection = new Connection(session, this.#keepalive);
        resolve(this.#connection);
      });
      session.on("error", (error) => {
        cause = error;
      });
      session.on("close", () => {
        clearTimeout(late);
        this.#sessions.delete(session);
        const text = cause instanceof Error ? cause.message || (cause as NodeJS.ErrnoException).code : String(cause);
        reject(new NotSent(`cannot connect to ${place}: ${text ?? "unknown"}`, cause));
      });
    });
  }

  #connect(host: string, port: number | undefined, authority: string): http2.ClientHttp2Session {
    const settings = { enablePush: false, initialWindowSize: WINDOW_BYTES };
    const options: http2.ClientSessionOptions & http2.SecureClientSessionOptions = {
      settings,
      maxSessionMemory: SESSION_MEGABYTES_MAX,
    };
    if (this.#tls !== undefined) {
      const name = net.isIP(host) === 0 ? { servername: host } : {};
      Object.assign(options, readTls(this.#tls), { ALPNProtocols: ["h2"], ...name });
    }
    if (port === undefined) options.createConnection = () => net.connect({ path: host });
    return http2.connect(`${this.#tls === undefined ? "http" : "https"}://${authority}`, options);
  }
}
