package main

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"

	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

// producer creates tasks over one stream.
type producer struct {
	options
	meter   *meter
	open    *gate
	stream  int // number of the stream, part of the job ids
	shard   uint32
	pending chan sentFrame // frames without an ack, oldest first; its capacity is the window
	ended   chan struct{}  // closed when nothing more is received
}

// sentFrame is a frame waiting for its ack.
type sentFrame struct {
	tasks int
	sent  time.Time
	calls []*call // single-task callers whose tasks the frame carries; nil for a full frame
}

// call is a create of a single-task caller, which waits for answered.
type call struct {
	payload  []byte
	answered chan struct{}
}

func (p *producer) run(ctx context.Context, connection *grpc.ClientConn) error {
	stream, err := codeqv1.NewProducerServiceClient(connection).Produce(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&codeqv1.ProduceRequest{Hello: &codeqv1.ProducerHello{ClientName: "bench"}}); err != nil {
		return err
	}
	if p.shards > 0 {
		first, err := stream.Recv()
		if err != nil {
			return err
		}
		if first.Welcome.GetShard() != p.shard {
			return errElsewhere
		}
	}
	received := make(chan error, 1)
	go func() { received <- p.receive(stream) }()
	if p.lone > 0 {
		err = p.sendCalls(stream)
	} else {
		err = p.sendFrames(stream)
	}
	if err == nil {
		err = stream.CloseSend()
	}
	if end := <-received; end != nil { // The stream's own error says more than the error of a send.
		return end
	}
	p.meter.framesUnanswered.Add(int64(len(p.pending)))
	return ended(err)
}

// receive handles acks until the stream ends.
func (p *producer) receive(stream grpc.BidiStreamingClient[codeqv1.ProduceRequest, codeqv1.ProduceResponse]) error {
	defer close(p.ended)
	defer p.open.close() // Nothing may wait at the gate for a stream that is gone.
	for {
		response, err := stream.Recv()
		if err != nil {
			return ended(err)
		}
		now := time.Now()
		for _, ack := range response.Acks {
			if err := p.answer(ack, now); err != nil {
				return err
			}
		}
	}
}

func (p *producer) answer(ack *codeqv1.FrameAck, now time.Time) error {
	var frame sentFrame
	select {
	case frame = <-p.pending:
	default:
		return fmt.Errorf("ack without a frame")
	}
	if len(ack.TaskIds) != frame.tasks {
		return fmt.Errorf("ack of %d tasks for a frame of %d", len(ack.TaskIds), frame.tasks)
	}
	accepted := frame.tasks - len(ack.Errors)
	p.meter.created.Add(int64(accepted))
	if len(ack.Errors) > 0 {
		p.meter.refused.Add(int64(len(ack.Errors)))
		p.open.leave(len(ack.Errors))
	}
	if frame.calls == nil && p.meter.measuring.Load() {
		p.meter.create.add(now.Sub(frame.sent), int64(accepted))
	}
	for _, call := range frame.calls {
		call.answered <- struct{}{}
	}
	return nil
}

// sendFrames sends full frames until the gate closes; with a rate, each has its moment, and counts from that moment.
func (p *producer) sendFrames(stream grpc.BidiStreamingClient[codeqv1.ProduceRequest, codeqv1.ProduceResponse]) error {
	job := int64(p.stream) << 40
	keys := keyNames(p.keys)
	next := time.Now()
	for p.open.enter(p.frame) {
		now := time.Now()
		if p.rate > 0 {
			time.Sleep(next.Sub(now))
			now = next
			next = next.Add(time.Duration(p.frame) * time.Second / time.Duration(p.rate))
		}
		if !p.expect(sentFrame{tasks: p.frame, sent: now}) {
			return nil
		}
		payloads := make([]byte, 0, p.frame*64)
		specs := make([]codeqv1.TaskSpec, p.frame)
		tasks := make([]*codeqv1.TaskSpec, p.frame)
		for i := range tasks {
			start := len(payloads)
			payloads = appendPayload(payloads, job, now)
			if len(keys) > 0 {
				specs[i].ConcurrencyKey = &keys[job%int64(len(keys))]
			}
			if p.sampled > 0 && job%int64(p.sampled) == 0 {
				traceparent := fmt.Sprintf("00-%032x-%016x-01", job+1, job+1)
				specs[i].Traceparent = &traceparent
			}
			job++
			specs[i].Command = p.command
			specs[i].Payload = payloads[start:len(payloads):len(payloads)]
			specs[i].Priority = 3
			if p.webhook != "" {
				specs[i].Webhook = &p.webhook
			}
			tasks[i] = &specs[i]
		}
		if err := stream.Send(&codeqv1.ProduceRequest{Tasks: tasks}); err != nil {
			return err
		}
	}
	return nil
}

// keyNames returns this many different keys.
func keyNames(count int) []string {
	keys := make([]string, count)
	for i := range keys {
		keys[i] = "k-" + strconv.Itoa(i)
	}
	return keys
}

// sendCalls runs the single-task callers: all creates waiting when the stream has room become one frame.
func (p *producer) sendCalls(stream grpc.BidiStreamingClient[codeqv1.ProduceRequest, codeqv1.ProduceResponse]) error {
	calls := make(chan *call, p.lone)
	var callers sync.WaitGroup
	for i := range p.lone {
		callers.Go(func() { p.callAlone(int64(i)<<40, calls) })
	}
	go func() { callers.Wait(); close(calls) }()
	for first := range calls {
		runtime.Gosched() // Callers woken by the same ack join the same frame.
		frame := append(make([]*call, 0, p.frame), first)
		for len(frame) < p.frame {
			next := waiting(calls)
			if next == nil {
				break
			}
			frame = append(frame, next)
		}
		tasks := make([]*codeqv1.TaskSpec, len(frame))
		for i, call := range frame {
			tasks[i] = &codeqv1.TaskSpec{Command: p.command, Payload: call.payload, Priority: 3}
		}
		if !p.expect(sentFrame{tasks: len(frame), calls: frame}) {
			return nil
		}
		if err := stream.Send(&codeqv1.ProduceRequest{Tasks: tasks}); err != nil {
			return err
		}
	}
	return nil
}

// expect records a frame about to be sent, once the window has room for it; it returns false if the stream has ended.
func (p *producer) expect(frame sentFrame) bool {
	select {
	case p.pending <- frame:
		return true
	case <-p.ended:
		return false
	}
}

// waiting returns the next call that is already waiting, or nil.
func waiting(calls <-chan *call) *call {
	select {
	case next := <-calls: // nil once all callers have left
		return next
	default:
		return nil
	}
}

// callAlone creates one task at a time, each once the previous one is acknowledged.
func (p *producer) callAlone(job int64, calls chan<- *call) {
	mine := &call{answered: make(chan struct{}, 1)}
	for p.open.enter(1) {
		sent := time.Now()
		mine.payload = appendPayload(mine.payload[:0], job, sent)
		job++
		calls <- mine
		select {
		case <-mine.answered:
		case <-p.ended:
			return
		}
		if p.meter.measuring.Load() {
			p.meter.create.add(time.Since(sent), 1)
		}
	}
}
