// Messages as the REST API's JSON, in which embedded JSON is {"raw": text} to keep its bytes. Works on the descriptors of
// the generated services, so it needs no protobuf library.

const EMBEDDED = new Set(["payload", "result", "progress", "before", "after", "payload_schema"]);
const TIMESTAMP = "google.protobuf.Timestamp";

const STRING = 9;
const BYTES = 12;
const BIG = new Set([3, 4, 6, 16, 18]); // int64, uint64, fixed64, sfixed64, sint64
const UNSIGNED_64 = new Set([4, 6]);

/** Returns a message as JSON: enums by their short names, unsigned 64-bit integers as strings. */
export function toJson(schema, message) {
  const shown = {};
  for (const field of schema.fields) {
    const value = message[field.localName];
    if (value === undefined) continue;
    shown[field.jsonName] = field.fieldKind === "list" ? value.map((each) => shownValue(field, each)) : shownValue(field, value);
  }
  return shown;
}

/** Returns the init shape of a message from JSON. */
export function fromJson(schema, told) {
  const names = new Map(schema.fields.flatMap((field) => [[field.name, field], [field.jsonName, field]]));
  const message = {};
  for (const [key, value] of Object.entries(told)) {
    const field = names.get(key);
    if (field === undefined) throw new TypeError(`${schema.name} has no field ${key}`);
    if (value === null) continue;
    if (field.fieldKind !== "list") message[field.localName] = givenValue(field, value, key);
    else message[field.localName] = (Array.isArray(value) ? value : [value]).map((each) => givenValue(field, each, key));
  }
  return message;
}

/** Returns the bytes of embedded JSON: those of {"raw": text} as they are, else the compact JSON of the value. */
export function embedded(value) {
  const isRaw = typeof value === "object" && value !== null && Object.keys(value).join() === "raw";
  return Buffer.from(isRaw ? String(value.raw) : JSON.stringify(value));
}

function shownValue(field, value) {
  if (field.message !== undefined) {
    if (field.message.typeName !== TIMESTAMP) return toJson(field.message, value);
    const seconds = new Date(Number(value.seconds) * 1000).toISOString().slice(0, 19);
    const nanos = value.nanos === 0 ? "" : `.${String(value.nanos).padStart(9, "0").replace(/(000)+$/, "")}`;
    return `${seconds}${nanos}Z`;
  }
  if (field.enum !== undefined) return field.enum.value[value]?.localName ?? value;
  if (EMBEDDED.has(field.name) && (field.scalar === BYTES || field.scalar === STRING)) {
    return { raw: typeof value === "string" ? value : Buffer.from(value).toString() };
  }
  if (field.scalar === BYTES) return Buffer.from(value).toString("base64");
  if (UNSIGNED_64.has(field.scalar)) return String(value);
  return typeof value === "bigint" ? Number(value) : value;
}

function givenValue(field, value, key) {
  if (field.message !== undefined) {
    if (field.message.typeName !== TIMESTAMP) return fromJson(field.message, value);
    const ms = Date.parse(value);
    if (Number.isNaN(ms)) throw new TypeError(`${key}: not a time`);
    const seconds = Math.floor(ms / 1000);
    return { seconds: BigInt(seconds), nanos: (ms - seconds * 1000) * 1e6 };
  }
  if (field.enum !== undefined) {
    const found = field.enum.values.find((each) => each.localName === value || each.name === value);
    if (found === undefined) throw new TypeError(`${key}: ${value} is no ${field.enum.name}`);
    return found.number;
  }
  if (field.scalar === BYTES) return EMBEDDED.has(field.name) ? embedded(value) : Buffer.from(value, "base64");
  if (BIG.has(field.scalar)) return BigInt(value);
  const isNumber = typeof value === "string" && field.scalar !== STRING;
  return isNumber ? Number(value) : value;
}
