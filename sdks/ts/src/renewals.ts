/** The renewal thread of a worker; see renewing.ts. It runs no code of the program. */
import { parentPort, workerData } from "node:worker_threads";
import { Endpoint } from "./endpoint.js";
import { LeaseTable } from "./lease-table.js";
import { RenewalStream } from "./renewal-stream.js";
import { TOKEN_ANSWER_MS_MAX, type RenewalMessage, type RenewalOptions, type TokenAnswer } from "./renewing.js";

const options = workerData as RenewalOptions;

function post(message: RenewalMessage): void {
  parentPort?.postMessage(message);
}

let last = options.token;
let isFirst = last !== undefined;
let answered: ((token: string | undefined) => void) | undefined;

parentPort?.on("message", (message: TokenAnswer) => answered?.(message.token));

/** Returns the token to start with, then fresh ones of the program; the last one if the program is too busy to answer. */
function token(): Promise<string | undefined> {
  if (isFirst) {
    isFirst = false;
    return Promise.resolve(last);
  }
  return new Promise((resolve) => {
    const late = setTimeout(() => resolve(last), TOKEN_ANSWER_MS_MAX + 500);
    answered = (fresh) => {
      clearTimeout(late);
      last = fresh ?? last;
      resolve(last);
    };
    post({ kind: "token" });
  });
}

const logger = {
  debug: (text: string) => post({ kind: "log", level: "debug", text }),
  info: (text: string) => post({ kind: "log", level: "info", text }),
  warn: (text: string) => post({ kind: "log", level: "warn", text }),
  error: (text: string) => post({ kind: "log", level: "error", text }),
};

const endpoint = Endpoint.forWorker({
  addresses: options.addresses,
  token: options.hasTokenFunction ? token : options.token,
  tls: options.tls ?? false,
  logger,
});

void new RenewalStream(endpoint, new LeaseTable(options.buffer), options, post).run();
