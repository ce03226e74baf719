package link

import (
	"fmt"
	"log/slog"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
)

const (
	// quickAttempts is the number of attempts in a row to find the leader of a cluster before backoff sets in: about
	// 15 s.
	quickAttempts = 40
	// StableAfter is the time after which a stream counts as a success.
	StableAfter = 5 * time.Second
	// repeatEvery is the interval at which the log repeats an unchanged reason.
	repeatEvery = 30 * time.Second
)

// Reconnects chooses the server and the delay of the next stream after one has ended, and logs each new problem at once.
type Reconnects struct {
	name     string
	endpoint *Endpoint
	attempt  int
	brokenAt time.Time // time since which there is no stream; zero if there is one
	failures int
	said     string
	saidAt   time.Time
}

// NewReconnects starts without a stream; the name is that of the streams' owner in the log.
func NewReconnects(name string, endpoint *Endpoint) *Reconnects {
	return &Reconnects{name: name, endpoint: endpoint}
}

// DelayAfter returns the time to wait before the next stream, and selects its server. The leader is the one that a notice
// named, if any.
func (r *Reconnects) DelayAfter(err *codeq.Error, address, leader string, isStable bool) time.Duration {
	r.attempt++
	if isStable {
		r.attempt = 1
	}
	if leader == "" {
		leader = err.Metadata["leaderGrpc"]
	}
	servers := r.endpoint.Servers
	if leader == "" && !servers.AreMany() && err.Reason != codeq.ErrNotLeader {
		return max(backoff(r.attempt), err.RetryAfter)
	}
	delay := servers.Left(address, leader)
	if r.attempt > quickAttempts {
		delay = max(delay, backoff(r.attempt-quickAttempts))
	}
	return delay
}

// Tell logs that a stream ended and when the next attempt follows; an unchanged error only every 30 s.
func (r *Reconnects) Tell(err *codeq.Error, address string, delay time.Duration) {
	now := time.Now()
	if r.brokenAt.IsZero() {
		r.brokenAt, r.failures, r.said = now, 0, ""
	}
	r.failures++
	text := err.Error()
	if text == r.said && now.Sub(r.saidAt) < repeatEvery {
		return
	}
	r.said, r.saidAt = text, now
	next := r.endpoint.Servers.Current()
	line := fmt.Sprintf("codeq: %s stream to %s ended: %s", r.name, address, text)
	wait := slog.Duration("wait", delay.Round(time.Millisecond))
	switch {
	case delay == 0 && err.Reason == codeq.ErrNotLeader: // a redirect to the leader is not a problem
		r.endpoint.Logger.Info(line, "next", next)
	case r.failures == 1:
		r.endpoint.Logger.Warn(line, "next", next, wait)
	default:
		r.endpoint.Logger.Warn(line, "next", next, wait, "failures", r.failures, "since", now.Sub(r.brokenAt).Round(time.Second))
	}
}

// Opened records that a stream is open, and logs it if an earlier one broke.
func (r *Reconnects) Opened(address string) {
	if !r.brokenAt.IsZero() {
		r.endpoint.Logger.Info(fmt.Sprintf("codeq: %s stream to %s is open again", r.name, address),
			"after", time.Since(r.brokenAt).Round(time.Millisecond))
		r.brokenAt = time.Time{}
	}
}
