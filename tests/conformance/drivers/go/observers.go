package main

import (
	"context"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

// layers returns middleware that tells when it is entered and left.
func (d *driver) layers(given workerArgs) []worker.Middleware {
	made := make([]worker.Middleware, 0, len(given.Layers))
	for _, name := range given.Layers {
		made = append(made, func(next worker.HandlerFunc) worker.HandlerFunc {
			return func(ctx context.Context, task *worker.Delivery) (any, error) {
				tell := func(side string) {
					d.write(map[string]any{
						"event": "layer", "worker": given.connection.Name, "id": task.ID, "layer": name, "side": side,
					})
				}
				tell("before")
				defer tell("after")
				return next(ctx, task)
			}
		})
	}
	return made
}

// metrics returns hooks that tell every call, if they are asked for.
func (d *driver) metrics(given connection) codeq.Metrics {
	if !given.Metrics {
		return codeq.Metrics{}
	}
	tell := func(what string, about map[string]any) {
		about["event"], about["worker"], about["what"] = "metric", given.Name, what
		d.write(about)
	}
	return codeq.Metrics{
		Created: func(command string, took time.Duration, err error) {
			tell("created", map[string]any{"command": command, "isCreated": err == nil, "took": took.Seconds()})
		},
		TaskStarted: func(command string) { tell("started", map[string]any{"command": command}) },
		TaskEnded: func(command, outcome string, took time.Duration) {
			tell("ended", map[string]any{"command": command, "outcome": outcome, "took": took.Seconds()})
		},
	}
}
