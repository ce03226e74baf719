package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

type runningWorker struct {
	worker *worker.Worker
	ended  chan struct{}
}

// workerArgs are the arguments of worker.run.
type workerArgs struct {
	connection
	WorkerName   string         `json:"workerName"`
	Commands     []string       `json:"commands"`
	Concurrency  int            `json:"concurrency"`
	LeaseSeconds int            `json:"leaseSeconds"`
	DrainSeconds *float64       `json:"drainSeconds"`
	WindowBytes  int64          `json:"windowBytes"`
	Limits       map[string]int `json:"limits"`
	Layers       []string       `json:"layers"`
	Signals      bool           `json:"handleSignals"`
	Behaviour    []behaviour    `json:"behaviour"`
}

// behaviour says what a handler does with the tasks that match.
type behaviour struct {
	Match struct {
		Command    string          `json:"command"`
		PayloadHas json.RawMessage `json:"payloadHas"`
	} `json:"match"`
	Do []json.RawMessage `json:"do"`
}

func (b behaviour) matches(task *worker.Delivery) bool {
	if b.Match.Command != "" && b.Match.Command != task.Command {
		return false
	}
	if len(b.Match.PayloadHas) == 0 || string(b.Match.PayloadHas) == "null" {
		return true
	}
	var text string
	if json.Unmarshal(b.Match.PayloadHas, &text) == nil {
		return strings.Contains(string(task.RawPayload), text)
	}
	var wanted, given any
	if json.Unmarshal(b.Match.PayloadHas, &wanted) != nil || json.Unmarshal(task.RawPayload, &given) != nil {
		return false
	}
	return has(given, wanted)
}

// has reports whether a JSON value is equal to another one, or an object with at least its members.
func has(given, wanted any) bool {
	members, isObject := wanted.(map[string]any)
	if !isObject {
		return fmt.Sprint(given) == fmt.Sprint(wanted)
	}
	object, isObject := given.(map[string]any)
	if !isObject {
		return false
	}
	for name, value := range members {
		member, exists := object[name]
		if !exists || !has(member, value) {
			return false
		}
	}
	return true
}

// steps returns what to do, one step after the other; a single step may stand for itself.
func (b behaviour) steps() [][]json.RawMessage {
	var name string
	if len(b.Do) > 0 && json.Unmarshal(b.Do[0], &name) == nil {
		return [][]json.RawMessage{b.Do}
	}
	steps := make([][]json.RawMessage, 0, len(b.Do))
	for _, each := range b.Do {
		var step []json.RawMessage
		_ = json.Unmarshal(each, &step)
		steps = append(steps, step)
	}
	return steps
}

func (d *driver) runWorker(args json.RawMessage) error {
	var given workerArgs
	if err := decode(args, &given); err != nil {
		return err
	}
	config := worker.Config{
		Addresses: given.Addresses, Token: given.Token, TokenFunc: given.tokenFunc(), TLS: given.tls(), Name: given.WorkerName,
		Commands: given.Commands, Concurrency: given.Concurrency, Lease: time.Duration(given.LeaseSeconds) * time.Second,
		WindowBytes: given.WindowBytes, Middleware: d.layers(given), Metrics: d.metrics(given.connection),
	}
	if given.DrainSeconds != nil {
		if config.DrainTimeout = duration(*given.DrainSeconds); config.DrainTimeout == 0 {
			config.DrainTimeout = -1
		}
	}
	made, err := worker.New(config)
	if err != nil {
		return err
	}
	handle := func(ctx context.Context, task worker.Task[json.RawMessage]) (any, error) {
		return d.handle(ctx, given, task.Delivery)
	}
	for command, limit := range given.Limits {
		worker.Handle(made, command, handle, worker.Limit(limit))
	}
	worker.HandleAll(made, handle)
	running := &runningWorker{worker: made, ended: make(chan struct{})}
	d.mu.Lock()
	d.workers[given.connection.Name] = running
	d.mu.Unlock()
	if given.Signals {
		stopAtSignals(running)
	}
	go func() {
		defer close(running.ended)
		err := made.Run(context.Background())
		ended := map[string]any{"event": "ended", "worker": given.connection.Name, "error": nil}
		if err != nil {
			ended["error"] = failureOf(err)
		}
		d.write(ended)
	}()
	return nil
}

// stopAtSignals stops a worker at each signal until it has ended: the first drains it, the second ends it.
func stopAtSignals(running *runningWorker) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	go func() {
		defer signal.Stop(signals)
		for {
			select {
			case <-signals:
				running.worker.Stop()
			case <-running.ended:
				return
			}
		}
	}()
}

func (d *driver) stopWorker(args json.RawMessage) error {
	var given connection
	if err := decode(args, &given); err != nil {
		return err
	}
	running, err := named(d, d.workers, given.Name)
	if err == nil {
		running.worker.Stop()
	}
	return err
}

func (d *driver) workerStats(args json.RawMessage) (any, error) {
	var given connection
	if err := decode(args, &given); err != nil {
		return nil, err
	}
	running, err := named(d, d.workers, given.Name)
	if err != nil {
		return nil, err
	}
	stats := running.worker.Stats()
	return map[string]any{
		"streams": stats.Streams, "received": stats.Received, "settled": stats.Settled, "refused": stats.Refused,
		"lost": stats.Lost, "stuck": stats.Stuck, "lateRenewals": stats.LateRenewals,
	}, nil
}

func (d *driver) handle(ctx context.Context, given workerArgs, task *worker.Delivery) (any, error) {
	name := given.connection.Name
	event := map[string]any{
		"id": task.ID, "command": task.Command, "attempts": task.Attempts, "payload": string(task.RawPayload),
		"priority": task.Priority, "leaseToken": fmt.Sprint(task.LeaseToken),
	}
	line := map[string]any{"event": "task", "worker": name, "task": event}
	if task.Trace.Parent != "" {
		event["traceparent"] = task.Trace.Parent
	}
	if task.Trace.State != "" {
		event["tracestate"] = task.Trace.State
	}
	for key, value := range map[string]string{
		"concurrencyKey": task.ConcurrencyKey, "rateKey": task.RateKey, "orderingKey": task.OrderingKey,
	} {
		if value != "" {
			event[key] = value
		}
	}
	for key, value := range event {
		line[key] = value
	}
	d.write(line)
	tell := func() {
		d.write(map[string]any{"event": "cancelled", "worker": name, "id": task.ID, "reason": causeOf(ctx)})
	}
	stop := context.AfterFunc(ctx, tell)
	defer func() {
		if stop() && ctx.Err() != nil { // the handler saw its end before the function did
			tell()
		}
	}()
	for _, each := range given.Behaviour {
		if each.matches(task) {
			return d.perform(ctx, task, each.steps())
		}
	}
	return nil, nil
}

func causeOf(ctx context.Context) string {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, worker.ErrLeaseLost):
		return "leaseLost"
	case errors.Is(cause, worker.ErrCancelled):
		return "cancelled"
	case errors.Is(cause, worker.ErrShutdown):
		return "shutdown"
	default:
		return fmt.Sprint(cause)
	}
}

func (d *driver) perform(ctx context.Context, task *worker.Delivery, steps [][]json.RawMessage) (any, error) {
	for _, step := range steps {
		value, isLast, err := d.performOne(ctx, task, step)
		if isLast || err != nil {
			return value, err
		}
	}
	return nil, nil
}

// argument decodes an argument of a step; the zero value if it is absent.
func argument[Value any](step []json.RawMessage, index int) Value {
	var value Value
	if index < len(step) {
		_ = json.Unmarshal(step[index], &value)
	}
	return value
}

func (d *driver) performOne(ctx context.Context, task *worker.Delivery, step []json.RawMessage) (value any, isLast bool, err error) {
	text := argument[string](step, 1)
	seconds := argument[float64](step, 1)
	switch name := argument[string](step, 0); name {
	case "complete":
		return completion(step), true, nil
	case "complete_raw":
		return json.RawMessage(text), true, nil
	case "artifacts":
		attach(task, argument[[]artifact](step, 2))
		return completion(step), true, nil
	case "fail":
		return nil, true, worker.NonRetryable(errors.New(text))
	case "nack":
		if delay := argument[*float64](step, 2); delay != nil {
			return nil, true, worker.RetryAfter(errors.New(text), duration(*delay))
		}
		return nil, true, errors.New(text)
	case "retry_after":
		return nil, true, worker.RetryAfter(errors.New("retry"), duration(seconds))
	case "snooze":
		return nil, true, worker.Snooze(duration(seconds))
	case "park_key":
		return nil, true, worker.ParkKey(duration(seconds))
	case "abandon":
		return nil, true, worker.Abandon()
	case "raise":
		return nil, true, errors.New(text)
	case "panic":
		panic(text)
	case "create":
		opened, err := named(d, d.producers, text)
		if err == nil {
			_, err = opened.Create(ctx, argument[string](step, 2), 1)
		}
		return nil, err != nil, err
	case "hang":
		<-ctx.Done()
		return nil, true, ctx.Err()
	case "busy":
		burn(duration(seconds))
		return nil, false, nil
	case "sleep":
		select {
		case <-time.After(duration(seconds)):
		case <-ctx.Done():
		}
		return nil, false, nil
	case "progress":
		for _, each := range argument[[]json.RawMessage](step, 1) {
			if err := task.Progress(each); err != nil {
				return nil, true, err
			}
		}
		return nil, false, nil
	case "unencodable":
		return math.NaN(), true, nil
	default:
		return nil, true, worker.NonRetryable(fmt.Errorf("the driver does not know the step %q", name))
	}
}

func completion(step []json.RawMessage) any {
	if len(step) < 2 || string(step[1]) == "null" {
		return nil
	}
	return step[1]
}

// burn computes for a time without yielding.
func burn(length time.Duration) {
	for until := time.Now().Add(length); time.Now().Before(until); {
	}
}

type artifact struct {
	Name        string  `json:"name"`
	Text        *string `json:"text"`
	URL         string  `json:"url"`
	ContentType string  `json:"contentType"`
}

func attach(task *worker.Delivery, artifacts []artifact) {
	for _, each := range artifacts {
		file := worker.Artifact{Name: each.Name, URL: each.URL, ContentType: each.ContentType}
		if each.Text != nil {
			file.Content = []byte(*each.Text)
		}
		task.Attach(file)
	}
}
