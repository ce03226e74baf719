package client_test

import (
	"context"
	"errors"
	"math"
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

func TestTasksWithoutARequestAreAllTasks(t *testing.T) {
	server := scripted.Start(t, only("ListTasks", func(_ context.Context, _ string, request proto.Message) (proto.Message, error) {
		if request.(*codeqv1.ListTasksRequest).GetPageToken() == "" {
			return &codeqv1.ListTasksResponse{Tasks: []*codeqv1.Task{{Id: "x"}}, NextPageToken: "next"}, nil
		}
		return &codeqv1.ListTasksResponse{Tasks: []*codeqv1.Task{{Id: "y"}}}, nil
	}))
	var ids string
	for task, err := range open(t, client.Config{}, server).Tasks(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		ids += task.ID
	}
	if ids != "xy" {
		t.Errorf("got %q", ids)
	}
}

func TestTaskThatCannotBeSentFailsAloneAndNamesItsField(t *testing.T) {
	server := scripted.Start(t, only("BatchCreateTasks", func(_ context.Context, _ string, request proto.Message) (proto.Message, error) {
		reply := &codeqv1.BatchCreateTasksResponse{}
		for _, spec := range request.(*codeqv1.BatchCreateTasksRequest).GetTasks() {
			reply.Results = append(reply.Results, &codeqv1.CreateTaskAnswer{Task: &codeqv1.Task{Id: spec.GetCommand()}})
		}
		return reply, nil
	}))
	calls := open(t, client.Config{}, server)
	given := []producer.Task{{Command: "a"}, {Command: "b", Payload: math.NaN()}, {Command: "\xff"}, {Command: "d"}}
	created, err := calls.CreateBatch(t.Context(), given)
	if err != nil || len(created) != 4 {
		t.Fatalf("got %v, %v", created, err)
	}
	for index, field := range []string{"", "payload", "command", ""} {
		var typed *codeq.Error
		switch one := created[index]; {
		case field == "" && (one.Err != nil || one.Task.ID != given[index].Command):
			t.Errorf("task %d: got %+v", index, one)
		case field != "" && (!errors.As(one.Err, &typed) || typed.Violations[0].Field != field || one.Task != nil):
			t.Errorf("task %d: got %+v", index, one)
		}
	}
	_, err = calls.CreateAtomic(t.Context(), given, "")
	var typed *codeq.Error
	if !errors.As(err, &typed) || typed.Violations[0].Field != "tasks[1].payload" {
		t.Errorf("all or none: got %v", err)
	}
}

func TestCloseEndsCallsThatWaitForAToken(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	calls := open(t, client.Config{TokenFunc: func(context.Context) (string, error) {
		close(asked)
		<-release
		return "", nil
	}}, scripted.Start(t, only("GetTask", found)))
	ended := make(chan error, 1)
	go func() {
		_, err := calls.Get(t.Context(), "x")
		ended <- err
	}()
	scripted.Receive(t, asked, "request for a token")
	_ = calls.Close()
	if err := scripted.Receive(t, ended, "end of the call"); !errors.Is(err, codeq.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestWaitThatEndsAtTheServerNamesItsTask(t *testing.T) {
	server := scripted.Start(t, only("GetTaskResult", func(context.Context, string, proto.Message) (proto.Message, error) {
		return nil, scripted.Failure(codes.DeadlineExceeded, "DEADLINE_EXCEEDED")
	}))
	tasks, err := producer.New(producer.Config{Addresses: []string{server.Addr}, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tasks.Close() })
	_, err = tasks.Wait(t.Context(), "x")
	var typed *codeq.Error
	if !errors.As(err, &typed) || !errors.Is(err, codeq.ErrDeadlineExceeded) || typed.Metadata["taskId"] != "x" {
		t.Errorf("got %v", err)
	}
}
