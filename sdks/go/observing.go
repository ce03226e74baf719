package codeq

import (
	"context"
	"time"
)

// Metrics are callbacks for counters and histograms of the program. Each may be nil. They are called on the goroutine of
// the task or create, possibly several at once, and should return quickly.
type Metrics struct {
	// TaskStarted is called when a handler starts.
	TaskStarted func(command string)
	// TaskEnded is called when a handler has returned. The outcome is "completed", "failed", "nacked", "abandoned" or
	// "dropped", for tasks whose lease was lost.
	TaskEnded func(command, outcome string, took time.Duration)
	// Created is called when a create has ended; err is nil if the task exists.
	Created func(command string, took time.Duration, err error)
}

// Trace is the trace context that travels with a task, in the form of W3C.
type Trace struct {
	// Parent is the header traceparent. Empty: none.
	Parent string
	// State is the header tracestate. Empty: none.
	State string
}

// Propagator carries trace contexts between the contexts of the program and tasks. Module codeqotel has one for
// OpenTelemetry. Without one, the SDK passes on what ContextWithTrace has stored.
type Propagator interface {
	// Inject returns the trace context of ctx, which is sent with a task that is created in it.
	Inject(ctx context.Context) Trace
	// Extract returns a context for the handler of a task that carries the trace context.
	Extract(ctx context.Context, trace Trace) context.Context
}

type traceKey struct{}

// ContextWithTrace returns a context whose creates carry the trace context.
func ContextWithTrace(ctx context.Context, trace Trace) context.Context {
	return context.WithValue(ctx, traceKey{}, trace)
}

// TraceFromContext returns the trace context that ContextWithTrace, or the worker of a task with one, has stored.
func TraceFromContext(ctx context.Context) Trace {
	trace, _ := ctx.Value(traceKey{}).(Trace)
	return trace
}
