// Middleware, hooks for metrics, and tracing that tell the suite what they see.
import { createRequire } from "node:module";
import { openTelemetry } from "../../../../sdks/ts/dist/opentelemetry.js";

const require = createRequire(new URL("../../../../sdks/ts/package.json", import.meta.url));

/** Returns middleware that tells when it is entered and left. */
export function layer(name, worker, emit) {
  return async (task, next) => {
    const told = { event: "layer", worker, id: task.id, layer: name };
    emit({ ...told, side: "before" });
    try {
      return await next();
    } finally {
      emit({ ...told, side: "after" });
    }
  };
}

/** Returns hooks that tell every call; `owner` is the name of the worker or producer. */
export function metricsOf({ name: owner, metrics }, emit) {
  if (!metrics) return undefined;
  const tell = (what, about) => emit({ event: "metric", worker: owner, what, ...about });
  return {
    created: (command, isCreated, took) => tell("created", { command, isCreated, took }),
    taskStarted: ({ command }) => tell("started", { command }),
    taskEnded: ({ command }, outcome, took) => tell("ended", { command, outcome, took }),
  };
}

/** Returns the SDK's tracing, whose spans are children of those of producers. */
export function telemetryOf({ telemetry }) {
  if (!telemetry) return undefined;
  const { context, propagation } = require("@opentelemetry/api");
  const { AsyncLocalStorageContextManager } = require("@opentelemetry/context-async-hooks");
  const { W3CTraceContextPropagator } = require("@opentelemetry/core");
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  propagation.setGlobalPropagator(new W3CTraceContextPropagator());
  return openTelemetry({ relation: "child" });
}
