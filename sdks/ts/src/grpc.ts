import type { IncomingHttpHeaders } from "node:http2";
import { CodeqError, NotSent, fromStatus } from "./errors.js";

/** Largest message taken from a server; the server's own limits are far below. */
export const MESSAGE_BYTES_MAX = 32 * 1024 * 1024;

const PREFIX_BYTES = 5;

const NO_BYTES = new Uint8Array();

/** gRPC codes of HTTP answers that are not gRPC, such as a proxy's. */
const CODE_BY_HTTP_STATUS: Readonly<Record<number, number>> = {
  400: 13,
  401: 16,
  403: 7,
  404: 12,
  429: 14,
  502: 14,
  503: 14,
  504: 14,
};

const UNKNOWN = 2;
const INTERNAL = 13;
const UNAVAILABLE = 14;

/** gRPC codes by the HTTP/2 code of a reset stream: cancel, enhance your calm, inadequate security; others INTERNAL. */
const CODE_BY_RESET: Readonly<Record<number, number>> = { 8: 1, 11: 8, 12: 7 };

const REFUSED_STREAM = 7;

/** Returns one message, made of parts, with gRPC's length prefix. */
export function framed(parts: readonly Uint8Array[]): Buffer {
  let size = 0;
  for (const part of parts) size += part.length;
  const data = Buffer.allocUnsafe(PREFIX_BYTES + size);
  data[0] = 0;
  data.writeUInt32BE(size, 1);
  let at = PREFIX_BYTES;
  for (const part of parts) {
    data.set(part, at);
    at += part.length;
  }
  return data;
}

/** Returns a timeout in gRPC's form: at most eight digits and a unit. */
export function timeoutHeader(ms: number): string {
  const whole = Math.max(1, Math.floor(ms));
  return whole < 1e8 ? `${whole}m` : `${Math.min(Math.floor(whole / 1000), 99_999_999)}S`;
}

/** Cuts the data of a call into messages. */
export class MessageReader {
  readonly #take: (message: Uint8Array) => void;
  #rest: Buffer | undefined;
  #parts: Buffer[] = [];
  #missing = 0;

  /** @param take Takes each message. */
  constructor(take: (message: Uint8Array) => void) {
    this.#take = take;
  }

  /** Takes the next data. */
  take(chunk: Buffer): void {
    if (this.#missing > chunk.length) {
      // A large message in many chunks: join them once, at its end.
      this.#parts.push(chunk);
      this.#missing -= chunk.length;
      return;
    }
    let data = chunk;
    if (this.#rest !== undefined) {
      data = Buffer.concat([this.#rest, ...this.#parts, chunk]);
      this.#rest = undefined;
      this.#parts = [];
      this.#missing = 0;
    }
    let at = 0;
    while (data.length - at >= PREFIX_BYTES) {
      const size = data.readUInt32BE(at + 1);
      if (data[at] !== 0) throw new CodeqError("INTERNAL", "the server sent a compressed message");
      if (size > MESSAGE_BYTES_MAX) throw new CodeqError("INTERNAL", `the server sent a message of ${size} bytes`);
      const end = at + PREFIX_BYTES + size;
      if (end > data.length) {
        this.#missing = end - data.length;
        break;
      }
      this.#take(data.subarray(at + PREFIX_BYTES, end));
      at = end;
    }
    if (at < data.length) this.#rest = data.subarray(at);
  }
}

/** The status of one call, from its headers, trailers or reset. */
export class GrpcStatus {
  #httpStatus = 0;
  readonly #told: Record<string, string> = {};

  /** Takes headers or trailers. */
  take(headers: IncomingHttpHeaders): void {
    const status = (headers as Record<string, unknown>)[":status"];
    if (typeof status === "number") this.#httpStatus = status;
    for (const name of ["grpc-status", "grpc-message", "grpc-status-details-bin"]) {
      const value = headers[name];
      if (typeof value === "string") this.#told[name] = value;
    }
  }

  /** Whether the server has sent the status. */
  get isKnown(): boolean {
    return this.#told["grpc-status"] !== undefined;
  }

  /** Returns why the call failed; undefined: it did not. */
  error(resetCode: number | undefined): CodeqError | undefined {
    const code = Number(this.#told["grpc-status"] ?? Number.NaN);
    if (code === 0) return undefined;
    if (Number.isInteger(code)) {
      const details = Buffer.from(this.#told["grpc-status-details-bin"] ?? "", "base64");
      return fromStatus(code, decoded(this.#told["grpc-message"] ?? ""), details);
    }
    if (resetCode === REFUSED_STREAM) return new NotSent("the server refused the call unprocessed");
    if (this.#httpStatus !== 0 && this.#httpStatus !== 200) {
      const of = CODE_BY_HTTP_STATUS[this.#httpStatus] ?? UNKNOWN;
      return fromStatus(of, `HTTP status ${this.#httpStatus}`, NO_BYTES);
    }
    if (resetCode !== undefined && resetCode !== 0) {
      if (resetCode === 2 || resetCode === 8) return fromStatus(UNAVAILABLE, "the connection was lost", NO_BYTES);
      return fromStatus(CODE_BY_RESET[resetCode] ?? INTERNAL, `the stream was reset with code ${resetCode}`, NO_BYTES);
    }
    return fromStatus(UNAVAILABLE, "the connection was lost", NO_BYTES);
  }
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
