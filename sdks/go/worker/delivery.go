package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

// Delivery is a task that was delivered to the worker. Its methods are safe for concurrent use.
type Delivery struct {
	// ID is the id of the task.
	ID string
	// Command is the name of the queue.
	Command string
	// RawPayload is the payload as JSON, byte for byte as created. It must not be changed.
	RawPayload json.RawMessage
	// Priority is 0 to 9.
	Priority int
	// Attempts is the number of deliveries so far, including this one.
	Attempts int
	// MaxAttempts is the number of deliveries after which the task goes to the dead-letter queue.
	MaxAttempts int
	// CreatedAt is the time of acceptance.
	CreatedAt time.Time
	// LeaseToken fences the outcome of this delivery: it grows with each delivery of the task.
	LeaseToken uint64
	// Tenant is the tenant of the worker's token.
	Tenant string
	// WorkerID is the id by which the server knows the worker.
	WorkerID string
	// Trace is the trace context of the producer.
	Trace codeq.Trace
	// ConcurrencyKey is the key that limits how many tasks run at a time; empty: none.
	ConcurrencyKey string
	// RateKey is the key that limits how fast tasks are delivered; empty: none.
	RateKey string
	// OrderingKey is the key that keeps tasks in order; empty: none.
	OrderingKey string

	branch  *branch
	handler *handler
	bytes   int64
	// goroutine is the number of the goroutine that runs the handler; 0 before it starts.
	goroutine atomic.Uint64

	mu        sync.Mutex
	artifacts []Artifact

	// The mutex of the run guards the fields below.
	previous, next *Delivery // in the order of renewAt
	isHeld         bool
	isWaiting      bool // beyond the handler's limit
	isOver         bool
	isDue          bool
	isReporting    bool  // progress is to be sent
	ending         error // why the handler's context was cancelled; nil if it was not
	renewAt        time.Time
	renewedAt      time.Time // when the latest renewal was sent
	leaseEnd       time.Time // by the clock of this machine
	leaseUntil     time.Time // by the clock of the server
	progress       []byte    // the last value reported; nil if there is none
	cancel         context.CancelCauseFunc
	stuck          *time.Timer
}

// Artifact is a file attached to a result: either its content, which the server stores, or a URL.
type Artifact struct {
	// Name is unique within the result: 1 to 128 characters except slashes and control characters.
	Name string
	// Content is stored by the server; by default at most 4 MiB, and 6 MiB for all artifacts of a result.
	Content []byte
	// URL is the location of content that the server does not store. Cannot be combined with Content.
	URL string
	// ContentType is the media type, such as image/png. Empty: application/octet-stream.
	ContentType string
}

func (a Artifact) message() *codeqv1.NewArtifact {
	message := &codeqv1.NewArtifact{Name: a.Name, Url: a.URL, ContentType: a.ContentType}
	if a.URL == "" {
		message.Content = a.Content
		if message.Content == nil {
			message.Content = []byte{}
		}
	}
	return message
}

// Attach adds a file to the result of the task, or to its error if it fails for good. Its content must not be changed
// afterwards.
func (d *Delivery) Attach(artifact Artifact) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.artifacts = append(d.artifacts, artifact)
}

func (d *Delivery) attached() []Artifact {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.artifacts
}

// Progress reports the progress of the task: at most 64 KiB as JSON. A later value replaces an earlier one, and the last
// one reaches the server before the outcome. It returns at once; the error is ErrLeaseLost, ErrCancelled or ErrShutdown if
// the task is no longer the worker's, INVALID_ARGUMENT or TOO_LARGE.
func (d *Delivery) Progress(value any) error {
	data, err := codeq.EncodeProgress(value)
	if err != nil {
		return err
	}
	switch value.(type) {
	case json.RawMessage, []byte: // the handler may change its bytes before they are sent
		data = bytes.Clone(data)
	}
	return d.branch.report(d, data)
}

// LeaseUntil returns the end of the lease by the clock of the server; it moves while the worker renews the lease.
func (d *Delivery) LeaseUntil() time.Time {
	d.branch.mu.Lock()
	defer d.branch.mu.Unlock()
	return d.leaseUntil
}

// Stopping returns a channel that is closed when the worker begins to stop. A long handler may then save its work; its
// context is cancelled only when Config.DrainTimeout is over.
func (d *Delivery) Stopping() <-chan struct{} { return d.branch.stopping }

func newDelivery(b *branch, message *codeqv1.Task) *Delivery {
	payload := message.GetPayload()
	if len(payload) == 0 {
		payload = []byte("null")
	}
	return &Delivery{
		ID: message.GetId(), Command: message.GetCommand(), RawPayload: payload, Priority: int(message.GetPriority()),
		Attempts: int(message.GetAttempts()), MaxAttempts: int(message.GetMaxAttempts()),
		CreatedAt: message.GetCreatedAt().AsTime(), LeaseToken: message.GetLeaseToken(),
		Tenant: b.tenant, WorkerID: b.workerID,
		Trace:          codeq.Trace{Parent: message.GetTraceparent(), State: message.GetTracestate()},
		ConcurrencyKey: message.GetConcurrencyKey(), RateKey: message.GetRateKey(), OrderingKey: message.GetOrderingKey(),
		branch: b, bytes: int64(proto.Size(message)), leaseUntil: message.GetLeaseUntil().AsTime(),
	}
}
