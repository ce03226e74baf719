import { create, toBinary } from "@bufbuild/protobuf";
import { FieldWriter } from "./codec.js";
import { CodeqError, invalidArgument } from "./errors.js";
import { NewArtifactSchema, OutcomeKind } from "./gen/codeq/v1/task_pb.js";
import type { Logger } from "./logger.js";
import { kindOf, Nack, type Completed, type Failed, type NewArtifact, type Outcome, type ParkKey, type Snooze } from "./outcomes.js";
import { encode } from "./payloads.js";
import { wholeSeconds } from "./new-tasks.js";
import { printable, textOf } from "./texts.js";

/** Most bytes of content in all artifacts of one result; the server may allow less for each. */
export const ARTIFACT_BYTES_MAX = 6 * 1024 * 1024;

/** Error of a Failed without a text: the server requires one. */
const NO_ERROR = "no error was given";

/** The lease of a delivery. */
export interface Lease {
  readonly taskId: string;
  readonly token: bigint;
}

/** An encoded outcome. */
export interface Report extends Lease {
  /** Encoded WorkRequest with the outcome and its artifacts. */
  readonly data: Uint8Array;
  /** Whether it replaces an outcome that the server rejected. */
  readonly isReplacement: boolean;
}

const writer = new FieldWriter();

/** Encodes an outcome; one that cannot be encoded becomes a Nack that says why. Never throws. */
export function reportOf(lease: Lease, outcome: Outcome, logger: Logger, isReplacement = false): Report {
  const { taskId, token } = lease;
  try {
    return { taskId, token, data: encoded(lease, outcome), isReplacement };
  } catch (error) {
    const text = error instanceof CodeqError ? error.description : textOf(error);
    logger.error(`the outcome of task ${taskId} cannot be sent: ${text}`);
    return { taskId, token, data: encoded(lease, new Nack(`outcome cannot be sent: ${text}`)), isReplacement };
  }
}

function encoded(lease: Lease, outcome: Outcome): Uint8Array {
  const kind = kindOf(outcome);
  const files = kind === "completed" || kind === "failed" ? filesOf(lease, (outcome as Completed).artifacts) : undefined;
  const result =
    kind === "completed" && (outcome as Completed).result !== undefined
      ? encode((outcome as Completed).result, "result")
      : undefined;
  const to = writer.begin();
  to.text(0x0a, lease.taskId);
  to.bigint(0x10, lease.token);
  switch (kind) {
    case "completed":
      to.number(0x18, OutcomeKind.COMPLETED);
      if (result !== undefined) to.bytes(0x22, result);
      break;
    case "failed": {
      const text = printable((outcome as Failed).error);
      to.number(0x18, OutcomeKind.FAILED);
      to.text(0x2a, text.trim() ? text : NO_ERROR);
      break;
    }
    case "nack": {
      const { reason, delaySeconds } = outcome as Nack;
      to.number(0x18, OutcomeKind.NACK);
      const text = printable(reason);
      if (text) to.text(0x2a, text);
      if (delaySeconds !== undefined) to.number(0x30, wholeSeconds(delaySeconds, "delaySeconds"));
      break;
    }
    case "snooze":
      to.number(0x18, OutcomeKind.ABANDON);
      to.number(0x30, wholeSeconds((outcome as Snooze).delaySeconds, "delaySeconds"));
      if ((outcome as Partial<ParkKey>).parksKey === true) to.number(0x38, 1);
      break;
    default:
      to.number(0x18, OutcomeKind.ABANDON);
  }
  const data = to.asField(0x22);
  return files === undefined ? data : Buffer.concat([data, files]);
}

/** Returns an encoded field `artifacts` of a WorkRequest; undefined: there are none. */
function filesOf(lease: Lease, artifacts: Iterable<NewArtifact>): Uint8Array | undefined {
  const list = encodeArtifacts(artifacts).map((each) => toBinary(NewArtifactSchema, create(NewArtifactSchema, each)));
  if (list.length === 0) return undefined;
  const to = writer.begin();
  to.text(0x0a, lease.taskId);
  to.bigint(0x10, lease.token);
  for (const each of list) to.bytes(0x1a, each);
  return to.asField(0x42);
}

/** Returns artifacts as messages; checks their types and total size, the server checks the rest. */
export function encodeArtifacts(
  artifacts: Iterable<NewArtifact>,
): { name: string; url: string; contentType: string; content?: Uint8Array }[] {
  const list: { name: string; url: string; contentType: string; content?: Uint8Array }[] = [];
  let size = 0;
  for (const each of artifacts) {
    const field = `artifacts[${list.length}]`;
    if (typeof each?.name !== "string") throw invalidArgument(field, "needs a name");
    const content = typeof each.content === "string" ? new TextEncoder().encode(each.content) : each.content;
    if (content !== undefined && !(content instanceof Uint8Array)) {
      throw invalidArgument(`${field}.content`, "must be bytes or a text");
    }
    size += content?.length ?? 0;
    if (size > ARTIFACT_BYTES_MAX) {
      throw new CodeqError("TOO_LARGE", `artifacts have more than ${ARTIFACT_BYTES_MAX} bytes`, {
        violations: [{ field: "artifacts", description: `have more than ${ARTIFACT_BYTES_MAX} bytes` }],
      });
    }
    const { name, url = "", contentType = "" } = each;
    list.push({ name, url, contentType, ...(content === undefined ? {} : { content }) });
  }
  return list;
}
