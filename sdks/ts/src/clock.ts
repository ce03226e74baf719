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
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const waiting = timer(done, ms);
    signal?.addEventListener("abort", done, { once: true });
  });
}

/** Resolves to the value of a promise, or rejects with `late()` if that takes longer than `ms`. */
export function within<T>(promise: Promise<T>, ms: number, late: () => Error): Promise<T> {
  return new Promise((resolve, reject) => {
    const waiting = timer(() => reject(late()), ms);
    promise.then(
      (value) => {
        clearTimeout(waiting);
        resolve(value);
      },
      (error: unknown) => {
        clearTimeout(waiting);
        reject(error as Error);
      },
    );
  });
}
