import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sleep } from "./clock.js";
import { CodeqError } from "./errors.js";

const START_MS_MAX = 45_000;
const STOP_MS_MAX = 20_000;
const POLL_MS = 20;
const LOG_CHARACTERS = 4000;

/** Options of a test server. */
export interface TestServerOptions {
  /** Program and arguments that start `codeq`, separated by spaces. Default: `CODEQ_SERVER_COMMAND`, else `codeq`. */
  readonly command?: string | undefined;
  /** More settings, as environment variables. Default: none. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** Seconds until the server must be ready. Default: 45. */
  readonly startSeconds?: number | undefined;
}

/** A codeq server for tests, on free ports of the loopback interface, with an empty store in a temporary folder. */
export interface TestServer extends AsyncDisposable {
  /** Address for producers and clients. */
  readonly producerAddress: string;
  /** Address for workers. */
  readonly workerAddress: string;
  /** Base URL of the REST API. */
  readonly httpUrl: string;
  /** Token that the server accepts for everything. */
  readonly token: string;
  /** Id of the server's process. */
  readonly pid: number;
  /** The end of the server's log. */
  log(): string;
  /** Ends the server and removes its folder; repeating it is harmless. */
  stop(): Promise<void>;
}

/**
 * Starts a server and resolves once it is ready. Stop it, or declare it with `await using`.
 *
 * @throws CodeqError UNAVAILABLE if the command cannot be started, or the server is not ready in time; the text ends with its log.
 */
export async function startTestServer(options: TestServerOptions = {}): Promise<TestServer> {
  const folder = mkdtempSync(join(tmpdir(), "codeq-test-"));
  const [program = "codeq", ...before] = (options.command ?? process.env["CODEQ_SERVER_COMMAND"] ?? "codeq").trim().split(/\s+/);
  const readyPath = join(folder, "ready.json");
  const logPath = join(folder, "server.log");
  const log = openSync(logPath, "a");
  const flags = ["serve", "--dev", "--store", join(folder, "store"), "--ready-file", readyPath];
  const env = { ...passedOn(), ...PORTS, ...options.env };
  const child = spawn(program, [...before, ...flags], { env, stdio: ["ignore", log, log] });
  closeSync(log);
  const kill = (): void => void child.kill("SIGKILL");
  process.once("exit", kill); // a test that forgets the server must not leave it behind
  const logText = (): string => readFileSync(logPath, "utf8").slice(-LOG_CHARACTERS);
  const stop = async (): Promise<void> => {
    process.off("exit", kill);
    await end(child);
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    const ready = await waitUntilReady(child, readyPath, logText, (options.startSeconds ?? START_MS_MAX / 1000) * 1000);
    return {
      producerAddress: ready.producer,
      workerAddress: ready.worker,
      httpUrl: ready.http.startsWith("http") ? ready.http : `http://${ready.http}`,
      token: "dev-token",
      pid: child.pid ?? 0,
      log: logText,
      stop,
      [Symbol.asyncDispose]: stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

const PORTS = {
  HTTP_HOST: "127.0.0.1",
  PORT: "0",
  WORKER_STREAM_ADDR: "127.0.0.1:0",
  PRODUCER_STREAM_ADDR: "127.0.0.1:0",
} as const;

/** Variables of this process without settings of codeq, which would change the server. */
function passedOn(): NodeJS.ProcessEnv {
  const names = ["HOME", "LANG", "LC_ALL", "PATH", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV"];
  return Object.fromEntries(names.map((name) => [name, process.env[name]]));
}

interface Ready {
  readonly producer: string;
  readonly worker: string;
  readonly http: string;
}

async function waitUntilReady(child: ChildProcess, path: string, log: () => string, ms: number): Promise<Ready> {
  let trouble = "";
  child.once("error", (error) => {
    trouble = `the command of the server cannot be started: ${error.message}`;
  });
  for (const until = Date.now() + ms; Date.now() < until; await sleep(POLL_MS)) {
    const end = child.exitCode ?? child.signalCode;
    if (trouble === "" && end !== null) trouble = `the server ended with ${end}`;
    if (trouble !== "") throw new CodeqError("UNAVAILABLE", `${trouble}\n${log()}`);
    // The server renames the finished file into place, but an empty file is never content.
    if ((statSync(path, { throwIfNoEntry: false })?.size ?? 0) > 0) return JSON.parse(readFileSync(path, "utf8")) as Ready;
  }
  throw new CodeqError("UNAVAILABLE", `the server was not ready within ${ms / 1000} s\n${log()}`);
}

async function end(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  child.kill("SIGTERM");
  const hard = setTimeout(() => child.kill("SIGKILL"), STOP_MS_MAX);
  await ended;
  clearTimeout(hard);
}
