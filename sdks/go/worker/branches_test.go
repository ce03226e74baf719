package worker_test

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc/codes"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

// startShards starts a server with several shards, whose streams lead to the processes in turn.
func startShards(t testing.TB, shards uint32) *peer {
	t.Helper()
	server := startPeer(t, 60)
	server.leads = func(stream int) uint32 { return uint32(stream) % shards }
	server.shards = shards
	return server
}

// branches returns the streams that a worker keeps, by the shard that it chose, with the credits that each gets.
func (p *peer) branches(count int) (streams []*peerStream, credits []int32) {
	p.t.Helper()
	streams, credits = make([]*peerStream, count), make([]int32, count)
	for left := count; left > 0; {
		stream := p.next()
		// The worker closes the others without a message.
		if request := scripted.Receive(p.t, stream.requests, "the first message or the end"); request != nil {
			chosen := stream.hello.GetOnlyShard().GetShard()
			streams[chosen], credits[chosen] = stream, request.GetAddCredits()
			left--
		}
	}
	return streams, credits
}

func TestWorkerOpensAStreamForEachShardAndDividesItsPlaces(t *testing.T) {
	server := startShards(t, 3)
	started := run(t, worker.Config{Concurrency: 14}, echoing, server)
	streams, credits := server.branches(3)
	for shard, stream := range streams {
		choice := stream.hello.GetOnlyShard()
		if choice.GetShard() != uint32(shard) || choice.GetShards() != 3 || stream.shard != uint32(shard) {
			t.Errorf("the stream of shard %d chose %v at the process of shard %d", shard, choice, stream.shard)
		}
	}
	if credits[0] != 5 || credits[1] != 5 || credits[2] != 4 {
		t.Errorf("the credits are %v", credits)
	}
	if opened := started.Stats().Streams; opened != 1 {
		t.Errorf("%d streams are counted", opened)
	}
	streams[2].end <- nil
	if again := server.next(); again.hello.GetOnlyShard().GetShard() != 2 {
		t.Errorf("the stream chose %v", again.hello.GetOnlyShard())
	}
	scripted.Eventually(t, func() bool { return started.Stats().Streams == 2 }, "a stream that is opened again counts")
}

func TestStreamIsKeptWhereItLeadsIfNoneLeadsToTheProcessOfTheShard(t *testing.T) {
	server := startShards(t, 2)
	server.leads = func(int) uint32 { return 0 }
	run(t, worker.Config{Concurrency: 8}, echoing, server)
	streams, credits := server.branches(2)
	if streams[0].shard != 0 || streams[1].shard != 0 || credits[0] != 4 || credits[1] != 4 {
		t.Errorf("the streams lead to %d and %d, with %v credits", streams[0].shard, streams[1].shard, credits)
	}
	if opened := server.streams.Load(); opened > 1+1+17 {
		t.Errorf("%d streams were opened", opened)
	}
}

func TestWorkerHasOneStreamIfItHasFewerThanFourPlacesForEachShard(t *testing.T) {
	server := startShards(t, 3)
	run(t, worker.Config{Concurrency: 11}, echoing, server)
	stream := server.next()
	request := scripted.Receive(t, stream.requests, "credits")
	if stream.hello.GetOnlyShard() != nil || request.GetAddCredits() != 11 {
		t.Errorf("the hello is %v, the credits are %d", stream.hello, request.GetAddCredits())
	}
}

func TestCreditsOfAShardWithoutWorkAreReturnedForOneThatHasSome(t *testing.T) {
	server, handlers := startShards(t, 2), holding()
	run(t, worker.Config{Concurrency: 8}, handlers.register, server)
	streams, _ := server.branches(2)
	streams[0].deliver("1", "2", "3", "4")
	asked := streams[1].await("a request for credits", func(request *codeqv1.WorkRequest) bool { return request.GetReturnCredits() > 0 })
	if asked.GetReturnCredits() != 2 {
		t.Errorf("%d credits are asked for", asked.GetReturnCredits())
	}
	two := uint32(2)
	streams[1].send(&codeqv1.WorkResponse{ReturnedCredits: &two})
	given := streams[0].await("more credits", func(request *codeqv1.WorkRequest) bool { return request.GetAddCredits() > 0 })
	if given.GetAddCredits() != 2 {
		t.Errorf("%d credits are given", given.GetAddCredits())
	}
	streams[0].deliver("5", "6")
	last := streams[1].await("a request for credits", func(request *codeqv1.WorkRequest) bool { return request.GetReturnCredits() > 0 })
	if last.GetReturnCredits() != 1 { // one stays
		t.Errorf("%d credits are asked for", last.GetReturnCredits())
	}
	close(handlers.release)
}

func TestFreePlaceGoesToTheShardWithFewerIfBothHaveWork(t *testing.T) {
	server := startShards(t, 2)
	release := map[string]chan struct{}{"busy": make(chan struct{}), "idle": make(chan struct{})}
	started := make(chan struct{}, 8)
	run(t, worker.Config{Concurrency: 8}, func(w *worker.Worker) {
		worker.HandleAll(w, func(_ context.Context, task worker.Task[string]) (worker.None, error) {
			started <- struct{}{}
			<-release[task.Payload]
			return worker.None{}, nil
		})
	}, server)
	streams, _ := server.branches(2)
	deliver := func(stream *peerStream, ids ...string) {
		response := &codeqv1.WorkResponse{}
		for _, id := range ids {
			task := taskOf(id, "a", 1)
			if task.Payload = []byte(`"busy"`); stream == streams[1] {
				task.Payload = []byte(`"idle"`)
			}
			response.Tasks = append(response.Tasks, task)
		}
		stream.send(response)
	}
	deliver(streams[0], "1", "2", "3", "4")
	moves := func(count int32) {
		t.Helper()
		streams[1].await("a request for credits", func(request *codeqv1.WorkRequest) bool { return request.GetReturnCredits() == count })
		returned := uint32(count)
		streams[1].send(&codeqv1.WorkResponse{ReturnedCredits: &returned})
		streams[0].await("more places", func(request *codeqv1.WorkRequest) bool { return request.GetAddCredits() == count })
	}
	moves(2)
	deliver(streams[0], "5", "6")
	moves(1)
	deliver(streams[0], "7")
	deliver(streams[1], "8")
	for range 8 { // then both have a task in each place: seven and one
		scripted.Receive(t, started, "handler")
	}
	release["busy"] <- struct{}{}
	streams[1].await("the place of a shard with more", func(request *codeqv1.WorkRequest) bool { return request.GetAddCredits() == 1 })
	close(release["busy"])
	close(release["idle"])
}

func TestErrorForGoodOfOneStreamEndsTheWorker(t *testing.T) {
	server := startShards(t, 2)
	ended := run(t, worker.Config{Concurrency: 8}, echoing, server)
	streams, _ := server.branches(2)
	streams[1].end <- scripted.Failure(codes.PermissionDenied, "COMMAND_NOT_ALLOWED")
	if err := scripted.Receive(t, ended.ended, "the end"); !errors.Is(err, codeq.ErrCommandNotAllowed) {
		t.Errorf("the worker ended with %v", err)
	}
}

func TestStopDrainsAllStreams(t *testing.T) {
	server, handlers := startShards(t, 2), holding()
	started := run(t, worker.Config{Concurrency: 8}, handlers.register, server)
	streams, _ := server.branches(2)
	streams[0].deliver("1")
	scripted.Receive(t, handlers.started, "handler")
	started.Stop()
	for _, stream := range streams {
		stream.await("a drain", func(request *codeqv1.WorkRequest) bool { return request.GetDrain() })
	}
	close(handlers.release)
	streams[0].await("the outcome", func(request *codeqv1.WorkRequest) bool { return len(request.GetOutcomes()) == 1 })
	streams[0].send(&codeqv1.WorkResponse{Settled: 1})
	for _, stream := range streams {
		for range stream.requests { // until the half-close
		}
		stream.end <- nil
	}
	if err := scripted.Receive(t, started.ended, "the end"); err != nil {
		t.Error(err)
	}
}

func TestStreamsGoToTheNodesOfTheirShardsAndToOthersWhileANodeIsAway(t *testing.T) {
	nodes := []*peer{startShards(t, 2), startShards(t, 2)}
	for shard, node := range nodes {
		node.leads = func(int) uint32 { return uint32(shard) }
	}
	run(t, worker.Config{Concurrency: 8}, echoing, nodes...)
	granted := func(node *peer, shard uint32) {
		t.Helper()
		for {
			stream := node.next()
			request := scripted.Receive(t, stream.requests, "credits or the end")
			if choice := stream.hello.GetOnlyShard(); choice != nil && choice.GetShard() == shard && request != nil {
				if request.GetAddCredits() != 4 {
					t.Errorf("the credits are %d", request.GetAddCredits())
				}
				return
			}
		}
	}
	granted(nodes[0], 0)
	granted(nodes[1], 1)
	nodes[1].Cut()
	granted(nodes[0], 1)
}
