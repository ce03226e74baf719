// The same as program.py, in TypeScript's SDK. Spans go as JSON to the URL in OTLP_JSON_URL.
import { createRequire } from "node:module";
import { Failed, Producer, Worker } from "../../../../sdks/ts/dist/index.js";
import { openTelemetry } from "../../../../sdks/ts/dist/opentelemetry.js";

const require = createRequire(new URL("../../../../sdks/ts/package.json", import.meta.url));
const { context, propagation, trace } = require("@opentelemetry/api");
const { AsyncLocalStorageContextManager } = require("@opentelemetry/context-async-hooks");
const { W3CTraceContextPropagator } = require("@opentelemetry/core");
const { BasicTracerProvider, BatchSpanProcessor } = require("@opentelemetry/sdk-trace-base");

/** Sends spans as OTLP in JSON: the exporters of OpenTelemetry would be dependencies for this program alone. */
class JsonExporter {
  export(spans, done) {
    const resource = { attributes: attributesOf({ "service.name": process.env.OTEL_SERVICE_NAME }) };
    const body = JSON.stringify({ resourceSpans: [{ resource, scopeSpans: [{ spans: spans.map(messageOf) }] }] });
    fetch(process.env.OTLP_JSON_URL, { method: "POST", headers: { "content-type": "application/json" }, body })
      .then((answer) => done({ code: answer.ok ? 0 : 1 }))
      .catch((error) => done({ code: 1, error }));
  }

  async shutdown() {}
}

function messageOf(span) {
  const { traceId, spanId } = span.spanContext();
  return {
    traceId,
    spanId,
    ...(span.parentSpanContext === undefined ? {} : { parentSpanId: span.parentSpanContext.spanId }),
    name: span.name,
    kind: span.kind + 1, // OTLP counts from INTERNAL = 1
    startTimeUnixNano: nanoseconds(span.startTime),
    endTimeUnixNano: nanoseconds(span.endTime),
    attributes: attributesOf(span.attributes),
    links: span.links.map(({ context: { traceId, spanId } }) => ({ traceId, spanId })),
    events: span.events.map(({ name, time }) => ({ name, timeUnixNano: nanoseconds(time) })),
    status: { code: span.status.code },
  };
}

function attributesOf(attributes) {
  return Object.entries(attributes).map(([key, value]) => ({
    key,
    value: typeof value === "number" ? { intValue: String(value) } : { stringValue: String(value) },
  }));
}

function nanoseconds([seconds, rest]) {
  return String(BigInt(seconds) * 1_000_000_000n + BigInt(rest));
}

context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
propagation.setGlobalPropagator(new W3CTraceContextPropagator());
const provider = new BasicTracerProvider({ spanProcessors: [new BatchSpanProcessor(new JsonExporter())] });
trace.setGlobalTracerProvider(provider);
const telemetry = openTelemetry();
const [, , what, ...commands] = process.argv;
if (what === "create") {
  const producer = new Producer({ telemetry });
  for (const command of commands) {
    await trace.getTracer("program").startActiveSpan(`order ${command}`, async (span) => {
      console.log((await producer.createAndWait(command, "work")).status);
      span.end();
    });
  }
  await producer.close();
} else {
  const worker = new Worker({ name: "ts", telemetry, handleSignals: true });
  for (const command of commands) {
    worker.on(command, (task) => {
      if (task.payload === "fail") throw new Failed("as the test wants");
      return "done";
    });
  }
  await worker.run();
}
await provider.shutdown();
