/** Takes the SDK's log lines. `console` is one, and so are the loggers of pino and winston. */
export interface Logger {
  /** Takes a line for developers. */
  debug(message: string): void;
  /** Takes a line about the normal course of events. */
  info(message: string): void;
  /** Takes a line about a problem that the SDK handles. */
  warn(message: string): void;
  /** Takes a line about a problem that needs attention, such as a handler that fails. */
  error(message: string): void;
}

const LEVELS = ["debug", "info", "warn", "error"] as const;

/** Returns a logger whose methods never throw: if the program's logger does, only the line is lost. */
export function guarded(logger: Logger): Logger {
  const safe = {} as Logger;
  for (const level of LEVELS) {
    safe[level] = (message: string) => {
      try {
        logger[level](message);
      } catch {
        // The caller's work must not fail because a line cannot be logged.
      }
    };
  }
  return safe;
}

/** The default logger: warnings and errors go to the console's error output. */
export const consoleLogger: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: (message) => console.warn(`codeq: ${message}`),
  error: (message) => console.error(`codeq: ${message}`),
};
