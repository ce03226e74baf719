// Command program is the same as program.py, in Go's SDK.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/osvaldoandrade/codeq/sdks/go/codeqotel"
	"github.com/osvaldoandrade/codeq/sdks/go/producer"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

func main() {
	ctx := context.Background()
	exporter, err := otlptracegrpc.New(ctx)
	check(err)
	provider := trace.NewTracerProvider(trace.WithBatcher(exporter))
	otel.SetTracerProvider(provider)
	commands := os.Args[2:]
	if os.Args[1] == "create" {
		create(ctx, commands)
	} else {
		work(ctx, commands)
	}
	check(provider.Shutdown(ctx))
}

func create(ctx context.Context, commands []string) {
	tasks, err := producer.New(producer.Config{Propagator: codeqotel.Propagator{}})
	check(err)
	for _, command := range commands {
		inner, span := otel.Tracer("program").Start(ctx, "order "+command)
		result, err := producer.Call[string](inner, tasks, command, "work")
		check(err)
		span.End()
		fmt.Println(result)
	}
	check(tasks.Close())
}

func work(ctx context.Context, commands []string) {
	tasks, err := worker.New(worker.Config{
		Name: "go", Propagator: codeqotel.Propagator{}, Middleware: []worker.Middleware{codeqotel.Middleware(nil)},
	})
	check(err)
	for _, command := range commands {
		worker.Handle(tasks, command, func(_ context.Context, task worker.Task[string]) (string, error) {
			if task.Payload == "fail" {
				return "", worker.NonRetryable(errors.New("as the test wants"))
			}
			return "done", nil
		})
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	check(tasks.Run(ctx))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
