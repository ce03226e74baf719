import type { DescMessage, DescMethodUnary, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { seconds } from "./arguments.js";
import { DEFAULTS } from "./defaults.js";
import { Endpoint, type ConnectionOptions } from "./endpoint.js";
import { CodeqError } from "./errors.js";
import { Caller, type CallOptions } from "./unary.js";

/** Options of a client. */
export interface ClientOptions extends ConnectionOptions {
  /** Seconds within which a call ends, at most a day; a wait that it asks of the server comes on top. Default: 30. */
  readonly timeoutSeconds?: number | undefined;
}

/** Options of a call on a queue or task of a tenant. */
export interface TenantOptions extends CallOptions {
  /** Tenant to act on, for operators. Default: the token's. */
  readonly tenant?: string | undefined;
}

/** Options of a list. */
export interface PageOptions extends CallOptions {
  /** Items of a page, 1 to 500. Default: 100. */
  readonly pageSize?: number | undefined;
  /** `nextPageToken` of an earlier page. Default: the first page. */
  readonly pageToken?: string | undefined;
}

/** Options of a list of a tenant. */
export interface TenantPageOptions extends PageOptions, TenantOptions {}

/** Sends unary calls; the base of `Client`. */
export abstract class BaseClient implements AsyncDisposable {
  /** @internal */
  protected readonly endpoint: Endpoint;
  readonly #caller: Caller;
  readonly #timeoutMs: number;

  /** Makes a client, which connects on its first call; throws INVALID_ARGUMENT for options out of range. */
  constructor(options: ClientOptions = {}) {
    this.endpoint = Endpoint.forProducer(options);
    this.#caller = new Caller(this.endpoint);
    this.#timeoutMs = seconds(options.timeoutSeconds ?? DEFAULTS.timeoutSeconds, "timeoutSeconds") * 1000;
  }

  /**
   * Makes any unary call with generated messages.
   *
   * @param method Such as `TaskService.method.getTask` of `@codeq/sdk/gen/codeq/v1/task_service_pb.js`.
   * @param options `waitSeconds`: how long the request lets the server wait, on top of the timeout. Default: 0.
   */
  call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    options: CallOptions & { readonly waitSeconds?: number } = {},
  ): Promise<MessageShape<O>> {
    return this.send(method, request, options, options.waitSeconds);
  }

  /** @internal */
  protected async send<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    options: CallOptions,
    waitSeconds = 0,
  ): Promise<MessageShape<O>> {
    const { timeoutSeconds, signal } = options;
    const timeoutMs = timeoutSeconds === undefined ? this.#timeoutMs : seconds(timeoutSeconds, "timeoutSeconds") * 1000;
    return this.#caller.call(method, request, { waitSeconds, timeoutMs, signal });
  }

  /** Disconnects; calls in flight fail. */
  close(): Promise<void> {
    this.#caller.close();
    return Promise.resolve();
  }

  /** Closes the client. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** Returns the fields of a request that names a page. */
export function pageRequest(options: TenantPageOptions): { pageSize: number; pageToken: string; tenant: string } {
  const { pageSize = 0, pageToken = "", tenant = "" } = options;
  return { pageSize, pageToken, tenant };
}

/** Returns a part of a reply that the server always sends. */
export function there<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw new CodeqError("INTERNAL", `the server sent no ${what}`);
  return value;
}
