package client_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	"github.com/osvaldoandrade/codeq/sdks/go/client"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
	"github.com/osvaldoandrade/codeq/sdks/go/producer"
)

type answer func(ctx context.Context, method string, request proto.Message) (proto.Message, error)

func open(t *testing.T, config client.Config, servers ...*scripted.Server) *client.Client {
	t.Helper()
	for _, server := range servers {
		config.Addresses = append(config.Addresses, server.Addr)
	}
	made, err := client.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = made.Close() })
	return made
}

// only answers calls of one method.
func only(method string, reply answer) scripted.Script {
	return scripted.Script{Unary: func(ctx context.Context, called string, request proto.Message) (proto.Message, error) {
		if !strings.HasSuffix(called, "/"+method) {
			return nil, nil
		}
		return reply(ctx, called, request)
	}}
}

// replying answers every call of a server with a reply of its method, and gives the requests in their order.
func replying(t *testing.T, replies map[string]proto.Message) (*client.Client, <-chan proto.Message) {
	t.Helper()
	requests := make(chan proto.Message, 64)
	server := scripted.Start(t, scripted.Script{Unary: func(_ context.Context, method string, request proto.Message) (proto.Message, error) {
		reply, has := replies[method[strings.LastIndex(method, "/")+1:]]
		if !has {
			return nil, nil
		}
		requests <- request
		return reply, nil
	}})
	return open(t, client.Config{}, server), requests
}

func isSent(t *testing.T, requests <-chan proto.Message, want proto.Message) {
	t.Helper()
	if got := scripted.Receive(t, requests, "request"); !proto.Equal(got, want) {
		t.Errorf("sent %v, want %v", got, want)
	}
}

func found(context.Context, string, proto.Message) (proto.Message, error) {
	return &codeqv1.GetTaskResponse{Task: &codeqv1.Task{Id: "x", Status: codeqv1.TaskStatus_TASK_STATUS_PENDING}}, nil
}

func TestCallFollowsTheLeader(t *testing.T) {
	leader := scripted.Start(t, only("GetTask", found))
	follower := scripted.Start(t, only("GetTask", func(context.Context, string, proto.Message) (proto.Message, error) {
		return nil, scripted.Failure(codes.Unavailable, "NOT_LEADER", "leaderGrpc", leader.Addr)
	}))
	task, err := open(t, client.Config{}, follower).Get(t.Context(), "x")
	if err != nil || task.ID != "x" || task.Status != codeq.StatusPending {
		t.Errorf("got %+v, %v", task, err)
	}
}

func TestRateLimitedCallWaitsAsLongAsTheServerAsks(t *testing.T) {
	var calls atomic.Int32
	server := scripted.Start(t, only("GetTask", func(ctx context.Context, method string, request proto.Message) (proto.Message, error) {
		if calls.Add(1) == 1 {
			return nil, scripted.RateLimited(100 * time.Millisecond)
		}
		return found(ctx, method, request)
	}))
	begun := time.Now()
	if _, err := open(t, client.Config{}, server).Get(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < 100*time.Millisecond {
		t.Errorf("the call was repeated after %s", took)
	}
}

func TestRateLimitBeyondTheTimeOfTheCallIsAnError(t *testing.T) {
	server := scripted.Start(t, only("GetTask", func(context.Context, string, proto.Message) (proto.Message, error) {
		return nil, scripted.RateLimited(time.Hour)
	}))
	_, err := open(t, client.Config{}, server).Get(t.Context(), "x")
	var typed *codeq.Error
	if !errors.As(err, &typed) || typed.Reason != codeq.ErrRateLimited || typed.RetryAfter != time.Hour || !typed.Retryable {
		t.Errorf("got %v", err)
	}
}

func TestReadMovesOnFromAServerThatIsDown(t *testing.T) {
	down := scripted.Start(t, scripted.Script{})
	down.Cut()
	up := scripted.Start(t, only("GetTask", found))
	if _, err := open(t, client.Config{}, down, up).Get(t.Context(), "x"); err != nil {
		t.Error(err)
	}
}

func TestLostPurgeIsNotRepeated(t *testing.T) {
	var purges atomic.Int32
	lose := func(context.Context, string, proto.Message) (proto.Message, error) {
		purges.Add(1)
		return nil, scripted.Failure(codes.Unavailable, "OUTCOME_UNKNOWN")
	}
	first, second := scripted.Start(t, only("PurgeQueue", lose)), scripted.Start(t, only("PurgeQueue", lose))
	_, err := open(t, client.Config{}, first, second).PurgeQueue(t.Context(), "a", "")
	if !errors.Is(err, codeq.ErrOutcomeUnknown) || purges.Load() != 1 {
		t.Errorf("got %v after %d calls", err, purges.Load())
	}
}

func TestLostCreateIsRepeatedWithTheSameKey(t *testing.T) {
	keys := make(chan string, 2)
	var calls atomic.Int32
	create := func(_ context.Context, _ string, request proto.Message) (proto.Message, error) {
		keys <- request.(*codeqv1.CreateTaskRequest).GetSpec().GetIdempotencyKey()
		if calls.Add(1) == 1 {
			return nil, scripted.Failure(codes.Unavailable, "OUTCOME_UNKNOWN")
		}
		return &codeqv1.CreateTaskResponse{Task: &codeqv1.Task{Id: "x"}}, nil
	}
	first, second := scripted.Start(t, only("CreateTask", create)), scripted.Start(t, only("CreateTask", create))
	task, err := open(t, client.Config{}, first, second).Create(t.Context(), producer.Task{Command: "a"})
	if err != nil || task.ID != "x" {
		t.Fatalf("got %v, %v", task, err)
	}
	if one, two := <-keys, <-keys; one == "" || one != two {
		t.Errorf("the keys are %q and %q", one, two)
	}
}

func TestCallEndsInItsTime(t *testing.T) {
	server := scripted.Start(t, only("GetTask", func(ctx context.Context, _ string, _ proto.Message) (proto.Message, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}))
	calls := open(t, client.Config{Timeout: 50 * time.Millisecond}, server)
	if _, err := calls.Get(t.Context(), "x"); !errors.Is(err, codeq.ErrDeadlineExceeded) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := calls.Get(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled call got %v", err)
	}
}

func TestClosedClientRefusesCalls(t *testing.T) {
	calls := open(t, client.Config{}, scripted.Start(t, only("GetTask", found)))
	if _, err := calls.Get(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	_ = calls.Close()
	_ = calls.Close()
	if _, err := calls.Get(t.Context(), "x"); !errors.Is(err, codeq.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestCallSucceedsOnceTheServerIsBack(t *testing.T) {
	server := scripted.Start(t, only("GetTask", found))
	calls := open(t, client.Config{}, server)
	if _, err := calls.Get(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	server.Cut()
	if _, err := calls.Get(t.Context(), "x"); !errors.Is(err, codeq.ErrUnavailable) {
		t.Errorf("without a server the call got %v", err)
	}
	server.Again()
	scripted.Eventually(t, func() bool {
		_, err := calls.Get(t.Context(), "x")
		return err == nil
	}, "success")
}

func TestIteratorsFetchPages(t *testing.T) {
	server := scripted.Start(t, only("ListTasks", func(_ context.Context, _ string, request proto.Message) (proto.Message, error) {
		if request.(*codeqv1.ListTasksRequest).GetPageToken() == "" {
			return &codeqv1.ListTasksResponse{Tasks: []*codeqv1.Task{{Id: "a"}, {Id: "b"}}, NextPageToken: "2"}, nil
		}
		return &codeqv1.ListTasksResponse{Tasks: []*codeqv1.Task{{Id: "c"}}}, nil
	}))
	var ids []string
	for task, err := range open(t, client.Config{}, server).Tasks(t.Context(), &codeqv1.ListTasksRequest{}) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, task.ID)
	}
	if strings.Join(ids, "") != "abc" {
		t.Errorf("got %v", ids)
	}
}

func TestErrorsOfTheServerKeepTheirDetails(t *testing.T) {
	calls := open(t, client.Config{}, scripted.Start(t, only("GetTask",
		func(context.Context, string, proto.Message) (proto.Message, error) {
			return nil, scripted.Failure(codes.NotFound, "TASK_NOT_FOUND", "hint", "gone")
		})))
	_, err := calls.Get(t.Context(), "x")
	var typed *codeq.Error
	if !errors.As(err, &typed) || !errors.Is(err, codeq.ErrTaskNotFound) || typed.Metadata["hint"] != "gone" || typed.Retryable {
		t.Errorf("got %#v", err)
	}
	if codeq.ReasonOf(err) != codeq.ErrTaskNotFound || codeq.IsRetryable(err) || codeq.IsLeaseLost(err) {
		t.Errorf("the reason is %q", codeq.ReasonOf(err))
	}
	_, err = calls.ServerInfo(t.Context())
	if !errors.Is(err, codeq.ErrUnsupported) {
		t.Errorf("an unknown call got %v", err)
	}
}

func TestReadMovesOnFromASilentServerAndAPurgeDoesNot(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 8)
	silent := scripted.Start(t, scripted.Script{Unary: func(ctx context.Context, method string, _ proto.Message) (proto.Message, error) {
		if strings.HasSuffix(method, "/GetTopology") {
			return nil, nil
		}
		asked <- method
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	server := scripted.Start(t, only("GetTask", found))
	calls := open(t, client.Config{}, silent, server)
	late, cancel := context.WithTimeout(t.Context(), codeq.StallMax+2*time.Second)
	defer cancel()
	purged := make(chan error, 1)
	go func() {
		_, err := calls.PurgeQueue(late, "a", "")
		purged <- err
	}()
	scripted.Receive(t, asked, "purge")
	begun := time.Now()
	if task, err := calls.Get(t.Context(), "x"); err != nil || task.ID != "x" {
		t.Errorf("got %+v, %v", task, err)
	}
	if took := time.Since(begun); took < codeq.StallMax || took > codeq.StallMax+5*time.Second {
		t.Errorf("the read took %s", took)
	}
	if err := scripted.Receive(t, purged, "end of the purge"); !errors.Is(err, codeq.ErrDeadlineExceeded) {
		t.Errorf("the purge got %v", err)
	}
	scripted.Receive(t, asked, "read")
	if len(asked) > 0 {
		t.Errorf("the silent server was asked again: %s", <-asked)
	}
}

func TestKeyOfATaskIsParked(t *testing.T) {
	calls, requests := replying(t, map[string]proto.Message{
		"AbandonTask": &codeqv1.AbandonTaskResponse{Status: codeqv1.TaskStatus_TASK_STATUS_PENDING, DelaySeconds: 60},
	})
	got, err := calls.ParkKey(t.Context(), &codeq.Task{ID: "x", LeaseToken: 7}, time.Minute)
	if err != nil || got.GetDelaySeconds() != 60 {
		t.Errorf("got %v, %v", got, err)
	}
	isSent(t, requests, &codeqv1.AbandonTaskRequest{
		TaskId: "x", LeaseToken: proto.Uint64(7), DelaySeconds: proto.Int32(60), ParkKey: true,
	})
}
