package worker_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

func isDrain(request *codeqv1.WorkRequest) bool { return request.GetDrain() }

func TestStopLetsRunningTasksFinish(t *testing.T) {
	server, handlers := startPeer(t, 60), holding()
	started := run(t, worker.Config{}, handlers.register, server)
	stream := server.next()
	stream.deliver("x")
	scripted.Receive(t, handlers.started, "handler")
	started.stop() // the context of Run
	stream.await("drain", isDrain)
	stream.deliver("crossed")
	if got := stream.outcome(); got.GetTaskId() != "crossed" || got.GetKind() != codeqv1.OutcomeKind_OUTCOME_KIND_ABANDON {
		t.Errorf("the task that crossed the drain got %v", got)
	}
	close(handlers.release)
	if got := stream.outcome(); got.GetTaskId() != "x" || got.GetKind() != codeqv1.OutcomeKind_OUTCOME_KIND_COMPLETED {
		t.Errorf("the running task got %v", got)
	}
	for _, request := range stream.halfClosed() {
		if request.GetAddCredits() > 0 {
			t.Errorf("the stopping worker asked for tasks: %v", request)
		}
	}
	stream.settle(2)
	stream.end <- nil
	if err := scripted.Receive(t, started.ended, "end of Run"); err != nil {
		t.Errorf("Run returned %v", err)
	}
	if stats := started.Stats(); stats.Settled != 2 {
		t.Errorf("the stats are %+v", stats)
	}
}

func TestStopHandsBackWhatDoesNotFinish(t *testing.T) {
	server, handlers := startPeer(t, 60), holding()
	started := run(t, worker.Config{DrainTimeout: 50 * time.Millisecond}, handlers.register, server)
	stream := server.next()
	stream.deliver("x")
	scripted.Receive(t, handlers.started, "handler")
	started.Stop()
	for _, request := range stream.halfClosed() {
		if len(request.GetOutcomes()) > 0 {
			t.Errorf("an outcome was sent: %v", request)
		}
	}
	if cause := scripted.Receive(t, handlers.cause, "cause"); !errors.Is(cause, worker.ErrShutdown) {
		t.Errorf("the cause is %v", cause)
	}
	stream.end <- nil
	if err := scripted.Receive(t, started.ended, "end of Run"); err != nil {
		t.Errorf("Run returned %v", err)
	}
	if stats := started.Stats(); stats.Refused != 0 || stats.Lost != 0 {
		t.Errorf("the stats are %+v", stats)
	}
}

func TestSecondStopEndsAtOnce(t *testing.T) {
	server, handlers := startPeer(t, 60), holding()
	started := run(t, worker.Config{DrainTimeout: time.Hour}, handlers.register, server)
	stream := server.next()
	stream.deliver("x")
	scripted.Receive(t, handlers.started, "handler")
	started.Stop()
	stream.await("drain", isDrain)
	started.Stop()
	stream.halfClosed()
	stream.end <- nil
	if err := scripted.Receive(t, started.ended, "end of Run"); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

func TestHandlerSeesThatTheWorkerStops(t *testing.T) {
	server := startPeer(t, 60)
	begun := make(chan struct{})
	started := run(t, worker.Config{}, func(w *worker.Worker) {
		worker.Handle(w, "a", func(ctx context.Context, task worker.Task[string]) (string, error) {
			close(begun)
			<-task.Stopping()
			return "saved", ctx.Err()
		})
	}, server)
	stream := server.next()
	stream.deliver("x")
	scripted.Receive(t, begun, "handler")
	started.Stop()
	if got := stream.outcome(); string(got.GetResult()) != `"saved"` {
		t.Errorf("got %v", got)
	}
}

func TestStopWithoutAServerEnds(t *testing.T) {
	server := startPeer(t, 60)
	server.Cut()
	started := run(t, worker.Config{}, echoing, server)
	started.Stop()
	if err := scripted.Receive(t, started.ended, "end of Run"); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

func TestStopWithoutAServerWaitsIdly(t *testing.T) {
	server, handlers := startPeer(t, 60), holding()
	started := run(t, worker.Config{DrainTimeout: -1}, handlers.register, server)
	stream := server.next()
	stream.deliver("x")
	scripted.Receive(t, handlers.started, "handler")
	close(handlers.release)
	stream.outcome() // and never settles it
	server.Cut()
	started.Stop()
	used := cpuTime(t)
	if err := scripted.Receive(t, started.ended, "end of Run"); err != nil {
		t.Errorf("Run returned %v", err)
	}
	if used = cpuTime(t) - used; used > time.Second {
		t.Errorf("the wait for the outcome to be settled took %s of CPU time", used)
	}
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func TestRunWithACancelledContextDoesNotConnect(t *testing.T) {
	server := startPeer(t, 60)
	made, err := worker.New(worker.Config{Addresses: []string{server.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	echoing(made)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := made.Run(ctx); err != nil || made.Stats().Streams != 0 || len(server.opened) != 0 {
		t.Errorf("Run returned %v, the stats are %+v", err, made.Stats())
	}
}

func TestWorkerMayRunAgain(t *testing.T) {
	server := startPeer(t, 60)
	made, err := worker.New(worker.Config{Addresses: []string{server.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	echoing(made)
	made.Stop() // before Run: Run returns at once
	if err := made.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- made.Run(ctx) }()
	stream := server.next()
	if err := made.Run(ctx); !errors.Is(err, codeq.ErrInvalidArgument) {
		t.Errorf("a second Run at once got %v", err)
	}
	cancel()
	stream.halfClosed()
	stream.end <- nil
	if err := scripted.Receive(t, ended, "end of Run"); err != nil {
		t.Error(err)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	refused := map[string]worker.Config{
		"Name":         {Name: "not a name"},
		"Commands[0]":  {Commands: []string{"not a command"}},
		"Concurrency":  {Concurrency: 65537},
		"Lease":        {Lease: 1500 * time.Millisecond},
		"DrainTimeout": {DrainTimeout: 25 * time.Hour},
		"WindowBytes":  {WindowBytes: -1},
	}
	for field, config := range refused {
		_, err := worker.New(config)
		var typed *codeq.Error
		if !errors.As(err, &typed) || typed.Violations[0].Field != field {
			t.Errorf("%s: got %v", field, err)
		}
	}
	bare, err := worker.New(worker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := bare.Run(t.Context()); !errors.Is(err, codeq.ErrInvalidArgument) || !strings.Contains(err.Error(), "no handler") {
		t.Errorf("a worker without handlers got %v", err)
	}
	for name, register := range map[string]func(){
		"a second handler":    func() { echoing(bare); echoing(bare) },
		"a malformed command": func() { worker.Handle(bare, "a b", echo) },
		"a negative limit":    func() { worker.Handle(bare, "b", echo, worker.Limit(-1)) },
	} {
		if thrown := panicOf(register); thrown == nil {
			t.Errorf("%s did not panic", name)
		}
	}
}

func panicOf(call func()) (thrown any) {
	defer func() { thrown = recover() }()
	call()
	return nil
}
