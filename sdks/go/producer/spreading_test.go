package producer_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
	"github.com/osvaldoandrade/codeq/sdks/go/producer"
)

// startShards starts a server whose streams lead to the processes of its shards in turn. Each process counts the tasks that
// it accepts; an id tells the shard.
func startShards(t *testing.T, shards uint32) (server *scripted.Server, counts []atomic.Int64, streams *atomic.Int64) {
	t.Helper()
	number := &atomic.Uint32{}
	number.Store(shards)
	server, counts, streams, _ = startChanging(t, number, shards)
	return server, counts, streams
}

// startChanging starts such a server whose number of shards changes. It also counts the streams that are open.
func startChanging(t *testing.T, number *atomic.Uint32, shardsMax uint32) (
	server *scripted.Server, counts []atomic.Int64, streams, open *atomic.Int64,
) {
	t.Helper()
	counts, streams, open = make([]atomic.Int64, shardsMax), &atomic.Int64{}, &atomic.Int64{}
	server = scripted.Start(t, scripted.Script{Produce: func(stream scripted.ProduceStream) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		open.Add(1)
		defer open.Add(-1)
		shards := number.Load()
		welcome, shard := scripted.ProducerWelcome(), uint32(streams.Add(1)-1)%shards
		welcome.Welcome.Shard, welcome.Welcome.Shards = shard, shards
		if err := stream.Send(welcome); err != nil {
			return err
		}
		for {
			request, err := stream.Recv()
			if err != nil {
				return nil // the half-close
			}
			ack := &codeqv1.FrameAck{}
			for range request.GetTasks() {
				ack.TaskIds = append(ack.TaskIds, fmt.Sprint(shard, "-", counts[shard].Add(1)))
			}
			if err := stream.Send(&codeqv1.ProduceResponse{Acks: []*codeqv1.FrameAck{ack}}); err != nil {
				return err
			}
		}
	}})
	return server, counts, streams, open
}

func TestCreatesGoRoundTheShards(t *testing.T) {
	server, counts, _ := startShards(t, 3)
	tasks := open(t, producer.Config{}, server)
	seen := map[string]bool{}
	create := func() {
		id, err := tasks.Create(t.Context(), "a", 1)
		if err != nil || seen[id] {
			t.Fatalf("got %q again, %v", id, err)
		}
		seen[id] = true
	}
	for counts[0].Load() == 0 || counts[1].Load() == 0 || counts[2].Load() == 0 {
		create()
	}
	before := []int64{counts[0].Load(), counts[1].Load(), counts[2].Load()}
	for range 30 {
		create()
	}
	for shard := range counts {
		if got := counts[shard].Load() - before[shard]; got != 10 {
			t.Errorf("shard %d got %d of 30 tasks", shard, got)
		}
	}
	if err := tasks.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestCreatesGoOnOverTheOtherStreamsWhileOneIsBroken(t *testing.T) {
	server, counts, _ := startShards(t, 2)
	tasks := open(t, producer.Config{}, server)
	for counts[0].Load() == 0 || counts[1].Load() == 0 {
		if _, err := tasks.Create(t.Context(), "a", 1); err != nil {
			t.Fatal(err)
		}
	}
	server.Cut()
	server.Again()
	before := counts[0].Load() + counts[1].Load()
	for created := 0; created < 50; {
		if _, err := tasks.Create(t.Context(), "a", 1); err == nil { // a create that was sent before the cut is lost with it
			created++
		}
	}
	if got := counts[0].Load() + counts[1].Load() - before; got < 50 {
		t.Errorf("the server got %d of 50 tasks", got)
	}
}

func TestProducerThatAddsKeysHasOneStream(t *testing.T) {
	server, counts, streams := startShards(t, 2)
	tasks := open(t, producer.Config{RequestKeys: true}, server)
	for range 20 {
		if _, err := tasks.Create(t.Context(), "a", 1); err != nil {
			t.Fatal(err)
		}
	}
	if streams.Load() != 1 || counts[0].Load() != 20 {
		t.Errorf("%d streams, %d tasks over the first", streams.Load(), counts[0].Load())
	}
}

func TestProducerHasAStreamForEachShardAfterTheirNumberChanged(t *testing.T) {
	number := &atomic.Uint32{}
	number.Store(2)
	server, _, _, streams := startChanging(t, number, 4)
	tasks := open(t, producer.Config{}, server)
	createdWith := func(shards uint32) {
		t.Helper()
		scripted.Eventually(t, func() bool { // a create that was sent before the cut is lost with it
			_, err := tasks.Create(t.Context(), "a", 1)
			return err == nil
		}, "a create")
		scripted.Eventually(t, func() bool { return streams.Load() == int64(shards) }, fmt.Sprint(shards, " streams"))
	}
	createdWith(2)
	for _, shards := range []uint32{4, 1} {
		number.Store(shards)
		server.Cut()
		server.Again()
		createdWith(shards)
	}
}
