package worker_test

import (
	"context"
	"encoding/json"
	"runtime"
	"strings"
	"testing"

	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

func TestHandlerThatEndsItsGoroutineIsNackedAndFreesItsPlace(t *testing.T) {
	server := startPeer(t, 60)
	run(t, worker.Config{Concurrency: 1}, func(w *worker.Worker) {
		worker.Handle(w, "a", func(_ context.Context, task worker.Task[string]) (string, error) {
			if task.Payload == "odd" {
				runtime.Goexit() // as t.FailNow does
			}
			return task.Payload, nil
		}, worker.Limit(1))
	}, server)
	stream := server.next()
	stream.deliver("odd")
	got := stream.outcome()
	if got.GetTaskId() != "odd" || got.GetKind() != codeqv1.OutcomeKind_OUTCOME_KIND_NACK || !strings.Contains(got.GetError(), "Goexit") {
		t.Errorf("got %v", got)
	}
	stream.deliver("next")
	if got := stream.outcome(); got.GetTaskId() != "next" || got.GetKind() != codeqv1.OutcomeKind_OUTCOME_KIND_COMPLETED {
		t.Errorf("the next task got %v", got)
	}
}

func TestPanickingHooksAreContained(t *testing.T) {
	server := startPeer(t, 60)
	config := worker.Config{}
	config.Metrics.TaskStarted = func(command string) { panic("metrics of " + command) }
	run(t, config, echoing, server)
	stream := server.next()
	stream.deliver("x")
	if got := stream.outcome(); got.GetKind() != codeqv1.OutcomeKind_OUTCOME_KIND_NACK || !strings.Contains(got.GetError(), "metrics of a") {
		t.Errorf("got %v", got)
	}
}

func TestProgressKeepsItsValueAndOutlivesABrokenStream(t *testing.T) {
	server, started, cut, reported := startPeer(t, 60), make(chan struct{}), make(chan struct{}), make(chan struct{})
	release := make(chan struct{})
	run(t, worker.Config{}, func(w *worker.Worker) {
		worker.Handle(w, "a", func(_ context.Context, task worker.Task[string]) (worker.None, error) {
			close(started)
			<-cut
			buffer := []byte("100")
			err := task.Progress(json.RawMessage(buffer))
			copy(buffer, "999")
			close(reported)
			<-release
			return worker.None{}, err
		})
	}, server)
	server.next().deliver("x")
	scripted.Receive(t, started, "handler")
	server.Cut()
	close(cut)
	scripted.Receive(t, reported, "progress")
	server.Again()
	hasProgress := func(request *codeqv1.WorkRequest) bool { return len(request.GetProgress()) > 0 }
	request := server.next().await("progress", hasProgress)
	if got := string(request.GetProgress()[0].GetProgress()); got != "100" {
		t.Errorf("the progress is %s", got)
	}
	server.Cut() // what it had received may be lost
	server.Again()
	stream := server.next()
	if got := string(stream.await("progress again", hasProgress).GetProgress()[0].GetProgress()); got != "100" {
		t.Errorf("the progress is %s on the next stream", got)
	}
	close(release)
	stream.outcome()
}
