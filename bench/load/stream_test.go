package main

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

// memoryServer delivers every task it accepts to a worker, once.
type memoryServer struct {
	codeqv1.UnimplementedProducerServiceServer
	codeqv1.UnimplementedWorkerServiceServer
	tasks    chan *codeqv1.Task
	refuse   bool // reject the last task of each frame
	breakOff bool // fail worker streams at once
}

func (s *memoryServer) Produce(stream grpc.BidiStreamingServer[codeqv1.ProduceRequest, codeqv1.ProduceResponse]) error {
	for {
		request, err := stream.Recv()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if len(request.Tasks) == 0 {
			continue
		}
		ack := &codeqv1.FrameAck{}
		for i, spec := range request.Tasks {
			if s.refuse && i == len(request.Tasks)-1 {
				ack.TaskIds = append(ack.TaskIds, "")
				ack.Errors = append(ack.Errors, &codeqv1.ItemError{Index: uint32(i)})
				continue
			}
			ack.TaskIds = append(ack.TaskIds, "id")
			s.tasks <- &codeqv1.Task{Id: "id", Payload: spec.Payload}
		}
		if err := stream.Send(&codeqv1.ProduceResponse{Acks: []*codeqv1.FrameAck{ack}}); err != nil {
			return err
		}
	}
}

func (s *memoryServer) Work(stream grpc.BidiStreamingServer[codeqv1.WorkRequest, codeqv1.WorkResponse]) error {
	if s.breakOff {
		return io.ErrUnexpectedEOF
	}
	requests := make(chan *codeqv1.WorkRequest)
	go func() {
		defer close(requests)
		for {
			request, err := stream.Recv()
			if err != nil {
				return
			}
			requests <- request
		}
	}()
	credits := int32(0)
	for {
		tasks := s.tasks
		if credits == 0 {
			tasks = nil
		}
		response := &codeqv1.WorkResponse{}
		select {
		case request, more := <-requests:
			if !more {
				return nil
			}
			credits += request.AddCredits
			response.Settled = uint32(len(request.Outcomes))
		case task := <-tasks:
			credits--
			response.Tasks = []*codeqv1.Task{task}
		}
		if err := stream.Send(response); err != nil {
			return err
		}
	}
}

func serve(t *testing.T, s *memoryServer) options {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	codeqv1.RegisterProducerServiceServer(server, s)
	codeqv1.RegisterWorkerServiceServer(server, s)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	address := listener.Addr().String()
	return options{
		address: address, worker: address, command: "BENCH", measured: 200 * time.Millisecond,
		frame: 8, inflight: 4, credits: 16, backlog: 512, producers: 2, workers: 1,
	}
}

func TestStreamRunCountsWhatTheServerAnswered(t *testing.T) {
	for name, lone := range map[string]int{"frames": 0, "lone callers": 5} {
		t.Run(name, func(t *testing.T) {
			server := &memoryServer{tasks: make(chan *codeqv1.Task, 4096), refuse: lone == 0}
			o := serve(t, server)
			o.lone = lone
			m := &meter{}
			if err := runStream(o, m); err != nil {
				t.Fatal(err)
			}
			created, completed, left := m.created.Load(), m.completed.Load(), int64(len(server.tasks))
			if completed == 0 || created < completed+left || created > completed+left+int64(o.credits) {
				t.Errorf("created %d, completed %d, left %d", created, completed, left)
			}
			if refused := m.refused.Load(); (refused > 0) != server.refuse {
				t.Errorf("refused %d", refused)
			}
			if m.framesUnanswered.Load() != 0 || m.outcomesUnanswered.Load() != 0 {
				t.Errorf("unanswered: %d frames, %d outcomes", m.framesUnanswered.Load(), m.outcomesUnanswered.Load())
			}
			if m.create.quantile(0.5) <= 0 || m.delivery.quantile(0.5) <= 0 {
				t.Error("no latencies")
			}
		})
	}
}

func TestStreamRunFailsWhenItsStreamDoes(t *testing.T) {
	o := serve(t, &memoryServer{tasks: make(chan *codeqv1.Task, 4096), breakOff: true})
	o.measured = time.Minute
	if err := runStream(o, &meter{}); err == nil || !strings.Contains(err.Error(), "worker 0") {
		t.Errorf("got %v", err)
	}
}
