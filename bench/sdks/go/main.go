// Command go measures the Go SDK against a running server and prints one line of JSON: full cycles per second, CPU time of
// this process per cycle, and the time of a lone create beside that of a bare gRPC call that does the same.
//
// A cycle is a create of its own, shared with others in a frame, its delivery to a worker, and the settled outcome.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"

	"github.com/osvaldoandrade/codeq/sdks/go/producer"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

type payload struct {
	Job string `json:"job"`
}

type result struct {
	CyclesPerSecond  float64 `json:"cycles_per_s"`
	ClientCPUMicros  float64 `json:"client_cpu_us_per_cycle"`
	LoneCreateMillis float64 `json:"lone_create_ms"`
	BareCallMillis   float64 `json:"bare_call_ms"`
}

func main() {
	producerAddr := flag.String("producer", "localhost:9092", "address of the server for producers")
	workerAddr := flag.String("worker", "localhost:9091", "address of the server for workers")
	token := flag.String("token", "dev-token", "token")
	callers := flag.Int("callers", 256, "creates on their way at once")
	seconds := flag.Float64("seconds", 10, "length of the measurement of cycles")
	lone := flag.Int("lone", 300, "lone creates, and bare calls, to time")
	profile := flag.String("cpuprofile", "", "file for a CPU profile of the cycles; empty: none")
	flag.Parse()
	ctx := context.Background()
	tasks, err := producer.New(producer.Config{Addresses: []string{*producerAddr}, Token: *token})
	check(err)
	defer func() { _ = tasks.Close() }()
	var got result
	got.LoneCreateMillis, got.BareCallMillis = timeLone(ctx, tasks, *producerAddr, *token, *lone)
	handling, err := worker.New(worker.Config{Addresses: []string{*workerAddr}, Token: *token, Concurrency: *callers * 2})
	check(err)
	worker.Handle(handling, "cycle", func(_ context.Context, task worker.Task[payload]) (payload, error) {
		return task.Payload, nil
	})
	ended := make(chan error, 1)
	go func() { ended <- handling.Run(ctx) }()
	if *profile != "" {
		file, err := os.Create(*profile)
		check(err)
		check(pprof.StartCPUProfile(file))
		defer pprof.StopCPUProfile()
	}
	got.CyclesPerSecond, got.ClientCPUMicros = cycles(ctx, tasks, handling, *callers, time.Duration(*seconds*float64(time.Second)))
	handling.Stop()
	check(<-ended)
	check(json.NewEncoder(os.Stdout).Encode(got))
}

// timeLone returns the median times of a create with nothing else on its way, and of a bare call that creates the same
// task, in milliseconds. They take turns, so that both see the same machine and disk.
func timeLone(ctx context.Context, tasks *producer.Producer, address, token string, count int) (create, bare float64) {
	connection, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(err)
	defer func() { _ = connection.Close() }()
	calls := codeqv1.NewTaskServiceClient(connection)
	authorized := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	var creates, bares []float64
	for range count {
		begun := time.Now()
		_, err := tasks.Create(ctx, "lone", payload{Job: "j-123"})
		check(err)
		creates = append(creates, time.Since(begun).Seconds()*1000)
		begun = time.Now()
		spec := &codeqv1.TaskSpec{Command: "lone", Payload: []byte(`{"job":"j-123"}`)}
		_, err = calls.CreateTask(authorized, &codeqv1.CreateTaskRequest{Spec: spec})
		check(err)
		bares = append(bares, time.Since(begun).Seconds()*1000)
	}
	return median(creates), median(bares)
}

func cycles(
	ctx context.Context, tasks *producer.Producer, handling *worker.Worker, callers int, length time.Duration,
) (perSecond, cpuMicros float64) {
	var created atomic.Int64
	var stop atomic.Bool
	var calling sync.WaitGroup
	for range callers {
		calling.Go(func() {
			for !stop.Load() {
				_, err := tasks.Create(ctx, "cycle", payload{Job: "j-123"})
				check(err)
				created.Add(1)
			}
		})
	}
	time.Sleep(time.Second) // until connections are open and caches are warm
	settled, cpu, begun := handling.Stats().Settled, cpuTime(), time.Now()
	time.Sleep(length)
	done, used, took := handling.Stats().Settled-settled, cpuTime()-cpu, time.Since(begun)
	stop.Store(true)
	calling.Wait()
	return float64(done) / took.Seconds(), float64(used.Microseconds()) / float64(done)
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
