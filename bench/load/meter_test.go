package main

import (
	"math"
	"testing"
	"time"
)

func TestQuantileOfUniformDurationsIsWithinABucket(t *testing.T) {
	var h histogram
	for ms := 1; ms <= 1000; ms++ {
		h.add(time.Duration(ms)*time.Millisecond, 1)
	}
	for q, want := range map[float64]float64{0.5: 500, 0.99: 990} {
		if got := h.quantile(q); math.Abs(got-want) > 0.04*want {
			t.Errorf("quantile %v: got %v ms, want about %v ms", q, got, want)
		}
	}
}

func TestBucketMiddleIsNearItsDurations(t *testing.T) {
	for us := uint64(1); us < 1<<36; us += us/7 + 1 {
		if got := middle(bucketOf(us)); math.Abs(got-float64(us)) > 0.04*float64(us) {
			t.Fatalf("%d µs counts as %v µs", us, got)
		}
	}
}

func TestQuantileOfNothingIsZero(t *testing.T) {
	var h histogram
	if got := h.quantile(0.5); got != 0 {
		t.Errorf("got %v", got)
	}
}

func TestAgeOfPayloadIsTimeSinceItsCreate(t *testing.T) {
	sent := time.Now()
	payload := appendPayload(nil, 7, sent)
	age, ours := ageOf(payload, sent.Add(3*time.Millisecond))
	if !ours || age != 3*time.Millisecond {
		t.Errorf("age of %s: %v, %v", payload, age, ours)
	}
	if _, ours := ageOf([]byte(`{"jobId":"j-7"}`), sent); ours {
		t.Error("a payload without a time counts as ours")
	}
}
