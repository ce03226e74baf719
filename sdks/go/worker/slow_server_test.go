package worker_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

func TestLateRenewalsAreCountedAndLoggedOnce(t *testing.T) {
	t.Parallel()
	const lease = 4 * time.Second // a busy machine needs some of it
	log, handlers := newRecords(), holding()
	reading, delivered := make(chan struct{}), make(chan struct{})
	beats := make(chan *codeqv1.Heartbeat, 64)
	server := scripted.Start(t, scripted.Script{Work: func(stream scripted.WorkStream) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := stream.Send(scripted.WorkerWelcome(int32(lease / time.Second))); err != nil {
			return err
		}
		large := []*codeqv1.Task{taskOf("large1", "large", 1), taskOf("large2", "large", 1), taskOf("large3", "large", 1)}
		if err := stream.Send(&codeqv1.WorkResponse{Tasks: append(large, taskOf("x", "a", 1))}); err != nil {
			return err
		}
		close(delivered)
		<-reading // until then the results fill the connection, and renewals wait behind them
		for {
			request, err := stream.Recv()
			if err != nil {
				return nil
			}
			for _, beat := range request.GetHeartbeats() {
				beats <- beat
			}
		}
	}})
	started := run(t, worker.Config{Logger: slog.New(log)}, func(w *worker.Worker) {
		handlers.register(w)
		worker.Handle(w, "large", func(context.Context, worker.Task[string]) (string, error) {
			return strings.Repeat("x", 900_000), nil
		})
	}, &peer{Server: server})
	scripted.Receive(t, delivered, "delivery")
	scripted.Receive(t, handlers.started, "handler")
	<-time.After(lease * 3 / 4) // what is late is measured in time
	close(reading)
	if beat := scripted.Receive(t, beats, "renewal"); beat.GetTaskId() != "x" {
		t.Errorf("the renewal is %v", beat)
	}
	told := log.await(t, "leases are renewed late")
	if after := told["after"].Duration(); after <= lease/2 || told["lease"].Duration() != lease {
		t.Errorf("the log says %v", told)
	}
	late := started.Stats().LateRenewals
	if late < 1 {
		t.Errorf("%d renewals were late", late)
	}
	scripted.Receive(t, beats, "renewal in time")
	scripted.Receive(t, beats, "renewal in time")
	if again := started.Stats().LateRenewals; again != late {
		t.Errorf("%d renewals in time were counted as late", again-late)
	}
	close(handlers.release)
}

func TestNoTasksAreTakenWhileTooManyOutcomesAreUnsettled(t *testing.T) {
	const places = codeq.UnsettledMax
	server := startPeer(t, 60)
	run(t, worker.Config{Concurrency: places}, echoing, server)
	stream := server.next()
	granted, delivered, ended := 0, 0, 0
	take := func() *codeqv1.WorkRequest {
		request := scripted.Receive(t, stream.requests, "message")
		if ended >= codeq.UnsettledMax && request.GetAddCredits() > 0 {
			t.Fatalf("%d credits came with %d outcomes unsettled", request.GetAddCredits(), ended)
		}
		granted += int(request.GetAddCredits())
		ended += len(request.GetOutcomes())
		return request
	}
	for take(); delivered < granted || ended < delivered; {
		if delivered < granted {
			var ids []string
			for ; delivered < granted; delivered++ {
				ids = append(ids, fmt.Sprint("t", delivered))
			}
			stream.deliver(ids...)
		}
		take()
	}
	if ended < codeq.UnsettledMax || ended > codeq.UnsettledMax+places {
		t.Fatalf("the worker stopped at %d outcomes", ended)
	}
	stream.settle(uint32(ended - codeq.UnsettledMax)) // at the limit, but not below
	stream.settle(1)
	for request := scripted.Receive(t, stream.requests, "credits"); ; request = scripted.Receive(t, stream.requests, "credits") {
		if granted += int(request.GetAddCredits()); granted == places+delivered {
			return
		}
	}
}

func TestSilentServerIsLeftWithinTwentySeconds(t *testing.T) {
	t.Parallel()
	const most = codeq.KeepaliveInterval + codeq.KeepaliveTimeout
	server, handlers, log := startPeer(t, 60), holding(), newRecords()
	way := scripted.StartFreezer(t, server.Addr)
	started := run(t, worker.Config{Addresses: []string{way.Addr}, Logger: slog.New(log)}, handlers.register)
	stream := server.next()
	stream.deliver("x")
	scripted.Receive(t, handlers.started, "handler")
	way.Freeze()
	begun := time.Now()
	var second *peerStream
	select {
	case second = <-server.opened:
	case <-time.After(most + 5*time.Second):
		t.Fatalf("the worker still waits for the silent server after %s", time.Since(begun))
	}
	if took := time.Since(begun); took < codeq.KeepaliveTimeout {
		t.Errorf("the worker left after %s", took)
	}
	log.await(t, "stream to "+way.Addr+" ended")
	second.await("renewal", isHeartbeat)
	close(handlers.release)
	if got := second.outcome(); got.GetTaskId() != "x" {
		t.Errorf("got %v", got)
	}
	second.settle(1)
	scripted.Eventually(t, func() bool { return started.Stats().Settled == 1 }, "settled outcome")
}
