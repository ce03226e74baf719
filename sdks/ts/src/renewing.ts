import { Worker as Thread } from "node:worker_threads";
import type { Endpoint } from "./endpoint.js";
import type { LeaseTable } from "./lease-table.js";
import type { TlsFiles } from "./tls.js";

/** Longest that the renewal thread waits for a token of the program's function before it uses the last one. */
export const TOKEN_ANSWER_MS_MAX = 2000;

/** What the renewal thread needs. */
export interface RenewalOptions {
  readonly buffer: SharedArrayBuffer;
  readonly addresses: readonly string[];
  readonly tls: TlsFiles | undefined;
  /** Token to start with. */
  readonly token: string | undefined;
  /** Whether the program can be asked for tokens. */
  readonly hasTokenFunction: boolean;
  readonly name: string;
  readonly commands: readonly string[];
  readonly leaseSeconds: number;
  /** Whether the stream is open from the start, not only while a task is old enough to need it. */
  readonly isEager: boolean;
}

/**
 * Longest lease for which the renewal stream is open before the first task comes: within a third of a shorter one, a
 * machine under load may not start a thread and connect it.
 */
export const SHORT_LEASE_SECONDS = 10;

/** What the worker's thread tells the renewal thread. */
export interface TokenAnswer {
  readonly kind: "token";
  readonly token: string | undefined;
}

/** What the renewal thread tells the worker's thread. */
export type RenewalMessage =
  | { readonly kind: "token" }
  | { readonly kind: "up"; readonly isUp: boolean }
  | { readonly kind: "lost"; readonly taskId: string; readonly token: bigint }
  | { readonly kind: "log"; readonly level: "debug" | "info" | "warn" | "error"; readonly text: string };

/** Takes what happens to renewals. */
export interface RenewalHandler {
  /** The renewal thread renews, or it cannot. */
  isUp(isUp: boolean): void;
  /** The server no longer knows a lease. */
  lost(taskId: string, token: bigint): void;
}

/**
 * The thread that renews leases, over a stream of its own. That stream has the worker's name and no credits, so it gets
 * no tasks; the server extends the leases of its subject. One message carries up to 4096 heartbeats, where unary calls
 * would need one call for each lease, and it shares the reconnects and the token renewal of all streams.
 */
export class Renewals {
  readonly #endpoint: Endpoint;
  readonly #handler: RenewalHandler;
  #thread: Thread | undefined;
  #isEnded = false;

  constructor(endpoint: Endpoint, handler: RenewalHandler) {
    this.#endpoint = endpoint;
    this.#handler = handler;
  }

  /** Starts the thread. If that fails, the worker renews on its own stream, which a busy event loop delays. */
  async start(table: LeaseTable, settings: { name: string; commands: readonly string[]; leaseSeconds: number }): Promise<void> {
    const token = await this.#endpoint.token().catch(() => undefined);
    if (this.#isEnded) return;
    const options: RenewalOptions = {
      buffer: table.buffer,
      addresses: this.#endpoint.servers.known,
      tls: this.#endpoint.tls,
      token,
      hasTokenFunction: this.#endpoint.hasTokenFunction,
      isEager: settings.leaseSeconds <= SHORT_LEASE_SECONDS,
      ...settings,
    };
    try {
      const thread = new Thread(new URL("./renewals.js", import.meta.url), { workerData: options, name: "codeq-renewals" });
      this.#thread = thread;
      thread.on("message", (message: RenewalMessage) => this.#take(message));
      thread.on("error", (error) => this.#failed(error));
      thread.on("exit", () => this.#handler.isUp(false));
      thread.unref(); // the worker's stream keeps the process alive
    } catch (error) {
      this.#failed(error);
    }
  }

  /** Ends the thread. */
  async end(): Promise<void> {
    this.#isEnded = true;
    await this.#thread?.terminate();
  }

  #take(message: RenewalMessage): void {
    if (this.#isEnded) return;
    switch (message.kind) {
      case "up":
        this.#handler.isUp(message.isUp);
        break;
      case "lost":
        this.#handler.lost(message.taskId, message.token);
        break;
      case "log":
        this.#endpoint.logger[message.level](message.text);
        break;
      case "token":
        void this.#answer();
    }
  }

  async #answer(): Promise<void> {
    const token = await this.#endpoint.token(TOKEN_ANSWER_MS_MAX).catch(() => undefined);
    const answer: TokenAnswer = { kind: "token", token };
    if (!this.#isEnded) this.#thread?.postMessage(answer);
  }

  #failed(error: unknown): void {
    if (this.#isEnded) return;
    this.#handler.isUp(false);
    const text = error instanceof Error ? error.message : String(error);
    this.#endpoint.logger.warn(
      `the renewal thread failed (${text}); leases are renewed on the event loop, so handlers must not block it. ` +
        "A bundle needs the file renewals.js of @codeq/sdk beside it: see the README.",
    );
  }
}
