import type http2 from "node:http2";
import { monotonicMs, timer } from "./clock.js";
import type { Defaults } from "./defaults.js";

/** When a silent server is pinged, and given up. */
export type Keepalive = Pick<Defaults, "keepaliveSeconds" | "keepaliveTimeoutSeconds">;

/** One open HTTP/2 connection: watches its server, and keeps the process alive, while calls are open on it. */
export class Connection {
  readonly #session: http2.ClientHttp2Session;
  readonly #keepalive: Keepalive;
  #calls = 0;
  #idleSinceMs = monotonicMs();
  /** Waits for the next ping, or for the answer to one. */
  #waiting: NodeJS.Timeout | undefined;

  /** @param session An open session. */
  constructor(session: http2.ClientHttp2Session, keepalive: Keepalive) {
    this.#session = session;
    this.#keepalive = keepalive;
    session.unref();
    session.on("close", () => clearTimeout(this.#waiting));
  }

  /** Whether calls can start on it. */
  get isUsable(): boolean {
    return !this.#session.closed && !this.#session.destroyed;
  }

  /** Starts a call, which `release` ends; throws if the connection cannot be used. */
  request(headers: http2.OutgoingHttpHeaders): http2.ClientHttp2Stream {
    const stream = this.#session.request(headers);
    this.#calls += 1;
    if (this.#calls === 1) {
      this.#session.ref();
      // What lies between may have forgotten a connection that was idle for long.
      const isOld = monotonicMs() - this.#idleSinceMs >= this.#keepalive.keepaliveSeconds * 1000;
      if (isOld) this.#ping();
      else this.#watch();
    }
    return stream;
  }

  /** Ends a call. */
  release(): void {
    this.#calls -= 1;
    if (this.#calls > 0) return;
    clearTimeout(this.#waiting);
    this.#idleSinceMs = monotonicMs();
    if (!this.#session.destroyed) this.#session.unref();
  }

  /** Pings now and then, busy or not: a server is given up at most both times of the keepalive after its last byte. */
  #watch(): void {
    this.#wait(this.#keepalive.keepaliveSeconds, () => {
      if (!this.#session.destroyed) this.#ping();
    });
  }

  #ping(): void {
    const { bytesRead } = this.#session.socket;
    this.#wait(this.#keepalive.keepaliveTimeoutSeconds, () => {
      if (this.#session.destroyed) return;
      // Bytes instead of the answer: it waits behind them.
      if (this.#session.socket.bytesRead === bytesRead) this.#session.destroy();
      else this.#watch();
    });
    const isSent = this.#session.ping(() => {
      if (!this.#session.destroyed && this.#calls > 0) this.#watch();
    });
    if (!isSent) this.#session.destroy();
  }

  #wait(seconds: number, then: () => void): void {
    clearTimeout(this.#waiting);
    this.#waiting = timer(then, seconds * 1000);
    this.#waiting.unref();
  }
}
