// Package scripted is a gRPC server whose streams and calls do what a test says.
package scripted

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

// PatienceMax is the longest wait of a test for something that should happen; a worker may look twice for the process of a
// shard meanwhile.
const PatienceMax = 45 * time.Second

// WorkStream is the server's side of a worker's stream.
type WorkStream = grpc.BidiStreamingServer[codeqv1.WorkRequest, codeqv1.WorkResponse]

// ProduceStream is the server's side of a producer's stream.
type ProduceStream = grpc.BidiStreamingServer[codeqv1.ProduceRequest, codeqv1.ProduceResponse]

// Script says what a server does. What is nil is UNIMPLEMENTED.
type Script struct {
	// Work handles a worker's stream.
	Work func(WorkStream) error
	// Produce handles a producer's stream.
	Produce func(ProduceStream) error
	// Unary handles every unary call; it may return nil for UNIMPLEMENTED.
	Unary func(ctx context.Context, method string, request proto.Message) (proto.Message, error)
}

// Server is a running server, on one address over all its starts.
type Server struct {
	// Addr is its address.
	Addr string

	t      testing.TB
	script Script
	mu     sync.Mutex
	grpc   *grpc.Server
}

// Start starts a server; the end of the test stops it.
func Start(t testing.TB, script Script) *Server {
	t.Helper()
	server := &Server{t: t, script: script}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server.Addr = listener.Addr().String()
	server.serve(listener)
	t.Cleanup(server.Cut)
	return server
}

// Cut ends all connections at once, as a crash does, and stops listening.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grpc.Stop()
}

// Again listens again after Cut.
func (s *Server) Again() {
	s.t.Helper()
	listener, err := net.Listen("tcp", s.Addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.serve(listener)
}

func (s *Server) serve(listener net.Listener) {
	made := grpc.NewServer(grpc.MaxRecvMsgSize(64<<20), grpc.UnaryInterceptor(s.unary))
	codeqv1.RegisterWorkerServiceServer(made, &workers{script: &s.script})
	codeqv1.RegisterProducerServiceServer(made, &producers{script: &s.script})
	codeqv1.RegisterTaskServiceServer(made, codeqv1.UnimplementedTaskServiceServer{})
	codeqv1.RegisterQueueServiceServer(made, codeqv1.UnimplementedQueueServiceServer{})
	codeqv1.RegisterTopicServiceServer(made, codeqv1.UnimplementedTopicServiceServer{})
	codeqv1.RegisterScheduleServiceServer(made, codeqv1.UnimplementedScheduleServiceServer{})
	codeqv1.RegisterSubscriptionServiceServer(made, codeqv1.UnimplementedSubscriptionServiceServer{})
	codeqv1.RegisterWebhookServiceServer(made, codeqv1.UnimplementedWebhookServiceServer{})
	codeqv1.RegisterClusterServiceServer(made, codeqv1.UnimplementedClusterServiceServer{})
	codeqv1.RegisterServerServiceServer(made, codeqv1.UnimplementedServerServiceServer{})
	s.mu.Lock()
	s.grpc = made
	s.mu.Unlock()
	go func() { _ = made.Serve(listener) }()
}

func (s *Server) unary(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler,
) (any, error) {
	if s.script.Unary != nil {
		reply, err := s.script.Unary(ctx, info.FullMethod, request.(proto.Message))
		if reply != nil || err != nil {
			return reply, err
		}
	}
	return next(ctx, request)
}

type workers struct {
	codeqv1.UnimplementedWorkerServiceServer
	script *Script
}

// Work runs the script.
func (w *workers) Work(stream WorkStream) error {
	if w.script.Work == nil {
		return w.UnimplementedWorkerServiceServer.Work(stream)
	}
	return w.script.Work(stream)
}

type producers struct {
	codeqv1.UnimplementedProducerServiceServer
	script *Script
}

// Produce runs the script.
func (p *producers) Produce(stream ProduceStream) error {
	if p.script.Produce == nil {
		return p.UnimplementedProducerServiceServer.Produce(stream)
	}
	return p.script.Produce(stream)
}

// Failure returns the error of a failed call as the server sends it: reason and metadata, which come in pairs.
func Failure(code codes.Code, reason string, metadata ...string) error {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: "codeq", Metadata: map[string]string{}}
	for at := 0; at+1 < len(metadata); at += 2 {
		info.Metadata[metadata[at]] = metadata[at+1]
	}
	return detailed(code, reason, info)
}

// RateLimited returns the error of a call that comes too often.
func RateLimited(after time.Duration) error {
	return detailed(codes.ResourceExhausted, "RATE_LIMITED",
		&errdetails.ErrorInfo{Reason: "RATE_LIMITED", Domain: "codeq"}, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
}

func detailed(code codes.Code, message string, details ...protoadapt.MessageV1) error {
	told, err := status.New(code, message).WithDetails(details...)
	if err != nil {
		return err
	}
	return told.Err()
}

// ProducerWelcome returns the welcome of a producer's stream, with the usual limits.
func ProducerWelcome() *codeqv1.ProduceResponse {
	return &codeqv1.ProduceResponse{Welcome: &codeqv1.ProducerWelcome{
		TenantId: "acme", Subject: "tester", UnackedFramesMax: 256, UnackedBytesMax: 16 << 20, FrameTasksMax: 4096,
		FrameBytesMax: 8 << 20, ServerVersion: "1.0.0", Protocol: 1,
	}}
}

// WorkerWelcome returns the welcome of a worker's stream.
func WorkerWelcome(leaseSeconds int32) *codeqv1.WorkResponse {
	return &codeqv1.WorkResponse{Welcome: &codeqv1.WorkerWelcome{
		TenantId: "acme", WorkerId: "tester", LeaseSeconds: leaseSeconds, CreditsMax: 65536, ServerVersion: "1.0.0", Protocol: 1,
	}}
}

// Receive returns the next value of a channel; the test fails if none comes in time.
func Receive[Value any](t testing.TB, from <-chan Value, what string) Value {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(PatienceMax):
		t.Fatalf("%s did not come within %s", what, PatienceMax)
		panic("unreachable")
	}
}

// Eventually waits until a condition holds; the test fails if it does not in time.
func Eventually(t testing.TB, condition func() bool, what string) {
	t.Helper()
	late := time.After(PatienceMax)
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-late:
			t.Fatalf("%s did not come true within %s", what, PatienceMax)
		}
	}
}
