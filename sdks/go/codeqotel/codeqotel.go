// Package codeqotel connects the SDK with OpenTelemetry. It is a module of its own, so that only programs that use it depend
// on OpenTelemetry.
//
//	tasks, err := producer.New(producer.Config{Propagator: codeqotel.Propagator{}})
//	work, err := worker.New(worker.Config{
//		Propagator: codeqotel.Propagator{}, Middleware: []worker.Middleware{codeqotel.Middleware(nil)},
//	})
//
// A create sends the trace context of its context with the task. The handler runs in a consumer span, which is a child of
// the span of the create: a task is one unit of work, whenever it runs.
package codeqotel

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

const (
	scope       = "github.com/osvaldoandrade/codeq/sdks/go/codeqotel"
	parentField = "traceparent"
	stateField  = "tracestate"
)

// Propagator carries trace contexts between contexts and tasks, in the form of W3C.
type Propagator struct{}

// Inject returns the trace context of the current span.
func (Propagator) Inject(ctx context.Context) codeq.Trace {
	fields := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, fields)
	return codeq.Trace{Parent: fields[parentField], State: fields[stateField]}
}

// Extract returns a context whose spans are children of the span that created the task.
func (Propagator) Extract(ctx context.Context, told codeq.Trace) context.Context {
	if told.Parent == "" {
		return ctx
	}
	fields := propagation.MapCarrier{parentField: told.Parent, stateField: told.State}
	return propagation.TraceContext{}.Extract(ctx, fields)
}

// Middleware runs each handler in a consumer span, named after the command. A nil provider is the global one.
func Middleware(provider trace.TracerProvider) worker.Middleware {
	if provider == nil {
		provider = otel.GetTracerProvider()
	}
	tracer := provider.Tracer(scope, trace.WithInstrumentationVersion(codeq.Version))
	return func(next worker.HandlerFunc) worker.HandlerFunc {
		return func(ctx context.Context, task *worker.Delivery) (any, error) {
			ctx, span := tracer.Start(ctx, "process "+task.Command, trace.WithSpanKind(trace.SpanKindConsumer),
				trace.WithAttributes(
					attribute.String("messaging.system", "codeq"),
					attribute.String("messaging.operation.type", "process"),
					attribute.String("messaging.destination.name", task.Command),
					attribute.String("messaging.message.id", task.ID),
					attribute.Int("codeq.attempts", task.Attempts),
				))
			defer span.End()
			value, err := next(ctx, task)
			if err != nil {
				span.RecordError(err)
				span.SetStatus(otelcodes.Error, err.Error())
			}
			return value, err
		}
	}
}
