package codeqotel_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	"github.com/osvaldoandrade/codeq/sdks/go/codeqotel"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

// processed returns the span of a create, and that of the handler of its task.
func processed(t *testing.T, handler worker.HandlerFunc, list ...codeqotel.Option) (trace.ReadOnlySpan, trace.ReadOnlySpan) {
	t.Helper()
	recorder := tracetest.NewSpanRecorder()
	provider := trace.NewTracerProvider(trace.WithSpanProcessor(recorder))
	ctx, create := provider.Tracer("test").Start(t.Context(), "create")
	told := codeqotel.Propagator{}.Inject(ctx)
	create.End()
	if len(told.Parent) != 55 {
		t.Fatalf("the traceparent is %q", told.Parent)
	}
	handle := codeqotel.Middleware(provider, list...)(handler)
	func() {
		defer func() { _ = recover() }()
		_, _ = handle(codeqotel.Propagator{}.Extract(t.Context(), told), &worker.Delivery{ID: "x", Command: "order", Trace: told})
	}()
	spans := recorder.Ended()
	return spans[0], spans[1]
}

func TestHandlerRunsInAConsumerSpanThatIsLinkedToTheCreate(t *testing.T) {
	create, span := processed(t, func(context.Context, *worker.Delivery) (any, error) { return 1, nil })
	if span.Name() != "process order" || span.SpanKind() != oteltrace.SpanKindConsumer || span.Status().Code != codes.Unset {
		t.Errorf("the span is %+v", span)
	}
	if span.Parent().IsValid() || span.SpanContext().TraceID() == create.SpanContext().TraceID() {
		t.Error("the span is not in a trace of its own")
	}
	if links := span.Links(); len(links) != 1 || links[0].SpanContext.SpanID() != create.SpanContext().SpanID() {
		t.Errorf("the links are %+v", links)
	}
}

func TestSpanOfAHandlerIsAChildOfTheCreateIfAsked(t *testing.T) {
	create, span := processed(t, func(context.Context, *worker.Delivery) (any, error) { return 1, nil }, codeqotel.AsChild())
	if span.Parent().SpanID() != create.SpanContext().SpanID() || len(span.Links()) != 1 {
		t.Errorf("the parent is %v, the links are %+v", span.Parent(), span.Links())
	}
}

func TestSpanOfAHandlerFailsUnlessTheTaskIsOnlyGivenBack(t *testing.T) {
	broken := errors.New("broken")
	for name, each := range map[string]struct {
		err    error
		status codes.Code
		kind   string
	}{
		"error":   {broken, codes.Error, "*errors.errorString"},
		"failure": {worker.NonRetryable(broken), codes.Error, "*errors.errorString"},
		"retry":   {worker.RetryAfter(broken, time.Second), codes.Error, "*errors.errorString"},
		"snooze":  {worker.Snooze(time.Second), codes.Unset, ""},
		"abandon": {worker.Abandon(), codes.Unset, ""},
	} {
		_, span := processed(t, func(context.Context, *worker.Delivery) (any, error) { return nil, each.err })
		if span.Status().Code != each.status || errorType(span) != each.kind {
			t.Errorf("%s: the status is %v, the error %q", name, span.Status(), errorType(span))
		}
	}
	_, span := processed(t, func(context.Context, *worker.Delivery) (any, error) { panic("broken") })
	if span.Status().Code != codes.Error || errorType(span) != "panic" {
		t.Errorf("the status after a panic is %v", span.Status())
	}
}

func errorType(span trace.ReadOnlySpan) string {
	for _, each := range span.Attributes() {
		if each.Key == "error.type" {
			return each.Value.AsString()
		}
	}
	return ""
}

func TestContextWithoutASpanHasNoTrace(t *testing.T) {
	if told := (codeqotel.Propagator{}).Inject(t.Context()); told != (codeq.Trace{}) {
		t.Errorf("got %+v", told)
	}
	if ctx := (codeqotel.Propagator{}).Extract(t.Context(), codeq.Trace{}); oteltrace.SpanContextFromContext(ctx).IsValid() {
		t.Error("a task without a trace has one")
	}
}
