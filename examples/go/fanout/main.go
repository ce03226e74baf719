// Command fanout creates 10,000 tasks, works on them, and adds up their results.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"
	"sync/atomic"
	"time"

	"github.com/osvaldoandrade/codeq/sdks/go/producer"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

const count = 10_000

func main() {
	ctx, token := context.Background(), cmp.Or(os.Getenv("CODEQ_TOKEN"), "dev-token")
	work, err := worker.New(worker.Config{Token: token, Concurrency: 256})
	check(err)
	var sum, done atomic.Int64
	worker.Handle(work, "square", func(_ context.Context, task worker.Task[int64]) (int64, error) {
		sum.Add(task.Payload * task.Payload)
		if done.Add(1) == count {
			work.Stop() // Run returns once the outcomes are settled
		}
		return task.Payload * task.Payload, nil
	})
	tasks, err := producer.New(producer.Config{Token: token})
	check(err)
	begun := time.Now()
	created := 0
	for _, err := range tasks.CreateAll(ctx, numbers, 0) {
		check(err)
		created++
	}
	check(tasks.Close())
	log.Println("created", created, "in", time.Since(begun).Round(time.Millisecond))
	check(work.Run(ctx))
	fmt.Println("tasks", done.Load(), "sum", sum.Load())
}

// numbers yields the tasks; CreateAll reads it only as far ahead as creates are on their way.
func numbers(yield func(producer.Task) bool) {
	for number := range int64(count) {
		if !yield(producer.Task{Command: "square", Payload: number}) {
			return
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
