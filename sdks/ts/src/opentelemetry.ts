import { context, propagation, SpanKind, SpanStatusCode, trace, type Context, type Link, type Tracer } from "@opentelemetry/api";
import type { Telemetry, TraceContext } from "./hooks.js";
import { kindOf } from "./outcomes.js";
import { VERSION } from "./version.js";

/** Options of `openTelemetry`. */
export interface OpenTelemetryOptions {
  /** Makes the spans. Default: the tracer `@codeq/sdk` of the global provider. */
  readonly tracer?: Tracer | undefined;
  /** How a handler's span belongs to its producer: as a child in the same trace, or linked, in a trace of its own. Default: `link`. */
  readonly relation?: "link" | "child" | undefined;
}

/**
 * Connects the SDK to OpenTelemetry: creates carry the current trace context (W3C), and each handler runs in a span
 * `process COMMAND` of the kind CONSUMER that is linked to it. Needs `@opentelemetry/api`, an optional peer dependency.
 */
export function openTelemetry(options: OpenTelemetryOptions = {}): Telemetry {
  const tracer = options.tracer ?? trace.getTracer("@codeq/sdk", VERSION);
  const isChild = options.relation === "child";
  return {
    inject: (): TraceContext => {
      const carrier: Record<string, string> = {};
      propagation.inject(context.active(), carrier);
      return carrier["traceparent"] === undefined ? {} : pick(carrier);
    },
    run: (task, handler) => {
      const { traceparent, tracestate } = task;
      const producer = extracted(traceparent, tracestate);
      const parent = isChild && producer !== undefined ? producer : context.active();
      const linked = producer === undefined ? undefined : trace.getSpanContext(producer);
      const links: Link[] = isChild || linked === undefined ? [] : [{ context: linked }];
      const attributes = {
        "messaging.system": "codeq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": task.command,
        "messaging.message.id": task.id,
        "codeq.task.attempts": task.attempts,
      };
      const settings = { kind: SpanKind.CONSUMER, links, attributes };
      return tracer.startActiveSpan(`process ${task.command}`, settings, parent, async (span) => {
        try {
          return await handler();
        } catch (error) {
          if (kindOf(error) === undefined) span.recordException(error instanceof Error ? error : String(error));
          const name = error instanceof Error ? error.name : typeof error;
          span.setAttribute("error.type", name);
          span.setStatus({ code: SpanStatusCode.ERROR, message: error instanceof Error ? error.message : String(error) });
          throw error;
        } finally {
          span.end();
        }
      });
    },
  };
}

function pick({ traceparent, tracestate }: Record<string, string>): TraceContext {
  return tracestate === undefined ? { traceparent } : { traceparent, tracestate };
}

function extracted(traceparent: string | undefined, tracestate: string | undefined): Context | undefined {
  if (traceparent === undefined) return undefined;
  const carrier = tracestate === undefined ? { traceparent } : { traceparent, tracestate };
  const found = propagation.extract(context.active(), carrier);
  return trace.getSpanContext(found) === undefined ? undefined : found;
}
