import {
  context,
  propagation,
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  trace,
  type Context,
  type Link,
  type Span,
  type Tracer,
} from "@opentelemetry/api";
import type { Telemetry, TraceContext } from "./hooks.js";
import { kindOf } from "./outcomes.js";
import { VERSION } from "./version.js";

/** Options of `openTelemetry`. */
export interface OpenTelemetryOptions {
  /** Makes the spans. Default: the tracer `@codeq/sdk` of the global provider. */
  readonly tracer?: Tracer | undefined;
  /** How a handler's span belongs to that of the create: linked, in a trace of its own, or also as its child. Default: `link`. */
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
      const parent = isChild && producer !== undefined ? producer : ROOT_CONTEXT;
      const linked = producer === undefined ? undefined : trace.getSpanContext(producer);
      const links: Link[] = linked === undefined ? [] : [{ context: linked }];
      const attributes = {
        "messaging.system": "codeq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": task.command,
        "messaging.message.id": task.id,
        "codeq.task.attempts": task.attempts,
      };
      const settings = { kind: SpanKind.CONSUMER, links, attributes };
      const span = tracer.startSpan(`process ${task.command}`, settings, parent);
      return context.with(trace.setSpan(context.active(), span), async () => {
        try {
          const value = await handler();
          note(span, value);
          return value;
        } catch (error) {
          if (kindOf(error) === undefined) {
            span.recordException(error instanceof Error ? error : String(error));
            fail(span, error);
          } else note(span, error);
          throw error;
        } finally {
          span.end();
        }
      });
    },
  };
}

/** Marks a span as failed if this is an outcome other than a success, and the task is not only given back. */
function note(span: Span, value: unknown): void {
  const kind = kindOf(value);
  if (kind === "failed" || kind === "nack") fail(span, value);
}

function fail(span: Span, error: unknown): void {
  span.setAttribute("error.type", error instanceof Error ? error.name : typeof error);
  span.setStatus({ code: SpanStatusCode.ERROR, message: error instanceof Error ? error.message : String(error) });
}

function pick({ traceparent, tracestate }: Record<string, string>): TraceContext {
  return tracestate === undefined ? { traceparent } : { traceparent, tracestate };
}

function extracted(traceparent: string | undefined, tracestate: string | undefined): Context | undefined {
  if (traceparent === undefined) return undefined;
  const carrier = tracestate === undefined ? { traceparent } : { traceparent, tracestate };
  const found = propagation.extract(ROOT_CONTEXT, carrier);
  return trace.getSpanContext(found) === undefined ? undefined : found;
}
