package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

const (
	// welcomeMax is the longest wait for the first message of a server; welcomeOfManyMax if others are known.
	welcomeMax       = 10 * time.Second
	welcomeOfManyMax = 3 * time.Second
	// askingMax is the longest time between two requests for a fresh token; half of what is left if that is less.
	askingMax = 5 * time.Second
	// askingMin is the time left below which no fresh token is requested.
	askingMin = 20 * time.Millisecond
)

// ErrEnded is the end of a stream that the server closed without an error.
var ErrEnded = errors.New("the server ended the stream")

// Stream is one bidirectional call and its connection. Send and Receive may be called by one goroutine each.
type Stream struct {
	// Token is the token with which the stream was opened.
	Token string

	ctx        context.Context
	cancel     context.CancelCauseFunc
	connection *grpc.ClientConn
	call       grpc.ClientStream
	endpoint   *Endpoint
	background sync.WaitGroup
}

// Open connects to a server, sends the hello and receives the first message. The caller closes the stream.
func (e *Endpoint) Open(ctx context.Context, address, method string, hello, first any) (*Stream, error) {
	asking, cancelAsking := context.WithTimeout(ctx, tokenMax)
	token, err := e.Token(asking)
	cancelAsking()
	if err != nil {
		return nil, err
	}
	connection, err := e.Dial(address)
	if err != nil {
		return nil, err
	}
	stream := &Stream{Token: token, connection: connection, endpoint: e}
	stream.ctx, stream.cancel = context.WithCancelCause(ctx)
	late := welcomeMax
	if e.Servers.AreMany() {
		late = welcomeOfManyMax
	}
	timer := time.AfterFunc(late, func() { stream.cancel(Unavailable("the server sent no welcome in time")) })
	defer timer.Stop()
	if err := stream.begin(method, hello, first); err != nil {
		if cause := context.Cause(stream.ctx); cause != nil && ctx.Err() == nil {
			err = cause
		}
		stream.Close()
		return nil, err
	}
	return stream, nil
}

func (s *Stream) begin(method string, hello, first any) error {
	description := &grpc.StreamDesc{StreamName: method, ServerStreams: true, ClientStreams: true}
	call, err := s.connection.NewStream(WithToken(s.ctx, s.Token), description, method, grpc.ForceCodecV2(newCodec()))
	if err != nil {
		return FromStatus(err)
	}
	s.call = call
	if err := call.SendMsg(hello); err != nil && !errors.Is(err, io.EOF) { // after EOF, receiving gives the reason
		return FromStatus(err)
	}
	err = s.Receive(first)
	if errors.Is(err, ErrEnded) {
		return &codeq.Error{Reason: codeq.ErrBadHandshake, Message: "the server ended the stream without a welcome"}
	}
	return err
}

// Context ends with the stream.
func (s *Stream) Context() context.Context { return s.ctx }

// Send sends a message. An error means that the stream is over; Receive gives the reason.
func (s *Stream) Send(message Encoded) error { return s.call.SendMsg(message) }

// CloseSend tells the server that nothing more will be sent.
func (s *Stream) CloseSend() error { return s.call.CloseSend() }

// Receive receives the next message; ErrEnded at the regular end.
func (s *Stream) Receive(into any) error {
	err := s.call.RecvMsg(into)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF):
		return ErrEnded
	case context.Cause(s.ctx) != nil:
		return context.Cause(s.ctx)
	default:
		return FromStatus(err)
	}
}

// Break ends the stream at once; Receive returns the reason.
func (s *Stream) Break(reason error) { s.cancel(reason) }

// Close ends the stream and its connection, and waits for its goroutines.
func (s *Stream) Close() {
	s.cancel(ErrEnded)
	s.background.Wait()
	_ = s.connection.Close()
}

// Learn reads the members of the cluster now and every minute, until the stream is closed.
func (s *Stream) Learn() {
	s.background.Go(func() {
		token := s.Token
		ticker := time.NewTicker(codeq.TopologyRefresh)
		defer ticker.Stop()
		for {
			s.endpoint.Refresh(s.ctx, s.connection, token)
			select {
			case <-ticker.C:
				if fresh, err := s.endpoint.Token(s.ctx); err == nil {
					token = fresh
				}
			case <-s.ctx.Done():
				return
			}
		}
	})
}

// Renewal gets a fresh token for a stream when the server announces that the current one is about to expire.
type Renewal struct {
	stream  *Stream
	wake    func()
	mu      sync.Mutex
	current string
	fresh   string
	asking  bool
	isLate  atomic.Bool
}

// NewRenewal prepares for the announcement. Wake is called when TakeFresh or IsLate have changed.
func (s *Stream) NewRenewal(wake func()) *Renewal {
	return &Renewal{stream: s, wake: wake, current: s.Token}
}

// Start asks for a fresh token, because the current one expires after the grace. A certificate is only renewed with the
// connection: the client leaves the stream at once.
func (r *Renewal) Start(grace time.Duration) {
	if r.stream.endpoint.isCertified {
		r.leave()
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.asking {
		r.asking = true
		r.stream.background.Go(func() { r.ask(grace) })
	}
}

// TakeFresh returns the fresh token, to be sent now; empty if there is none.
func (r *Renewal) TakeFresh() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	token := r.fresh
	r.fresh = ""
	return token
}

// IsLate reports whether no fresh token came in time, so that the client should leave the stream.
func (r *Renewal) IsLate() bool { return r.isLate.Load() }

func (r *Renewal) leave() {
	r.isLate.Store(true)
	r.wake()
}

func (r *Renewal) ask(grace time.Duration) {
	defer func() {
		r.mu.Lock()
		r.asking = false
		r.mu.Unlock()
	}()
	until := time.Now().Add(grace - min(codeq.TokenMargin, grace/4))
	trouble := "the token function returned the same token again"
	for left := time.Until(until); left > askingMin; left = time.Until(until) {
		ctx, cancel := context.WithTimeout(r.stream.ctx, left)
		token, err := r.stream.endpoint.Token(ctx)
		cancel()
		if err != nil {
			trouble = err.Error()
		} else if r.offer(token) {
			return
		}
		select {
		case <-time.After(min(askingMax, max(0, time.Until(until))/2)):
		case <-r.stream.ctx.Done():
			return
		}
	}
	r.stream.endpoint.Logger.Warn("codeq: the token of a stream is about to expire, and there is no fresh one: " + trouble)
	r.leave()
}

func (r *Renewal) offer(token string) bool {
	r.mu.Lock()
	isFresh := token != "" && token != r.current
	if isFresh {
		r.current, r.fresh = token, token
	}
	r.mu.Unlock()
	if isFresh {
		r.wake()
	}
	return isFresh
}

// ReasonOfEnd returns the typed form of an error that ended a stream.
func ReasonOfEnd(err error, isLeaving bool) *codeq.Error {
	switch {
	case err == nil || errors.Is(err, ErrEnded):
		if isLeaving {
			return &codeq.Error{Reason: codeq.ErrDraining, Message: "the stream is ending", Retryable: true}
		}
		return Unavailable("the stream ended")
	case errors.Is(err, context.Canceled) && codeq.ReasonOf(err) == "":
		return Closed("stream")
	default:
		return FromStatus(err)
	}
}

// Hello returns how the SDK introduces itself.
func Hello() *codeqv1.ClientInfo {
	return &codeqv1.ClientInfo{Sdk: codeq.SDKName, Version: codeq.Version, Protocol: codeq.Protocol}
}

var warnedOfProtocol sync.Once

// CheckProtocol logs once per process that a server speaks an older protocol than the SDK expects.
func (e *Endpoint) CheckProtocol(serverVersion string, protocol uint32) {
	if protocol >= codeq.Protocol {
		return
	}
	warnedOfProtocol.Do(func() {
		e.Logger.Warn(fmt.Sprintf("codeq: server %s speaks stream protocol %d, older than %d, which %s %s expects",
			serverVersion, protocol, codeq.Protocol, codeq.SDKName, codeq.Version))
	})
}
