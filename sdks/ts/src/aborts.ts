/** What waits for one signal, behind one listener. */
interface Waiting {
  readonly acts: Set<() => void>;
  readonly listener: () => void;
}

const waitings = new WeakMap<AbortSignal, Waiting>();

/**
 * Calls `act` once the signal aborts, and returns a function that prevents this. Everything that waits for a signal
 * shares one listener: Node warns of more than ten, and a program may give one signal to thousands of calls.
 */
export function onAbort(signal: AbortSignal, act: () => void): () => void {
  const { acts, listener } = waitings.get(signal) ?? listening(signal);
  acts.add(act);
  return () => {
    if (!acts.delete(act) || acts.size > 0 || waitings.get(signal)?.acts !== acts) return;
    waitings.delete(signal);
    signal.removeEventListener("abort", listener);
  };
}

function listening(signal: AbortSignal): Waiting {
  const acts = new Set<() => void>();
  const listener = (): void => {
    waitings.delete(signal);
    for (const act of [...acts]) act();
  };
  const waiting = { acts, listener };
  waitings.set(signal, waiting);
  signal.addEventListener("abort", listener, { once: true });
  return waiting;
}
