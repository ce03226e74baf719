package main

import (
	"context"
	"encoding/json"
	"iter"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	"github.com/osvaldoandrade/codeq/sdks/go/producer"
)

// newTask are the arguments of a create.
type newTask struct {
	Name           string          `json:"name"`
	Command        string          `json:"command"`
	Payload        json.RawMessage `json:"payload"`
	PayloadRaw     *string         `json:"payloadRaw"`
	Priority       int             `json:"priority"`
	DelaySeconds   float64         `json:"delaySeconds"`
	RunAt          time.Time       `json:"runAt"`
	ExpireSeconds  float64         `json:"expireSeconds"`
	MaxAttempts    int             `json:"maxAttempts"`
	IdempotencyKey string          `json:"idempotencyKey"`
	TaskID         string          `json:"taskId"`
	Traceparent    string          `json:"traceparent"`
	Tracestate     string          `json:"tracestate"`
	ConcurrencyKey string          `json:"concurrencyKey"`
	RateKey        string          `json:"rateKey"`
	OrderingKey    string          `json:"orderingKey"`
	TimeoutSeconds float64         `json:"timeoutSeconds"`
}

func (t newTask) task() producer.Task {
	task := producer.Task{
		Command: t.Command, Priority: t.Priority, Delay: duration(t.DelaySeconds), RunAt: t.RunAt,
		Expire: duration(t.ExpireSeconds), MaxAttempts: t.MaxAttempts, IdempotencyKey: t.IdempotencyKey, TaskID: t.TaskID,
		Trace:          codeq.Trace{Parent: t.Traceparent, State: t.Tracestate},
		ConcurrencyKey: t.ConcurrencyKey, RateKey: t.RateKey, OrderingKey: t.OrderingKey,
	}
	if t.PayloadRaw != nil {
		task.Payload = json.RawMessage(*t.PayloadRaw)
	} else if t.Payload != nil {
		task.Payload = t.Payload
	}
	return task
}

func (t newTask) options() producer.Option {
	return func(task *producer.Task) {
		command, payload := task.Command, task.Payload
		*task = t.task()
		task.Command, task.Payload = command, payload
	}
}

func within(ctx context.Context, seconds float64) (context.Context, context.CancelFunc) {
	if seconds <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, duration(seconds))
}

func (d *driver) openProducer(args json.RawMessage) error {
	var given connection
	if err := decode(args, &given); err != nil {
		return err
	}
	opened, err := producer.New(producer.Config{
		Addresses: given.Addresses, Token: given.Token, TokenFunc: given.tokenFunc(), TLS: given.tls(), Timeout: given.timeout(),
		RequestKeys: given.RequestKeys, FailFast: given.FailFast, InFlightTasksMax: given.InFlightTasksMax,
		Metrics: d.metrics(given),
	})
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.producers[given.Name] = opened
	return nil
}

func (d *driver) closeProducer(args json.RawMessage) error {
	var given connection
	if err := decode(args, &given); err != nil {
		return err
	}
	opened, err := named(d, d.producers, given.Name)
	if err != nil {
		return err
	}
	return opened.Close()
}

func (d *driver) create(args json.RawMessage) (any, error) {
	var given newTask
	if err := decode(args, &given); err != nil {
		return nil, err
	}
	opened, err := named(d, d.producers, given.Name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(d.ctx, given.TimeoutSeconds)
	defer cancel()
	id, err := opened.Create(ctx, given.Command, given.task().Payload, given.options())
	if err != nil {
		return nil, err
	}
	return map[string]any{"taskId": id}, nil
}

func (d *driver) createBatch(args json.RawMessage) (any, error) {
	var given struct {
		Name           string    `json:"name"`
		Tasks          []newTask `json:"tasks"`
		TimeoutSeconds float64   `json:"timeoutSeconds"`
	}
	if err := decode(args, &given); err != nil {
		return nil, err
	}
	opened, err := named(d, d.producers, given.Name)
	if err != nil {
		return nil, err
	}
	tasks := make([]producer.Task, 0, len(given.Tasks))
	for _, each := range given.Tasks {
		tasks = append(tasks, each.task())
	}
	ctx, cancel := within(d.ctx, given.TimeoutSeconds)
	defer cancel()
	results, err := opened.CreateBatch(ctx, tasks)
	if err != nil {
		return nil, err
	}
	answers := make([]any, 0, len(results))
	for _, each := range results {
		if each.Err != nil {
			answers = append(answers, map[string]any{"error": failureOf(each.Err)})
		} else {
			answers = append(answers, map[string]any{"taskId": each.ID})
		}
	}
	return answers, nil
}

func (d *driver) createAll(args json.RawMessage) (any, error) {
	var given struct {
		Name     string  `json:"name"`
		Count    int     `json:"count"`
		Template newTask `json:"template"`
		InFlight int     `json:"inFlight"`
	}
	if err := decode(args, &given); err != nil {
		return nil, err
	}
	opened, err := named(d, d.producers, given.Name)
	if err != nil {
		return nil, err
	}
	var tasks iter.Seq[producer.Task] = func(yield func(producer.Task) bool) {
		for range given.Count {
			if !yield(given.Template.task()) {
				return
			}
		}
	}
	ids, failures := []string{}, []failure{}
	for id, err := range opened.CreateAll(d.ctx, tasks, given.InFlight) {
		if err != nil {
			failures = append(failures, failureOf(err))
		} else {
			ids = append(ids, id)
		}
	}
	return map[string]any{"ids": ids, "errors": failures}, nil
}

func (d *driver) createAndWait(args json.RawMessage) (any, error) {
	var given newTask
	if err := decode(args, &given); err != nil {
		return nil, err
	}
	opened, err := named(d, d.producers, given.Name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(d.ctx, given.TimeoutSeconds)
	defer cancel()
	result, err := opened.CreateAndWait(ctx, given.Command, given.task().Payload, given.options())
	if err != nil {
		return nil, err
	}
	return shownResult(result), nil
}

// shownResult returns a result record as the REST API shows it, with the result as raw text.
func shownResult(result *codeq.TaskResult) map[string]any {
	shown := map[string]any{
		"taskId": result.TaskID, "status": result.Status, "completedAt": result.CompletedAt.UTC().Format(time.RFC3339Nano),
	}
	if result.Result != nil {
		shown["result"] = map[string]any{"raw": string(result.Result)}
	}
	if result.Error != "" {
		shown["error"] = result.Error
	}
	artifacts := []any{}
	for _, each := range result.Artifacts {
		artifact := map[string]any{"name": each.Name}
		if each.URL != "" {
			artifact["url"] = each.URL
		} else {
			artifact["size"], artifact["sha256"] = each.Size, each.SHA256
		}
		if each.ContentType != "" {
			artifact["contentType"] = each.ContentType
		}
		artifacts = append(artifacts, artifact)
	}
	shown["artifacts"] = artifacts
	return shown
}
