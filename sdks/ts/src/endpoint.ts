import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { addressesOf } from "./addresses.js";
import { within } from "./clock.js";
import { CodeqError, invalidArgument } from "./errors.js";
import { GetTopologyRequestSchema, GetTopologyResponseSchema, type GetTopologyResponse } from "./gen/codeq/v1/cluster_service_pb.js";
import { consoleLogger, guarded, type Logger } from "./logger.js";
import { Servers } from "./servers.js";
import { textOf } from "./texts.js";
import { tlsFiles, type Tls, type TlsFiles } from "./tls.js";
import { Channel, type Metadata } from "./transport.js";

/** Longest wait for a token function, unless a call times out earlier. */
export const TOKEN_MS_MAX = 30_000;

/** Timeout of a refresh of the cluster's members, which runs in the background. */
const TOPOLOGY_MS_MAX = 2000;

/** Texts that fit into a header. */
const SENDABLE = /^[\x20-\x7e]*$/;

const GET_TOPOLOGY = "/codeq.v1.ClusterService/GetTopology";

/**
 * A token, or a function that returns one. The function is called for each call and stream, so it should cache its
 * token until shortly before it expires; calls that start while it runs share its result.
 */
export type Token = string | (() => string | undefined | Promise<string | undefined>);

/** How to reach servers: options that producers, clients and workers share. */
export interface ConnectionOptions {
  /**
   * Servers, as `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`: a list, or a text with commas. One member of a cluster is
   * enough. Default: `CODEQ_PRODUCER_ADDR`, or `CODEQ_WORKER_ADDR` for workers, else `localhost:9092` or
   * `localhost:9091`.
   */
  readonly addresses?: string | readonly string[] | undefined;
  /** Token, or a function that returns one. Default: `CODEQ_TOKEN`, else none. */
  readonly token?: Token | undefined;
  /** TLS. Default: the files that `CODEQ_TLS_CA_FILE`, `CODEQ_TLS_CERT_FILE` and `CODEQ_TLS_KEY_FILE` name, else plaintext. */
  readonly tls?: Tls | undefined;
  /** Takes log lines. Default: warnings and errors go to the console. */
  readonly logger?: Logger | undefined;
}

/** Makes channels to the servers of one producer, client or worker, and the metadata of their calls. */
export class Endpoint {
  readonly servers: Servers;
  readonly logger: Logger;
  readonly tls: TlsFiles | undefined;
  readonly #token: Token | undefined;
  #asked: Promise<string | undefined> | undefined;

  private constructor(options: ConnectionOptions, variable: string, address: string) {
    const addresses = addressesOf(options.addresses ?? (process.env[variable] || address));
    this.servers = new Servers(addresses);
    this.logger = guarded(options.logger ?? consoleLogger);
    this.tls = tlsFiles(options.tls);
    if (this.tls?.insecureSkipVerify) {
      this.logger.warn("TLS certificates of servers are NOT verified (insecureSkipVerify): use this in tests only");
    }
    this.#token = options.token ?? (process.env["CODEQ_TOKEN"] || undefined);
    if (this.#token !== undefined && typeof this.#token !== "string" && typeof this.#token !== "function") {
      throw invalidArgument("token", "must be a text or a function");
    }
    if (typeof this.#token === "string" && !SENDABLE.test(this.#token)) {
      throw invalidArgument("token", "has characters that cannot be sent, such as a line break at its end");
    }
  }

  /** Returns the endpoint of a producer or client. */
  static forProducer(options: ConnectionOptions): Endpoint {
    return new Endpoint(options, "CODEQ_PRODUCER_ADDR", "localhost:9092");
  }

  /** Returns the endpoint of a worker. */
  static forWorker(options: ConnectionOptions): Endpoint {
    return new Endpoint(options, "CODEQ_WORKER_ADDR", "localhost:9091");
  }

  /** Whether the next call may carry another token, or the next connection show another certificate. */
  get tokenIsRenewable(): boolean {
    return typeof this.#token === "function" || this.isCertified;
  }

  /** Whether the program has a function that returns tokens. */
  get hasTokenFunction(): boolean {
    return typeof this.#token === "function";
  }

  /** Whether calls carry no token, and connections show a certificate instead. */
  get isCertified(): boolean {
    return this.#token === undefined && this.tls?.cert !== undefined;
  }

  /** Returns a new channel to a server. */
  channel(address: string): Channel {
    return new Channel(address, this.tls);
  }

  /** Returns the metadata of the next call; rejects with UNAVAILABLE if there is no token in time, or until `signal` aborts. */
  async metadata(timeoutMs = TOKEN_MS_MAX, signal?: AbortSignal): Promise<Metadata> {
    return bearer(typeof this.#token === "function" ? await this.token(timeoutMs, signal) : this.#token);
  }

  /** Returns the token of the next call; see `metadata`. */
  token(timeoutMs = TOKEN_MS_MAX, signal?: AbortSignal): Promise<string | undefined> {
    if (typeof this.#token !== "function") return Promise.resolve(this.#token);
    const late = (): CodeqError =>
      new CodeqError("UNAVAILABLE", `no token: the token function did not return within ${timeoutMs / 1000} s`);
    return within(this.#ask(this.#token), timeoutMs, late, signal);
  }

  /** Asks a server for the members of its cluster. If it does not answer, the known members stay. */
  async refresh(channel: Channel, metadata: Metadata): Promise<void> {
    const question = toBinary(GetTopologyRequestSchema, create(GetTopologyRequestSchema));
    try {
      const reply = await channel.unary(GET_TOPOLOGY, question, metadata, TOPOLOGY_MS_MAX);
      this.servers.learn(members(fromBinary(GetTopologyResponseSchema, reply)));
    } catch {
      // The next refresh asks again.
    }
  }

  /** Calls the token function unless it is running already. */
  #ask(token: () => string | undefined | Promise<string | undefined>): Promise<string | undefined> {
    this.#asked ??= Promise.resolve()
      .then(token)
      .then(checked, (error: unknown) => {
        throw new CodeqError("UNAVAILABLE", `no token: ${textOf(error)}`, { cause: error });
      })
      .finally(() => {
        this.#asked = undefined;
      });
    return this.#asked;
  }
}

/** Returns the metadata with a token. */
export function bearer(token: string | undefined): Metadata {
  return token ? { authorization: `Bearer ${token}` } : {};
}

/** Returns the token in metadata; empty: none. */
export function tokenOf(metadata: Metadata): string {
  return (metadata["authorization"] ?? "").replace(/^Bearer /, "");
}

function checked(token: unknown): string | undefined {
  if (token !== undefined && token !== null && typeof token !== "string") {
    throw new CodeqError("UNAVAILABLE", `no token: the token function returned a ${typeof token}, not a text`);
  }
  if (typeof token === "string" && !SENDABLE.test(token)) {
    throw new CodeqError("UNAVAILABLE", "no token: it has characters that cannot be sent");
  }
  return token ?? undefined;
}

/** Yields the gRPC addresses of all members, the leader's first. */
function* members(reply: GetTopologyResponse): Generator<string> {
  const topology = reply.topology;
  if (topology?.leaderGrpcAddr) yield topology.leaderGrpcAddr;
  for (const member of topology?.members ?? []) if (member.grpcAddr) yield member.grpcAddr;
}
