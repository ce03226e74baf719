import { readFileSync } from "node:fs";
import { invalidArgument } from "./errors.js";
import { textOf } from "./texts.js";

/**
 * PEM files for TLS. They are read again for each new connection, so a client that runs for months follows its servers
 * to another authority.
 */
export interface TlsFiles {
  /** Certificates of the authorities of servers. Default: the system's roots. */
  readonly ca?: string | undefined;
  /** Certificate to present, with those between it and its authority. Default: none. */
  readonly cert?: string | undefined;
  /** Private key of `cert`, without a password. */
  readonly key?: string | undefined;
  /** Accept any certificate: for tests only, and logged as a warning. Default: false. */
  readonly insecureSkipVerify?: boolean | undefined;
}

/** `false`: plaintext. `true`: TLS with the system's roots. Files: see `TlsFiles`. */
export type Tls = boolean | TlsFiles;

const VARIABLES = { ca: "CODEQ_TLS_CA_FILE", cert: "CODEQ_TLS_CERT_FILE", key: "CODEQ_TLS_KEY_FILE" } as const;

/** Options for the TLS of one connection. */
export interface TlsContext {
  readonly ca?: Buffer;
  readonly cert?: Buffer;
  readonly key?: Buffer;
  readonly rejectUnauthorized: boolean;
}

/** Returns the TLS files in force; undefined: plaintext. Without an argument, the environment names the files. */
export function tlsFiles(tls: Tls | undefined, env: NodeJS.ProcessEnv = process.env): TlsFiles | undefined {
  if (tls === false) return undefined;
  if (tls === true) return {};
  const files = tls ?? {
    ca: env[VARIABLES.ca] || undefined,
    cert: env[VARIABLES.cert] || undefined,
    key: env[VARIABLES.key] || undefined,
  };
  if ((files.cert === undefined) !== (files.key === undefined)) {
    const names = tls === undefined ? `${VARIABLES.cert} and ${VARIABLES.key}` : "tls.cert and tls.key";
    throw invalidArgument("tls", `needs both or neither of ${names}`);
  }
  if (tls === undefined && files.ca === undefined && files.cert === undefined) return undefined;
  readTls(files);
  return files;
}

/** Reads the files for the next connection. */
export function readTls(files: TlsFiles): TlsContext {
  const contents: { ca?: Buffer; cert?: Buffer; key?: Buffer } = {};
  for (const name of ["ca", "cert", "key"] as const) {
    const path = files[name];
    if (path === undefined) continue;
    try {
      contents[name] = readFileSync(path);
    } catch (error) {
      throw invalidArgument(`tls.${name}`, `cannot be read: ${textOf(error)}`, error);
    }
  }
  return { ...contents, rejectUnauthorized: files.insecureSkipVerify !== true };
}
