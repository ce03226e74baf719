import { DEFAULTS } from "./defaults.js";

/** Most addresses that are kept; a cluster has far fewer members. */
const KNOWN_MAX = 64;

/** The members of a cluster. Calls go to the leader; other members name it, or the client searches for it in turn. */
export class Servers {
  readonly #given: readonly string[];
  #known: string[];
  #current: string;
  /** The last server chosen in turn, not because it was named as the leader. */
  #asked: string;
  /** Named leaders tried since the last delay. */
  readonly #followed = new Set<string>();
  #failures = 0;
  #refreshedAt: number | undefined;
  readonly #random: () => number;

  /** @param addresses Addresses, at least one; the first one is tried first. */
  constructor(addresses: readonly string[], random: () => number = Math.random) {
    this.#given = [...new Set(addresses)].slice(0, KNOWN_MAX);
    this.#known = [...this.#given];
    this.#current = this.#given[0] ?? "";
    this.#asked = this.#current;
    this.#random = random;
  }

  /** The server to use. */
  get current(): string {
    return this.#current;
  }

  /** Every known server, the configured ones first. */
  get known(): readonly string[] {
    return this.#known;
  }

  /** Whether more than one server is known. */
  get areMany(): boolean {
    return this.#known.length > 1;
  }

  /** Records that the current server served a request. */
  reached(): void {
    this.#failures = 0;
    this.#followed.clear();
  }

  /**
   * Records that a server did not serve a request, and chooses the next one.
   *
   * @param address The server.
   * @param leader The leader that it named; empty: none.
   * @returns Milliseconds to wait before the next server is used; 0 for a leader just named that was not tried yet.
   */
  left(address: string, leader = ""): number {
    if (leader && leader !== address && !this.#followed.has(leader)) {
      this.#followed.add(leader);
      this.#add(leader);
      this.#current = leader;
      return 0;
    }
    if (this.#current !== address) return 0; // another call has moved on already
    this.#followed.clear();
    this.#failures += 1;
    this.#current = this.#next(address);
    const bound = Math.min(DEFAULTS.followMaxMs, DEFAULTS.followMinMs * 2 ** Math.min(this.#failures, 10));
    return Math.max(DEFAULTS.followMinMs, bound * (0.5 + this.#random() / 2));
  }

  /** Sets the members of the cluster; they replace those learned before, but not the configured servers. */
  learn(members: Iterable<string>): void {
    this.#known = [...this.#given];
    for (const address of members) this.#add(address);
    this.#add(this.#current);
  }

  /** Returns whether to refresh the members now; if so, the next interval begins. */
  isRefreshDue(nowMs: number): boolean {
    const isDue = this.#refreshedAt === undefined || nowMs - this.#refreshedAt >= DEFAULTS.refreshSeconds * 1000;
    if (isDue) this.#refreshedAt = nowMs;
    return isDue;
  }

  /** Returns the next server in turn; wrong hints about the leader never make the rotation skip a server. */
  #next(address: string): string {
    if (this.#known.every((known) => known === address)) return address;
    const place = this.#known.indexOf(this.#asked);
    const turn = [...this.#known.slice(place + 1), ...this.#known.slice(0, place + 1)];
    this.#asked = turn.find((known) => known !== address) ?? address;
    return this.#asked;
  }

  #add(address: string): void {
    if (address && !this.#known.includes(address) && this.#known.length < KNOWN_MAX) this.#known.push(address);
  }
}
