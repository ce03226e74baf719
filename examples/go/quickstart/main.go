// Command quickstart creates a task, works on it, and prints the result. Start a server with `codeq serve --dev` first.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"

	"github.com/osvaldoandrade/codeq/sdks/go/producer"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

func main() {
	ctx, token := context.Background(), cmp.Or(os.Getenv("CODEQ_TOKEN"), "dev-token")
	work, err := worker.New(worker.Config{Token: token})
	check(err)
	worker.Handle(work, "greet", func(_ context.Context, task worker.Task[string]) (string, error) {
		return "Hello, " + task.Payload, nil
	})
	go func() { check(work.Run(ctx)) }()
	tasks, err := producer.New(producer.Config{Token: token})
	check(err)
	greeting, err := producer.Call[string](ctx, tasks, "greet", "world")
	check(err)
	fmt.Println(greeting)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
