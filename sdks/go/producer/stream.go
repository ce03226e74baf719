package producer

import (
	"runtime"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/link"
)

const (
	method     = "/codeq.v1.ProducerService/Produce"
	tokenField = 3 // number of ProduceRequest.token

	// itemBytesMax is the largest encoded task; every frame must have room for one.
	itemBytesMax = codeq.PayloadBytesMax + 4096
	// gathersMax is how often a frame waits for the goroutines that are about to add to it; no time passes if none are.
	gathersMax = 2
)

// session is one stream of the producer.
type session struct {
	producer  *Producer
	stream    *link.Stream
	renewal   *link.Renewal
	limits    *codeqv1.ProducerWelcome
	window    *window
	isLeaving bool
	leader    string
	notices   chan *codeqv1.StreamNotice
	undecided chan struct{}
	ended     chan struct{}
	end       error // valid once ended is closed
}

// work runs streams while there is something to send, until the producer is closed.
func (p *Producer) work() {
	defer close(p.ended)
	defer p.others.Wait()
	reconnects := link.NewReconnects("producer", p.endpoint)
	for p.awaitWork() {
		begun, address := time.Now(), p.endpoint.Servers.Current()
		leader, wasOpen, reason := p.attempt(address, reconnects)
		p.creates.disconnected()
		if !wasOpen {
			p.creates.setTrouble(reason.Error())
		}
		if hasWork, isClosed := p.creates.state(); isClosed && (!hasWork || p.ctx.Err() != nil) {
			break
		}
		if link.IsFinal(reason) && !(wasOpen && p.endpoint.IsRenewable()) {
			p.creates.fail(reason)
		}
		delay := reconnects.DelayAfter(reason, address, leader, wasOpen && time.Since(begun) >= link.StableAfter)
		reconnects.Tell(reason, address, delay)
		p.rest(delay)
	}
	p.creates.fail(link.Closed("producer"))
}

// awaitWork waits until something is pending, unless there are further streams, which keep the first one open with them;
// false once the producer is closed and nothing is.
func (p *Producer) awaitWork() bool {
	for {
		if hasWork, isClosed := p.creates.state(); hasWork || isClosed || p.hasStream(1) {
			return (hasWork || !isClosed) && p.ctx.Err() == nil
		}
		select {
		case <-p.creates.wake:
		case <-p.ctx.Done():
			return false
		}
	}
}

// rest waits before the next attempt; less if the producer is closed and nothing is pending.
func (p *Producer) rest(delay time.Duration) {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for {
		if hasWork, isClosed := p.creates.state(); isClosed && !hasWork {
			return
		}
		select {
		case <-timer.C:
			p.creates.notify()
			return
		case <-p.creates.wake:
		case <-p.ctx.Done():
			return
		}
	}
}

// attempt runs the first stream to its end.
func (p *Producer) attempt(address string, reconnects *link.Reconnects) (leader string, wasOpen bool, reason *codeq.Error) {
	stream, first, err := p.open(address)
	if err != nil {
		return "", false, link.ReasonOfEnd(err, false)
	}
	limits := first.GetWelcome()
	p.endpoint.Servers.Reached()
	p.endpoint.CheckProtocol(limits.GetServerVersion(), limits.GetProtocol())
	reconnects.Opened(address)
	p.creates.opened(Identity{Tenant: limits.GetTenantId(), Subject: limits.GetSubject()})
	p.spread(limits)
	leader, reason = p.serve(stream, first)
	return leader, true, reason
}

// open opens a stream and checks its welcome.
func (p *Producer) open(address string) (*link.Stream, *codeqv1.ProduceResponse, error) {
	first := &codeqv1.ProduceResponse{}
	hello := &codeqv1.ProduceRequest{Hello: &codeqv1.ProducerHello{ClientName: p.config.Name, Client: link.Hello()}}
	stream, err := p.endpoint.Open(p.ctx, address, method, hello, first)
	if err != nil {
		return nil, nil, err
	}
	limits := first.GetWelcome()
	if limits == nil || limits.GetFrameBytesMax() < itemBytesMax || limits.GetFrameTasksMax() < 1 || limits.GetUnackedFramesMax() < 1 {
		stream.Close()
		return nil, nil, &codeq.Error{Reason: codeq.ErrBadHandshake, Message: "the server's first message is not a valid welcome"}
	}
	return stream, first, nil
}

// serve sends creates over a stream until it ends.
func (p *Producer) serve(stream *link.Stream, first *codeqv1.ProduceResponse) (leader string, reason *codeq.Error) {
	defer stream.Close()
	running := &session{
		producer: p, stream: stream, limits: first.GetWelcome(), window: newWindow(),
		notices: make(chan *codeqv1.StreamNotice, 1), undecided: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	running.renewal = stream.NewRenewal(running.window.notify)
	stream.Learn()
	p.creates.enter(running.window)
	err := running.take(first)
	if err == nil {
		go running.read()
		err = running.write()
		<-running.ended
	}
	if err == nil {
		err = running.end
	}
	reason = link.ReasonOfEnd(err, running.isLeaving)
	p.creates.lose(running.window, reason)
	p.creates.leave(running.window)
	return running.leader, reason
}

func (s *session) read() {
	defer close(s.ended)
	for s.end == nil {
		var response codeqv1.ProduceResponse
		if s.end = s.stream.Receive(&response); s.end == nil {
			s.end = s.take(&response)
		}
	}
	s.stream.Break(s.end)
	s.window.notify()
}

func (s *session) take(response *codeqv1.ProduceResponse) error {
	for _, ack := range response.GetAcks() {
		isUndecided, err := s.producer.creates.take(s.window, ack)
		if err != nil {
			return err
		}
		if isUndecided {
			signal(s.undecided, struct{}{})
		}
	}
	if notice := response.GetNotice(); notice.GetReason() == codeqv1.ErrorReason_ERROR_REASON_UNAUTHENTICATED {
		s.renewal.Start(time.Duration(notice.GetGraceMs()) * time.Millisecond)
	} else if notice != nil {
		signal(s.notices, notice)
	}
	return nil
}

func signal[Value any](to chan Value, value Value) {
	select {
	case to <- value:
	default:
	}
}

// write sends frames until the stream is over or is left. It returns an error only if it ends the stream itself.
func (s *session) write() error {
	creates := &s.producer.creates
	for {
		select {
		case <-s.ended:
			return nil
		case notice := <-s.notices:
			s.isLeaving, s.leader = true, notice.GetLeader()
		case <-s.undecided:
			s.isLeaving = true
		case <-s.window.wake:
			s.gather()
		}
		s.isLeaving = s.isLeaving || s.renewal.IsLate()
		if token := s.renewal.TakeFresh(); token != "" {
			message := protowire.AppendTag(nil, tokenField, protowire.BytesType)
			if s.stream.Send(protowire.AppendString(message, token)) != nil {
				return nil
			}
		}
		for !s.isLeaving {
			data := creates.cut(s.window, s.limits)
			if data == nil {
				break
			}
			if s.stream.Send(data) != nil {
				return nil // receiving gives the reason
			}
			s.gather()
		}
		if hasWork, isClosed := creates.state(); s.isLeaving || (isClosed && !hasWork) {
			return s.leave()
		}
	}
}

// gather lets goroutines that are about to create tasks go first, so that their tasks share the next frame.
func (s *session) gather() {
	creates := &s.producer.creates
	for range gathersMax {
		before := creates.count()
		runtime.Gosched()
		if creates.count() == before {
			return
		}
	}
}

// leave half-closes: the server acks the frames that it has read, then ends the call. Creates that are not acked wait until
// their own time is over.
func (s *session) leave() error {
	_ = s.stream.CloseSend()
	ticker := time.NewTicker(codeq.LeaveMax)
	defer ticker.Stop()
	for {
		select {
		case <-s.ended:
			return nil
		case <-s.producer.ctx.Done():
			return nil
		case <-ticker.C:
			if !s.producer.creates.areUnanswered(s.window) {
				s.stream.Break(link.Unavailable("the server did not end the stream"))
				return nil
			}
		}
	}
}
