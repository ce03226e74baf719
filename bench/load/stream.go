package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// runStream creates over producer streams and completes over worker streams.
func runStream(o options, m *meter) error {
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(
		context.Background(), "authorization", "Bearer "+o.token))
	defer cancel()
	open := newGate(o.backlog)
	stopWorkers := make(chan struct{})
	if o.shards > 0 {
		o.producers, o.workers, o.credits = o.producers*o.shards, o.workers*o.shards, o.credits/o.shards
	}
	failures := make(chan error, o.producers+o.workers) // one slot for the end of each stream

	var workers, producers sync.WaitGroup
	for i := range o.workers {
		w := &worker{options: o, meter: m, open: open, shard: o.shardOf(i), stop: stopWorkers}
		workers.Go(func() { failures <- named("worker", i, dial(ctx, o.worker, w.run)) })
	}
	if o.lone > 0 {
		o.producers = 1
	}
	for i := range o.producers {
		p := &producer{
			options: o, meter: m, open: open, stream: i, shard: o.shardOf(i),
			pending: make(chan sentFrame, o.inflight), ended: make(chan struct{}),
		}
		producers.Go(func() { failures <- named("producer", i, dial(ctx, o.address, p.run)) })
	}

	watched := make(chan struct{})
	go func() { m.watch(o); close(watched) }()
	select {
	case <-watched:
	case err := <-failures:
		return fmt.Errorf("a stream ended during the run: %w", err)
	}
	// From here on a stream that does not end within endWait is aborted, and the run fails with its error.
	timeout := time.AfterFunc(endWait, cancel)
	defer timeout.Stop()
	open.close()
	producers.Wait()
	close(stopWorkers)
	workers.Wait()
	close(failures)
	var all error
	for err := range failures {
		all = errors.Join(all, err)
	}
	return all
}

// errElsewhere ends a stream that leads to the process of another shard than intended.
var errElsewhere = errors.New("no connection leads to the process of the shard")

// connectionsMax is the number of connections after which dial gives up to reach the process of a shard: with 32 shards,
// three in a million attempts are in vain.
const connectionsMax = 400

// shardOf returns the shard of a stream with this number.
func (o options) shardOf(stream int) uint32 { return uint32(stream % max(1, o.shards)) }

// dial connects and runs one stream over its own connection, of which it opens more until one leads to the stream's shard.
func dial(ctx context.Context, address string, run func(context.Context, *grpc.ClientConn) error) error {
	for tries := 1; ; tries++ {
		if err := dialOnce(ctx, address, run); tries == connectionsMax || !errors.Is(err, errElsewhere) {
			return err
		}
	}
}

func dialOnce(ctx context.Context, address string, run func(context.Context, *grpc.ClientConn) error) error {
	transport := insecure.NewCredentials()
	if secured {
		transport = credentials.NewTLS(unchecked())
	}
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(transport))
	if err != nil {
		return err
	}
	defer connection.Close()
	return run(ctx, connection)
}

func named(kind string, number int, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %d: %w", kind, number, err)
}

// ended turns the end of a stream into an error: nil when the server ended it with OK.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
