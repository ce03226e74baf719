import { DEFAULTS } from "./defaults.js";

/** Random delays between 0 and an upper bound that grows with each failed attempt, to spread out many clients. */
export class Backoff {
  readonly #random: () => number;

  /** @param random Source of numbers in [0, 1). */
  constructor(random: () => number = Math.random) {
    this.#random = random;
  }

  /** Returns the milliseconds to wait after a number of failed attempts in a row, 1 or more. */
  delayMs(attempt: number): number {
    const exponent = Math.min(attempt - 1, 30); // 2 ** 30 is beyond any bound
    return this.#random() * Math.min(DEFAULTS.backoffMaxMs, DEFAULTS.backoffMinMs * DEFAULTS.backoffFactor ** exponent);
  }
}
