// Command go drives the Go SDK for the conformance suite. It reads requests as JSON lines from its input and writes replies
// and events as JSON lines; requests run at once, and the end of the input closes everything.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	"github.com/osvaldoandrade/codeq/sdks/go/client"
	"github.com/osvaldoandrade/codeq/sdks/go/producer"
)

// lineBytesMax is the longest request: a batch of tasks.
const lineBytesMax = 64 << 20

type request struct {
	ID   json.RawMessage `json:"id"`
	Op   string          `json:"op"`
	Args json.RawMessage `json:"args"`
}

type failure struct {
	Reason            string      `json:"reason"`
	Retryable         bool        `json:"retryable"`
	RetryAfterSeconds *float64    `json:"retryAfterSeconds"`
	Violations        []violation `json:"violations"`
	Message           string      `json:"message"`
}

type violation struct {
	Field       string `json:"field"`
	Description string `json:"description"`
}

type driver struct {
	out       sync.Mutex
	mu        sync.Mutex
	producers map[string]*producer.Producer
	clients   map[string]*client.Client
	workers   map[string]*runningWorker
	ctx       context.Context
}

func main() {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	ctx, cancel := context.WithCancel(context.Background())
	driver := &driver{
		producers: map[string]*producer.Producer{}, clients: map[string]*client.Client{}, workers: map[string]*runningWorker{},
		ctx: ctx,
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, lineBytesMax)
	for lines.Scan() {
		var asked request
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			fmt.Fprintln(os.Stderr, "driver: not a request:", err)
			os.Exit(2)
		}
		go driver.answer(asked)
	}
	cancel()
	driver.closeAll()
}

func (d *driver) answer(asked request) {
	value, err := d.do(asked.Op, asked.Args)
	if err != nil {
		d.write(map[string]any{"id": asked.ID, "error": failureOf(err)})
		return
	}
	d.write(map[string]any{"id": asked.ID, "ok": value})
}

func (d *driver) write(line map[string]any) {
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(line); err != nil {
		fmt.Fprintln(os.Stderr, "driver:", err)
		os.Exit(2)
	}
	d.out.Lock()
	defer d.out.Unlock()
	_, _ = os.Stdout.WriteString(text.String())
}

func failureOf(err error) failure {
	var typed *codeq.Error
	if !errors.As(err, &typed) {
		return failure{Reason: "INTERNAL", Violations: []violation{}, Message: err.Error()}
	}
	told := failure{Reason: string(typed.Reason), Retryable: typed.Retryable, Violations: []violation{}, Message: typed.Message}
	if typed.RetryAfter > 0 {
		seconds := typed.RetryAfter.Seconds()
		told.RetryAfterSeconds = &seconds
	}
	for _, each := range typed.Violations {
		told.Violations = append(told.Violations, violation{Field: each.Field, Description: each.Description})
	}
	return told
}

func (d *driver) do(op string, args json.RawMessage) (any, error) {
	if len(args) == 0 {
		args = json.RawMessage("{}")
	}
	switch op {
	case "hello":
		return map[string]any{
			"sdk": codeq.SDKName, "version": codeq.Version, "protocol": codeq.Protocol, "defaults": codeq.Defaults(),
		}, nil
	case "stats":
		return processStats(), nil
	case "producer.open":
		return nil, d.openProducer(args)
	case "producer.close":
		return nil, d.closeProducer(args)
	case "producer.create":
		return d.create(args)
	case "producer.create_batch":
		return d.createBatch(args)
	case "producer.create_all":
		return d.createAll(args)
	case "producer.create_and_wait":
		return d.createAndWait(args)
	case "client.open":
		return nil, d.openClient(args)
	case "client.close":
		return nil, d.closeClient(args)
	case "worker.run":
		return map[string]any{}, d.runWorker(args)
	case "worker.stop":
		return map[string]any{}, d.stopWorker(args)
	case "worker.stats":
		return d.workerStats(args)
	}
	if verb, is := strings.CutPrefix(op, "client."); is {
		return d.call(verb, args)
	}
	return nil, unsupported(op)
}

func unsupported(op string) error {
	return &codeq.Error{Reason: "UNSUPPORTED", Message: "unknown op " + op}
}

func (d *driver) closeAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ending sync.WaitGroup
	for _, each := range d.producers {
		ending.Go(func() { _ = each.Close() })
	}
	for _, each := range d.clients {
		ending.Go(func() { _ = each.Close() })
	}
	for _, each := range d.workers {
		ending.Go(func() {
			each.worker.Stop()
			each.worker.Stop()
			<-each.ended
		})
	}
	ending.Wait()
}

// connection are the arguments with which everything is opened.
type connection struct {
	Name             string   `json:"name"`
	Addresses        []string `json:"addresses"`
	Token            string   `json:"token"`
	Tokens           []string `json:"tokens"`
	TimeoutSeconds   float64  `json:"timeoutSeconds"`
	RequestKeys      bool     `json:"requestKeys"`
	FailFast         bool     `json:"failFast"`
	InFlightTasksMax int      `json:"inFlightTasksMax"`
	Metrics          bool     `json:"metrics"`
	TLS              *struct {
		CA   string `json:"ca"`
		Cert string `json:"cert"`
		Key  string `json:"key"`
	} `json:"tls"`
}

// tokenFunc returns a function that yields the tokens in turn, the last one repeatedly; nil without tokens.
func (c connection) tokenFunc() codeq.TokenFunc {
	if len(c.Tokens) == 0 {
		return nil
	}
	var mu sync.Mutex
	next := 0
	return func(context.Context) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		token := c.Tokens[next]
		next = min(next+1, len(c.Tokens)-1)
		return token, nil
	}
}

func (c connection) tls() *codeq.TLS {
	if c.TLS == nil {
		return nil
	}
	return &codeq.TLS{CAFile: c.TLS.CA, CertFile: c.TLS.Cert, KeyFile: c.TLS.Key}
}

func (c connection) timeout() time.Duration { return duration(c.TimeoutSeconds) }

func duration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

// named returns the open object of a name.
func named[Value any](d *driver, from map[string]Value, name string) (Value, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	value, has := from[name]
	if !has {
		return value, fmt.Errorf("nothing is open under the name %q", name)
	}
	return value, nil
}

func decode(args json.RawMessage, into any) error {
	if err := json.Unmarshal(args, into); err != nil {
		return codeq.Invalid("args", err.Error())
	}
	return nil
}
