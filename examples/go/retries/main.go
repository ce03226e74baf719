// Command retries creates a task that fails until it is a dead letter, mends the handler, and redrives the task.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"sync/atomic"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	"github.com/osvaldoandrade/codeq/sdks/go/client"
	"github.com/osvaldoandrade/codeq/sdks/go/producer"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

const waitMax = 30 * time.Second

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	token := cmp.Or(os.Getenv("CODEQ_TOKEN"), "dev-token")
	var isMended atomic.Bool
	work, err := worker.New(worker.Config{Token: token})
	check(err)
	worker.Handle(work, "charge", func(_ context.Context, task worker.Task[int]) (string, error) {
		fmt.Println("attempt", task.Attempts)
		switch {
		case task.Payload < 0:
			return "", worker.NonRetryable(errors.New("a negative amount")) // ends as FAILED
		case !isMended.Load():
			return "", worker.RetryAfter(errors.New("the bank is closed"), 0) // retried, then a dead letter
		default:
			return "charged", nil
		}
	})
	go func() { check(work.Run(ctx)) }()
	tasks, err := producer.New(producer.Config{Token: token})
	check(err)
	defer func() { _ = tasks.Close() }()
	id, err := tasks.Create(ctx, "charge", 100, producer.MaxAttempts(2))
	check(err)
	result, err := tasks.Wait(ctx, id)
	check(err)
	fmt.Println(result.Status, result.Error)
	calls, err := client.New(client.Config{Token: token})
	check(err)
	defer func() { _ = calls.Close() }()
	for letter, err := range calls.DeadLetters(ctx, "charge", "") {
		check(err)
		fmt.Println("dead letter", letter.ID == id, letter.Error)
	}
	isMended.Store(true)
	_, err = calls.Redrive(ctx, id, "")
	check(err)
	late, stop := context.WithTimeout(ctx, waitMax)
	defer stop()
	result, err = tasks.Wait(late, id)
	check(err)
	fmt.Println(result.Status, string(result.Result))
	if result.Status != codeq.StatusCompleted {
		log.Fatal("the task was not completed")
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
