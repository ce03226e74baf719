package codeqotel_test

import (
	"context"
	"errors"
	"testing"

	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	"github.com/osvaldoandrade/codeq/sdks/go/codeqotel"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

func TestHandlerRunsInAConsumerSpanBelowTheCreate(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	provider := trace.NewTracerProvider(trace.WithSpanProcessor(recorder))
	ctx, create := provider.Tracer("test").Start(t.Context(), "create")
	told := codeqotel.Propagator{}.Inject(ctx)
	create.End()
	if len(told.Parent) != 55 {
		t.Fatalf("the traceparent is %q", told.Parent)
	}
	broken := errors.New("broken")
	handle := codeqotel.Middleware(provider)(func(context.Context, *worker.Delivery) (any, error) { return nil, broken })
	inner := codeqotel.Propagator{}.Extract(t.Context(), told)
	if _, err := handle(inner, &worker.Delivery{ID: "x", Command: "order"}); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	spans := recorder.Ended()
	span := spans[len(spans)-1]
	if span.Name() != "process order" || span.SpanKind() != oteltrace.SpanKindConsumer ||
		span.Parent().SpanID() != create.SpanContext().SpanID() || span.Status().Description != "broken" {
		t.Errorf("the span is %+v", span)
	}
}

func TestContextWithoutASpanHasNoTrace(t *testing.T) {
	if told := (codeqotel.Propagator{}).Inject(t.Context()); told != (codeq.Trace{}) {
		t.Errorf("got %+v", told)
	}
	if ctx := (codeqotel.Propagator{}).Extract(t.Context(), codeq.Trace{}); oteltrace.SpanContextFromContext(ctx).IsValid() {
		t.Error("a task without a trace has one")
	}
}
