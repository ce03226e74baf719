package producerclient

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	"github.com/osvaldoandrade/codeq/sdks/go/producer"
)

// CreateRequest is a task to create.
type CreateRequest struct {
	// Command is the name of the queue.
	Command string
	// Payload is JSON, sent byte for byte. Empty: null.
	Payload []byte
	// Priority is 0 to 9; tasks with the highest priority are delivered first.
	Priority int
	// Webhook must be empty: the server does not call back.
	Webhook string
	// MaxAttempts is the number of deliveries after which the task goes to the dead-letter queue. 0: the server's default.
	MaxAttempts int
	// IdempotencyKey makes repeated creates return the same task. Empty: none.
	IdempotencyKey string
	// RunAt is the time of the earliest delivery. Zero: at once.
	RunAt time.Time
	// DelaySeconds is the time before the first delivery. Cannot be combined with RunAt.
	DelaySeconds int
	// TraceParent is the W3C traceparent that travels with the task. Empty: none.
	TraceParent string
	// TraceState is the W3C tracestate that travels with the task. Empty: none.
	TraceState string
}

func (r CreateRequest) task() (producer.Task, error) {
	if r.Webhook != "" {
		return producer.Task{}, codeq.Invalid("Webhook", "is not supported: the server does not call back")
	}
	task := producer.Task{
		Command: r.Command, Priority: r.Priority, MaxAttempts: r.MaxAttempts, IdempotencyKey: r.IdempotencyKey,
		RunAt: r.RunAt, Delay: time.Duration(r.DelaySeconds) * time.Second,
		Trace: codeq.Trace{Parent: r.TraceParent, State: r.TraceState},
	}
	if len(r.Payload) > 0 {
		task.Payload = json.RawMessage(r.Payload)
	}
	return task, nil
}

// BatchResult is the answer to one task of a batch.
type BatchResult struct {
	// TaskID is the id of the task; empty if Err is set.
	TaskID string
	// Err is why the task was not created; nil if it was.
	Err error
}

// Session creates tasks over one stream at a time, and opens another one when that breaks. It is safe for concurrent use.
type Session struct {
	client   *Client
	producer *producer.Producer
	identity producer.Identity
	ctx      context.Context
	cancel   context.CancelFunc
	once     sync.Once
	closed   chan struct{}
}

// TenantID returns the tenant of the token.
func (s *Session) TenantID() string { return s.identity.Tenant }

// Subject returns the subject of the token.
func (s *Session) Subject() string { return s.identity.Subject }

// Produce creates a task and returns its id once the task is durable. When ctx ends, it returns at once; the task may then
// exist.
func (s *Session) Produce(ctx context.Context, request CreateRequest) (string, error) {
	task, err := request.task()
	if err != nil {
		return "", err
	}
	id, err := s.producer.Create(ctx, task.Command, task.Payload, func(made *producer.Task) { *made = task })
	return id, s.told(err)
}

// ProduceBatch creates tasks; each succeeds or fails on its own, and the results are in the order of the requests. When ctx
// ends, the tasks that are not answered have its error.
func (s *Session) ProduceBatch(ctx context.Context, requests []CreateRequest) ([]BatchResult, error) {
	if len(requests) == 0 {
		return nil, nil
	}
	results := make([]BatchResult, len(requests))
	tasks := make([]producer.Task, 0, len(requests))
	places := make([]int, 0, len(requests))
	for index, request := range requests {
		task, err := request.task()
		if err != nil {
			results[index].Err = err
			continue
		}
		tasks, places = append(tasks, task), append(places, index)
	}
	answers, err := s.producer.CreateBatch(ctx, tasks)
	if err != nil {
		return nil, s.told(err)
	}
	for number, answer := range answers {
		results[places[number]] = BatchResult{TaskID: answer.ID, Err: s.told(answer.Err)}
	}
	return results, ctx.Err()
}

// Close waits for the creates in flight and ends the session. It may be called several times.
func (s *Session) Close() error {
	s.once.Do(func() {
		s.cancel()
		_ = s.producer.Close()
		s.client.forget(s)
		close(s.closed)
	})
	<-s.closed
	return nil
}

func (s *Session) told(err error) error {
	if errors.Is(err, codeq.ErrClosed) {
		return ErrClosed
	}
	return err
}
