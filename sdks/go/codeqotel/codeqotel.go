// Package codeqotel connects the SDK with OpenTelemetry. It is a module of its own, so that only programs that use it depend
// on OpenTelemetry.
//
//	tasks, err := producer.New(producer.Config{Propagator: codeqotel.Propagator{}})
//	work, err := worker.New(worker.Config{
//		Propagator: codeqotel.Propagator{}, Middleware: []worker.Middleware{codeqotel.Middleware(nil)},
//	})
//
// A create sends the trace context of its context with the task. The handler runs in a consumer span that is linked to the
// span of the create, in a trace of its own: a task may run much later, and several times. AsChild puts it into the same
// trace.
package codeqotel

import (
	"context"
	"errors"
	"fmt"

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

// Option is an option of Middleware.
type Option func(*options)

type options struct{ isChild bool }

// AsChild makes the spans of handlers children of the spans of the creates, in the same trace, besides the link.
func AsChild() Option { return func(given *options) { given.isChild = true } }

// Middleware runs each handler in a consumer span, named after the command and linked to the span of the create. A nil
// provider is the global one.
func Middleware(provider trace.TracerProvider, list ...Option) worker.Middleware {
	if provider == nil {
		provider = otel.GetTracerProvider()
	}
	var given options
	for _, option := range list {
		option(&given)
	}
	tracer := provider.Tracer(scope, trace.WithInstrumentationVersion(codeq.Version))
	return func(next worker.HandlerFunc) worker.HandlerFunc {
		return func(ctx context.Context, task *worker.Delivery) (any, error) {
			ctx, span := tracer.Start(ctx, "process "+task.Command, given.start(task)...)
			hasReturned := false
			defer func() {
				if !hasReturned {
					fail(span, "panic", "the handler did not return")
				}
				span.End()
			}()
			value, err := next(ctx, task)
			hasReturned = true
			if err != nil {
				note(span, err)
			}
			return value, err
		}
	}
}

// start returns how the span of a handler starts.
func (o options) start(task *worker.Delivery) []trace.SpanStartOption {
	how := []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(
			attribute.String("messaging.system", "codeq"),
			attribute.String("messaging.operation.name", "process"),
			attribute.String("messaging.operation.type", "process"),
			attribute.String("messaging.destination.name", task.Command),
			attribute.String("messaging.message.id", task.ID),
			attribute.Int("codeq.task.attempts", task.Attempts),
		),
	}
	creator := trace.SpanContextFromContext(Propagator{}.Extract(context.Background(), task.Trace))
	if creator.IsValid() {
		how = append(how, trace.WithLinks(trace.Link{SpanContext: creator}))
	}
	if !o.isChild { // Propagator.Extract has made the span of the create the parent
		how = append(how, trace.WithNewRoot())
	}
	return how
}

// verdict is an error by which a handler says what becomes of its task.
type verdict interface {
	// GivesBack returns whether the task is only given back.
	GivesBack() bool
	// Unwrap returns the cause; nil: there is none.
	Unwrap() error
}

// note marks a span as failed, unless the task is only given back.
func note(span trace.Span, err error) {
	var told verdict
	if !errors.As(err, &told) {
		span.RecordError(err)
	} else if told.GivesBack() {
		return
	} else if cause := told.Unwrap(); cause != nil {
		fail(span, fmt.Sprintf("%T", cause), err.Error())
		return
	}
	fail(span, fmt.Sprintf("%T", err), err.Error())
}

func fail(span trace.Span, kind, text string) {
	span.SetAttributes(attribute.String("error.type", kind))
	span.SetStatus(otelcodes.Error, text)
}
