import { timestampFromDate, type Timestamp } from "@bufbuild/protobuf/wkt";
import { invalidArgument } from "./errors.js";

/** Returns the fields of the times that are given. */
export function times<Name extends string>(given: Readonly<Record<Name, Date | undefined>>): Partial<Record<Name, Timestamp>> {
  const fields: Partial<Record<Name, Timestamp>> = {};
  for (const [name, value] of Object.entries(given) as [Name, Date | undefined][]) {
    if (value === undefined) continue;
    if (!(value instanceof Date) || Number.isNaN(value.getTime())) throw invalidArgument(name, "must be a valid Date");
    fields[name] = timestampFromDate(value);
  }
  return fields;
}
