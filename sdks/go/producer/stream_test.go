package producer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
	"github.com/osvaldoandrade/codeq/sdks/go/producer"
)

// open returns a producer of these servers, which the end of the test closes.
func open(t *testing.T, config producer.Config, servers ...*scripted.Server) *producer.Producer {
	t.Helper()
	for _, server := range servers {
		config.Addresses = append(config.Addresses, server.Addr)
	}
	made, err := producer.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = made.Close() })
	return made
}

// welcomed sends the welcome after the hello.
func welcomed(stream scripted.ProduceStream, change func(*codeqv1.ProducerWelcome)) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	welcome := scripted.ProducerWelcome()
	if change != nil {
		change(welcome.GetWelcome())
	}
	return stream.Send(welcome)
}

// acked acks every frame until the client half-closes: the id of a task is its command.
func acked(stream scripted.ProduceStream) error {
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(ackOf(request)); err != nil {
			return err
		}
	}
}

func ackOf(request *codeqv1.ProduceRequest) *codeqv1.ProduceResponse {
	if len(request.GetTasks()) == 0 {
		return &codeqv1.ProduceResponse{}
	}
	ack := &codeqv1.FrameAck{}
	for _, task := range request.GetTasks() {
		ack.TaskIds = append(ack.TaskIds, task.GetCommand())
	}
	return &codeqv1.ProduceResponse{Acks: []*codeqv1.FrameAck{ack}}
}

func acking(stream scripted.ProduceStream) error {
	if err := welcomed(stream, nil); err != nil {
		return err
	}
	return acked(stream)
}

type created struct {
	id  string
	err error
}

func createLater(ctx context.Context, p *producer.Producer, command string, options ...producer.Option) <-chan created {
	answer := make(chan created, 1)
	go func() {
		id, err := p.Create(ctx, command, nil, options...)
		answer <- created{id, err}
	}()
	return answer
}

func TestHelloNamesTheSDKAndCarriesTheToken(t *testing.T) {
	hellos := make(chan *codeqv1.ProducerHello, 1)
	tokens := make(chan []string, 1)
	server := scripted.Start(t, scripted.Script{Produce: func(stream scripted.ProduceStream) error {
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		told, _ := metadata.FromIncomingContext(stream.Context())
		hellos <- request.GetHello()
		tokens <- told.Get("authorization")
		if err := stream.Send(scripted.ProducerWelcome()); err != nil {
			return err
		}
		return acked(stream)
	}})
	tasks := open(t, producer.Config{Token: "secret", Name: "shop"}, server)
	if id, err := tasks.Create(t.Context(), "a", nil); id != "a" || err != nil {
		t.Fatalf("got %q, %v", id, err)
	}
	hello := scripted.Receive(t, hellos, "hello")
	if hello.GetClient().GetSdk() != "codeq-go" || hello.GetClient().GetProtocol() != 1 ||
		hello.GetClient().GetVersion() != codeq.Version || hello.GetClientName() != "shop" {
		t.Errorf("the hello is %v", hello)
	}
	if told := scripted.Receive(t, tokens, "token"); len(told) != 1 || told[0] != "Bearer secret" {
		t.Errorf("the token is %v", told)
	}
}

func TestConcurrentCreatesShareTheNextFrame(t *testing.T) {
	const callers = 100
	release := make(chan struct{})
	frames := make(chan int, callers+1)
	server := scripted.Start(t, scripted.Script{Produce: func(stream scripted.ProduceStream) error {
		if err := welcomed(stream, func(welcome *codeqv1.ProducerWelcome) { welcome.UnackedFramesMax = 1 }); err != nil {
			return err
		}
		for {
			request, err := stream.Recv()
			if err != nil {
				return nil
			}
			if len(request.GetTasks()) == 0 {
				continue
			}
			frames <- len(request.GetTasks())
			<-release
			if err := stream.Send(ackOf(request)); err != nil {
				return err
			}
		}
	}})
	tasks := open(t, producer.Config{}, server)
	first := createLater(t.Context(), tasks, "first")
	if count := scripted.Receive(t, frames, "first frame"); count != 1 {
		t.Fatalf("the first frame has %d tasks", count)
	}
	var answers []<-chan created
	for index := range callers {
		answers = append(answers, createLater(t.Context(), tasks, fmt.Sprint("c", index)))
	}
	scripted.Eventually(t, func() bool { return producer.PendingCount(tasks) == callers }, "all creates pending")
	close(release)
	if count := scripted.Receive(t, frames, "second frame"); count != callers {
		t.Errorf("the second frame has %d tasks, want %d", count, callers)
	}
	scripted.Receive(t, first, "first answer")
	for index, answer := range answers {
		if got := scripted.Receive(t, answer, "answer"); got.id != fmt.Sprint("c", index) || got.err != nil {
			t.Errorf("create %d got %+v", index, got)
		}
	}
}

func TestFramesKeepToTheServersLimits(t *testing.T) {
	var mu sync.Mutex
	var counts []int
	server := scripted.Start(t, scripted.Script{Produce: func(stream scripted.ProduceStream) error {
		if err := welcomed(stream, func(welcome *codeqv1.ProducerWelcome) { welcome.FrameTasksMax = 3 }); err != nil {
			return err
		}
		for {
			request, err := stream.Recv()
			if err != nil {
				return nil
			}
			mu.Lock()
			counts = append(counts, len(request.GetTasks()))
			mu.Unlock()
			if err := stream.Send(ackOf(request)); err != nil {
				return err
			}
		}
	}})
	tasks := open(t, producer.Config{}, server)
	results, err := tasks.CreateBatch(t.Context(), make([]producer.Task, 10))
	if err != nil || len(results) != 10 {
		t.Fatalf("got %v, %v", results, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if fmt.Sprint(counts) != "[3 3 3 1]" {
		t.Errorf("the frames have %v tasks", counts)
	}
}

func TestBatchReportsEachTaskInOrder(t *testing.T) {
	server := scripted.Start(t, scripted.Script{Produce: func(stream scripted.ProduceStream) error {
		if err := welcomed(stream, nil); err != nil {
			return err
		}
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		answer := ackOf(request)
		answer.Acks[0].TaskIds[1] = ""
		answer.Acks[0].Errors = []*codeqv1.ItemError{
			{Index: 1, Reason: codeqv1.ErrorReason_ERROR_REASON_STORAGE_FULL, Message: "no room"},
		}
		answer.Acks[0].Duplicates = []uint32{0}
		if err := stream.Send(answer); err != nil {
			return err
		}
		return acked(stream)
	}})
	tasks := open(t, producer.Config{}, server)
	results, err := tasks.CreateBatch(t.Context(), []producer.Task{
		{Command: "a"}, {Command: "not json", Payload: func() {}}, {Command: "b"}, {Command: "c"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if results[0].ID != "a" || results[0].Err != nil || results[3].ID != "c" || results[3].Err != nil {
		t.Errorf("accepted tasks got %+v and %+v", results[0], results[3])
	}
	if !errors.Is(results[1].Err, codeq.ErrInvalidArgument) {
		t.Errorf("the task without JSON got %v", results[1].Err)
	}
	if !errors.Is(results[2].Err, codeq.ErrStorageFull) || !strings.Contains(results[2].Err.Error(), "no room") {
		t.Errorf("the rejected task got %v", results[2].Err)
	}
}

func TestBrokenStreamRepeatsTasksWithAKeyAndLosesOthers(t *testing.T) {
	received := make(chan struct{}, 2)
	var server *scripted.Server
	var once sync.Once
	server = scripted.Start(t, scripted.Script{Produce: func(stream scripted.ProduceStream) error {
		cuts := false
		once.Do(func() { cuts = true })
		if err := welcomed(stream, nil); err != nil {
			return err
		}
		if !cuts {
			return acked(stream)
		}
		for tasks := 0; tasks < 2; {
			request, err := stream.Recv()
			if err != nil {
				return err
			}
			tasks += len(request.GetTasks())
		}
		received <- struct{}{}
		<-stream.Context().Done()
		return nil
	}})
	tasks := open(t, producer.Config{}, server)
	keyed := createLater(t.Context(), tasks, "keyed", producer.IdempotencyKey("k"))
	plain := createLater(t.Context(), tasks, "plain")
	scripted.Receive(t, received, "both tasks")
	server.Cut()
	got := scripted.Receive(t, plain, "answer of the task without a key")
	if !errors.Is(got.err, codeq.ErrOutcomeUnknown) {
		t.Errorf("the task without a key got %v", got.err)
	}
	server.Again()
	if got := scripted.Receive(t, keyed, "answer of the task with a key"); got.id != "keyed" || got.err != nil {
		t.Errorf("the task with a key got %+v", got)
	}
}

func TestRequestKeysAreAddedUnlessATaskHasAnIdentity(t *testing.T) {
	specs := make(chan *codeqv1.TaskSpec, 3)
	server := scripted.Start(t, scripted.Script{Produce: func(stream scripted.ProduceStream) error {
		if err := welcomed(stream, nil); err != nil {
			return err
		}
		for {
			request, err := stream.Recv()
			if err != nil {
				return nil
			}
			for _, spec := range request.GetTasks() {
				specs <- spec
			}
			if err := stream.Send(ackOf(request)); err != nil {
				return err
			}
		}
	}})
	tasks := open(t, producer.Config{RequestKeys: true}, server)
	_, err := tasks.CreateBatch(t.Context(), []producer.Task{
		{Command: "a"}, {Command: "b", TaskID: "own"}, {Command: "c", IdempotencyKey: "mine"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if spec := <-specs; len(spec.GetIdempotencyKey()) < 16 {
		t.Errorf("the key of a task without one is %q", spec.GetIdempotencyKey())
	}
	if spec := <-specs; spec.IdempotencyKey != nil {
		t.Errorf("a task with an id got the key %q", spec.GetIdempotencyKey())
	}
	if spec := <-specs; spec.GetIdempotencyKey() != "mine" {
		t.Errorf("the own key became %q", spec.GetIdempotencyKey())
	}
}

func TestCreateFollowsTheLeaderThatAServerNames(t *testing.T) {
	leader := scripted.Start(t, scripted.Script{Produce: acking})
	follower := scripted.Start(t, scripted.Script{Produce: func(scripted.ProduceStream) error {
		return scripted.Failure(codes.Unavailable, "NOT_LEADER", "leaderGrpc", leader.Addr)
	}})
	tasks := open(t, producer.Config{}, follower)
	begun := time.Now()
	if id, err := tasks.Create(t.Context(), "a", nil); id != "a" || err != nil {
		t.Fatalf("got %q, %v", id, err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestNoticeMovesTheStreamToTheNewLeader(t *testing.T) {
	leader := scripted.Start(t, scripted.Script{Produce: acking})
	halfClosed := make(chan struct{})
	old := scripted.Start(t, scripted.Script{Produce: func(stream scripted.ProduceStream) error {
		if err := welcomed(stream, nil); err != nil {
			return err
		}
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		answer := ackOf(request)
		answer.Notice = &codeqv1.StreamNotice{
			Reason: codeqv1.ErrorReason_ERROR_REASON_NOT_LEADER, GraceMs: 5000, Leader: leader.Addr,
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			close(halfClosed)
		}
		return nil
	}})
	tasks := open(t, producer.Config{}, old)
	if id, err := tasks.Create(t.Context(), "a", nil); id != "a" || err != nil {
		t.Fatalf("got %q, %v", id, err)
	}
	scripted.Receive(t, halfClosed, "half-close")
	old.Cut()
	if id, err := tasks.Create(t.Context(), "b", nil); id != "b" || err != nil {
		t.Fatalf("got %q, %v", id, err)
	}
}

func TestFreshTokenKeepsTheStream(t *testing.T) {
	fresh := make(chan string, 1)
	streams := make(chan struct{}, 8)
	server := scripted.Start(t, scripted.Script{Produce: func(stream scripted.ProduceStream) error {
		streams <- struct{}{}
		if err := welcomed(stream, nil); err != nil {
			return err
		}
		notice := &codeqv1.StreamNotice{Reason: codeqv1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, GraceMs: 10_000}
		if err := stream.Send(&codeqv1.ProduceResponse{Notice: notice}); err != nil {
			return err
		}
		for {
			request, err := stream.Recv()
			if err != nil {
				return nil
			}
			if request.GetToken() != "" {
				fresh <- request.GetToken()
			} else if err := stream.Send(ackOf(request)); err != nil {
				return err
			}
		}
	}})
	var mu sync.Mutex
	asked := 0
	tasks := open(t, producer.Config{TokenFunc: func(context.Context) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		asked++
		return fmt.Sprint("token-", asked), nil
	}}, server)
	if _, err := tasks.Create(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
	if token := scripted.Receive(t, fresh, "fresh token"); token == "token-1" {
		t.Errorf("the token is still %s", token)
	}
	if _, err := tasks.Create(t.Context(), "b", nil); err != nil {
		t.Fatal(err)
	}
	if len(streams) != 1 {
		t.Errorf("there were %d streams, want 1", len(streams))
	}
}

func TestRefusedTokenFailsPendingCreates(t *testing.T) {
	server := scripted.Start(t, scripted.Script{Produce: func(scripted.ProduceStream) error {
		return scripted.Failure(codes.Unauthenticated, "UNAUTHENTICATED")
	}})
	tasks := open(t, producer.Config{Token: "wrong"}, server)
	_, err := tasks.Create(t.Context(), "a", nil)
	if !errors.Is(err, codeq.ErrUnauthenticated) || codeq.IsRetryable(err) {
		t.Errorf("got %v", err)
	}
	if _, err := tasks.Connect(t.Context()); !errors.Is(err, codeq.ErrUnauthenticated) {
		t.Errorf("connecting got %v", err)
	}
}

func TestConnectReturnsTheIdentity(t *testing.T) {
	tasks := open(t, producer.Config{}, scripted.Start(t, scripted.Script{Produce: acking}))
	identity, err := tasks.Connect(t.Context())
	if err != nil || identity.Tenant != "acme" || identity.Subject != "tester" {
		t.Errorf("got %+v, %v", identity, err)
	}
}
