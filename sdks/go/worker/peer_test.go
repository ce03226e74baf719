package worker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

// peer is a server whose streams a test drives.
type peer struct {
	*scripted.Server
	t            testing.TB
	leaseSeconds int32
	shards       uint32                  // 0: as a server that is older than the field
	leads        func(stream int) uint32 // the shard of the process to which a stream leads, by its number from 0
	streams      atomic.Int64
	opened       chan *peerStream
}

// peerStream is the server's side of one stream.
type peerStream struct {
	t        testing.TB
	stream   scripted.WorkStream
	hello    *codeqv1.WorkerHello
	shard    uint32
	requests chan *codeqv1.WorkRequest // closed at the half-close
	end      chan error
}

func startPeer(t testing.TB, leaseSeconds int32) *peer {
	t.Helper()
	made := &peer{t: t, leaseSeconds: leaseSeconds, opened: make(chan *peerStream, 16)}
	made.Server = scripted.Start(t, scripted.Script{Work: made.work})
	return made
}

func (p *peer) work(stream scripted.WorkStream) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	opened := &peerStream{
		t: p.t, stream: stream, hello: first.GetHello(), requests: make(chan *codeqv1.WorkRequest, 4096), end: make(chan error, 1),
	}
	welcome := scripted.WorkerWelcome(p.leaseSeconds)
	if welcome.Welcome.Shards = p.shards; p.shards > 0 {
		opened.shard = p.leads(int(p.streams.Add(1)) - 1)
		welcome.Welcome.Shard = opened.shard
	}
	if err := stream.Send(welcome); err != nil {
		return err
	}
	go opened.read()
	p.opened <- opened
	select {
	case err := <-opened.end:
		return err
	case <-stream.Context().Done():
		return nil
	}
}

func (s *peerStream) read() {
	defer close(s.requests)
	for {
		request, err := s.stream.Recv()
		if errors.Is(err, io.EOF) || err != nil {
			return
		}
		s.requests <- request
	}
}

// next returns the next opened stream.
func (p *peer) next() *peerStream {
	p.t.Helper()
	return scripted.Receive(p.t, p.opened, "stream")
}

func (s *peerStream) send(response *codeqv1.WorkResponse) {
	s.t.Helper()
	if err := s.stream.Send(response); err != nil {
		s.t.Fatalf("sending to the worker: %v", err)
	}
}

// deliver sends tasks whose ids are given, with the command "a" and their id as payload.
func (s *peerStream) deliver(ids ...string) {
	s.t.Helper()
	response := &codeqv1.WorkResponse{}
	for _, id := range ids {
		response.Tasks = append(response.Tasks, taskOf(id, "a", 1))
	}
	s.send(response)
}

func taskOf(id, command string, token uint64) *codeqv1.Task {
	return &codeqv1.Task{
		Id: id, Command: command, Payload: fmt.Appendf(nil, "%q", id), LeaseToken: &token, Attempts: 1, MaxAttempts: 5,
	}
}

// await returns the next request that meets the condition; others are passed over.
func (s *peerStream) await(what string, condition func(*codeqv1.WorkRequest) bool) *codeqv1.WorkRequest {
	s.t.Helper()
	for {
		request := scripted.Receive(s.t, s.requests, what)
		if request == nil {
			s.t.Fatalf("the worker half-closed before %s", what)
		}
		if condition(request) {
			return request
		}
	}
}

// outcome returns the next outcome.
func (s *peerStream) outcome() *codeqv1.Outcome {
	s.t.Helper()
	request := s.await("outcome", func(request *codeqv1.WorkRequest) bool { return len(request.GetOutcomes()) > 0 })
	return request.GetOutcomes()[0]
}

func (s *peerStream) settle(count uint32) { s.send(&codeqv1.WorkResponse{Settled: count}) }

// halfClosed waits until the worker half-closes, and returns what it sent before.
func (s *peerStream) halfClosed() []*codeqv1.WorkRequest {
	s.t.Helper()
	var sent []*codeqv1.WorkRequest
	for {
		request := scripted.Receive(s.t, s.requests, "half-close")
		if request == nil {
			return sent
		}
		sent = append(sent, request)
	}
}

// running is a worker that runs until the end of the test.
type running struct {
	*worker.Worker
	ended chan error
	stop  context.CancelFunc
}

// run starts a worker of these servers.
func run(t testing.TB, config worker.Config, register func(*worker.Worker), servers ...*peer) *running {
	t.Helper()
	for _, server := range servers {
		config.Addresses = append(config.Addresses, server.Addr)
	}
	made, err := worker.New(config)
	if err != nil {
		t.Fatal(err)
	}
	register(made)
	ctx, cancel := context.WithCancel(t.Context())
	started := &running{Worker: made, ended: make(chan error, 1), stop: cancel}
	go func() { started.ended <- made.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		made.Stop()
		made.Stop()
	})
	return started
}

// echo completes tasks with their payload.
func echo(_ context.Context, task worker.Task[string]) (string, error) { return task.Payload, nil }

func echoing(w *worker.Worker) { worker.Handle(w, "a", echo) }

// records are the lines of a log.
type records struct{ lines chan slog.Record }

func newRecords() *records { return &records{lines: make(chan slog.Record, 256)} }

// Enabled is always true.
func (*records) Enabled(context.Context, slog.Level) bool { return true }

// Handle keeps the line.
func (r *records) Handle(_ context.Context, line slog.Record) error {
	r.lines <- line
	return nil
}

// WithAttrs returns the handler.
func (r *records) WithAttrs([]slog.Attr) slog.Handler { return r }

// WithGroup returns the handler.
func (r *records) WithGroup(string) slog.Handler { return r }

// await returns the attributes of the next line whose message contains a text.
func (r *records) await(t testing.TB, text string) map[string]slog.Value {
	t.Helper()
	for {
		line := scripted.Receive(t, r.lines, "log line with "+text)
		if !strings.Contains(line.Message, text) {
			continue
		}
		attributes := map[string]slog.Value{}
		line.Attrs(func(each slog.Attr) bool {
			attributes[each.Key] = each.Value
			return true
		})
		return attributes
	}
}
