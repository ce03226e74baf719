import { CodeqError, invalidArgument } from "./errors.js";
import { textOf } from "./texts.js";

/** Largest payload or result in bytes. */
export const VALUE_BYTES_MAX = 1024 * 1024;

const RAW = Symbol.for("codeq.RawJson");

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });

/** JSON text that is sent byte for byte, for instance to keep large numbers exact. The server checks that it is JSON. */
export class RawJson {
  /** The text. */
  readonly text: string;
  /** @internal */
  readonly [RAW] = true;

  /** Wraps one JSON value. */
  constructor(text: string) {
    this.text = text;
  }

  /** Returns the text. */
  toString(): string {
    return this.text;
  }
}

function isRawJson(value: unknown): value is RawJson {
  return typeof value === "object" && value !== null && (value as { [RAW]?: unknown })[RAW] === true;
}

/**
 * Returns the JSON of a value as bytes; RawJson and Uint8Array are taken as they are.
 *
 * @param value Anything that JSON.stringify takes; undefined counts as null.
 * @param field Name of the value in errors.
 * @throws CodeqError INVALID_ARGUMENT if the value has no JSON form (functions, bigint, cycles), TOO_LARGE if it has
 *   more than `bytesMax` bytes.
 */
export function encode(value: unknown, field: string, bytesMax = VALUE_BYTES_MAX): Uint8Array {
  const data = value instanceof Uint8Array ? value : encoder.encode(jsonOf(value, field));
  if (data.length > bytesMax) {
    const description = `has ${data.length} bytes; the limit is ${bytesMax}`;
    throw new CodeqError("TOO_LARGE", `${field} ${description}`, { violations: [{ field, description }] });
  }
  return data;
}

function jsonOf(value: unknown, field: string): string {
  if (value === undefined) return "null";
  if (isRawJson(value)) return value.text;
  let text: string | undefined;
  try {
    text = JSON.stringify(value);
  } catch (error) {
    throw invalidArgument(field, `is not JSON: ${textOf(error)}`, error);
  }
  if (text === undefined) throw invalidArgument(field, `is not JSON: it is a ${typeof value}`);
  return text;
}

/** Returns the text of JSON bytes; an empty value stands for null. */
export function textOfJson(data: Uint8Array | undefined): string {
  return data === undefined || data.length === 0 ? "null" : decoder.decode(data);
}
