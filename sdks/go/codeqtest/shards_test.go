package codeqtest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/osvaldoandrade/codeq/sdks/go/client"
	"github.com/osvaldoandrade/codeq/sdks/go/codeqtest"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
	"github.com/osvaldoandrade/codeq/sdks/go/producer"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

const shards = 4

// startShards starts a server with several shards.
func startShards(t *testing.T) *codeqtest.Server {
	t.Helper()
	server := codeqtest.Start(t, codeqtest.Env("PERSISTENCE_CONFIG", fmt.Sprintf(`{"numShards":%d}`, shards)))
	scripted.Eventually(t, func() bool {
		return strings.Count(read(t, server, "/readyz"), `"served"`) == shards
	}, "the shards are served")
	return server
}

// read returns a page of the server, or nothing while it cannot be read.
func read(t *testing.T, server *codeqtest.Server, path string) string {
	t.Helper()
	reply, err := http.Get(server.HTTPURL + path)
	if err != nil {
		return ""
	}
	defer func() { _ = reply.Body.Close() }()
	text, _ := io.ReadAll(reply.Body)
	return string(text)
}

// streams returns how many streams the process of each shard has, in the order of the shards.
func streams(t *testing.T, server *codeqtest.Server) string {
	t.Helper()
	var counts []string
	for shard := range shards {
		line := regexp.MustCompile(fmt.Sprintf(`codeq_streams_open\{shard="%d"\} (\d+)`, shard))
		if found := line.FindStringSubmatch(read(t, server, "/metrics")); found != nil {
			counts = append(counts, found[1])
		}
	}
	return strings.Join(counts, " ")
}

// crew is a worker whose handlers hold their tasks until they are released.
type crew struct {
	mu      sync.Mutex
	running int
	runs    map[string]int
	release chan struct{}
}

func newCrew(t *testing.T, server *codeqtest.Server, config worker.Config) *crew {
	t.Helper()
	made := &crew{runs: map[string]int{}, release: make(chan struct{})}
	tasks := server.Worker(t, config)
	worker.HandleAll(tasks, func(_ context.Context, task worker.Task[json.RawMessage]) (worker.None, error) {
		made.count(task.ID, 1)
		<-made.release
		made.count(task.ID, -1)
		return worker.None{}, nil
	})
	codeqtest.Run(t, tasks)
	return made
}

func (c *crew) count(id string, change int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running += change
	if change > 0 {
		c.runs[id]++
	}
}

// held returns the number of tasks that are running.
func (c *crew) held() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running
}

// seen returns the number of different tasks that have run, and how often one ran at most.
func (c *crew) seen() (tasks, most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, runs := range c.runs {
		most = max(most, runs)
	}
	return len(c.runs), most
}

func (c *crew) hasRun(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.runs[id] > 0
}

// create creates tasks whose keys spread them over the shards, each until the server has it.
func create(t *testing.T, from *producer.Producer, first, count int, options ...producer.Option) {
	t.Helper()
	var callers sync.WaitGroup
	for number := range count {
		callers.Go(func() {
			key := producer.IdempotencyKey(fmt.Sprint("key-", first+number))
			for t.Context().Err() == nil {
				if _, err := from.Create(t.Context(), "a", number, append(options, key)...); err == nil {
					return
				}
			}
		})
	}
	callers.Wait()
}

// createPlain creates tasks without a key at once, and returns the ids of those that were acknowledged.
func createPlain(t *testing.T, from *producer.Producer, count int) []string {
	t.Helper()
	var callers sync.WaitGroup
	ids := make([]string, count)
	for number := range count {
		callers.Go(func() { ids[number], _ = from.Create(t.Context(), "a", number) })
	}
	callers.Wait()
	return slices.DeleteFunc(ids, func(id string) bool { return id == "" })
}

// isDone reports whether so many different tasks have run, and none of the queue is left.
func isDone(t *testing.T, calls *client.Client, tasks *crew, count int) bool {
	t.Helper()
	if ran, _ := tasks.seen(); ran < count {
		return false
	}
	queue, err := calls.Queue(t.Context(), "a", "")
	return err == nil && queue.GetReady()+queue.GetScheduled()+queue.GetClaimed()+queue.GetDlq()+queue.GetFailedTotal() == 0
}

func TestWorkerHasAStreamToTheProcessOfEachShardAndGetsItsTasks(t *testing.T) {
	server := startShards(t)
	tasks := newCrew(t, server, worker.Config{Concurrency: 16})
	scripted.Eventually(t, func() bool { return streams(t, server) == "1 1 1 1" }, "each process has one stream")
	create(t, server.Producer(t, producer.Config{}), 0, 100)
	close(tasks.release)
	calls := server.Client(t, client.Config{})
	scripted.Eventually(t, func() bool { return isDone(t, calls, tasks, 100) }, "all tasks are completed")
	if count, most := tasks.seen(); count != 100 || most != 1 {
		t.Errorf("%d tasks ran, one of them %d times", count, most)
	}
}

func TestProducerHasAStreamToTheProcessOfEachShardAndSpreadsItsTasks(t *testing.T) {
	server := startShards(t)
	from := server.Producer(t, producer.Config{})
	if ids := createPlain(t, from, 1); len(ids) != 1 {
		t.Fatal("the task was not created")
	}
	scripted.Eventually(t, func() bool {
		total := 0
		for _, count := range strings.Fields(streams(t, server)) {
			number, _ := strconv.Atoi(count)
			total += number
		}
		return total == shards
	}, "there is a stream for each process")
	created := map[string]bool{}
	for range 10 {
		for _, id := range createPlain(t, from, 20) {
			created[id] = true
		}
	}
	tasks := newCrew(t, server, worker.Config{Concurrency: 16})
	close(tasks.release)
	calls := server.Client(t, client.Config{})
	scripted.Eventually(t, func() bool { return isDone(t, calls, tasks, 201) }, "all tasks are completed")
	if len(created) != 200 {
		t.Errorf("%d tasks were created", len(created))
	}
	accepted := regexp.MustCompile(`codeq_task_created_total\{[^}]*shard="(\d)"[^}]*\} [1-9]`).FindAllString(read(t, server, "/metrics"), -1)
	if len(accepted) < 2 { // two connections may lead to the same process
		t.Errorf("the tasks are in %d shards", len(accepted))
	}
}

func TestWorkerNeverRunsMoreTasksThanItsConcurrency(t *testing.T) {
	server := startShards(t)
	const places, count = 18, 120
	tasks := newCrew(t, server, worker.Config{Concurrency: places})
	create(t, server.Producer(t, producer.Config{}), 0, count)
	calls := server.Client(t, client.Config{})
	scripted.Eventually(t, func() bool { return tasks.held() == places }, "all places are taken")
	for done := range 30 {
		tasks.release <- struct{}{}
		scripted.Eventually(t, func() bool {
			seen, _ := tasks.seen()
			return seen > done+places && tasks.held() >= places
		}, "the next task runs")
		if held := tasks.held(); held > places {
			t.Fatalf("%d tasks run at once", held)
		}
	}
	close(tasks.release)
	scripted.Eventually(t, func() bool { return isDone(t, calls, tasks, count) }, "all tasks are completed")
}

func TestPlacesMoveToTheShardThatHasWork(t *testing.T) {
	server := startShards(t)
	tasks := newCrew(t, server, worker.Config{Concurrency: 32})
	scripted.Eventually(t, func() bool { return streams(t, server) == "1 1 1 1" }, "each process has one stream")
	from := server.Producer(t, producer.Config{})
	// Tasks with a key of their command are kept in one shard.
	for number := range 40 {
		if _, err := from.Create(t.Context(), "keyed", number, producer.ConcurrencyKey(fmt.Sprint(number))); err != nil {
			t.Fatal(err)
		}
	}
	scripted.Eventually(t, func() bool { return tasks.held() == 32-(shards-1) }, "all places but one for each other shard are taken")
	create(t, from, 0, 40)
	scripted.Eventually(t, func() bool { return tasks.held() == 32 }, "the other places are taken by tasks of other shards")
	close(tasks.release)
}

func TestWorkerWithOnePlaceGetsTheTasksOfAllShards(t *testing.T) {
	server := startShards(t)
	tasks := newCrew(t, server, worker.Config{Concurrency: 1})
	close(tasks.release)
	create(t, server.Producer(t, producer.Config{}), 0, 40)
	calls := server.Client(t, client.Config{})
	scripted.Eventually(t, func() bool { return isDone(t, calls, tasks, 40) }, "all tasks are completed")
}

func TestKilledProcessesLoseNoTaskAndRunNoneTwice(t *testing.T) {
	const count, kills = 1500, 4
	server := startShards(t)
	started := regexp.MustCompile(`"server_started","shard":(\d+).*"pid":(\d+)`)
	pids := map[string]int{}
	scripted.Eventually(t, func() bool {
		for _, found := range started.FindAllStringSubmatch(server.Log(), -1) {
			var pid int
			_, _ = fmt.Sscan(found[2], &pid)
			pids[found[1]] = pid
		}
		return len(pids) == shards
	}, "the log tells the processes")
	tasks := newCrew(t, server, worker.Config{Concurrency: 64, Lease: 5 * time.Second}) // deliveries that a killed process had under way
	close(tasks.release)
	calls, from := server.Client(t, client.Config{}), server.Producer(t, producer.Config{})
	var plain []string // ids of acknowledged tasks without a key
	created := make(chan struct{})
	go func() {
		defer close(created)
		for first := 0; first < count; first += 100 {
			create(t, from, first, 100)
			plain = append(plain, createPlain(t, from, 100)...)
		}
	}()
	for kill := range kills {
		scripted.Eventually(t, func() bool {
			ran, _ := tasks.seen()
			return ran > (kill+1)*2*count/(kills+2)
		}, "the load goes on")
		if err := syscall.Kill(pids[fmt.Sprint(kill%shards)], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	<-created
	scripted.Eventually(t, func() bool { return isDone(t, calls, tasks, count+len(plain)) }, "all tasks are completed")
	if _, most := tasks.seen(); most != 1 {
		t.Errorf("a task ran %d times", most)
	}
	for _, id := range plain {
		if !tasks.hasRun(id) {
			t.Errorf("the task %s is lost", id)
		}
	}
	_ = from.Close()
	scripted.Eventually(t, func() bool {
		counts := strings.Fields(streams(t, server))
		return len(counts) == shards && !slices.Contains(counts, "0")
	}, "each process has a stream of the worker again")
}
