package main

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// meter counts acknowledged work over the whole run, and latencies only within the measured window.
type meter struct {
	created   atomic.Int64
	completed atomic.Int64
	refused   atomic.Int64 // items and outcomes the server answered with an error

	measuring atomic.Bool
	create    histogram // send of a create to its acknowledgement
	delivery  histogram // send of a create to the delivery of the task

	framesUnanswered   atomic.Int64 // frames without an ack at the end of their stream
	outcomesUnanswered atomic.Int64 // outcomes not settled at the end of their stream
	claimsWithoutTasks atomic.Int64 // claims over REST that found nothing

	window          time.Duration
	windowCreated   int64
	windowCompleted int64
}

// watch sleeps through warm-up and window, and records the counters at both ends of the window.
func (m *meter) watch(o options) {
	time.Sleep(o.warmup)
	created, completed, started := m.created.Load(), m.completed.Load(), time.Now()
	m.measuring.Store(true)
	emit(map[string]any{"event": "started"})
	time.Sleep(o.measured)
	m.measuring.Store(false)
	m.window = time.Since(started)
	m.windowCreated = m.created.Load() - created
	m.windowCompleted = m.completed.Load() - completed
	emit(map[string]any{"event": "stopped"})
}

// result is the last line of a run.
func (m *meter) result() map[string]any {
	seconds := m.window.Seconds()
	return map[string]any{
		"event":                "result",
		"seconds":              seconds,
		"cycles_per_s":         float64(m.windowCompleted) / seconds,
		"creates_per_s":        float64(m.windowCreated) / seconds,
		"window_cycles":        m.windowCompleted,
		"create_p50_ms":        m.create.quantile(0.50),
		"create_p99_ms":        m.create.quantile(0.99),
		"delivery_p50_ms":      m.delivery.quantile(0.50),
		"delivery_p99_ms":      m.delivery.quantile(0.99),
		"created":              m.created.Load(),
		"completed":            m.completed.Load(),
		"refused":              m.refused.Load(),
		"frames_unanswered":    m.framesUnanswered.Load(),
		"outcomes_unanswered":  m.outcomesUnanswered.Load(),
		"claims_without_tasks": m.claimsWithoutTasks.Load(),
	}
}

// histogram counts durations in buckets whose width is about 3 % of their value: 32 to each power of two microseconds.
type histogram struct {
	buckets [bucketCount]atomic.Int64
}

const (
	subBuckets  = 32
	bucketCount = subBuckets * 40
)

// add counts a duration n times.
func (h *histogram) add(d time.Duration, n int64) {
	h.buckets[bucketOf(uint64(max(d.Microseconds(), 0)))].Add(n)
}

func bucketOf(us uint64) int {
	if us < subBuckets {
		return int(us)
	}
	exponent := bits.Len64(us) - 6 // us>>exponent lies in [32, 64)
	return min(exponent*subBuckets+int(us>>exponent), bucketCount-1)
}

// middle is the middle of a bucket in microseconds.
func middle(bucket int) float64 {
	if bucket < 2*subBuckets {
		return float64(bucket)
	}
	exponent := bucket/subBuckets - 1
	low := uint64(bucket-exponent*subBuckets) << exponent
	return float64(low) + float64(uint64(1)<<exponent)/2
}

// quantile returns the duration in milliseconds below which the share q of the durations lies; 0 if there are none.
func (h *histogram) quantile(q float64) float64 {
	var total int64
	for i := range h.buckets {
		total += h.buckets[i].Load()
	}
	wanted := int64(q * float64(total))
	var seen int64
	for i := range h.buckets {
		seen += h.buckets[i].Load()
		if seen > wanted {
			return middle(i) / 1000
		}
	}
	return 0
}
