package codeqtest_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	"github.com/osvaldoandrade/codeq/sdks/go/client"
	"github.com/osvaldoandrade/codeq/sdks/go/codeqtest"
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
