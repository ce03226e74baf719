// Package worker takes tasks over a stream, or over one for each shard of the server, runs a handler for each task, and
// reports the outcomes.
//
//	tasks, err := worker.New(worker.Config{})
//	worker.Handle(tasks, "resize", func(ctx context.Context, task worker.Task[Image]) (Thumbnail, error) { … })
//	err = tasks.Run(ctx)
//
// Run works until its context is cancelled; then running tasks have Config.DrainTimeout to finish. Leases are renewed while
// handlers run. A handler whose task is no longer its own sees its context cancelled, and context.Cause tells why:
// ErrLeaseLost, ErrCancelled, ErrShutdown or ErrTimeout.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"sync"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/link"
)

const (
	concurrencyMax  = 65536
	leaseMax        = 12 * time.Hour
	drainMax        = 24 * time.Hour
	windowBytesMax  = 1 << 30
	commandsMax     = 256
	idleMax         = 256 // goroutines kept for further tasks
	stuckGrace      = time.Second
	lateWarningEach = 30 * time.Second
)

// Causes for which the context of a handler is cancelled, as context.Cause returns them.
var (
	// ErrLeaseLost means that the lease has ended: another worker may be running the task. The outcome is dropped.
	ErrLeaseLost = errors.New("codeq: the lease of the task is lost")
	// ErrCancelled means that the task was cancelled. The outcome is dropped.
	ErrCancelled = errors.New("codeq: the task was cancelled")
	// ErrShutdown means that the worker stops and the time to finish is over. The task returns to its queue at once, with
	// its attempts as before. The outcome is dropped.
	ErrShutdown = errors.New("codeq: the worker is shut down")
	// ErrTimeout means that the handler took longer than its Timeout. Its outcome still counts.
	ErrTimeout = errors.New("codeq: the handler took longer than its timeout")
)

// Config are the settings of a worker. Every field may be left out.
type Config struct {
	// Addresses are HOST:PORT, [IPV6]:PORT or unix:PATH of a server, or of several members of a cluster; each may also be
	// a list separated by commas. Default: CODEQ_WORKER_ADDR, else localhost:9091.
	Addresses []string
	// Token is sent with every stream. Default: CODEQ_TOKEN, else none.
	Token string
	// TokenFunc returns tokens that expire; it replaces Token.
	TokenFunc codeq.TokenFunc
	// TLS are the settings of encrypted connections. Default: those of CODEQ_TLS_CA_FILE, CODEQ_TLS_CERT_FILE and
	// CODEQ_TLS_KEY_FILE, else plaintext.
	TLS *codeq.TLS
	// Logger receives warnings about lost connections and leases. Default: slog.Default().
	Logger *slog.Logger
	// Name is the name of the worker within the token's subject, at most 64 characters of A-Z a-z 0-9 . _ -.
	// Default: none.
	Name string
	// Commands are taken in addition to those with a handler of their own, and run by the handler of HandleAll. Default:
	// with HandleAll, all commands that the token allows.
	Commands []string
	// Concurrency is the number of tasks that run at once, 1 to 65536. With at least four for each shard of the server,
	// the worker has a stream to the process of each. Default: 16.
	Concurrency int
	// Lease is the time until the tasks of a vanished worker are redelivered, in whole seconds from 1 s to 12 h. Leases of
	// running tasks are renewed after a third of it. Default: 60 s.
	Lease time.Duration
	// DrainTimeout is the time that running tasks have to finish once the worker is stopped, at most a day. Default: 30 s;
	// negative: none.
	DrainTimeout time.Duration
	// WindowBytes is the size of the payloads that the worker holds at once, 1 to 1 GiB. Default: 16 MiB.
	WindowBytes int64
	// Middleware wraps every handler; the first is the outermost.
	Middleware []Middleware
	// Metrics are called for each task.
	Metrics codeq.Metrics
	// Propagator puts the trace context of tasks into the contexts of handlers. Default: codeq.TraceFromContext returns it.
	Propagator codeq.Propagator
}

// Stats counts since the worker was created.
type Stats struct {
	// Streams is the number of streams opened; those that are first opened to the shards of a server count as one.
	Streams int64
	// Received is the number of tasks delivered.
	Received int64
	// Settled is the number of outcomes that the server accepted.
	Settled int64
	// Refused is the number of outcomes that the server rejected, or that were dropped because the lease was lost.
	Refused int64
	// Lost is the number of leases that ended while their task was running, also by a cancel.
	Lost int64
	// Stuck is the number of handlers that went on for more than a second after their context was cancelled.
	Stuck int64
	// LateRenewals is the number of times that leases were renewed later than after half of their length.
	LateRenewals int64
}

// Worker runs handlers. Register them with Handle or HandleAll before Run. Stop and Stats are safe for concurrent use.
type Worker struct {
	config   Config
	endpoint *link.Endpoint

	mu        sync.Mutex
	handlers  map[string]*handler
	fallback  *handler
	stats     Stats
	stops     int
	stopping  chan struct{} // signals a change of stops
	isRunning bool
}

var (
	isName    = regexp.MustCompile(`^[A-Za-z0-9._-]{0,64}$`).MatchString
	isCommand = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`).MatchString
)

// New checks the settings and returns a worker. It connects when it runs.
func New(config Config) (*Worker, error) {
	endpoint, err := link.NewEndpoint(link.Config{
		Addresses: config.Addresses, Token: config.Token, TokenFunc: config.TokenFunc, TLS: config.TLS, Logger: config.Logger,
	}, true)
	if err != nil {
		return nil, err
	}
	if err := complete(&config); err != nil {
		return nil, err
	}
	return &Worker{
		config: config, endpoint: endpoint, handlers: map[string]*handler{}, stopping: make(chan struct{}, 2),
	}, nil
}

// complete sets the defaults and checks the ranges.
func complete(config *Config) error {
	if !isName(config.Name) {
		return codeq.Invalid("Name", "must be at most 64 characters of A-Z a-z 0-9 . _ -")
	}
	for index, command := range config.Commands {
		if !isCommand(command) {
			return codeq.Invalid(fmt.Sprintf("Commands[%d]", index), "must be 1 to 128 characters of A-Z a-z 0-9 . _ -")
		}
	}
	config.Concurrency = orDefault(config.Concurrency, codeq.DefaultConcurrency)
	if config.Concurrency < 1 || config.Concurrency > concurrencyMax {
		return codeq.Invalid("Concurrency", "must be 1 to 65536")
	}
	config.Lease = orDefault(config.Lease, codeq.DefaultLease)
	if config.Lease < time.Second || config.Lease > leaseMax || config.Lease%time.Second != 0 {
		return codeq.Invalid("Lease", "must be whole seconds from 1 s to 12 h")
	}
	config.DrainTimeout = max(0, orDefault(config.DrainTimeout, codeq.DefaultDrainTimeout))
	if config.DrainTimeout > drainMax {
		return codeq.Invalid("DrainTimeout", "must be at most a day")
	}
	config.WindowBytes = orDefault(config.WindowBytes, codeq.DefaultWindowBytes)
	if config.WindowBytes < 1 || config.WindowBytes > windowBytesMax {
		return codeq.Invalid("WindowBytes", "must be 1 to 1 GiB")
	}
	if config.Propagator == nil {
		config.Propagator = stored{}
	}
	return nil
}

func orDefault[Value comparable](given, fallback Value) Value {
	var zero Value
	if given == zero {
		return fallback
	}
	return given
}

// Stats returns the counters.
func (w *Worker) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stats
}

// Stop stops taking tasks, and makes Run return once the running tasks have ended, or Config.DrainTimeout is over. A second
// call ends Run at once; the tasks return to their queues. If called before Run, the next Run returns at once.
func (w *Worker) Stop() {
	w.mu.Lock()
	w.stops++
	w.mu.Unlock()
	select {
	case w.stopping <- struct{}{}:
	default:
	}
}

// Run works until ctx is cancelled or Stop is called, and returns nil then. Cancelling ctx drains as the first Stop does;
// it does not cancel the contexts of handlers, which keep the values of ctx. Run may be called again afterwards.
//
// Errors: those with which the server rejects the worker for good, such as UNAUTHENTICATED, COMMAND_NOT_ALLOWED and
// INVALID_FIELD; INVALID_ARGUMENT if there is no handler or the worker already runs. While no server is reachable, the
// worker keeps trying.
func (w *Worker) Run(ctx context.Context) error {
	commands, err := w.begin()
	if err != nil {
		return err
	}
	defer w.over()
	return newRun(w, ctx, commands).run(ctx)
}

func (w *Worker) begin() ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isRunning {
		return nil, codeq.Invalid("Run", "the worker is already running")
	}
	if len(w.handlers) == 0 && w.fallback == nil {
		return nil, codeq.Invalid("Run", "there is no handler: register one with Handle or HandleAll")
	}
	var commands []string
	if w.fallback == nil || len(w.config.Commands) > 0 {
		commands = slices.Sorted(maps.Keys(w.handlers))
		for _, command := range w.config.Commands {
			if w.handlers[command] == nil && w.fallback == nil {
				return nil, codeq.Invalid("Commands", "there is no handler for "+command)
			}
			if !slices.Contains(commands, command) {
				commands = append(commands, command)
			}
		}
	}
	if len(commands) > commandsMax {
		return nil, codeq.Invalid("Commands", "must be at most 256; use HandleAll for more")
	}
	w.isRunning = true
	return commands, nil
}

func (w *Worker) over() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isRunning = false
	w.stops = 0
	for {
		select {
		case <-w.stopping:
		default:
			return
		}
	}
}

func (w *Worker) stopCount() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stops
}

func (w *Worker) handlerOf(command string) *handler {
	if found := w.handlers[command]; found != nil {
		return found
	}
	return w.fallback
}

func (w *Worker) count(change func(*Stats)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.stats)
}

// stored is the propagator without OpenTelemetry.
type stored struct{}

// Inject returns the trace context that the program has stored.
func (stored) Inject(ctx context.Context) codeq.Trace { return codeq.TraceFromContext(ctx) }

// Extract stores the trace context.
func (stored) Extract(ctx context.Context, trace codeq.Trace) context.Context {
	if trace == (codeq.Trace{}) {
		return ctx
	}
	return codeq.ContextWithTrace(ctx, trace)
}
