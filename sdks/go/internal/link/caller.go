package link

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

// Caller sends unary calls that follow the leader. It is a grpc.ClientConnInterface, so generated clients work on it.
type Caller struct {
	endpoint    *Endpoint
	timeout     time.Duration
	requestKeys bool

	ctx         context.Context
	cancel      context.CancelFunc
	background  sync.WaitGroup
	mu          sync.Mutex
	connections map[string]*connection
}

// connection is the connection to one server. It is closed when it has failed and no call uses it any more, so that the
// next call connects anew instead of waiting for gRPC's own next attempt.
type connection struct {
	*grpc.ClientConn
	calls     int
	isDropped bool
}

// NewCaller returns a caller. With requestKeys, or if several servers are known, creates with neither a key nor an id get
// a key, so that they can be repeated.
func NewCaller(endpoint *Endpoint, timeout time.Duration, requestKeys bool) *Caller {
	ctx, cancel := context.WithCancel(context.Background())
	return &Caller{
		endpoint: endpoint, timeout: timeout, requestKeys: requestKeys, ctx: ctx, cancel: cancel,
		connections: map[string]*connection{},
	}
}

// Close disconnects; calls in flight fail with CLOSED.
func (c *Caller) Close() {
	c.mu.Lock()
	c.cancel()
	left := c.connections
	c.connections = nil
	c.mu.Unlock()
	c.background.Wait()
	for _, each := range left {
		_ = each.Close()
	}
}

// NewStream is not supported: streams belong to producers and workers.
func (c *Caller) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, &codeq.Error{Reason: codeq.ErrUnsupported, Message: "streams are opened by producers and workers"}
}

// Invoke sends a call and fills the reply. It ends at the deadline of ctx; without one, after the caller's timeout, to
// which the wait of the request is added.
func (c *Caller) Invoke(ctx context.Context, method string, args, reply any, options ...grpc.CallOption) error {
	request := args.(proto.Message)
	if c.requestKeys || c.endpoint.Servers.AreMany() {
		request = withKeys(request)
	}
	wait := waitOf(request)
	deadline, has := ctx.Deadline()
	if !has {
		deadline = time.Now().Add(c.timeout + wait)
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	attempts := following{servers: c.endpoint.Servers, repeatable: isRepeatable(request), deadline: deadline, wait: wait}
	for {
		failure := c.attempt(ctx, &attempts, method, request, reply, options)
		if failure == nil {
			attempts.servers.Reached()
			return nil
		}
		delay, again := attempts.delayAfter(failure, time.Now())
		if !again || ctx.Err() != nil || c.ctx.Err() != nil {
			return failure.Error
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return failure.Error
		case <-c.ctx.Done():
			return Closed("client")
		}
	}
}

func (c *Caller) attempt(
	ctx context.Context, attempts *following, method string, request proto.Message, reply any, options []grpc.CallOption,
) *attemptError {
	attempt, cancel := context.WithTimeout(ctx, attempts.timeout(time.Now()))
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)() // Close ends the attempt, wherever it waits
	token, err := c.endpoint.Token(attempt)
	if c.ctx.Err() != nil {
		return &attemptError{Error: Closed("client")}
	}
	if err != nil {
		return &attemptError{Error: FromStatus(err), notSent: true}
	}
	used, err := c.use(attempts.address)
	if err != nil {
		return &attemptError{Error: FromStatus(err), notSent: true}
	}
	var sent atomic.Bool
	err = used.Invoke(context.WithValue(WithToken(attempt, token), sentKey{}, &sent), method, request, reply, options...)
	c.leave(attempts.address, used, err)
	if err == nil {
		c.refresh(used, token)
		return nil
	}
	if c.ctx.Err() != nil {
		return &attemptError{Error: Closed("client")}
	}
	failure := &attemptError{Error: FromStatus(err), notSent: !sent.Load()}
	if cause := ctx.Err(); cause != nil && status.Code(err) == codes.Canceled {
		failure.Cause = cause
	}
	return failure
}

func (c *Caller) use(address string) (*connection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.connections == nil {
		return nil, Closed("client")
	}
	used := c.connections[address]
	if used == nil {
		dialled, err := c.endpoint.Dial(address, grpc.WithStatsHandler(sending{}))
		if err != nil {
			return nil, err
		}
		used = &connection{ClientConn: dialled}
		c.connections[address] = used
	}
	used.calls++
	return used, nil
}

func (c *Caller) leave(address string, used *connection, err error) {
	c.mu.Lock()
	used.calls--
	if err != nil && used.GetState() == connectivity.TransientFailure && c.connections[address] == used {
		used.isDropped = true
		delete(c.connections, address)
	}
	isUnused := used.isDropped && used.calls == 0
	c.mu.Unlock()
	if isUnused {
		_ = used.Close()
	}
}

// refresh reads the members of the cluster in the background, at most once a minute.
func (c *Caller) refresh(used *connection, token string) {
	if !c.endpoint.Servers.IsRefreshDue(time.Now()) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.connections == nil {
		return
	}
	c.background.Go(func() { c.endpoint.Refresh(c.ctx, used.ClientConn, token) })
}

// IsClosed reports whether an error is that of a closed object.
func IsClosed(err error) bool { return errors.Is(err, codeq.ErrClosed) }

type sentKey struct{}

// sending notes for each call whether its headers were sent, because a call that reached no server may be repeated.
type sending struct{}

// TagRPC returns the context of a call.
func (sending) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC notes that the headers were sent.
func (sending) HandleRPC(ctx context.Context, event stats.RPCStats) {
	if _, is := event.(*stats.OutHeader); is {
		if sent, has := ctx.Value(sentKey{}).(*atomic.Bool); has {
			sent.Store(true)
		}
	}
}

// TagConn returns the context of a connection.
func (sending) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn ignores connections.
func (sending) HandleConn(context.Context, stats.ConnStats) {}

// NewKey returns a new, unique idempotency key.
func NewKey() string { return rand.Text() }

// withKeys returns the request, with a key for each create that has neither a key nor an id.
func withKeys(request proto.Message) proto.Message {
	switch request := request.(type) {
	case *codeqv1.CreateTaskRequest:
		if request.GetSpec() == nil || !needsKey(request.GetSpec()) {
			return request
		}
		keyed := proto.CloneOf(request)
		keyed.Spec.IdempotencyKey = proto.String(NewKey())
		return keyed
	case *codeqv1.BatchCreateTasksRequest:
		return batchWithKeys(request)
	default:
		return request
	}
}

func batchWithKeys(request *codeqv1.BatchCreateTasksRequest) *codeqv1.BatchCreateTasksRequest {
	keyed := proto.CloneOf(request)
	if !keyed.GetAtomic() {
		for _, spec := range keyed.GetTasks() {
			if needsKey(spec) {
				spec.IdempotencyKey = proto.String(NewKey())
			}
		}
		return keyed
	}
	for _, spec := range keyed.GetTasks() {
		if !needsKey(spec) {
			return request
		}
	}
	if keyed.IdempotencyKey == nil {
		keyed.IdempotencyKey = proto.String(NewKey())
	}
	return keyed
}

func needsKey(spec *codeqv1.TaskSpec) bool { return spec.IdempotencyKey == nil && spec.TaskId == nil }
