package producerclient_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
	"github.com/osvaldoandrade/codeq/sdks/go/producerclient"
)

// serve answers each task with its command as the id.
func serve(t *testing.T) *scripted.Server {
	t.Helper()
	return scripted.Start(t, scripted.Script{Produce: func(stream scripted.ProduceStream) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := stream.Send(scripted.ProducerWelcome()); err != nil {
			return err
		}
		for {
			request, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			ack := &codeqv1.FrameAck{}
			for _, task := range request.GetTasks() {
				ack.TaskIds = append(ack.TaskIds, task.GetCommand()+string(task.GetPayload()))
			}
			if err := stream.Send(&codeqv1.ProduceResponse{Acks: []*codeqv1.FrameAck{ack}}); err != nil {
				return err
			}
		}
	}})
}

// TestSnippetOfTheDocuments is the program of the documents with another import path and another address.
func TestSnippetOfTheDocuments(t *testing.T) {
	ctx, producerToken := context.Background(), "token"

	cli, _ := producerclient.New(producerclient.Config{
		Addr:  serve(t).Addr,
		Token: producerToken,
	})
	defer cli.Close()
	sess, _ := cli.Connect(context.Background())
	defer sess.Close()
	taskID, _ := sess.Produce(ctx, producerclient.CreateRequest{
		Command:  "GENERATE_MASTER",
		Payload:  []byte(`{"jobId":"j-123"}`),
		Priority: 3,
	})

	if taskID != `GENERATE_MASTER{"jobId":"j-123"}` {
		t.Errorf("the id is %q", taskID)
	}
}

func connect(t *testing.T, ctx context.Context) (*producerclient.Client, *producerclient.Session) {
	t.Helper()
	cli, err := producerclient.New(producerclient.Config{Addr: serve(t).Addr, Token: "token"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	session, err := cli.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return cli, session
}

func TestSessionKnowsItsTenant(t *testing.T) {
	_, session := connect(t, t.Context())
	if session.TenantID() != "acme" || session.Subject() != "tester" {
		t.Errorf("got %q and %q", session.TenantID(), session.Subject())
	}
}

func TestBatchAnswersInOrderAndNamesUnsupportedFields(t *testing.T) {
	_, session := connect(t, t.Context())
	results, err := session.ProduceBatch(t.Context(), []producerclient.CreateRequest{
		{Command: "a"}, {Command: "b", Webhook: "https://example.com"}, {Command: "c"},
	})
	if err != nil || results[0].TaskID != "anull" || results[2].TaskID != "cnull" {
		t.Fatalf("got %v, %v", results, err)
	}
	if !errors.Is(results[1].Err, codeq.ErrInvalidArgument) || !strings.Contains(results[1].Err.Error(), "Webhook") {
		t.Errorf("the webhook got %v", results[1].Err)
	}
	if results, err := session.ProduceBatch(t.Context(), nil); results != nil || err != nil {
		t.Errorf("an empty batch got %v, %v", results, err)
	}
}

func TestClosedSessionsRefuseCalls(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cli, session := connect(t, ctx)
	other, err := cli.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	scripted.Eventually(t, func() bool {
		_, err := session.Produce(t.Context(), producerclient.CreateRequest{Command: "a"})
		return errors.Is(err, producerclient.ErrClosed)
	}, "end of the session with its context")
	if _, err := other.Produce(t.Context(), producerclient.CreateRequest{Command: "a"}); err != nil {
		t.Errorf("another session got %v", err)
	}
	_ = cli.Close()
	if _, err := other.Produce(t.Context(), producerclient.CreateRequest{Command: "a"}); !errors.Is(err, producerclient.ErrClosed) {
		t.Errorf("after Close a session got %v", err)
	}
	if _, err := cli.Connect(t.Context()); !errors.Is(err, producerclient.ErrClosed) {
		t.Errorf("after Close connecting got %v", err)
	}
}

func TestRequiredSettings(t *testing.T) {
	for config, want := range map[*producerclient.Config]string{
		{Token: "t"}:             "Addr is required",
		{Addr: "localhost:9092"}: "Token is required",
	} {
		if _, err := producerclient.New(*config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
