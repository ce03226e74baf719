// What tests share.
import type { Logger } from "../logger.js";

/** Longest time that a test waits for something. */
const WAIT_MS_MAX = 30_000;

/** A logger that keeps its lines. */
export class KeptLogger implements Logger {
  readonly lines: string[] = [];
  debug(message: string): void {
    this.lines.push(`debug ${message}`);
  }
  info(message: string): void {
    this.lines.push(`info ${message}`);
  }
  warn(message: string): void {
    this.lines.push(`warn ${message}`);
  }
  error(message: string): void {
    this.lines.push(`error ${message}`);
  }
}

/** Resolves once a condition holds; rejects if that takes too long. */
export async function until(condition: () => boolean, what = condition.toString()): Promise<void> {
  const end = Date.now() + WAIT_MS_MAX;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`this did not happen: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** A promise and the function that resolves it. */
export function gate<T = void>(): { promise: Promise<T>; open: (value: T) => void } {
  let open: (value: T) => void = () => undefined;
  const promise = new Promise<T>((resolve) => (open = resolve));
  return { promise, open };
}
