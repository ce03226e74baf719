import { invalidArgument } from "./errors.js";

/** A server's address in parts. */
export interface Target {
  /** Host name or IP address, without brackets; or path of a Unix socket. */
  readonly host: string;
  /** Port; undefined: `host` is the path of a Unix socket. */
  readonly port: number | undefined;
  /** Value of the :authority header. */
  readonly authority: string;
}

const UNIX = "unix:";

/**
 * Parses HOST:PORT, [IPV6]:PORT or unix:PATH.
 *
 * @throws CodeqError INVALID_ARGUMENT if the address is none of these.
 */
export function parseAddress(address: string): Target {
  if (address.startsWith(UNIX) && address.length > UNIX.length) {
    return { host: address.slice(UNIX.length), port: undefined, authority: "localhost" };
  }
  const match = /^(?:dns:\/\/\/)?(\[[^\]/]+\]|[^:/\s[\]]+):([0-9]{1,5})$/.exec(address);
  const host = match?.[1];
  const port = Number(match?.[2]);
  if (host === undefined || port < 1 || port > 65_535) {
    const form = "is not HOST:PORT, such as localhost:9092 or [::1]:9092";
    throw invalidArgument("addresses", `${JSON.stringify(address)} ${form}`);
  }
  const bare = host.startsWith("[") ? host.slice(1, -1) : host;
  return { host: bare, port, authority: `${host}:${port}` };
}

/** Returns the addresses of a list, or of a text with commas; checks each of them. */
export function addressesOf(given: string | readonly string[]): string[] {
  const list = typeof given === "string" ? given.split(",") : given;
  if (!Array.isArray(list) || !list.every((each) => typeof each === "string")) {
    throw invalidArgument("addresses", "must be a text such as localhost:9092, or a list of them");
  }
  const known = list.map((each: string) => each.trim()).filter((each) => each !== "");
  if (known.length === 0) throw invalidArgument("addresses", "names no server");
  known.forEach(parseAddress);
  return known;
}
