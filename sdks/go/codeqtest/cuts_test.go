package codeqtest_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/osvaldoandrade/codeq/sdks/go/client"
	"github.com/osvaldoandrade/codeq/sdks/go/codeqtest"
	"github.com/osvaldoandrade/codeq/sdks/go/producer"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

// cutter carries TCP to a server, and cuts all connections when it is told to.
type cutter struct {
	address  string
	target   string
	mu       sync.Mutex
	ends     map[net.Conn]struct{}
	carrying sync.WaitGroup
}

func startCutter(t *testing.T, target string) *cutter {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	proxy := &cutter{address: listener.Addr().String(), target: target, ends: map[net.Conn]struct{}{}}
	proxy.carrying.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			proxy.carrying.Go(func() { proxy.carry(near) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		proxy.cut()
		proxy.carrying.Wait()
	})
	return proxy
}

func (c *cutter) carry(near net.Conn) {
	far, err := net.Dial("tcp", c.target)
	if err != nil {
		_ = near.Close()
		return
	}
	c.mu.Lock()
	c.ends[near], c.ends[far] = struct{}{}, struct{}{}
	c.mu.Unlock()
	c.carrying.Go(func() { c.copy(far, near) })
	c.copy(near, far)
}

// copy carries one way; its end ends both ways.
func (c *cutter) copy(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, end := range []net.Conn{to, from} {
		_ = end.Close()
		delete(c.ends, end)
	}
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for end := range c.ends {
		_ = end.Close()
	}
}

func TestThousandTasksPassThroughTwentyCuts(t *testing.T) {
	const tasks, cuts = 1000, 20
	server := codeqtest.Start(t)
	// Two ways to one server: as in a cluster, the SDK tries the other one soon.
	one, two := startCutter(t, server.ProducerAddr), startCutter(t, server.ProducerAddr)
	ways := []string{one.address, two.address}
	// Deliveries that a cut swallows come again when their leases end.
	work := server.Worker(t, worker.Config{Addresses: ways, Lease: 2 * time.Second})
	var mu sync.Mutex
	handled := map[string]bool{}
	complete := make(chan struct{})
	worker.Handle(work, "cut", func(_ context.Context, task worker.Task[int]) (worker.None, error) {
		mu.Lock()
		defer mu.Unlock()
		if handled[task.ID] {
			return worker.None{}, nil
		}
		handled[task.ID] = true
		if len(handled)%(tasks/cuts) == 0 {
			one.cut()
			two.cut()
		}
		if len(handled) == tasks {
			close(complete)
		}
		return worker.None{}, nil
	})
	codeqtest.Run(t, work)
	made := server.Producer(t, producer.Config{Addresses: ways, Timeout: time.Minute})
	ids := map[string]bool{}
	for id, err := range made.CreateAll(t.Context(), func(yield func(producer.Task) bool) {
		for number := range tasks {
			if !yield(producer.Task{Command: "cut", Payload: number}) {
				return
			}
		}
	}, 32) {
		if err != nil {
			t.Fatal(err)
		}
		ids[id] = true
	}
	if len(ids) != tasks {
		t.Errorf("%d tasks were created", len(ids))
	}
	select {
	case <-complete:
	case <-time.After(2 * time.Minute):
		t.Fatalf("%d tasks were handled; %+v", len(handled), work.Stats())
	}
	calls := server.Client(t, client.Config{})
	for id := range ids {
		if result, err := calls.Result(t.Context(), id, 30*time.Second); err != nil || result.Status != "COMPLETED" {
			t.Fatalf("task %s: %+v, %v", id, result, err)
		}
	}
}
