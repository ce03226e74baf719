package producer_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
	"github.com/osvaldoandrade/codeq/sdks/go/producer"
)

func TestTaskThatFitsNoFrameIsRefusedAndHoldsUpNoOther(t *testing.T) {
	tasks := open(t, producer.Config{Timeout: 5 * time.Second}, scripted.Start(t, scripted.Script{Produce: acking}))
	results, err := tasks.CreateBatch(t.Context(), []producer.Task{
		{Command: "a", Trace: codeq.Trace{State: strings.Repeat("x", 9<<20)}},
		{Command: "b", Payload: strings.Repeat("x", codeq.PayloadBytesMax-2), TaskID: strings.Repeat("y", 4096)},
		{Command: "c"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for index, field := range []string{"trace.state", "taskId"} {
		var typed *codeq.Error
		if !errors.As(results[index].Err, &typed) || typed.Reason != codeq.ErrTooLarge || typed.Violations[0].Field != field {
			t.Errorf("%s: got %v", field, results[index].Err)
		}
	}
	if results[2].ID != "c" || results[2].Err != nil {
		t.Errorf("the task behind them got %+v", results[2])
	}
}

func TestCreatesThatAreGivenUpLeaveNothingBehindOneThatWaits(t *testing.T) {
	server := scripted.Start(t, scripted.Script{Produce: acking})
	server.Cut()
	tasks := open(t, producer.Config{}, server)
	waiting := createLater(t.Context(), tasks, "waiting")
	scripted.Eventually(t, func() bool { return producer.PendingCount(tasks) == 1 }, "create that waits")
	for range 500 {
		late, cancel := context.WithTimeout(t.Context(), 100*time.Microsecond)
		_, _ = tasks.Create(late, "late", nil)
		cancel()
	}
	if left := producer.PendingCount(tasks); left > 100 {
		t.Errorf("%d creates are kept", left)
	}
	server.Again()
	if got := scripted.Receive(t, waiting, "create that waits"); got.id != "waiting" || got.err != nil {
		t.Errorf("the create that waits got %+v", got)
	}
}

func TestCreateAllHasNoMoreInFlightThanAllowed(t *testing.T) {
	received := make(chan int, 8)
	tasks := open(t, producer.Config{InFlightTasksMax: 2, FailFast: true}, scripted.Start(t, scripted.Script{Produce: silent(received)}))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range tasks.CreateAll(ctx, numbered(100), 1) {
		}
	}()
	if first := scripted.Receive(t, received, "first task"); first != 1 {
		t.Errorf("%d tasks came at once", first)
	}
	if _, err := tasks.CreateBatch(t.Context(), nil); err != nil {
		t.Error(err)
	}
	cancel()
	scripted.Receive(t, ended, "end of CreateAll")
	if len(received) > 0 {
		t.Errorf("%d more frames came", len(received))
	}
}

func TestCreateAllIsMeasuredToo(t *testing.T) {
	type seen struct {
		command string
		err     error
	}
	metrics := make(chan seen, 8)
	tasks := open(t, producer.Config{Metrics: codeq.Metrics{Created: func(command string, _ time.Duration, err error) {
		metrics <- seen{command, err}
	}}}, scripted.Start(t, scripted.Script{Produce: acking}))
	for range tasks.CreateAll(t.Context(), func(yield func(producer.Task) bool) {
		_ = yield(producer.Task{Command: "a"}) && yield(producer.Task{Command: "b", Payload: func() {}})
	}, 0) {
	}
	if len(metrics) != 2 {
		t.Fatalf("%d creates were measured", len(metrics))
	}
	if got := <-metrics; got.command != "a" || got.err != nil {
		t.Errorf("got %+v", got)
	}
	if got := <-metrics; got.command != "b" || !errors.Is(got.err, codeq.ErrInvalidArgument) {
		t.Errorf("got %+v", got)
	}
}

func TestLoopThatBreaksLeavesNothingWaiting(t *testing.T) {
	server := scripted.Start(t, scripted.Script{Produce: acking})
	server.Cut()
	tasks := open(t, producer.Config{Timeout: time.Minute}, server)
	for range tasks.CreateAll(t.Context(), func(yield func(producer.Task) bool) {
		_ = yield(producer.Task{Payload: func() {}}) && yield(producer.Task{Command: "a"}) && yield(producer.Task{Command: "b"})
	}, 8) {
		break
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = tasks.Close()
	}()
	scripted.Receive(t, closed, "end of Close")
}
