// Package workerclient has the names, fields and calls of the worker client that the documents of codeq describe, so that
// programs written for it need only another import path. New programs use package worker, over which this one is thin.
//
// It differs in three ways: Run reconnects by itself, leases are renewed while handlers run, and a panic of a handler
// becomes a nack.
package workerclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

// Config are the settings of a client.
type Config struct {
	// Addr is the HOST:PORT of the server's worker stream; required. Several members of a cluster are separated by commas.
	Addr string
	// Token is the worker's token; required.
	Token string
	// WorkerID is the name of the worker within the token's subject, at most 64 characters of A-Z a-z 0-9 . _ -. Default:
	// none.
	WorkerID string
	// Commands are the commands to take. Default: all that the token allows.
	Commands []string
	// Concurrency is the number of tasks that run at once. Default: 1.
	Concurrency int
	// LeaseSeconds is the time until the tasks of a vanished worker are redelivered. Default: 60.
	LeaseSeconds int
	// BatchSize is the number of tasks that each of the Concurrency places takes at once and handles one after the other.
	// Here, it multiplies the number of tasks that are taken, of which Concurrency run at once. Default: 1.
	BatchSize int
	// IdleBackoff is accepted and not used: an idle worker waits for the server.
	IdleBackoff time.Duration
	// DialOptions must be empty: the SDK makes the connections. TLS has their settings.
	DialOptions []grpc.DialOption
	// TLS are the settings of encrypted connections. Default: those of the environment, else plaintext.
	TLS *codeq.TLS
	// Logger receives warnings. Default: slog.Default().
	Logger *slog.Logger
}

// Task is a delivered task.
type Task struct {
	// ID is the id of the task.
	ID string
	// Command is the name of the queue.
	Command string
	// Payload is JSON, byte for byte as created.
	Payload []byte
	// Priority is 0 to 9.
	Priority int
	// Attempts is the number of deliveries so far, including this one.
	Attempts int
	// MaxAttempts is the number of deliveries after which the task goes to the dead-letter queue.
	MaxAttempts int
	// TenantID is the tenant of the task.
	TenantID string
	// Webhook is always empty: the server does not call back.
	Webhook string
	// LeaseUntil is the end of the lease at the time of the delivery; it is renewed while the handler runs.
	LeaseUntil time.Time
}

// Handler handles a task. It is called by several goroutines at once if Concurrency is over 1.
type Handler func(ctx context.Context, task Task) Result

// Result is what becomes of a task. The zero value completes it without a result.
type Result struct {
	value map[string]any
	err   error
}

// Completed completes the task. A nil map is no result.
func Completed(result map[string]any) Result { return Result{value: result} }

// Failed ends the task as FAILED, without a retry.
func Failed(reason string) Result { return Result{err: worker.NonRetryable(errors.New(reason))} }

// Nack retries the task after a delay; a negative one counts as 0.
func Nack(delaySeconds int, reason string) Result {
	delay := time.Duration(max(0, delaySeconds)) * time.Second
	return Result{err: worker.RetryAfter(errors.New(reason), delay)}
}

// Abandon gives the task back to its place in the queue, without counting an attempt.
func Abandon() Result { return Result{err: worker.Abandon()} }

// Client works on tasks. It is safe for concurrent use.
type Client struct {
	config  Config
	mu      sync.Mutex
	running map[*worker.Worker]struct{}
	closed  bool
}

// New checks the settings and returns a client. It does not connect.
func New(config Config) (*Client, error) {
	switch {
	case config.Addr == "":
		return nil, errors.New("workerclient: Addr is required")
	case config.Token == "":
		return nil, errors.New("workerclient: Token is required")
	case len(config.DialOptions) > 0:
		return nil, errors.New("workerclient: DialOptions are not supported: use TLS")
	}
	config.Concurrency = max(1, config.Concurrency)
	config.BatchSize = max(1, config.BatchSize)
	return &Client{config: config, running: map[*worker.Worker]struct{}{}}, nil
}

// Run works until ctx is cancelled, and then returns its error; until Close, nil; or until the server rejects the worker
// for good. Running tasks have 30 s to finish.
func (c *Client) Run(ctx context.Context, handle Handler) error {
	made, err := worker.New(worker.Config{
		Addresses: []string{c.config.Addr}, Token: c.config.Token, TLS: c.config.TLS, Logger: c.config.Logger,
		Name: c.config.WorkerID, Commands: c.config.Commands, Concurrency: c.config.Concurrency * c.config.BatchSize,
		Lease: time.Duration(c.config.LeaseSeconds) * time.Second,
	})
	if err != nil {
		return err
	}
	worker.HandleAll(made, func(ctx context.Context, task worker.Task[json.RawMessage]) (map[string]any, error) {
		result := handle(ctx, Task{
			ID: task.ID, Command: task.Command, Payload: task.RawPayload, Priority: task.Priority, Attempts: task.Attempts,
			MaxAttempts: task.MaxAttempts, TenantID: task.Tenant, LeaseUntil: task.LeaseUntil(),
		})
		return result.value, result.err
	}, worker.Limit(c.config.Concurrency))
	if !c.add(made) {
		return fmt.Errorf("workerclient: %w", codeq.ErrClosed)
	}
	defer c.remove(made)
	if err := made.Run(ctx); err != nil {
		return err
	}
	return ctx.Err()
}

// Close stops all runs; running tasks have 30 s to finish. It may be called several times.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		for each := range c.running {
			each.Stop()
		}
	}
	return nil
}

func (c *Client) add(made *worker.Worker) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.running[made] = struct{}{}
	return true
}

func (c *Client) remove(made *worker.Worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.running, made)
}
