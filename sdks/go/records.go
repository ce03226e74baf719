package codeq

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

// Status is the state of a task.
type Status string

// States of tasks.
const (
	// StatusPending tasks wait in their queue.
	StatusPending Status = "PENDING"
	// StatusScheduled tasks wait for their due time.
	StatusScheduled Status = "SCHEDULED"
	// StatusClaimed tasks are leased to a worker.
	StatusClaimed Status = "CLAIMED"
	// StatusCompleted tasks were completed by a worker.
	StatusCompleted Status = "COMPLETED"
	// StatusFailed tasks were failed by a worker, or expired while they waited.
	StatusFailed Status = "FAILED"
	// StatusDLQ tasks are in the dead-letter queue.
	StatusDLQ Status = "DLQ"
	// StatusCancelled tasks were cancelled or purged.
	StatusCancelled Status = "CANCELLED"
)

// Task is a task as the server stores it. Times that do not apply are zero.
type Task struct {
	// ID is unique within the tenant.
	ID string
	// Command is the name of the queue.
	Command string
	// Payload is JSON, byte for byte as created.
	Payload json.RawMessage
	// Priority is 0 to 9; the highest is delivered first.
	Priority int
	// Status is the state.
	Status Status
	// Tenant is the task's tenant.
	Tenant string
	// Attempts is the number of deliveries so far.
	Attempts int
	// MaxAttempts is the number of deliveries after which the task goes to the dead-letter queue.
	MaxAttempts int
	// Duplicate reports that an earlier request created the task; only in replies to creates.
	Duplicate bool
	// WorkerID is the worker that holds the task, or that ended it.
	WorkerID string
	// LeaseToken fences outcomes; 0 unless the task is claimed.
	LeaseToken uint64
	// LeaseUntil is the end of the lease.
	LeaseUntil time.Time
	// RunAt is the earliest time of the next delivery, while the task is scheduled.
	RunAt time.Time
	// ExpireAt is the time at which the task expires if it is still waiting.
	ExpireAt time.Time
	// CreatedAt is the time of acceptance.
	CreatedAt time.Time
	// UpdatedAt is the time of the last change of state.
	UpdatedAt time.Time
	// FinishedAt is the time at which the task ended.
	FinishedAt time.Time
	// Error is the error of the latest failure; empty if there is none.
	Error string
	// Progress is the progress that a worker reported last; nil if none did.
	Progress json.RawMessage
	// Trace is the trace context of the producer.
	Trace Trace
	// Webhook is the URL to which the end of the task is reported; empty if there is none.
	Webhook string
	// OriginTaskID is the dead letter for which the server created the task, as a policy says; empty if there is none.
	OriginTaskID string
	// OriginCommand is the command of that dead letter.
	OriginCommand string
	// ConcurrencyKey is the key that limits how many tasks run at a time; empty: none.
	ConcurrencyKey string
	// RateKey is the key that limits how fast tasks are delivered; empty: none.
	RateKey string
	// OrderingKey is the key that keeps tasks in order; empty: none.
	OrderingKey string
	// History are the last ten ended deliveries, oldest first; only from Client.Get.
	History []Attempt
}

// Attempt is a delivery that has ended.
type Attempt struct {
	// WorkerID is the worker that had the task.
	WorkerID string
	// StartedAt is the time of the delivery.
	StartedAt time.Time
	// EndedAt is the time at which the delivery ended.
	EndedAt time.Time
	// End is COMPLETED, FAILED, NACKED, ABANDONED, LEASE_EXPIRED, RETURNED or CANCELLED.
	End string
	// Error is the error of a failure or the reason of a nack, cut to 512 characters.
	Error string
}

// TaskResult says how a task ended.
type TaskResult struct {
	// TaskID is the id of the task.
	TaskID string
	// Status is COMPLETED, FAILED, DLQ or CANCELLED.
	Status Status
	// Result is JSON, byte for byte as the worker sent it; nil if it sent none.
	Result json.RawMessage
	// Error is the error of a task that was not completed.
	Error string
	// CompletedAt is the time at which the task ended, whatever its status.
	CompletedAt time.Time
	// Artifacts are the files of the result.
	Artifacts []Artifact
}

// Artifact is a file attached to a result.
type Artifact struct {
	// Name is unique within the result.
	Name string
	// URL is the location of content that the server does not store; empty if it does.
	URL string
	// Size is the size of the stored content in bytes.
	Size int64
	// ContentType is the media type; empty if the worker sent none.
	ContentType string
	// SHA256 is the checksum of the stored content in hexadecimal.
	SHA256 string
}

// TaskError is the error of a task that ended without being completed.
type TaskError struct {
	// Result says how the task ended.
	Result *TaskResult
}

// Error returns the status, the id and the task's own error.
func (e *TaskError) Error() string {
	return fmt.Sprintf("task %s is %s: %s", e.Result.TaskID, e.Result.Status, e.Result.Error)
}

// Decode decodes the result into a value. A task that was not completed gives a *TaskError; a missing result leaves the
// value as it is.
func (r *TaskResult) Decode(into any) error {
	if r.Status != StatusCompleted {
		return &TaskError{Result: r}
	}
	if r.Result == nil {
		return nil
	}
	return json.Unmarshal(r.Result, into)
}

// Decode decodes the payload into a value.
func (t *Task) Decode(into any) error { return json.Unmarshal(t.Payload, into) }

// TaskOf returns the task in a message of the server; nil for nil.
func TaskOf(message *codeqv1.Task) *Task {
	if message == nil {
		return nil
	}
	task := &Task{
		ID: message.GetId(), Command: message.GetCommand(), Payload: payloadOf(message.GetPayload()),
		Priority: int(message.GetPriority()), Status: statusOf(message.GetStatus()), Tenant: message.GetTenantId(),
		Attempts: int(message.GetAttempts()), MaxAttempts: int(message.GetMaxAttempts()), Duplicate: message.GetDuplicate(),
		WorkerID: message.GetWorkerId(), LeaseToken: message.GetLeaseToken(), LeaseUntil: timeOf(message.GetLeaseUntil()),
		RunAt: timeOf(message.GetRunAt()), ExpireAt: timeOf(message.GetExpireAt()), CreatedAt: timeOf(message.GetCreatedAt()),
		UpdatedAt: timeOf(message.GetUpdatedAt()), FinishedAt: timeOf(message.GetFinishedAt()), Error: message.GetError(),
		Progress: message.GetProgress(),
		Trace:    Trace{Parent: message.GetTraceparent(), State: message.GetTracestate()}, Webhook: message.GetWebhook(),
		OriginTaskID: message.GetOriginTaskId(), OriginCommand: message.GetOriginCommand(),
		ConcurrencyKey: message.GetConcurrencyKey(), RateKey: message.GetRateKey(), OrderingKey: message.GetOrderingKey(),
	}
	for _, each := range message.GetAttemptHistory() {
		task.History = append(task.History, Attempt{
			WorkerID: each.GetWorkerId(), StartedAt: timeOf(each.GetStartedAt()), EndedAt: timeOf(each.GetEndedAt()),
			End: strings.TrimPrefix(each.GetEnd().String(), "ATTEMPT_END_"), Error: each.GetError(),
		})
	}
	return task
}

// ResultOf returns the result record in a message of the server; nil for nil.
func ResultOf(message *codeqv1.TaskResult) *TaskResult {
	if message == nil {
		return nil
	}
	result := &TaskResult{
		TaskID: message.GetTaskId(), Status: statusOf(message.GetStatus()), Result: message.GetResult(),
		Error: message.GetError(), CompletedAt: timeOf(message.GetCompletedAt()),
	}
	for _, each := range message.GetArtifacts() {
		result.Artifacts = append(result.Artifacts, Artifact{
			Name: each.GetName(), URL: each.GetUrl(), Size: each.GetSize(), ContentType: each.GetContentType(),
			SHA256: each.GetSha256(),
		})
	}
	return result
}

// EncodeJSON returns a value as JSON: json.RawMessage and []byte byte for byte, everything else as encoding/json has it
// but without escapes for HTML. Its errors are *Error and name the field.
func EncodeJSON(value any, field string) ([]byte, error) {
	return encodeJSON(value, field, PayloadBytesMax)
}

// encoderBytesMax is the size of the buffer up to which an encoder is kept.
const encoderBytesMax = 64 << 10

// EncodeProgress returns a progress value as JSON.
func EncodeProgress(value any) ([]byte, error) {
	return encodeJSON(value, "progress", ProgressBytesMax)
}

func encodeJSON(value any, field string, bytesMax int) ([]byte, error) {
	var data []byte
	switch value := value.(type) {
	case json.RawMessage:
		data = value
	case []byte:
		data = value
	default:
		var err error
		if data, err = marshal(value); err != nil {
			invalid := Invalid(field, "not JSON: "+err.Error())
			invalid.Cause = err
			return nil, invalid
		}
	}
	if len(data) > bytesMax {
		err := Invalid(field, fmt.Sprintf("has %d bytes; the limit is %d", len(data), bytesMax))
		err.Reason = ErrTooLarge
		return nil, err
	}
	return data, nil
}

// encoders are encoders that wait to be used again. One that failed or panicked is dropped.
var encoders = sync.Pool{New: func() any {
	made := &encoder{}
	made.Encoder = json.NewEncoder(&made.text)
	made.SetEscapeHTML(false)
	return made
}}

type encoder struct {
	*json.Encoder
	text bytes.Buffer
}

func marshal(value any) ([]byte, error) {
	used := encoders.Get().(*encoder)
	if err := used.Encode(value); err != nil {
		return nil, err
	}
	data := bytes.Clone(bytes.TrimSuffix(used.text.Bytes(), []byte("\n")))
	if used.text.Cap() <= encoderBytesMax {
		used.text.Reset()
		encoders.Put(used)
	}
	return data, nil
}

// AsTaskError returns the error of a task that ended without being completed, if err is one.
func AsTaskError(err error) (*TaskError, bool) {
	var typed *TaskError
	is := errors.As(err, &typed)
	return typed, is
}

func payloadOf(data []byte) json.RawMessage {
	if len(data) == 0 {
		return json.RawMessage("null")
	}
	return data
}

func statusOf(status codeqv1.TaskStatus) Status {
	return Status(strings.TrimPrefix(status.String(), "TASK_STATUS_"))
}

func timeOf(at *timestamppb.Timestamp) time.Time {
	if at == nil {
		return time.Time{}
	}
	return at.AsTime()
}
