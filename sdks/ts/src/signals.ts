/** Calls `stop` for SIGTERM and SIGINT until the returned function is called; other handlers stay in force. */
export function onSignals(stop: (signal: string) => void): () => void {
  const signals = ["SIGTERM", "SIGINT"] as const;
  const listener = (signal: NodeJS.Signals): void => stop(signal);
  for (const signal of signals) process.on(signal, listener);
  return () => {
    for (const signal of signals) process.off(signal, listener);
  };
}
