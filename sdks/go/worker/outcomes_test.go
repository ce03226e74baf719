package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

type seconds = *int32

func after(number int32) seconds { return &number }

func TestWhatAHandlerReturnsIsTheOutcome(t *testing.T) {
	broken := errors.New("broken")
	cases := map[string]struct {
		handle func() (any, error)
		kind   codeqv1.OutcomeKind
		result string
		text   string
		delay  seconds
	}{
		"value":       {func() (any, error) { return map[string]int{"n": 1}, nil }, codeqv1.OutcomeKind_OUTCOME_KIND_COMPLETED, `{"n":1}`, "", nil},
		"raw":         {func() (any, error) { return json.RawMessage(" 1e400"), nil }, codeqv1.OutcomeKind_OUTCOME_KIND_COMPLETED, " 1e400", "", nil},
		"nil":         {func() (any, error) { return nil, nil }, codeqv1.OutcomeKind_OUTCOME_KIND_COMPLETED, "", "", nil},
		"nil pointer": {func() (any, error) { return (*int)(nil), nil }, codeqv1.OutcomeKind_OUTCOME_KIND_COMPLETED, "", "", nil},
		"none":        {func() (any, error) { return worker.None{}, nil }, codeqv1.OutcomeKind_OUTCOME_KIND_COMPLETED, "", "", nil},
		"error":       {func() (any, error) { return nil, broken }, codeqv1.OutcomeKind_OUTCOME_KIND_NACK, "", "broken", nil},
		"for good":    {func() (any, error) { return nil, worker.NonRetryable(broken) }, codeqv1.OutcomeKind_OUTCOME_KIND_FAILED, "", "broken", nil},
		"no text":     {func() (any, error) { return nil, worker.NonRetryable(errors.New(" ")) }, codeqv1.OutcomeKind_OUTCOME_KIND_FAILED, "", "no error was given", nil},
		"wrapped": {
			func() (any, error) { return nil, fmt.Errorf("outer: %w", worker.NonRetryable(broken)) },
			codeqv1.OutcomeKind_OUTCOME_KIND_FAILED, "", "outer: broken", nil,
		},
		"later":     {func() (any, error) { return nil, worker.RetryAfter(broken, 1500*time.Millisecond) }, codeqv1.OutcomeKind_OUTCOME_KIND_NACK, "", "broken", after(2)},
		"at once":   {func() (any, error) { return nil, worker.RetryAfter(broken, 0) }, codeqv1.OutcomeKind_OUTCOME_KIND_NACK, "", "broken", after(0)},
		"snooze":    {func() (any, error) { return nil, worker.Snooze(time.Minute) }, codeqv1.OutcomeKind_OUTCOME_KIND_ABANDON, "", "", after(60)},
		"abandon":   {func() (any, error) { return nil, worker.Abandon() }, codeqv1.OutcomeKind_OUTCOME_KIND_ABANDON, "", "", nil},
		"panic":     {func() (any, error) { panic("at the disco") }, codeqv1.OutcomeKind_OUTCOME_KIND_NACK, "", "panic: at the disco", nil},
		"not JSON":  {func() (any, error) { return math.NaN(), nil }, codeqv1.OutcomeKind_OUTCOME_KIND_NACK, "", "result: not JSON", nil},
		"too large": {func() (any, error) { return strings.Repeat("x", 1<<20), nil }, codeqv1.OutcomeKind_OUTCOME_KIND_NACK, "", "limit is 1048576", nil},
		"not UTF-8": {func() (any, error) { return nil, errors.New("\xff") }, codeqv1.OutcomeKind_OUTCOME_KIND_NACK, "", "\uFFFD", nil},
	}
	server := startPeer(t, 60)
	run(t, worker.Config{}, func(w *worker.Worker) {
		worker.Handle(w, "a", func(_ context.Context, task worker.Task[string]) (any, error) {
			return cases[task.Payload].handle()
		})
	}, server)
	stream := server.next()
	for name, want := range cases {
		stream.deliver(name)
		got := stream.outcome()
		stream.settle(1)
		if got.GetTaskId() != name || got.GetLeaseToken() != 1 || got.GetKind() != want.kind || string(got.GetResult()) != want.result ||
			(got.Result != nil) != (want.result != "") || !strings.Contains(got.GetError(), want.text) || (got.GetError() == "") != (want.text == "") {
			t.Errorf("%s: got %v", name, got)
		}
		if (got.DelaySeconds == nil) != (want.delay == nil) || (want.delay != nil && *want.delay != got.GetDelaySeconds()) {
			t.Errorf("%s: the delay is %v", name, got.DelaySeconds)
		}
	}
}

func TestPayloadThatCannotBeDecodedIsNacked(t *testing.T) {
	server := startPeer(t, 60)
	run(t, worker.Config{}, func(w *worker.Worker) {
		worker.Handle(w, "a", func(context.Context, worker.Task[int]) (worker.None, error) { return worker.None{}, nil })
	}, server)
	stream := server.next()
	stream.deliver("text")
	if got := stream.outcome(); got.GetKind() != codeqv1.OutcomeKind_OUTCOME_KIND_NACK || !strings.Contains(got.GetError(), "cannot be decoded") {
		t.Errorf("got %v", got)
	}
}

func TestArtifactsTravelWithTheOutcome(t *testing.T) {
	server := startPeer(t, 60)
	run(t, worker.Config{}, func(w *worker.Worker) {
		worker.Handle(w, "a", func(_ context.Context, task worker.Task[string]) (string, error) {
			task.Attach(worker.Artifact{Name: "a.txt", Content: []byte("hello"), ContentType: "text/plain"})
			task.Attach(worker.Artifact{Name: "b", URL: "https://files.example.com/b"})
			task.Attach(worker.Artifact{Name: "empty"})
			return "done", nil
		})
	}, server)
	stream := server.next()
	stream.deliver("x")
	request := stream.await("artifacts", func(request *codeqv1.WorkRequest) bool { return len(request.GetArtifacts()) > 0 })
	filed := request.GetArtifacts()[0]
	if filed.GetTaskId() != "x" || filed.GetLeaseToken() != 1 || len(request.GetOutcomes()) != 1 {
		t.Fatalf("got %v", request)
	}
	files := filed.GetArtifacts()
	if string(files[0].GetContent()) != "hello" || files[0].GetContentType() != "text/plain" ||
		files[1].GetUrl() != "https://files.example.com/b" || files[1].Content != nil || files[2].Content == nil {
		t.Errorf("got %v", files)
	}
}

func TestLastProgressArrivesBeforeTheOutcome(t *testing.T) {
	server := startPeer(t, 60)
	run(t, worker.Config{Concurrency: 64}, func(w *worker.Worker) {
		worker.Handle(w, "a", func(_ context.Context, task worker.Task[string]) (worker.None, error) {
			for percent := range 3 {
				if err := task.Progress(map[string]int{"percent": percent}); err != nil {
					return worker.None{}, err
				}
			}
			return worker.None{}, nil
		})
	}, server)
	stream := server.next()
	var ids []string
	for index := range 40 { // more than fit into one message
		ids = append(ids, fmt.Sprint("t", index))
	}
	stream.deliver(ids...)
	last, ended := map[string]string{}, 0
	for ended < len(ids) {
		request := scripted.Receive(t, stream.requests, "message")
		for _, each := range request.GetProgress() {
			last[each.GetTaskId()] = string(each.GetProgress())
		}
		for _, each := range request.GetOutcomes() {
			ended++
			if last[each.GetTaskId()] != `{"percent":2}` {
				t.Errorf("before the outcome of %s the progress was %q", each.GetTaskId(), last[each.GetTaskId()])
			}
		}
	}
}

func TestProgressIsChecked(t *testing.T) {
	server := startPeer(t, 60)
	errs := make(chan error, 2)
	run(t, worker.Config{}, func(w *worker.Worker) {
		worker.Handle(w, "a", func(_ context.Context, task worker.Task[string]) (worker.None, error) {
			errs <- task.Progress(math.NaN())
			errs <- task.Progress(strings.Repeat("x", 64<<10))
			return worker.None{}, nil
		})
	}, server)
	server.next().deliver("x")
	for range 2 {
		if err := scripted.Receive(t, errs, "error"); err == nil || !strings.Contains(err.Error(), "progress") {
			t.Errorf("got %v", err)
		}
	}
}

func TestRejectedOutcomes(t *testing.T) {
	server := startPeer(t, 60)
	started := run(t, worker.Config{}, echoing, server)
	stream := server.next()
	stream.deliver("stale")
	stream.outcome()
	stream.send(&codeqv1.WorkResponse{Settled: 1, OutcomeErrors: []*codeqv1.OutcomeError{
		{Number: 1, TaskId: "stale", Reason: codeqv1.ErrorReason_ERROR_REASON_STALE_LEASE_TOKEN},
	}})
	scripted.Eventually(t, func() bool { return started.Stats().Refused == 1 }, "count of the stale outcome")
	stream.deliver("large")
	stream.outcome()
	stream.send(&codeqv1.WorkResponse{Settled: 1, OutcomeErrors: []*codeqv1.OutcomeError{
		{Number: 2, TaskId: "large", Reason: codeqv1.ErrorReason_ERROR_REASON_TOO_LARGE, Message: "too many artifacts"},
	}})
	instead := stream.outcome()
	if instead.GetTaskId() != "large" || instead.GetKind() != codeqv1.OutcomeKind_OUTCOME_KIND_NACK || !strings.Contains(instead.GetError(), "too many artifacts") {
		t.Errorf("the replacement is %v", instead)
	}
	stream.send(&codeqv1.WorkResponse{Settled: 1, OutcomeErrors: []*codeqv1.OutcomeError{
		{Number: 3, TaskId: "large", Reason: codeqv1.ErrorReason_ERROR_REASON_TOO_LARGE},
	}})
	scripted.Eventually(t, func() bool { return started.Stats().Refused == 3 }, "count of the refused replacement")
	stream.deliver("undecided")
	stream.outcome()
	stream.send(&codeqv1.WorkResponse{Settled: 1, OutcomeErrors: []*codeqv1.OutcomeError{
		{Number: 4, TaskId: "undecided", Reason: codeqv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN},
	}})
	stream.halfClosed()
	stream.end <- nil
	again := server.next()
	if got := again.outcome(); got.GetTaskId() != "undecided" {
		t.Errorf("the next stream got %v", got)
	}
}

func TestMiddlewareAndMetricsSeeEachTask(t *testing.T) {
	server := startPeer(t, 60)
	calls := make(chan string, 8)
	around := func(name string) worker.Middleware {
		return func(next worker.HandlerFunc) worker.HandlerFunc {
			return func(ctx context.Context, task *worker.Delivery) (any, error) {
				calls <- name + " " + task.ID
				return next(ctx, task)
			}
		}
	}
	config := worker.Config{Middleware: []worker.Middleware{around("outer"), around("inner")}}
	config.Metrics.TaskStarted = func(command string) { calls <- "started " + command }
	config.Metrics.TaskEnded = func(command, how string, _ time.Duration) { calls <- how + " " + command }
	run(t, config, echoing, server)
	server.next().deliver("x")
	for _, want := range []string{"started a", "outer x", "inner x", "completed a"} {
		if got := scripted.Receive(t, calls, want); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
