package worker_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

// held are handlers that wait until the test releases them or their context ends.
type held struct {
	started  chan string
	release  chan struct{}
	cause    chan error
	progress chan error
}

func holding() *held {
	return &held{
		started: make(chan string, 64), release: make(chan struct{}), cause: make(chan error, 64), progress: make(chan error, 64),
	}
}

func (h *held) handle(ctx context.Context, task worker.Task[string]) (string, error) {
	h.started <- task.ID
	select {
	case <-h.release:
		return task.Payload, nil
	case <-ctx.Done():
		h.cause <- context.Cause(ctx)
		h.progress <- task.Progress(1)
		return "late", nil
	}
}

func (h *held) register(w *worker.Worker) { worker.Handle(w, "a", h.handle) }

func isHeartbeat(request *codeqv1.WorkRequest) bool { return len(request.GetHeartbeats()) > 0 }

func TestCreditsAreThoseOfTheFreePlaces(t *testing.T) {
	server := startPeer(t, 60)
	run(t, worker.Config{Concurrency: 3, WindowBytes: 1000, Lease: 7 * time.Second, Name: "w"}, echoing, server)
	stream := server.next()
	if stream.hello.GetName() != "w" || stream.hello.GetLeaseSeconds() != 7 || strings.Join(stream.hello.GetCommands(), ",") != "a" ||
		stream.hello.GetClient().GetSdk() != "codeq-go" || stream.hello.GetClient().GetProtocol() != 1 {
		t.Errorf("the hello is %v", stream.hello)
	}
	first := scripted.Receive(t, stream.requests, "credits")
	if first.GetAddCredits() != 3 || first.GetAddCreditBytes() != 1000 {
		t.Errorf("the first message is %v", first)
	}
	stream.deliver("x", "y")
	credits, bytes, outcomes := int32(0), int64(0), 0
	for credits < 2 || outcomes < 2 {
		request := scripted.Receive(t, stream.requests, "outcomes and credits")
		credits += request.GetAddCredits()
		bytes += request.GetAddCreditBytes()
		outcomes += len(request.GetOutcomes())
	}
	if credits != 2 || bytes < 10 {
		t.Errorf("%d credits and %d bytes came back", credits, bytes)
	}
}

func TestLeasesAreRenewedWhileAHandlerRuns(t *testing.T) {
	server, handlers := startPeer(t, 1), holding()
	run(t, worker.Config{}, handlers.register, server)
	stream := server.next()
	stream.deliver("x")
	for range 3 {
		request := stream.await("heartbeat", isHeartbeat)
		beat := request.GetHeartbeats()[0]
		if beat.GetTaskId() != "x" || beat.GetLeaseToken() != 1 {
			t.Errorf("the heartbeat is %v", beat)
		}
	}
	close(handlers.release)
	stream.outcome()
}

func TestLostAndCancelledLeasesReachTheHandler(t *testing.T) {
	server, handlers := startPeer(t, 60), holding()
	started := run(t, worker.Config{}, handlers.register, server)
	stream := server.next()
	stream.deliver("lost", "cancelled")
	scripted.Receive(t, handlers.started, "handler")
	scripted.Receive(t, handlers.started, "handler")
	stream.send(&codeqv1.WorkResponse{Lost: []*codeqv1.LostLease{{TaskId: "lost", LeaseToken: 7}}}) // of another delivery
	stream.send(&codeqv1.WorkResponse{Lost: []*codeqv1.LostLease{{TaskId: "lost", LeaseToken: 1}}})
	if cause := scripted.Receive(t, handlers.cause, "cause"); !errors.Is(cause, worker.ErrLeaseLost) {
		t.Errorf("the cause is %v", cause)
	}
	if err := scripted.Receive(t, handlers.progress, "progress"); !errors.Is(err, worker.ErrLeaseLost) {
		t.Errorf("late progress got %v", err)
	}
	stream.send(&codeqv1.WorkResponse{Cancelled: []*codeqv1.LostLease{{TaskId: "cancelled", LeaseToken: 1}}})
	if cause := scripted.Receive(t, handlers.cause, "cause"); !errors.Is(cause, worker.ErrCancelled) {
		t.Errorf("the cause is %v", cause)
	}
	scripted.Eventually(t, func() bool { return started.Stats().Refused == 2 }, "late outcomes counted")
	if stats := started.Stats(); stats.Lost != 2 || stats.Received != 2 {
		t.Errorf("the stats are %+v", stats)
	}
	stream.deliver("next")
	scripted.Receive(t, handlers.started, "next handler")
	close(handlers.release)
	if got := stream.outcome(); got.GetTaskId() != "next" {
		t.Errorf("the late outcome %v was sent", got)
	}
}

func TestRedeliveryEndsTheOlderLease(t *testing.T) {
	server, handlers := startPeer(t, 60), holding()
	run(t, worker.Config{}, handlers.register, server)
	stream := server.next()
	stream.deliver("x")
	scripted.Receive(t, handlers.started, "handler")
	stream.send(&codeqv1.WorkResponse{Tasks: []*codeqv1.Task{taskOf("x", "a", 2)}})
	if cause := scripted.Receive(t, handlers.cause, "cause"); !errors.Is(cause, worker.ErrLeaseLost) {
		t.Errorf("the cause is %v", cause)
	}
	scripted.Receive(t, handlers.started, "second handler")
	close(handlers.release)
	if got := stream.outcome(); got.GetLeaseToken() != 2 {
		t.Errorf("got %v", got)
	}
}

func TestHandlersOutliveABrokenStream(t *testing.T) {
	server, handlers := startPeer(t, 60), holding()
	started := run(t, worker.Config{Concurrency: 4}, handlers.register, server)
	stream := server.next()
	stream.deliver("x", "y")
	scripted.Receive(t, handlers.started, "handler")
	scripted.Receive(t, handlers.started, "handler")
	server.Cut()
	server.Again()
	second := server.next()
	first := second.await("renewals at the start", isHeartbeat)
	if len(first.GetHeartbeats()) != 2 || first.GetAddCredits() != 2 {
		t.Errorf("the first message is %v", first)
	}
	close(handlers.release)
	seen := map[string]bool{}
	for len(seen) < 2 {
		request := second.await("outcomes", func(request *codeqv1.WorkRequest) bool { return len(request.GetOutcomes()) > 0 })
		for _, each := range request.GetOutcomes() {
			seen[each.GetTaskId()] = true
		}
	}
	server.Cut() // before the outcomes are settled: they are sent again
	server.Again()
	third := server.next()
	request := third.await("outcomes again", func(request *codeqv1.WorkRequest) bool { return len(request.GetOutcomes()) > 0 })
	if len(request.GetOutcomes()) != 2 {
		t.Errorf("got %v", request)
	}
	third.settle(2)
	scripted.Eventually(t, func() bool { return started.Stats().Settled == 2 }, "settled outcomes")
	if stats := started.Stats(); stats.Streams != 3 || stats.Lost != 0 {
		t.Errorf("the stats are %+v", stats)
	}
}

func TestWorkerThatIsCutOffGivesItsLeasesUp(t *testing.T) {
	server, handlers := startPeer(t, 1), holding()
	run(t, worker.Config{}, handlers.register, server)
	server.next().deliver("x")
	scripted.Receive(t, handlers.started, "handler")
	server.Cut()
	begun := time.Now()
	if cause := scripted.Receive(t, handlers.cause, "cause"); !errors.Is(cause, worker.ErrLeaseLost) {
		t.Errorf("the cause is %v", cause)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestLimitOfACommandKeepsFurtherTasksWaiting(t *testing.T) {
	server, handlers, others := startPeer(t, 60), holding(), holding()
	started := run(t, worker.Config{}, func(w *worker.Worker) {
		worker.Handle(w, "a", handlers.handle, worker.Limit(1))
		worker.Handle(w, "b", others.handle)
	}, server)
	stream := server.next()
	stream.deliver("x", "y", "z")
	stream.send(&codeqv1.WorkResponse{Tasks: []*codeqv1.Task{taskOf("other", "b", 1)}})
	if id := scripted.Receive(t, handlers.started, "handler"); id != "x" {
		t.Errorf("%s started first", id)
	}
	scripted.Receive(t, others.started, "handler of the other command")
	if len(handlers.started) != 0 {
		t.Error("a second task started above the limit")
	}
	stream.send(&codeqv1.WorkResponse{Cancelled: []*codeqv1.LostLease{{TaskId: "y", LeaseToken: 1}}})
	scripted.Eventually(t, func() bool { return started.Stats().Lost == 1 }, "cancel of a waiting task")
	close(handlers.release)
	if id := scripted.Receive(t, handlers.started, "next handler"); id != "z" {
		t.Errorf("%s started next", id)
	}
}

func TestStuckHandlerIsCountedAndKeepsItsPlace(t *testing.T) {
	server, release, log := startPeer(t, 60), make(chan struct{}), newRecords()
	started := run(t, worker.Config{Concurrency: 2, Logger: slog.New(log)}, func(w *worker.Worker) {
		worker.Handle(w, "a", func(ctx context.Context, _ worker.Task[string]) (worker.None, error) {
			<-ctx.Done()
			ignoreContext(release)
			return worker.None{}, ctx.Err()
		}, worker.Timeout(10*time.Millisecond))
	}, server)
	stream := server.next()
	scripted.Receive(t, stream.requests, "credits")
	stream.deliver("x", "y")
	scripted.Eventually(t, func() bool { return started.Stats().Stuck == 2 }, "stuck handlers counted")
	for range 2 {
		told := log.await(t, "goes on although")
		if stack := told["stack"].String(); !strings.Contains(stack, "ignoreContext") || strings.Count(stack, "goroutine ") > 2 {
			t.Errorf("the log shows the stack %s", stack)
		}
	}
	close(release)
	got := stream.outcome()
	if got.GetKind() != codeqv1.OutcomeKind_OUTCOME_KIND_NACK || !strings.Contains(got.GetError(), "timeout") {
		t.Errorf("got %v", got)
	}
}

// ignoreContext blocks as a handler does that knows nothing of its context.
//
//go:noinline
func ignoreContext(release <-chan struct{}) { <-release }

func TestFreshTokenKeepsTheWorkersStream(t *testing.T) {
	server := startPeer(t, 60)
	asked := make(chan struct{}, 16)
	run(t, worker.Config{TokenFunc: func(context.Context) (string, error) {
		asked <- struct{}{}
		return strings.Repeat("t", len(asked)), nil
	}}, echoing, server)
	stream := server.next()
	stream.send(&codeqv1.WorkResponse{Notice: &codeqv1.StreamNotice{
		Reason: codeqv1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, GraceMs: 10_000,
	}})
	stream.await("fresh token", func(request *codeqv1.WorkRequest) bool { return request.GetToken() != "" })
	stream.deliver("x")
	stream.outcome()
}

func TestNoticeMovesTheWorkerAndKeepsItsHandlers(t *testing.T) {
	leader, handlers := startPeer(t, 60), holding()
	old := startPeer(t, 60)
	run(t, worker.Config{}, handlers.register, old)
	stream := old.next()
	scripted.Receive(t, stream.requests, "credits")
	stream.deliver("x")
	scripted.Receive(t, handlers.started, "handler")
	stream.send(&codeqv1.WorkResponse{Notice: &codeqv1.StreamNotice{
		Reason: codeqv1.ErrorReason_ERROR_REASON_NOT_LEADER, GraceMs: 5000, Leader: leader.Addr,
	}})
	second := leader.next()
	second.await("renewal", isHeartbeat)
	close(handlers.release)
	if got := second.outcome(); got.GetTaskId() != "x" || got.GetKind() != codeqv1.OutcomeKind_OUTCOME_KIND_COMPLETED {
		t.Errorf("got %v", got)
	}
}

func TestServerThatRejectsTheWorkerEndsRun(t *testing.T) {
	server := scripted.Start(t, scripted.Script{Work: func(scripted.WorkStream) error {
		return scripted.Failure(codes.PermissionDenied, "COMMAND_NOT_ALLOWED")
	}})
	made, err := worker.New(worker.Config{Addresses: []string{server.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	echoing(made)
	if err := made.Run(t.Context()); !errors.Is(err, codeq.ErrCommandNotAllowed) {
		t.Errorf("got %v", err)
	}
}
