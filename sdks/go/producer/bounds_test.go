package producer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
	"github.com/osvaldoandrade/codeq/sdks/go/producer"
)

// silent never acks; it tells the number of tasks received.
func silent(received chan<- int) func(scripted.ProduceStream) error {
	return func(stream scripted.ProduceStream) error {
		if err := welcomed(stream, nil); err != nil {
			return err
		}
		for {
			request, err := stream.Recv()
			if err != nil {
				return nil
			}
			received <- len(request.GetTasks())
		}
	}
}

func TestFullProducerFailsFastOrWaits(t *testing.T) {
	received := make(chan int, 8)
	tasks := open(t, producer.Config{InFlightTasksMax: 1, FailFast: true, Timeout: time.Minute},
		scripted.Start(t, scripted.Script{Produce: silent(received)}))
	ctx, cancel := context.WithCancel(t.Context())
	first := createLater(ctx, tasks, "first")
	scripted.Receive(t, received, "first task")
	_, err := tasks.Create(t.Context(), "second", nil)
	if !errors.Is(err, codeq.ErrLimitReached) || !codeq.IsRetryable(err) {
		t.Errorf("got %v", err)
	}
	cancel()
	got := scripted.Receive(t, first, "first answer")
	if !errors.Is(got.err, codeq.ErrOutcomeUnknown) || !errors.Is(got.err, context.Canceled) {
		t.Errorf("the first got %v", got.err)
	}
}

func TestCallersWaitForRoomInTurn(t *testing.T) {
	received, release := make(chan int, 8), make(chan struct{})
	server := scripted.Start(t, scripted.Script{Produce: func(stream scripted.ProduceStream) error {
		if err := welcomed(stream, nil); err != nil {
			return err
		}
		for {
			request, err := stream.Recv()
			if err != nil {
				return nil
			}
			received <- len(request.GetTasks())
			<-release
			if err := stream.Send(ackOf(request)); err != nil {
				return err
			}
		}
	}})
	tasks := open(t, producer.Config{InFlightTasksMax: 2}, server)
	batch := make(chan []producer.Result, 1)
	go func() {
		results, _ := tasks.CreateBatch(t.Context(), make([]producer.Task, 5)) // more than the limit, admitted when alone
		batch <- results
	}()
	scripted.Receive(t, received, "batch")
	waiting := createLater(t.Context(), tasks, "waiting")
	late, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := tasks.Create(late, "late", nil); !errors.Is(err, codeq.ErrDeadlineExceeded) {
		t.Errorf("a create that waited too long got %v", err)
	}
	close(release)
	if results := scripted.Receive(t, batch, "batch"); len(results) != 5 || results[4].Err != nil {
		t.Errorf("the batch got %v", results)
	}
	if got := scripted.Receive(t, waiting, "waiting create"); got.id != "waiting" {
		t.Errorf("the waiting create got %+v", got)
	}
}

func TestCreateWithoutAServerEndsInTimeAndSaysWhy(t *testing.T) {
	server := scripted.Start(t, scripted.Script{})
	server.Cut()
	tasks := open(t, producer.Config{}, server)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := tasks.Create(ctx, "a", nil)
	if !errors.Is(err, codeq.ErrDeadlineExceeded) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	if !strings.Contains(err.Error(), "refused") {
		t.Errorf("%q does not say why", err)
	}
	cancelled, stop := context.WithCancel(t.Context())
	stop()
	if _, err := tasks.Create(cancelled, "a", nil); !errors.Is(err, codeq.ErrCallCancelled) {
		t.Errorf("a cancelled create got %v", err)
	}
}

func TestSentCreateThatIsNotAnsweredIsUnknown(t *testing.T) {
	received := make(chan int, 8)
	tasks := open(t, producer.Config{Timeout: 200 * time.Millisecond}, scripted.Start(t, scripted.Script{Produce: silent(received)}))
	_, err := tasks.Create(t.Context(), "a", nil)
	if !errors.Is(err, codeq.ErrOutcomeUnknown) {
		t.Errorf("got %v", err)
	}
}

func TestCloseWaitsForCreatesAndRefusesLaterOnes(t *testing.T) {
	received, release := make(chan struct{}, 1), make(chan struct{})
	server := scripted.Start(t, scripted.Script{Produce: func(stream scripted.ProduceStream) error {
		if err := welcomed(stream, nil); err != nil {
			return err
		}
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		received <- struct{}{}
		<-release
		if err := stream.Send(ackOf(request)); err != nil {
			return err
		}
		return acked(stream)
	}})
	tasks := open(t, producer.Config{}, server)
	first := createLater(t.Context(), tasks, "first")
	scripted.Receive(t, received, "first task")
	closed := make(chan struct{})
	go func() {
		_ = tasks.Close()
		close(closed)
	}()
	scripted.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := tasks.Create(ctx, "later", nil)
		return errors.Is(err, codeq.ErrClosed)
	}, "refusal of later creates")
	close(release)
	if got := scripted.Receive(t, first, "first answer"); got.id != "first" || got.err != nil {
		t.Errorf("the first got %+v", got)
	}
	scripted.Receive(t, closed, "end of Close")
	_ = tasks.Close()
}

func TestAckThatFitsNoFrameBreaksTheStream(t *testing.T) {
	server := scripted.Start(t, scripted.Script{Produce: func(stream scripted.ProduceStream) error {
		if err := welcomed(stream, nil); err != nil {
			return err
		}
		if _, err := stream.Recv(); err != nil {
			return err
		}
		wrong := &codeqv1.FrameAck{TaskIds: []string{"a", "b"}}
		if err := stream.Send(&codeqv1.ProduceResponse{Acks: []*codeqv1.FrameAck{wrong}}); err != nil {
			return err
		}
		<-stream.Context().Done()
		return nil
	}})
	_, err := open(t, producer.Config{}, server).Create(t.Context(), "a", nil)
	if !errors.Is(err, codeq.ErrOutcomeUnknown) || !strings.Contains(err.Error(), "frame of 1") {
		t.Errorf("got %v", err)
	}
}

func numbered(count int) iter.Seq[producer.Task] {
	return func(yield func(producer.Task) bool) {
		for index := range count {
			if !yield(producer.Task{Command: fmt.Sprint("c", index)}) {
				return
			}
		}
	}
}

func TestCreateAllAnswersInOrder(t *testing.T) {
	tasks := open(t, producer.Config{}, scripted.Start(t, scripted.Script{Produce: acking}))
	next := 0
	for id, err := range tasks.CreateAll(t.Context(), numbered(1000), 64) {
		if id != fmt.Sprint("c", next) || err != nil {
			t.Fatalf("answer %d is %q, %v", next, id, err)
		}
		next++
	}
	if next != 1000 {
		t.Errorf("there were %d answers", next)
	}
	for range tasks.CreateAll(t.Context(), numbered(100), 4) {
		break // ends the goroutine that reads ahead
	}
}

func TestArgumentsAreRefusedBeforeAnythingIsSent(t *testing.T) {
	refused := map[string]producer.Config{
		"Addresses":        {Addresses: []string{"no-port"}},
		"Name":             {Name: strings.Repeat("x", 129)},
		"Timeout":          {Timeout: -1},
		"InFlightTasksMax": {InFlightTasksMax: -1},
		"Token":            {Token: "line\nbreak"},
		"TokenFunc":        {Token: "a", TokenFunc: func(context.Context) (string, error) { return "", nil }},
		"TLS.CertFile":     {TLS: &codeq.TLS{CertFile: "only.pem"}},
		"TLS.CAFile":       {TLS: &codeq.TLS{CAFile: "/nowhere.pem"}},
	}
	for field, config := range refused {
		_, err := producer.New(config)
		var typed *codeq.Error
		if !errors.As(err, &typed) || typed.Reason != codeq.ErrInvalidArgument || typed.Violations[0].Field != field {
			t.Errorf("%s: got %v", field, err)
		}
	}
	bad := map[string]producer.Task{
		"payload": {Payload: math.Inf(1)},
		"delay":   {Delay: -time.Second},
		"expire":  {Expire: -time.Second},
		"command": {Command: "\xff"},
	}
	tasks := open(t, producer.Config{}, scripted.Start(t, scripted.Script{}))
	for field, task := range bad {
		results, err := tasks.CreateBatch(t.Context(), []producer.Task{task})
		var typed *codeq.Error
		if err != nil || !errors.As(results[0].Err, &typed) || typed.Violations[0].Field != field {
			t.Errorf("%s: got %v, %v", field, results, err)
		}
	}
	_, err := tasks.Create(t.Context(), "a", json.RawMessage(strings.Repeat("1", codeq.PayloadBytesMax+1)))
	if !errors.Is(err, codeq.ErrTooLarge) {
		t.Errorf("a large payload got %v", err)
	}
}

func TestTaskFieldsAreEncoded(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 6_000_000, time.UTC)
	task := producer.Task{
		Command: "a", Payload: map[string]string{"html": "<b>"}, Priority: 7, RunAt: at, Expire: 1500 * time.Millisecond,
		MaxAttempts: 3, TaskID: "own", Trace: codeq.Trace{Parent: "p", State: "s"},
	}
	spec, err := task.Spec()
	if err != nil {
		t.Fatal(err)
	}
	if string(spec.GetPayload()) != `{"html":"<b>"}` || spec.GetPriority() != 7 || !spec.GetRunAt().AsTime().Equal(at) ||
		spec.GetExpireSeconds() != 2 || spec.GetMaxAttempts() != 3 || spec.GetTaskId() != "own" ||
		spec.GetTraceparent() != "p" || spec.GetTracestate() != "s" || spec.DelaySeconds != nil || spec.IdempotencyKey != nil {
		t.Errorf("got %v", spec)
	}
	raw := producer.Task{Payload: json.RawMessage(` {"a":1e400} `), Delay: time.Millisecond}
	if spec, err = raw.Spec(); err != nil || string(spec.GetPayload()) != ` {"a":1e400} ` || spec.GetDelaySeconds() != 1 {
		t.Errorf("got %v, %v", spec, err)
	}
}

func TestFramesHoldWhatTheMessageEncodesTo(t *testing.T) {
	tasks := []producer.Task{
		{},
		{Command: "a", Payload: strings.Repeat("x", 100_000), Priority: -1, MaxAttempts: -5},
		{
			Command: "a", Payload: 1.5, Priority: 9, MaxAttempts: 3, RunAt: time.Unix(1, 2), Expire: time.Hour,
			IdempotencyKey: "k", Trace: codeq.Trace{Parent: "p", State: "s"},
		},
		{Command: "ü", Delay: time.Second, TaskID: "own"},
	}
	for _, task := range tasks {
		spec, err := task.Spec()
		if err != nil {
			t.Fatal(err)
		}
		encoded, err := producer.Encoded(task)
		if err != nil {
			t.Fatal(err)
		}
		var request codeqv1.ProduceRequest
		if err := proto.Unmarshal(encoded, &request); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(&request, &codeqv1.ProduceRequest{Tasks: []*codeqv1.TaskSpec{spec}}) {
			t.Errorf("got %v, want %v", request.GetTasks(), spec)
		}
	}
}

func TestCreateCarriesTheTraceOfItsContext(t *testing.T) {
	specs := make(chan *codeqv1.TaskSpec, 1)
	server := scripted.Start(t, scripted.Script{Produce: func(stream scripted.ProduceStream) error {
		if err := welcomed(stream, nil); err != nil {
			return err
		}
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		specs <- request.GetTasks()[0]
		if err := stream.Send(ackOf(request)); err != nil {
			return err
		}
		return acked(stream)
	}})
	ctx := codeq.ContextWithTrace(t.Context(), codeq.Trace{Parent: "00-1-2-01", State: "x=y"})
	if _, err := open(t, producer.Config{}, server).Create(ctx, "a", nil); err != nil {
		t.Fatal(err)
	}
	if spec := <-specs; spec.GetTraceparent() != "00-1-2-01" || spec.GetTracestate() != "x=y" {
		t.Errorf("got %v", spec)
	}
}

func TestMetricsSeeEachCreate(t *testing.T) {
	type seen struct {
		command string
		err     error
	}
	metrics := make(chan seen, 4)
	tasks := open(t, producer.Config{Metrics: codeq.Metrics{Created: func(command string, _ time.Duration, err error) {
		metrics <- seen{command, err}
	}}}, scripted.Start(t, scripted.Script{Produce: acking}))
	_, _ = tasks.Create(t.Context(), "a", nil)
	_, _ = tasks.Create(t.Context(), "b", func() {})
	if got := <-metrics; got.command != "a" || got.err != nil {
		t.Errorf("got %+v", got)
	}
	if got := <-metrics; got.command != "b" || !errors.Is(got.err, codeq.ErrInvalidArgument) {
		t.Errorf("got %+v", got)
	}
}
