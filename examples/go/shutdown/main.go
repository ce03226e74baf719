// Command shutdown shows how a worker stops. Its task takes long; the first signal lets it save its work and finish, and the
// second one hands it back at once.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

func main() {
	work, err := worker.New(worker.Config{
		Token: cmp.Or(os.Getenv("CODEQ_TOKEN"), "dev-token"), DrainTimeout: 20 * time.Second,
	})
	if err != nil {
		log.Fatal(err)
	}
	worker.Handle(work, "long", long)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		for range signals {
			fmt.Println("stopping")
			work.Stop() // the first call drains, the second ends
		}
	}()
	if err := work.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
	fmt.Println("stopped")
}

// long counts to the number in its payload, one per 100 ms.
func long(ctx context.Context, task worker.Task[int]) (string, error) {
	fmt.Println("working")
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for count := range task.Payload {
		select {
		case <-ticker.C:
		case <-task.Stopping(): // there still is time to finish
			return fmt.Sprint("saved at ", count), nil
		case <-ctx.Done(): // there is none: the task goes back, or is another worker's by now
			return "", context.Cause(ctx)
		}
	}
	return "done", nil
}
