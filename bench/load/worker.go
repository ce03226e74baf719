package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

var taskResult = []byte(`{"ok":true}`)

// worker completes every task it is given, over one stream.
type worker struct {
	options
	meter *meter
	open  *gate
	shard uint32
	stop  <-chan struct{} // closed: complete nothing more
}

func (w *worker) run(ctx context.Context, connection *grpc.ClientConn) error {
	stream, err := codeqv1.NewWorkerServiceClient(connection).Work(ctx)
	if err != nil {
		return err
	}
	if err := w.begin(stream); err != nil {
		return err
	}
	delivered := make(chan []*codeqv1.Task, w.credits) // never full: each element used at least one credit
	received := make(chan error, 1)
	var settled int64
	go func() {
		defer close(delivered)
		received <- w.receive(stream, delivered, &settled)
	}()
	sent, err := w.send(stream, delivered)
	if err == nil {
		err = stream.CloseSend()
	}
	if end := <-received; end != nil { // The stream's own error says more than the error of a send.
		return end
	}
	w.meter.outcomesUnanswered.Add(sent - settled)
	return ended(err)
}

// begin sends the hello and the credits, the latter only once the stream is known to lead to the worker's shard.
func (w *worker) begin(stream grpc.BidiStreamingClient[codeqv1.WorkRequest, codeqv1.WorkResponse]) error {
	hello := &codeqv1.WorkerHello{Name: "bench", Commands: []string{w.command}}
	credits := &codeqv1.WorkRequest{AddCredits: int32(w.credits)}
	if w.shards == 0 {
		credits.Hello = hello
		return stream.Send(credits)
	}
	hello.OnlyShard = &codeqv1.ShardChoice{Shard: w.shard, Shards: uint32(w.shards)}
	if err := stream.Send(&codeqv1.WorkRequest{Hello: hello}); err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.Welcome.GetShard() != w.shard {
		return errElsewhere
	}
	return stream.Send(credits)
}

// receive handles deliveries and settlements until the stream ends.
func (w *worker) receive(
	stream grpc.BidiStreamingClient[codeqv1.WorkRequest, codeqv1.WorkResponse],
	delivered chan<- []*codeqv1.Task,
	settled *int64,
) error {
	for {
		response, err := stream.Recv()
		if err != nil {
			return ended(err)
		}
		if n := int(response.Settled); n > 0 {
			*settled += int64(n)
			w.meter.completed.Add(int64(n - len(response.OutcomeErrors)))
			w.meter.refused.Add(int64(len(response.OutcomeErrors)))
			w.open.leave(n)
		}
		if len(response.Tasks) == 0 {
			continue
		}
		if w.meter.measuring.Load() {
			now := time.Now()
			for _, task := range response.Tasks {
				age, ours := ageOf(task.Payload, now)
				if !ours {
					return fmt.Errorf("the payload of task %s differs from the payload sent: %q", task.Id, task.Payload)
				}
				w.meter.delivery.add(age, 1)
			}
		}
		delivered <- response.Tasks
	}
}

// send completes delivered tasks, at most a frame's worth per message, and renews the credits they used.
// It returns the number of outcomes sent.
func (w *worker) send(
	stream grpc.BidiStreamingClient[codeqv1.WorkRequest, codeqv1.WorkResponse],
	delivered <-chan []*codeqv1.Task,
) (int64, error) {
	var sent int64
	for {
		select {
		case <-w.stop:
			return sent, nil
		default:
		}
		select {
		case <-w.stop:
			return sent, nil
		case tasks, more := <-delivered:
			if !more {
				return sent, nil
			}
			for len(tasks) > 0 {
				for len(tasks) < w.frame && len(delivered) > 0 { // Small deliveries share a message.
					tasks = append(tasks, <-delivered...)
				}
				n := min(len(tasks), w.frame)
				if err := stream.Send(completions(tasks[:n])); err != nil {
					return sent, err
				}
				sent += int64(n)
				tasks = tasks[n:]
			}
		}
	}
}

// completions returns the message that completes the tasks and grants the server as many credits again.
func completions(tasks []*codeqv1.Task) *codeqv1.WorkRequest {
	backing := make([]codeqv1.Outcome, len(tasks))
	outcomes := make([]*codeqv1.Outcome, len(tasks))
	for i, task := range tasks {
		backing[i].TaskId = task.Id
		backing[i].LeaseToken = task.GetLeaseToken()
		backing[i].Kind = codeqv1.OutcomeKind_OUTCOME_KIND_COMPLETED
		backing[i].Result = taskResult
		outcomes[i] = &backing[i]
	}
	return &codeqv1.WorkRequest{Outcomes: outcomes, AddCredits: int32(len(tasks))}
}
