import { onAbort } from "./aborts.js";

/** Returns milliseconds on a clock that never jumps. */
export function monotonicMs(): number {
  return performance.now();
}

/** Longest delay that timers of Node take; a longer one would fire at once. */
const TIMER_MS_MAX = 2 ** 31 - 1;

/** Starts a timer whose delay is capped at what timers can do. */
export function timer(callback: () => void, ms: number): NodeJS.Timeout {
  return setTimeout(callback, Math.min(Math.max(0, ms), TIMER_MS_MAX));
}

/** Resolves after a time, or early when `signal` aborts; it never rejects. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) {
      resolve();
      return;
    }
    const done = (): void => {
      clearTimeout(waiting);
      forget?.();
      resolve();
    };
    const waiting = timer(done, ms);
    const forget = signal === undefined ? undefined : onAbort(signal, done);
  });
}

/** Resolves to the value of a promise, or rejects with `late()` if that takes longer than `ms`, or until `signal` aborts. */
export function within<T>(promise: Promise<T>, ms: number, late: () => Error, signal?: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const end = (): void => {
      clearTimeout(waiting);
      forget?.();
    };
    const give = (): void => {
      end();
      reject(late());
    };
    const waiting = timer(give, signal?.aborted ? 0 : ms);
    const forget = signal === undefined ? undefined : onAbort(signal, give);
    promise.then(
      (value) => {
        end();
        resolve(value);
      },
      (error: unknown) => {
        end();
        reject(error as Error);
      },
    );
  });
}
