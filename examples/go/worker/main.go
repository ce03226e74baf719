// Command worker works on tasks of two commands until it is interrupted: resize has a limit and a timeout, and reports
// progress; everything else is printed.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

// Image is what a task of resize is about.
type Image struct {
	Path  string `json:"path"`
	Width int    `json:"width"`
}

// Resized is the result.
type Resized struct {
	Path string `json:"path"`
}

func main() {
	work, err := worker.New(worker.Config{
		Token: cmp.Or(os.Getenv("CODEQ_TOKEN"), "dev-token"), Concurrency: 32, Middleware: []worker.Middleware{logged},
	})
	if err != nil {
		log.Fatal(err)
	}
	worker.Handle(work, "resize", resize, worker.Limit(4), worker.Timeout(time.Minute))
	worker.HandleAll(work, func(_ context.Context, task worker.Task[json.RawMessage]) (worker.None, error) {
		fmt.Println(task.Command, string(task.Payload))
		return worker.None{}, nil
	})
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := work.Run(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%+v\n", work.Stats())
}

func resize(ctx context.Context, task worker.Task[Image]) (Resized, error) {
	if task.Payload.Width <= 0 {
		return Resized{}, worker.NonRetryable(fmt.Errorf("width %d of %s", task.Payload.Width, task.Payload.Path))
	}
	for percent := 0; percent < 100; percent += 25 {
		if err := task.Progress(map[string]int{"percent": percent}); err != nil {
			return Resized{}, err
		}
		if ctx.Err() != nil { // the lease is lost, the task cancelled, or the worker shut down
			return Resized{}, context.Cause(ctx)
		}
	}
	return Resized{Path: fmt.Sprintf("%s@%d", task.Payload.Path, task.Payload.Width)}, nil
}

// logged logs how long each task took.
func logged(next worker.HandlerFunc) worker.HandlerFunc {
	return func(ctx context.Context, task *worker.Delivery) (any, error) {
		begun := time.Now()
		value, err := next(ctx, task)
		log.Println(task.Command, task.ID, time.Since(begun).Round(time.Microsecond), err)
		return value, err
	}
}
