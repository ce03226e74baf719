package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
)

// Task is a delivered task with its payload decoded.
type Task[Payload any] struct {
	*Delivery
	// Payload is the payload, decoded by encoding/json. json.RawMessage receives it byte for byte.
	Payload Payload
}

// None is the result type of handlers without a result.
type None = struct{}

// HandlerFunc handles a delivery. It returns the result, or an error; see Handle.
type HandlerFunc func(ctx context.Context, task *Delivery) (any, error)

// Middleware wraps a handler, for logs, traces or measurements.
type Middleware func(next HandlerFunc) HandlerFunc

// HandlerOption is an option of Handle and HandleAll.
type HandlerOption func(*handler)

// Limit bounds how many tasks of the handler run at once; further ones wait inside the worker, where they count towards
// Config.Concurrency. 0 (default): no limit of its own.
func Limit(most int) HandlerOption { return func(handler *handler) { handler.limit = most } }

// Timeout cancels the context of a handler that takes longer, with the cause ErrTimeout. 0 (default): never.
func Timeout(after time.Duration) HandlerOption {
	return func(handler *handler) { handler.timeout = after }
}

// handler is what runs for the tasks of a command.
type handler struct {
	run     HandlerFunc
	limit   int
	timeout time.Duration
}

// Handle registers the handler of a command. What it returns is the outcome of the task:
//
//   - a value and nil: the task is COMPLETED with the value as its result, encoded by encoding/json; json.RawMessage and
//     []byte are sent as they are. A nil value and None are no result;
//   - NonRetryable(err): the task is FAILED and not retried;
//   - RetryAfter(err, d): the task is retried after d;
//   - Snooze(d), Abandon(): the task is given back, without counting an attempt, to be delivered after d, or at once;
//   - any other error, a panic, and runtime.Goexit: the task is retried after the server's backoff, and goes to the dead-letter queue after
//     its last attempt.
//
// A payload that cannot be decoded into Payload is retried in the same way. Handle panics if the command is malformed or
// already has a handler, or if the worker is running: these are mistakes in the program.
func Handle[Payload, Result any](
	w *Worker, command string, handle func(context.Context, Task[Payload]) (Result, error), options ...HandlerOption,
) {
	if !isCommand(command) {
		panic(fmt.Sprintf("worker.Handle: %q is not a command: 1 to 128 characters of A-Z a-z 0-9 . _ -", command))
	}
	made := newHandler(w, decoding(handle), options)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isRunning || w.handlers[command] != nil {
		panic(fmt.Sprintf("worker.Handle: %q already has a handler, or the worker is running", command))
	}
	w.handlers[command] = made
}

// HandleAll registers the handler of all commands that have none of their own. See Handle.
func HandleAll[Payload, Result any](
	w *Worker, handle func(context.Context, Task[Payload]) (Result, error), options ...HandlerOption,
) {
	made := newHandler(w, decoding(handle), options)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isRunning || w.fallback != nil {
		panic("worker.HandleAll: there already is such a handler, or the worker is running")
	}
	w.fallback = made
}

func newHandler(w *Worker, run HandlerFunc, options []HandlerOption) *handler {
	for index := len(w.config.Middleware) - 1; index >= 0; index-- {
		run = w.config.Middleware[index](run)
	}
	made := &handler{run: run}
	for _, option := range options {
		option(made)
	}
	if made.limit < 0 || made.timeout < 0 {
		panic("worker: Limit and Timeout must not be negative")
	}
	return made
}

func decoding[Payload, Result any](handle func(context.Context, Task[Payload]) (Result, error)) HandlerFunc {
	return func(ctx context.Context, delivery *Delivery) (any, error) {
		task := Task[Payload]{Delivery: delivery}
		if raw, is := any(&task.Payload).(*json.RawMessage); is {
			*raw = delivery.RawPayload
		} else if err := json.Unmarshal(delivery.RawPayload, &task.Payload); err != nil {
			return nil, fmt.Errorf("the payload cannot be decoded: %w", err)
		}
		value, err := handle(ctx, task)
		if err != nil {
			return nil, err
		}
		return value, nil
	}
}

// verdict is an error that says what becomes of the task.
type verdict struct {
	kind  kind
	cause error
	delay *time.Duration
	parks bool
}

// Error returns the text of the cause.
func (v *verdict) Error() string {
	if v.cause != nil {
		return v.cause.Error()
	}
	return v.kind.text()
}

// Unwrap returns the cause.
func (v *verdict) Unwrap() error { return v.cause }

// GivesBack returns whether the task is given back, which no trace should show as a failure.
func (v *verdict) GivesBack() bool { return v.kind == abandoned }

// NonRetryable returns an error that ends the task as FAILED, without a retry.
func NonRetryable(err error) error { return &verdict{kind: failed, cause: err} }

// RetryAfter returns an error that retries the task after a time, rounded up to whole seconds, at most 12 h. 0 retries at
// once.
func RetryAfter(err error, delay time.Duration) error {
	return &verdict{kind: nacked, cause: err, delay: &delay}
}

// Snooze returns an error that gives the task back to be delivered after a time, rounded up to whole seconds, at most 12 h,
// without counting an attempt.
func Snooze(delay time.Duration) error { return &verdict{kind: abandoned, delay: &delay} }

// ParkKey returns an error that gives the task back because of a rate limit, without counting an attempt: no task with its
// rate key, or without one its concurrency key, is delivered for a time, rounded up to whole seconds, at most 12 h.
func ParkKey(delay time.Duration) error {
	return &verdict{kind: abandoned, delay: &delay, parks: true}
}

// Abandon returns an error that gives the task back to its place in the queue, without counting an attempt.
func Abandon() error { return &verdict{kind: abandoned} }

// goexit is the error of a handler that ends its goroutine instead of returning.
const goexit = "the handler did not return: it called runtime.Goexit, as t.FailNow does"

// execute runs the handler of a delivery, contains its panics, and returns its outcome.
func (r *run) execute(ctx context.Context, delivery *Delivery) (done outcome) {
	defer func() {
		if thrown := recover(); thrown != nil {
			r.logPanic("a handler", delivery, thrown)
			done = outcome{kind: nacked, err: fmt.Sprintf("panic: %v", thrown)}
		}
	}()
	config := &r.worker.config
	ctx = config.Propagator.Extract(ctx, delivery.Trace)
	if config.Metrics.TaskStarted != nil {
		config.Metrics.TaskStarted(delivery.Command)
	}
	value, err := delivery.handler.run(ctx, delivery)
	if err == nil {
		return completedWith(value)
	}
	var told *verdict
	if errors.As(err, &told) {
		return outcome{kind: told.kind, err: err.Error(), delay: told.delay, parks: told.parks}
	}
	if errors.Is(context.Cause(ctx), ErrTimeout) && errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w of %s: %w", ErrTimeout, delivery.handler.timeout, err)
	}
	r.logger().Info("codeq: a handler failed", "command", delivery.Command, "task", delivery.ID, "attempts", delivery.Attempts, "error", err)
	return outcome{kind: nacked, err: err.Error()}
}

// logPanic logs a panic on the goroutine of a handler.
func (r *run) logPanic(who string, delivery *Delivery, thrown any) {
	r.logger().Error("codeq: "+who+" panicked", "command", delivery.Command, "task", delivery.ID,
		"panic", thrown, "stack", string(debug.Stack()))
}

// completedWith encodes a result; one that cannot be encoded becomes a nack that says why.
func completedWith(value any) outcome {
	if isNothing(value) {
		return outcome{kind: completed}
	}
	data, err := codeq.EncodeJSON(value, "result")
	if err != nil {
		return outcome{kind: nacked, err: err.Error()}
	}
	return outcome{kind: completed, result: data, hasResult: true}
}

// isNothing reports whether a value stands for no result.
func isNothing(value any) bool {
	switch value := value.(type) {
	case nil, None:
		return true
	case json.RawMessage:
		return value == nil
	}
	of := reflect.ValueOf(value)
	switch of.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Interface:
		return of.IsNil()
	default:
		return false
	}
}
