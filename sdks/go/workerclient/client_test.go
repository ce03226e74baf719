package workerclient_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
	"github.com/osvaldoandrade/codeq/sdks/go/workerclient"
)

// serve delivers these tasks over one stream, and passes the outcomes on.
func serve(t *testing.T, outcomes chan<- *codeqv1.Outcome, ids ...string) *scripted.Server {
	t.Helper()
	return scripted.Start(t, scripted.Script{Work: func(stream scripted.WorkStream) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		response := scripted.WorkerWelcome(60)
		for number, id := range ids {
			token := uint64(number + 1)
			response.Tasks = append(response.Tasks, &codeqv1.Task{
				Id: id, Command: "a", Payload: []byte(`{"n":1}`), LeaseToken: &token, Attempts: 1, MaxAttempts: 5,
			})
		}
		if err := stream.Send(response); err != nil {
			return err
		}
		for {
			request, err := stream.Recv()
			if err != nil {
				return nil
			}
			for _, outcome := range request.GetOutcomes() {
				outcomes <- outcome
			}
			if count := len(request.GetOutcomes()); count > 0 {
				if err := stream.Send(&codeqv1.WorkResponse{Settled: uint32(count)}); err != nil {
					return err
				}
			}
		}
	}})
}

func TestResultsBecomeOutcomes(t *testing.T) {
	outcomes := make(chan *codeqv1.Outcome, 8)
	server := serve(t, outcomes, "completed", "empty", "zero", "failed", "nacked", "abandoned")
	cli, err := workerclient.New(workerclient.Config{Addr: server.Addr, Token: "token", Concurrency: 2, BatchSize: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cli.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- cli.Run(ctx, func(_ context.Context, task workerclient.Task) workerclient.Result {
			if task.TenantID != "acme" || string(task.Payload) != `{"n":1}` || task.MaxAttempts != 5 {
				return workerclient.Failed("the task is incomplete")
			}
			switch task.ID {
			case "completed":
				return workerclient.Completed(map[string]any{"ok": true})
			case "empty":
				return workerclient.Completed(nil)
			case "failed":
				return workerclient.Failed("broken")
			case "nacked":
				return workerclient.Nack(-5, "busy")
			case "abandoned":
				return workerclient.Abandon()
			default:
				return workerclient.Result{}
			}
		})
	}()
	got := map[string]*codeqv1.Outcome{}
	for range 6 {
		outcome := scripted.Receive(t, outcomes, "outcome")
		got[outcome.GetTaskId()] = outcome
	}
	if string(got["completed"].GetResult()) != `{"ok":true}` || got["empty"].Result != nil || got["zero"].Result != nil ||
		got["zero"].GetKind() != codeqv1.OutcomeKind_OUTCOME_KIND_COMPLETED {
		t.Errorf("completed: %v, %v, %v", got["completed"], got["empty"], got["zero"])
	}
	if got["failed"].GetKind() != codeqv1.OutcomeKind_OUTCOME_KIND_FAILED || got["failed"].GetError() != "broken" {
		t.Errorf("failed: %v", got["failed"])
	}
	if nacked := got["nacked"]; nacked.GetKind() != codeqv1.OutcomeKind_OUTCOME_KIND_NACK || nacked.DelaySeconds == nil || nacked.GetDelaySeconds() != 0 {
		t.Errorf("nacked: %v", nacked)
	}
	if got["abandoned"].GetKind() != codeqv1.OutcomeKind_OUTCOME_KIND_ABANDON {
		t.Errorf("abandoned: %v", got["abandoned"])
	}
	cancel()
	if err := scripted.Receive(t, ended, "end of Run"); !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v", err)
	}
}

func TestCloseEndsRun(t *testing.T) {
	outcomes := make(chan *codeqv1.Outcome, 1)
	cli, err := workerclient.New(workerclient.Config{Addr: serve(t, outcomes, "x").Addr, Token: "token"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	handle := func(context.Context, workerclient.Task) workerclient.Result { return workerclient.Completed(nil) }
	go func() { ended <- cli.Run(t.Context(), handle) }()
	scripted.Receive(t, outcomes, "outcome")
	_ = cli.Close()
	if err := scripted.Receive(t, ended, "end of Run"); err != nil {
		t.Errorf("Run returned %v", err)
	}
	if err := cli.Run(t.Context(), handle); err == nil {
		t.Error("a closed client ran")
	}
}

func TestRequiredSettings(t *testing.T) {
	if _, err := workerclient.New(workerclient.Config{Token: "t"}); err == nil || !strings.Contains(err.Error(), "Addr is required") {
		t.Errorf("got %v", err)
	}
	if _, err := workerclient.New(workerclient.Config{Addr: "a:1"}); err == nil || !strings.Contains(err.Error(), "Token is required") {
		t.Errorf("got %v", err)
	}
}
