package codeqtest_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	"github.com/osvaldoandrade/codeq/sdks/go/client"
	"github.com/osvaldoandrade/codeq/sdks/go/codeqtest"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/producer"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

type order struct {
	ID string `json:"id"`
}

type receipt struct {
	Shipped string `json:"shipped"`
}

func TestTaskIsCreatedWorkedOnAndItsResultDecoded(t *testing.T) {
	server := codeqtest.Start(t)
	orders := server.Worker(t, worker.Config{})
	worker.Handle(orders, "order", func(_ context.Context, task worker.Task[order]) (receipt, error) {
		return receipt{Shipped: task.Payload.ID}, nil
	})
	codeqtest.Run(t, orders)
	tasks := server.Producer(t, producer.Config{})
	got, err := producer.Call[receipt](t.Context(), tasks, "order", order{ID: "42"}, producer.Priority(5))
	if err != nil || got.Shipped != "42" {
		t.Fatalf("got %+v, %v", got, err)
	}
}

func TestClientReadsWhatTheProducerCreated(t *testing.T) {
	server := codeqtest.Start(t)
	id, err := server.Producer(t, producer.Config{}).Create(t.Context(), "order", order{ID: "7"}, producer.TaskID("seven"))
	if err != nil || id != "seven" {
		t.Fatalf("got %q, %v", id, err)
	}
	calls := server.Client(t, client.Config{})
	task, err := calls.Get(t.Context(), id)
	if err != nil || task.Status != codeq.StatusPending || string(task.Payload) != `{"id":"7"}` {
		t.Errorf("got %+v, %v", task, err)
	}
	_, err = calls.Get(t.Context(), "nowhere")
	if !errors.Is(err, codeq.ErrTaskNotFound) {
		t.Errorf("got %v, want TASK_NOT_FOUND", err)
	}
}

func TestNothingIsLeftAfterClose(t *testing.T) {
	server := codeqtest.Start(t)
	before := runtime.NumGoroutine()
	for range 3 {
		tasks, err := producer.New(producer.Config{Addresses: []string{server.ProducerAddr}, Token: codeqtest.Token})
		if err != nil {
			t.Fatal(err)
		}
		calls, err := client.New(client.Config{Addresses: []string{server.ProducerAddr}, Token: codeqtest.Token})
		if err != nil {
			t.Fatal(err)
		}
		work := server.Worker(t, worker.Config{})
		worker.Handle(work, "order", func(_ context.Context, task worker.Task[order]) (receipt, error) {
			return receipt{Shipped: task.Payload.ID}, nil
		})
		stop := codeqtest.Run(t, work)
		if _, err := tasks.CreateAndWait(t.Context(), "order", order{ID: "1"}); err != nil {
			t.Fatal(err)
		}
		if _, err := calls.ServerInfo(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop()
		_, _ = tasks.Close(), calls.Close()
	}
	late := time.After(10 * time.Second)
	for runtime.NumGoroutine() > before {
		select {
		case <-late:
			stacks := make([]byte, 1<<16)
			t.Fatalf("%d goroutines became %d:\n%s", before, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
		default:
			runtime.Gosched()
		}
	}
}

func TestCreateWithKeySurvivesARestart(t *testing.T) {
	server := codeqtest.Start(t)
	tasks := server.Producer(t, producer.Config{RequestKeys: true})
	if _, err := tasks.Create(t.Context(), "order", nil); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	created := make(chan error, 1)
	go func() {
		_, err := tasks.Create(t.Context(), "order", nil)
		created <- err
	}()
	server.Restart()
	select {
	case err := <-created:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the create did not end")
	}
}

func TestPolicyLimitsItsQueueUntilItIsDeleted(t *testing.T) {
	calls := codeqtest.Start(t).Client(t, client.Config{})
	policy := &codeqv1.QueuePolicy{PriorityTiers: []int32{5, 1}, MaxAttempts: proto.Int32(3)}
	put, err := calls.PutTopic(t.Context(), "order", policy, "")
	if err != nil || put.GetVersion() != 1 || !put.GetCreated() || put.GetPolicy().GetPriorityTiers()[0] != 1 {
		t.Fatalf("got %v, %v", put, err)
	}
	if _, err := calls.Create(t.Context(), producer.Task{Command: "order", Priority: 2}); !errors.Is(err, codeq.ErrPolicyViolation) {
		t.Errorf("a priority without a tier got %v", err)
	}
	task, err := calls.Create(t.Context(), producer.Task{Command: "order", Priority: 5})
	if err != nil || task.MaxAttempts != 3 {
		t.Errorf("got %+v, %v", task, err)
	}
	policy.PriorityTiers = []int32{12}
	if _, err := calls.PutTopic(t.Context(), "order", policy, ""); err == nil {
		t.Error("a priority over 9 was accepted")
	}
	for topic, err := range calls.Topics(t.Context(), "") {
		if err != nil || topic.GetTopicName() != "order" {
			t.Errorf("got %v, %v", topic, err)
		}
	}
	for range 2 {
		if err := calls.DeleteTopic(t.Context(), "order", ""); err != nil {
			t.Error(err)
		}
	}
	if _, err := calls.Topic(t.Context(), "order", ""); !errors.Is(err, codeq.ErrTopicNotFound) {
		t.Errorf("got %v, want TOPIC_NOT_FOUND", err)
	}
}

func TestScheduleIsDefinedFiredAndDeleted(t *testing.T) {
	calls := codeqtest.Start(t).Client(t, client.Config{})
	spec := &codeqv1.ScheduleSpec{
		Cron: proto.String("0 6 * * *"), TimeZone: "Europe/Berlin", Command: "report", Payload: []byte(`{"at":"{{scheduledAt}}"}`),
	}
	put, err := calls.PutSchedule(t.Context(), "daily", spec, "")
	if err != nil || len(put.GetNext()) != 10 {
		t.Fatalf("got %v, %v", put, err)
	}
	if paused, err := calls.PauseSchedule(t.Context(), "daily", ""); err != nil || !paused.GetSpec().GetPaused() {
		t.Errorf("got %v, %v", paused, err)
	}
	fire, err := calls.TriggerSchedule(t.Context(), "daily", "")
	if err != nil || fire.GetKind() != codeqv1.ScheduleFireKind_SCHEDULE_FIRE_KIND_TRIGGER {
		t.Fatalf("got %v, %v", fire, err)
	}
	if task, err := calls.Get(t.Context(), fire.GetTaskId()); err != nil || task.Command != "report" {
		t.Errorf("got %+v, %v", task, err)
	}
	if resumed, err := calls.ResumeSchedule(t.Context(), "daily", ""); err != nil || resumed.GetSpec().GetPaused() {
		t.Errorf("got %v, %v", resumed, err)
	}
	from := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	filled, err := calls.BackfillSchedule(t.Context(), "daily", from, from.AddDate(0, 0, 3), "")
	if err != nil || len(filled.GetFires()) != 3 {
		t.Errorf("got %v, %v", filled, err)
	}
	if fires, err := calls.ScheduleHistory(t.Context(), "daily", ""); err != nil || len(fires) != 4 {
		t.Errorf("got %v, %v", fires, err)
	}
	if again, err := calls.RecomputeSchedule(t.Context(), "daily", ""); err != nil || again.GetMoved() {
		t.Errorf("got %v, %v", again, err)
	}
	for schedule, err := range calls.Schedules(t.Context(), "") {
		if err != nil || schedule.GetName() != "daily" {
			t.Errorf("got %v, %v", schedule, err)
		}
	}
	if err := calls.DeleteSchedule(t.Context(), "daily", ""); err != nil {
		t.Error(err)
	}
	if _, err := calls.Schedule(t.Context(), "daily", ""); !errors.Is(err, codeq.ErrScheduleNotFound) {
		t.Errorf("got %v, want SCHEDULE_NOT_FOUND", err)
	}
}
