/** Longest error or reason in characters; the server cuts longer ones, so longer ones are not sent. */
export const TEXT_CHARACTERS_MAX = 4096;

const CUT_MARK = "…";

/** Returns the text of anything: errors with their type, nothing for null and undefined. Never throws. */
export function textOf(value: unknown): string {
  try {
    if (value === null || value === undefined) return "";
    if (typeof value === "string") return value;
    if (value instanceof Uint8Array) return new TextDecoder().decode(value);
    if (isError(value)) {
      const name = typeof value.name === "string" && value.name ? value.name : "Error";
      const message = typeof value.message === "string" ? value.message : "";
      return message ? `${name}: ${message}` : name;
    }
    if (typeof value === "object") return JSON.stringify(value) ?? String(value);
    return String(value);
  } catch {
    return `${typeof value} without a text`;
  }
}

/** Returns the text of a value as the server takes it: bounded, and without unpaired surrogates. */
export function printable(value: unknown): string {
  let text = textOf(value);
  if (text.length > TEXT_CHARACTERS_MAX) text = text.slice(0, TEXT_CHARACTERS_MAX - 1) + CUT_MARK;
  return text.isWellFormed() ? text : text.toWellFormed();
}

function isError(value: unknown): value is { name?: unknown; message?: unknown } {
  return value instanceof Error || Object.prototype.toString.call(value) === "[object Error]";
}
