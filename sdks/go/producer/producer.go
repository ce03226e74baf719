// Package producer creates tasks. Concurrent creates share frames on one stream, so many small creates are cheap, and a
// create returns once its task is durable. With a server that has several shards, there is a stream for each.
//
//	tasks, err := producer.New(producer.Config{})
//	id, err := tasks.Create(ctx, "resize", Image{Path: "a.png"}, producer.Priority(5))
package producer

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/link"
)

const (
	nameCharactersMax = 128
	timeoutMax        = 24 * time.Hour
)

// Config are the settings of a producer. Every field may be left out.
type Config struct {
	// Addresses are HOST:PORT, [IPV6]:PORT or unix:PATH of a server, or of several members of a cluster; each may also be
	// a list separated by commas. Default: CODEQ_PRODUCER_ADDR, else localhost:9092.
	Addresses []string
	// Token is sent with every call. Default: CODEQ_TOKEN, else none.
	Token string
	// TokenFunc returns tokens that expire; it replaces Token.
	TokenFunc codeq.TokenFunc
	// TLS are the settings of encrypted connections. Default: those of CODEQ_TLS_CA_FILE, CODEQ_TLS_CERT_FILE and
	// CODEQ_TLS_KEY_FILE, else plaintext.
	TLS *codeq.TLS
	// Logger receives warnings about lost connections. Default: slog.Default().
	Logger *slog.Logger
	// Name appears in the server's log, at most 128 characters. Default: none.
	Name string
	// Timeout is the time of calls whose context has no deadline, and of Close. Default: 30 s; at most a day.
	Timeout time.Duration
	// RequestKeys adds a random idempotency key to each create that has neither a key nor an id, so that it is repeated
	// when its answer is lost. Producers that know several servers always do. Default: false.
	RequestKeys bool
	// InFlightTasksMax is the number of creates waiting in the producer at which callers have to wait. Default: 65536.
	InFlightTasksMax int
	// FailFast makes creates fail with LIMIT_REACHED at this number, instead of waiting. Default: false.
	FailFast bool
	// Metrics are called for each create.
	Metrics codeq.Metrics
	// Propagator provides the trace context of creates. Default: that of codeq.ContextWithTrace.
	Propagator codeq.Propagator
}

// Producer creates tasks. It is safe for concurrent use, connects at the first create, and reconnects when its stream
// breaks. Close it when it is no longer needed.
type Producer struct {
	config   Config
	endpoint *link.Endpoint
	caller   *link.Caller
	started  sync.Once
	ctx      context.Context
	cancel   context.CancelFunc
	ended    chan struct{}
	first    atomic.Uint32  // shard of the first stream
	shards   atomic.Uint32  // number of shards
	running  atomic.Uint32  // bits of the further streams, which count from 1
	others   sync.WaitGroup // further streams, to the processes of other shards
	creates  creates
}

// New checks the settings and returns a producer. It does not connect.
func New(config Config) (*Producer, error) {
	endpoint, err := link.NewEndpoint(link.Config{
		Addresses: config.Addresses, Token: config.Token, TokenFunc: config.TokenFunc, TLS: config.TLS, Logger: config.Logger,
	}, false)
	if err != nil {
		return nil, err
	}
	if len([]rune(config.Name)) > nameCharactersMax {
		return nil, codeq.Invalid("Name", "must have at most 128 characters")
	}
	if config.Timeout == 0 {
		config.Timeout = codeq.DefaultTimeout
	}
	if config.Timeout < 0 || config.Timeout > timeoutMax {
		return nil, codeq.Invalid("Timeout", "must be over 0 and at most a day")
	}
	if config.InFlightTasksMax == 0 {
		config.InFlightTasksMax = codeq.DefaultInFlightTasksMax
	}
	if config.InFlightTasksMax < 0 {
		return nil, codeq.Invalid("InFlightTasksMax", "must be at least 1")
	}
	if config.Propagator == nil {
		config.Propagator = stored{}
	}
	producer := &Producer{config: config, endpoint: endpoint, ended: make(chan struct{})}
	producer.caller = link.NewCaller(endpoint, config.Timeout, config.RequestKeys)
	producer.ctx, producer.cancel = context.WithCancel(context.Background())
	producer.creates.begin(config.InFlightTasksMax)
	return producer, nil
}

// Create creates a task and returns its id once the task is durable. If a task with the same idempotency key exists, it
// returns the id of that task.
//
// Errors: INVALID_ARGUMENT and TOO_LARGE before anything is sent; those of the server; OUTCOME_UNKNOWN if the task was sent
// and the answer did not arrive, unless the create has a key and is repeated; DEADLINE_EXCEEDED if it could not be sent in
// time; LIMIT_REACHED with FailFast; CLOSED.
func (p *Producer) Create(ctx context.Context, command string, payload any, options ...Option) (string, error) {
	task := Task{Command: command, Payload: payload}
	if len(options) > 0 { // otherwise the task stays on the stack
		task = withOptions(task, options)
	}
	begun := time.Now()
	id, err := p.create(ctx, &task)
	if p.config.Metrics.Created != nil {
		p.config.Metrics.Created(command, time.Since(begun), err)
	}
	return id, err
}

func withOptions(task Task, options []Option) Task {
	for _, option := range options {
		option(&task)
	}
	return task
}

func (p *Producer) create(ctx context.Context, task *Task) (string, error) {
	data, isKeyed, err := p.encode(ctx, task)
	if err != nil {
		return "", err
	}
	one := newSingle(data, isKeyed)
	if err := p.run(ctx, &one.of, []*item{&one.item}); err != nil {
		return "", err
	}
	return one.id, one.failure()
}

// Result is the answer to one task of a batch: its id, or the error that rejected it.
type Result struct {
	// ID is the id of the task; empty if Err is set.
	ID string
	// Err is the error that Create would return; nil if the task exists.
	Err error
}

// CreateBatch creates tasks; each succeeds or fails on its own, and the results are in the order of the tasks. It returns
// an error only if the batch as a whole was not accepted, because the producer is closed or full.
func (p *Producer) CreateBatch(ctx context.Context, tasks []Task) ([]Result, error) {
	results := make([]Result, len(tasks))
	items := make([]*item, 0, len(tasks))
	places := make([]int, 0, len(tasks))
	begun := time.Now()
	for index := range tasks {
		task := tasks[index]
		data, isKeyed, err := p.encode(ctx, &task)
		if err != nil {
			results[index].Err = err
			continue
		}
		items = append(items, &item{data: data, isKeyed: isKeyed})
		places = append(places, index)
	}
	if len(items) > 0 {
		if err := p.run(ctx, newGroup(items...), items); err != nil {
			return nil, err
		}
	}
	for number, index := range places {
		results[index] = Result{ID: items[number].id, Err: items[number].failure()}
	}
	if created := p.config.Metrics.Created; created != nil {
		for index := range tasks {
			created(tasks[index].Command, time.Since(begun), results[index].Err)
		}
	}
	return results, nil
}

// run submits a group and waits until each of its items is answered.
func (p *Producer) run(ctx context.Context, group *group, items []*item) error {
	if cause := ctx.Err(); cause != nil {
		return ended(cause, "before it was sent", "")
	}
	var late <-chan time.Time
	if _, has := ctx.Deadline(); !has {
		timer := timers.Get().(*time.Timer)
		timer.Reset(p.config.Timeout)
		defer func() {
			timer.Stop()
			timers.Put(timer)
		}()
		late = timer.C
	}
	if err := p.creates.admit(ctx, late, len(items), p.config.FailFast); err != nil {
		return err
	}
	p.start()
	p.creates.submit(items)
	select {
	case <-group.done:
		signals.Put(group.done)
		return nil
	case <-ctx.Done():
		p.creates.giveUp(items, ctx.Err())
	case <-late:
		p.creates.giveUp(items, context.DeadlineExceeded)
	}
	<-group.done // all items are over now
	signals.Put(group.done)
	return nil
}

// Identity is what the server knows of the producer's token.
type Identity struct {
	// Tenant is the tenant of the token.
	Tenant string
	// Subject is the subject of the token.
	Subject string
}

// Connect opens the stream, which otherwise the first create does, and waits until the server has accepted the token. The
// context, or without a deadline the producer's timeout, bounds the wait.
func (p *Producer) Connect(ctx context.Context) (Identity, error) {
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.config.Timeout)
		defer cancel()
	}
	for {
		identity, told := p.creates.await()
		if identity != nil {
			return *identity, nil
		}
		p.start()
		p.creates.notify()
		select {
		case err := <-told:
			if err != nil {
				return Identity{}, err
			}
		case <-ctx.Done():
			p.creates.noLongerAwaits(told)
			return Identity{}, ended(ctx.Err(), "before the stream was open", p.creates.troubled())
		}
	}
}

func (p *Producer) start() {
	p.started.Do(func() { go p.work() })
}

// Close waits for the creates in flight, for at most the producer's timeout, and disconnects. Later creates fail with
// CLOSED. It may be called several times.
func (p *Producer) Close() error {
	p.creates.close()
	p.started.Do(func() { close(p.ended) })
	select {
	case <-p.ended:
	case <-time.After(p.config.Timeout):
	}
	p.cancel()
	<-p.ended
	p.caller.Close()
	return nil
}

func (p *Producer) addsKeys() bool { return p.config.RequestKeys || p.endpoint.Servers.AreMany() }

func newKey() string { return link.NewKey() }

// stored is the propagator without OpenTelemetry.
type stored struct{}

// Inject returns the trace context that the program or a worker has stored.
func (stored) Inject(ctx context.Context) codeq.Trace { return codeq.TraceFromContext(ctx) }

// Extract stores the trace context.
func (stored) Extract(ctx context.Context, trace codeq.Trace) context.Context {
	return codeq.ContextWithTrace(ctx, trace)
}

// Call creates a task, waits for its end, and decodes its result. A task that was not completed gives a
// *codeq.TaskError; see CreateAndWait for the other errors.
func Call[Result any](ctx context.Context, p *Producer, command string, payload any, options ...Option) (Result, error) {
	var value Result
	result, err := p.CreateAndWait(ctx, command, payload, options...)
	if err == nil {
		err = decode(result, &value)
	}
	return value, err
}

func decode[Value any](result *codeq.TaskResult, into *Value) error {
	if raw, is := any(into).(*json.RawMessage); is && result.Status == codeq.StatusCompleted {
		*raw = result.Result
		return nil
	}
	return result.Decode(into)
}
