// Command load drives a codeq server and measures it: full task cycles per second and latencies, counted at the client
// and only for acknowledged work.
//
//	load stream [flags]   producer and worker streams with frames of many tasks
//	load rest   [flags]   keep-alive HTTP clients: create, claim, result
//
// It prints one JSON object per line: {"event":"started"} and {"event":"stopped"} around the measured window, so that
// its caller can read the server's own counters at the same moments, and finally the event "result".
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"time"
)

// options are the flags of both modes.
type options struct {
	address   string // host:port of the producer stream, or of HTTP
	worker    string // host:port of the worker stream
	token     string
	command   string
	warmup    time.Duration
	measured  time.Duration
	frame     int
	inflight  int
	credits   int
	backlog   int
	producers int
	workers   int
	lone      int
	shards    int
	keys      int
	sampled   int
	clients   int
	rate      int
	webhook   string
}

// secured tells whether connections use TLS.
var secured bool

// endWait is the longest wait for outstanding answers after the measured window.
const endWait = 15 * time.Second

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("usage: load stream|rest [flags]"))
	}
	mode := os.Args[1]
	var o options
	flags := flag.NewFlagSet("load "+mode, flag.ExitOnError)
	flags.StringVar(&o.address, "address", "127.0.0.1:9092", "host:port of the producer stream (stream) or of HTTP (rest)")
	flags.StringVar(&o.worker, "worker-address", "127.0.0.1:9091", "host:port of the worker stream")
	flags.StringVar(&o.token, "token", "dev-token", "token of producers and workers")
	flags.StringVar(&o.command, "command", "BENCH", "command of the tasks")
	warmup := flags.Float64("warmup", 2, "seconds before the measured window")
	measured := flags.Float64("seconds", 8, "seconds of the measured window")
	flags.IntVar(&o.frame, "frame", 64, "tasks per producer frame, most outcomes per worker message")
	flags.IntVar(&o.inflight, "inflight", 32, "unanswered frames per producer stream")
	flags.IntVar(&o.credits, "credits", 1024, "credits per worker stream")
	flags.IntVar(&o.backlog, "backlog", 50000, "most tasks created but not yet completed")
	flags.IntVar(&o.producers, "producers", 1, "producer streams")
	flags.IntVar(&o.workers, "workers", 1, "worker streams")
	flags.IntVar(&o.lone, "lone", 0, "callers that create one task at a time, coalesced into the frames of one stream; 0: full frames")
	flags.IntVar(&o.shards, "shards", 0, "shards of the server: each producer and worker opens a stream to the process of each, and has its credits divided among them; 0: one stream anywhere (stream)")
	flags.IntVar(&o.keys, "keys", 0, "concurrency keys that the tasks of full frames have in turn; 0: none")
	flags.IntVar(&o.sampled, "sampled", 0, "one in this many tasks of full frames is part of a trace that is recorded; 0: none")
	flags.IntVar(&o.clients, "clients", 32, "HTTP connections, each with one call at a time")
	flags.IntVar(&o.rate, "rate", 0, "tasks per second that each producer stream creates in full frames; 0: as many as it can")
	flags.StringVar(&o.webhook, "webhook", "", "URL of the tasks' callbacks; empty: none (stream)")
	flags.BoolVar(&secured, "tls", false, "speak TLS; any certificate is accepted")
	if err := flags.Parse(os.Args[2:]); err != nil {
		fail(err)
	}
	o.warmup = time.Duration(*warmup * float64(time.Second))
	o.measured = time.Duration(*measured * float64(time.Second))
	if err := o.check(); err != nil {
		fail(err)
	}
	debug.SetGCPercent(400) // The client shares the machine with the server it measures: trade memory for cycles.

	run, known := map[string]func(options, *meter) error{"stream": runStream, "rest": runREST}[mode]
	if !known {
		fail(fmt.Errorf("unknown mode %q: stream or rest", mode))
	}
	m := &meter{}
	if err := run(o, m); err != nil {
		fail(err)
	}
	emit(m.result())
}

// check rejects invalid flags.
func (o options) check() error {
	for _, bound := range []struct {
		flag          string
		value, lo, hi int
	}{
		{"frame", o.frame, 1, 4096},
		{"inflight", o.inflight, 1, 256},
		{"credits", o.credits, 1, 65536},
		{"backlog", o.backlog, o.frame, 1 << 30},
		{"producers", o.producers, 1, 256},
		{"workers", o.workers, 1, 256},
		{"lone", o.lone, 0, 65536},
		{"shards", o.shards, 0, 32},
		{"keys", o.keys, 0, 1 << 20},
		{"sampled", o.sampled, 0, 1 << 20},
		{"clients", o.clients, 1, 4096},
		{"rate", o.rate, 0, 1 << 20},
	} {
		if bound.value < bound.lo || bound.value > bound.hi {
			return fmt.Errorf("-%s is %d, expected %d to %d", bound.flag, bound.value, bound.lo, bound.hi)
		}
	}
	if o.shards > 0 && (o.lone > 0 || o.credits < o.shards) {
		return fmt.Errorf("-shards cannot be combined with -lone, or with less than a credit for each")
	}
	if o.measured <= 0 || o.warmup < 0 {
		return fmt.Errorf("-seconds must be positive and -warmup must not be negative")
	}
	return nil
}

// emit prints one line of JSON.
func emit(event map[string]any) {
	if err := json.NewEncoder(os.Stdout).Encode(event); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "load:", err)
	os.Exit(1)
}
