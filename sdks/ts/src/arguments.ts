import { invalidArgument } from "./errors.js";

/** Longest timeout and drain time: a day. */
export const SECONDS_MAX = 86_400;

/** Returns a number of seconds over 0 and at most a day. */
export function seconds(value: number, field: string): number {
  if (typeof value !== "number" || !(value > 0 && value <= SECONDS_MAX)) {
    throw invalidArgument(field, `must be over 0 and at most ${SECONDS_MAX} seconds, not ${String(value)}`);
  }
  return value;
}

/** Returns a number of seconds from 0 to a day. */
export function secondsOrZero(value: number, field: string): number {
  return value === 0 ? 0 : seconds(value, field);
}

/** Returns a whole number from `least` to `most`. */
export function count(value: number, field: string, most: number, least = 1): number {
  if (!Number.isInteger(value) || value < least || value > most) {
    throw invalidArgument(field, `must be a whole number from ${least} to ${most}, not ${String(value)}`);
  }
  return value;
}

/** Returns a name of at most `most` characters that match a pattern. */
export function name(value: string, field: string, most: number, pattern: RegExp, allowed: string): string {
  if (typeof value !== "string" || value.length > most || !pattern.test(value)) {
    throw invalidArgument(field, `must be at most ${most} characters of ${allowed}`);
  }
  return value;
}
