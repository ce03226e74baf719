import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import type { FieldViolation } from "./errors.js";
import { ERROR_DOMAIN } from "./reasons.js";

/** What the details of a failed call say. */
export interface StatusDetails {
  /** Reason of google.rpc.ErrorInfo, if it is codeq's. */
  reason: string | undefined;
  metadata: Record<string, string>;
  violations: FieldViolation[];
  retryAfter: number | undefined;
}

type Field = (reader: BinaryReader, number: number) => boolean;

/** Reads a message field by field; `take` returns whether it has read the field. */
function read(data: Uint8Array, take: Field): void {
  const reader = new BinaryReader(data);
  while (reader.pos < reader.len) {
    const [number, wire] = reader.tag();
    if (wire !== WireType.LengthDelimited && wire !== WireType.Varint) reader.skip(wire, number);
    else if (!take(reader, number)) reader.skip(wire, number);
  }
}

/**
 * Reads an encoded google.rpc.Status. The three kinds of details that codeq sends are few and frozen, so they are read
 * here instead of by generated code, which the public protos do not include. Malformed details count as none.
 */
export function statusDetailsOf(data: Uint8Array): StatusDetails {
  const told: StatusDetails = { reason: undefined, metadata: {}, violations: [], retryAfter: undefined };
  try {
    read(data, (reader, number) => {
      if (number !== 3) return false;
      takeAny(reader.bytes(), told);
      return true;
    });
  } catch {
    return { reason: undefined, metadata: {}, violations: [], retryAfter: undefined };
  }
  return told;
}

function takeAny(data: Uint8Array, told: StatusDetails): void {
  let type = "";
  let value: Uint8Array = new Uint8Array();
  read(data, (reader, number) => {
    if (number === 1) type = reader.string();
    else if (number === 2) value = reader.bytes();
    else return false;
    return true;
  });
  const kind = type.slice(type.lastIndexOf("/") + 1);
  if (kind === "google.rpc.ErrorInfo") takeErrorInfo(value, told);
  else if (kind === "google.rpc.BadRequest") takeBadRequest(value, told);
  else if (kind === "google.rpc.RetryInfo") takeRetryInfo(value, told);
}

function takeErrorInfo(data: Uint8Array, told: StatusDetails): void {
  let reason = "";
  let domain = "";
  read(data, (reader, number) => {
    if (number === 1) reason = reader.string();
    else if (number === 2) domain = reader.string();
    else if (number === 3) {
      const [name, text] = pairOf(reader.bytes());
      told.metadata[name] = text;
    } else return false;
    return true;
  });
  told.reason = domain === ERROR_DOMAIN && reason ? reason : undefined;
}

function takeBadRequest(data: Uint8Array, told: StatusDetails): void {
  read(data, (reader, number) => {
    if (number !== 1) return false;
    const [field, description] = pairOf(reader.bytes());
    told.violations.push({ field, description });
    return true;
  });
}

function takeRetryInfo(data: Uint8Array, told: StatusDetails): void {
  read(data, (reader, number) => {
    if (number !== 1) return false;
    let seconds = 0;
    read(reader.bytes(), (inner, which) => {
      if (which === 1) seconds += Number(inner.int64());
      else if (which === 2) seconds += inner.int32() / 1e9;
      else return false;
      return true;
    });
    told.retryAfter = seconds;
    return true;
  });
}

/** Reads a message whose fields 1 and 2 are strings, such as an entry of a map. */
function pairOf(data: Uint8Array): [string, string] {
  let first = "";
  let second = "";
  read(data, (reader, number) => {
    if (number === 1) first = reader.string();
    else if (number === 2) second = reader.string();
    else return false;
    return true;
  });
  return [first, second];
}
