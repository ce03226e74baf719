// Handlers that do what a test asks for.
import { Abandon, Completed, Failed, Nack, RawJson, RetryAfter, ParkKey, Snooze } from "../../../../sdks/ts/dist/index.js";

/** Returns the handler of a worker: the first rule that matches a task says what to do. */
export function handlerOf(worker, rules, emit, create) {
  return async (task, { signal }) => {
    emit({ event: "task", worker, ...shown(task), task: shown(task) });
    const steps = stepsOf(rules, task);
    for (const step of steps.slice(0, -1)) await carryOut(step, { worker, task, signal, emit, create });
    return steps.length === 0 ? undefined : carryOut(steps.at(-1), { worker, task, signal, emit, create });
  };
}

function stepsOf(rules, task) {
  for (const { match = {}, do: steps } of rules) {
    if (match.command !== undefined && match.command !== null && match.command !== task.command) continue;
    if (!task.payloadText.includes(String(match.payloadHas ?? ""))) continue;
    return Array.isArray(steps[0]) ? steps : [steps];
  }
  return [["complete", null]];
}

async function carryOut([name, ...args], run) {
  const { task, signal } = run;
  switch (name) {
    case "progress":
      for (const value of args[0]) task.progress(value);
      return args[1] === undefined ? undefined : carryOut(args[1], run);
    case "create":
      await run.create(...args);
      return undefined;
    case "hang":
      await aborted(signal);
      tellStopped(run);
      return undefined;
    case "sleep":
      await Promise.race([aborted(signal), new Promise((resolve) => setTimeout(resolve, args[0] * 1000))]);
      if (signal.aborted) tellStopped(run);
      return undefined;
    case "busy": {
      const until = performance.now() + args[0] * 1000;
      while (performance.now() < until);
      // Messages that came in the meantime are handled only once the loop turns.
      await new Promise((resolve) => setTimeout(resolve, 50));
      if (signal.aborted) tellStopped(run);
      return undefined;
    }
    default:
      return outcome(name, args);
  }
}

/** Returns or throws the outcome of a step that ends the handler. */
function outcome(name, [first, second]) {
  switch (name) {
    case "complete":
      return first ?? undefined;
    case "complete_raw":
      return new RawJson(first);
    case "artifacts":
      return new Completed(first ?? undefined, second.map(artifact));
    case "fail":
      return new Failed(first);
    case "nack":
      return new Nack(first ?? "", second ?? undefined);
    case "retry_after":
      throw new RetryAfter(first);
    case "snooze":
      throw new Snooze(first);
    case "park_key":
      throw new ParkKey(first);
    case "abandon":
      return new Abandon();
    case "raise":
      throw new Error(first);
    case "panic":
      throw first; // not even an Error
    case "unencodable":
      return { value: 1n };
    default:
      throw new Error(`unknown behaviour ${name}`);
  }
}

function artifact({ name, text, url, contentType }) {
  return { name, content: text ?? undefined, url: url ?? undefined, contentType: contentType ?? undefined };
}

function aborted(signal) {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

function tellStopped({ worker, task, signal, emit }) {
  emit({ event: "cancelled", worker, id: task.id, reason: signal.reason?.kind ?? null });
}

function shown(task) {
  return {
    id: task.id,
    command: task.command,
    attempts: task.attempts,
    payload: task.payloadText,
    priority: task.priority,
    traceparent: task.traceparent ?? null,
    concurrencyKey: task.concurrencyKey ?? null,
    rateKey: task.rateKey ?? null,
    orderingKey: task.orderingKey ?? null,
    leaseToken: task.leaseToken,
  };
}
