import type { Servers } from "./servers.js";

/** Most shards of a server. */
export const SHARDS_MAX = 32;

/** Connections opened in a row to reach the process of a shard. */
const TRIES_MAX = 16;

/** First pause before the process of a shard is looked for again; each pause is twice the previous one. */
const PAUSE_MS_MIN = 10_000;

/** Longest such pause. */
const PAUSE_MS_MAX = 300_000;

/** What a welcome says of the process that serves a stream. */
interface Place {
  readonly shard: number;
  readonly shards: number;
}

/**
 * Looks for the process of one shard: the processes of a server share its port, so connections lead to any of them. A
 * stream that leads elsewhere works as well; its tasks take a hop between processes.
 */
export class ShardSearch {
  readonly #servers: Servers;
  /** The shard. */
  readonly shard: number;
  /** Number of shards. */
  readonly shards: number;
  #tries = 0;
  /** Address at which the process was met; empty: none. */
  #home = "";
  /** Servers that did not serve a stream since the last one that was kept. */
  readonly #away = new Set<string>();
  #pauseMs = 0;

  constructor(servers: Servers, shard: number, shards: number) {
    this.#servers = servers;
    this.shard = shard;
    this.shards = shards;
  }

  /** Milliseconds after which to look again for the process; undefined: the last stream leads to it. */
  get pauseMs(): number | undefined {
    return this.#pauseMs === 0 ? undefined : this.#pauseMs;
  }

  /** Returns the address for the next connection. */
  next(): string {
    const known = this.#near();
    const home = known.indexOf(this.#home);
    // Nodes are often named in the order of their shards.
    const first = home < 0 ? this.shard : home;
    return known[(first + this.#tries) % known.length] ?? this.#servers.current;
  }

  /** Takes where a connection has led, and returns whether to keep it. */
  meets(address: string, { shard, shards }: Place): boolean {
    this.#tries += 1;
    const isMet = shards === this.shards && shard === this.shard;
    const isOverAll = shards !== this.shards; // there is no better process for such a stream
    if (!isMet && !isOverAll && this.#tries < TRIES_MAX) return false;
    if (isMet) this.#home = address;
    this.#pauseMs = isMet || isOverAll ? 0 : Math.min(PAUSE_MS_MAX, Math.max(PAUSE_MS_MIN, 2 * this.#pauseMs));
    this.#begin();
    return true;
  }

  /** Takes that a server did not serve a stream, and returns whether to try another one at once. */
  failed(address: string): boolean {
    this.#away.add(address);
    if (this.#near().length > 0) return true;
    this.#begin();
    return false;
  }

  #near(): string[] {
    return this.#servers.known.filter((address) => !this.#away.has(address));
  }

  #begin(): void {
    this.#tries = 0;
    this.#away.clear();
  }
}
