/**
 * The leases of running tasks in memory that the worker's thread and the renewal thread share. A message for each task
 * would cost more than the task itself; and a handler that never yields could not send one.
 *
 * Each lease has a slot. A slot's version is odd while the worker changes it, so that the other thread never acts on
 * half of a change.
 */
const SLOT_WORDS = 26;
const ID_BYTES_MAX = 64;

// Words of a slot.
const VERSION = 0;
const ID_LENGTH = 1;
const TOKEN_LOW = 2;
const TOKEN_HIGH = 3;
const STARTED = 4;
const LIMIT = 5;
/** Time of the last confirmed renewal; written by whoever renews. */
const EXTENDED = 6;
/** Whether the lease must not be renewed any more: it is lost, or its time is up. */
const GIVEN_UP = 7;
const ID = 8;

// Words of the head.
const BEAT = 0;
const LATE = 1;
const HEAD_WORDS = 8;

/** A lease, as the renewal thread sees it. */
export interface SharedLease {
  readonly slot: number;
  readonly version: number;
  readonly taskId: string;
  readonly token: bigint;
  /** Start of the delivery, in milliseconds of `sharedMs`. */
  readonly startedMs: number;
  /** Longest time in milliseconds for which the lease may be renewed. */
  readonly limitMs: number;
  readonly extendedMs: number;
  readonly isGivenUp: boolean;
}

/** Returns milliseconds on a clock that all threads of the process share, as an int32 that wraps after 24 days. */
export function sharedMs(): number {
  const [seconds, nanos] = process.hrtime(); // the same clock in every thread, which never jumps
  return (seconds * 1000 + nanos / 1e6) | 0;
}

/** Returns the time from one reading of `sharedMs` to a later one. */
export function sharedElapsed(fromMs: number, toMs: number): number {
  return (toMs - fromMs) | 0;
}

/** Leases in shared memory; see above. */
export class LeaseTable {
  readonly buffer: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #free: number[] = [];
  /** Number of slots. */
  readonly capacity: number;

  /** Makes a table for a number of leases, or opens the table in a buffer. */
  constructor(of: number | SharedArrayBuffer) {
    this.buffer = typeof of === "number" ? new SharedArrayBuffer((HEAD_WORDS + of * SLOT_WORDS) * 4) : of;
    this.#words = new Int32Array(this.buffer);
    this.#bytes = new Uint8Array(this.buffer);
    this.capacity = (this.#words.length - HEAD_WORDS) / SLOT_WORDS;
    if (typeof of === "number") for (let slot = of - 1; slot >= 0; slot -= 1) this.#free.push(slot);
  }

  /** Says that the worker's thread is alive. */
  beat(): void {
    Atomics.store(this.#words, BEAT, sharedMs());
  }

  /** Milliseconds since the worker's thread was last alive. */
  get silentMs(): number {
    return sharedElapsed(Atomics.load(this.#words, BEAT), sharedMs());
  }

  /** Number of renewals that were late. */
  get lateRenewals(): number {
    return Atomics.load(this.#words, LATE);
  }

  /** Counts late renewals. */
  countLate(renewals: number): void {
    Atomics.add(this.#words, LATE, renewals);
  }

  /** Adds a lease; returns its slot, or -1 if the table is full. */
  add(taskId: string, token: bigint, limitMs: number): number {
    const slot = this.#free.pop();
    if (slot === undefined) return -1;
    const at = HEAD_WORDS + slot * SLOT_WORDS;
    const words = this.#words;
    Atomics.add(words, at + VERSION, 1);
    const now = sharedMs();
    const from = (at + ID) * 4;
    let length = 0;
    for (; length < taskId.length && length < ID_BYTES_MAX; length += 1) {
      this.#bytes[from + length] = taskId.charCodeAt(length); // ids are ASCII
    }
    words[at + TOKEN_LOW] = Number(BigInt.asIntN(32, token));
    words[at + TOKEN_HIGH] = Number(BigInt.asIntN(32, token >> 32n));
    words[at + STARTED] = now;
    words[at + LIMIT] = Math.min(limitMs, 2 ** 31 - 1);
    words[at + EXTENDED] = now;
    words[at + GIVEN_UP] = 0;
    words[at + ID_LENGTH] = length;
    Atomics.add(words, at + VERSION, 1);
    return slot;
  }

  /** Removes a lease. */
  remove(slot: number): void {
    if (slot < 0) return;
    const at = HEAD_WORDS + slot * SLOT_WORDS;
    Atomics.add(this.#words, at + VERSION, 1);
    this.#words[at + ID_LENGTH] = 0;
    Atomics.add(this.#words, at + VERSION, 1);
    this.#free.push(slot);
  }

  /** Milliseconds since a lease was granted or last extended. */
  sinceExtended(slot: number): number {
    return sharedElapsed(Atomics.load(this.#words, HEAD_WORDS + slot * SLOT_WORDS + EXTENDED), sharedMs());
  }

  /** Returns whether a lease may be renewed: its time is not up, and the server knows it. */
  mayRenew(slot: number): boolean {
    const words = this.#words;
    const at = HEAD_WORDS + slot * SLOT_WORDS;
    const held = sharedElapsed(Atomics.load(words, at + STARTED), sharedMs());
    return Atomics.load(words, at + GIVEN_UP) === 0 && held <= Atomics.load(words, at + LIMIT);
  }

  /** Stops the renewals of a lease. */
  giveUp(slot: number): void {
    if (slot >= 0) Atomics.store(this.#words, HEAD_WORDS + slot * SLOT_WORDS + GIVEN_UP, 1);
  }

  /** Records that a lease was extended just now; for the worker's own thread. */
  touch(slot: number): void {
    if (slot >= 0) Atomics.store(this.#words, HEAD_WORDS + slot * SLOT_WORDS + EXTENDED, sharedMs());
  }

  /** Records that a lease was extended just now, unless its slot has been changed since. */
  extended(lease: { slot: number; version: number }): void {
    const at = HEAD_WORDS + lease.slot * SLOT_WORDS;
    if (Atomics.load(this.#words, at + VERSION) === lease.version) Atomics.store(this.#words, at + EXTENDED, sharedMs());
  }

  /** Returns the leases that exist now. */
  leases(): SharedLease[] {
    const found: SharedLease[] = [];
    for (let slot = 0; slot < this.capacity; slot += 1) {
      const at = HEAD_WORDS + slot * SLOT_WORDS;
      if (Atomics.load(this.#words, at + ID_LENGTH) === 0) continue;
      const lease = this.#read(slot, at);
      if (lease !== undefined) found.push(lease);
    }
    return found;
  }

  #read(slot: number, at: number): SharedLease | undefined {
    const words = this.#words;
    const version = Atomics.load(words, at + VERSION);
    const length = words[at + ID_LENGTH] ?? 0;
    const from = (at + ID) * 4;
    const taskId = String.fromCharCode(...this.#bytes.slice(from, from + length));
    const token =
      (BigInt.asUintN(32, BigInt(words[at + TOKEN_HIGH] ?? 0)) << 32n) |
      BigInt.asUintN(32, BigInt(words[at + TOKEN_LOW] ?? 0));
    const [startedMs = 0, limitMs = 0, extendedMs = 0, givenUp = 0] = words.subarray(at + STARTED, at + ID);
    const isStable = version % 2 === 0 && length > 0 && Atomics.load(words, at + VERSION) === version;
    if (!isStable) return undefined; // the worker is changing it: the next round sees it
    return { slot, version, taskId, token, startedMs, limitMs, extendedMs, isGivenUp: givenUp === 1 };
  }
}
