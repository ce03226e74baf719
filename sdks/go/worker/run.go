package worker

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/link"
)

// run is one call of Worker.Run: its tasks, its outcomes, and the stream that it has at the moment.
//
// A delivery is running from its arrival until its handler has returned, and occupies one of Concurrency places. It is held
// while its lease needs renewal. An outcome is kept until the server has settled it; if the stream breaks, it is sent again
// on the next one, which its lease token makes harmless.
type run struct {
	worker   *Worker
	commands []string
	values   context.Context // of handlers; never cancelled
	streams  context.Context // of streams; cancelled when the time to leave is over
	hardStop context.CancelFunc
	stopping chan struct{} // closed when the run begins to stop
	wake     chan struct{}
	handlers sync.WaitGroup
	jobs     chan job
	idle     atomic.Int64 // goroutines that wait for a job
	stacks   stacks

	mu           sync.Mutex
	running      int
	runningBytes int64
	held         map[string]*Delivery
	places       map[*handler]*places // of handlers with a limit
	first, last  *Delivery            // the held deliveries in the order of renewAt
	due          []*Delivery
	progress     []*Delivery
	unsent       []*report
	unsettled    []*report
	undecided    []*report // outcomes of which the server could not tell whether they took effect
	creditsOwed  int
	bytesOwed    int64
	firstNumber  uint64 // of unsettled
	lease        time.Duration
	tenant       string
	workerID     string
	isConnected  bool
	isLeaving    bool
	isHalfClosed bool
	isDrainTold  bool
	isEnded      bool // the server has settled everything and ended the stream
	leader       string
	stopAt       time.Time // end of the drain; zero while working
	leaving      *time.Timer
	expiry       *time.Timer // ends leases while there is no stream
	warnedLate   time.Time
}

func newRun(w *Worker, ctx context.Context, commands []string) *run {
	r := &run{
		worker: w, commands: commands, values: context.WithoutCancel(ctx), stopping: make(chan struct{}),
		wake: make(chan struct{}, 1), jobs: make(chan job), held: map[string]*Delivery{},
		places: map[*handler]*places{}, lease: w.config.Lease,
	}
	r.streams, r.hardStop = context.WithCancel(context.Background())
	return r
}

func (r *run) logger() *slog.Logger { return r.worker.endpoint.Logger }

func (r *run) notify() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run works until stopped, reconnecting as needed.
func (r *run) run(ctx context.Context) error {
	done := make(chan struct{})
	seen, cancelled := r.stopAgain(0), ctx.Done() // stopped before it began, it does not even connect
	if ctx.Err() != nil {
		r.stop()
		cancelled = nil
	}
	var watching sync.WaitGroup
	watching.Go(func() { r.watch(cancelled, seen, done) })
	err := r.work()
	close(done)
	watching.Wait()
	r.finish()
	return err
}

// watch stops the run when its context is cancelled or Stop is called.
func (r *run) watch(cancelled <-chan struct{}, seen int, done <-chan struct{}) {
	for {
		seen = r.stopAgain(seen)
		select {
		case <-cancelled:
			cancelled = nil
			r.stop()
		case <-r.worker.stopping:
		case <-done:
			return
		}
	}
}

// stopAgain passes on the calls of Stop beyond those seen, and returns their number.
func (r *run) stopAgain(seen int) int {
	stops := r.worker.stopCount()
	for range stops - seen {
		r.stop()
	}
	return stops
}

// stop begins the drain; a second call ends it.
func (r *run) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	grace := r.worker.config.DrainTimeout
	if r.stopAt.IsZero() {
		close(r.stopping)
		if r.running > 0 {
			r.logger().Info("codeq: the worker stops; running tasks have time to finish", "tasks", r.running, "time", grace)
		}
	} else {
		grace = 0
	}
	if at := time.Now().Add(grace); r.stopAt.IsZero() || at.Before(r.stopAt) {
		r.stopAt = at
	}
	if r.leaving != nil {
		r.leaving.Stop()
	}
	r.leaving = time.AfterFunc(time.Until(r.stopAt)+codeq.LeaveMax, r.hardStop)
	r.notify()
}

func (r *run) work() error {
	reconnects := link.NewReconnects("worker", r.worker.endpoint)
	endpoint := r.worker.endpoint
	for !r.isOver() {
		begun, address := time.Now(), endpoint.Servers.Current()
		wasOpen, reason := r.attempt(address, reconnects)
		r.disconnected()
		if r.isOver() {
			return nil
		}
		mayRenew := wasOpen || link.IsOfExpiredToken(reason)
		if link.IsFinal(reason) && !(mayRenew && endpoint.IsRenewable()) {
			return reason
		}
		delay := reconnects.DelayAfter(reason, address, r.leaderNamed(), wasOpen && time.Since(begun) >= link.StableAfter)
		reconnects.Tell(reason, address, delay)
		r.rest(delay)
	}
	return nil
}

func (r *run) leaderNamed() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leader
}

// isOver reports whether the run is stopped and has nothing left to report, or its time is up.
func (r *run) isOver() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopAt.IsZero() {
		return false
	}
	late := time.Since(r.stopAt)
	owesNothing := len(r.unsent) == 0 && len(r.undecided) == 0 && (r.running == 0 || late >= 0)
	return r.isEnded || owesNothing || late >= codeq.LeaveMax
}

// rest waits before the next attempt; less once the run is over.
func (r *run) rest(delay time.Duration) {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for !r.isOver() {
		left := codeq.LeaveMax
		r.mu.Lock()
		if !r.stopAt.IsZero() {
			if left = time.Until(r.stopAt); left <= 0 {
				left += codeq.LeaveMax
			}
		}
		r.mu.Unlock()
		stop := time.NewTimer(left)
		select {
		case <-timer.C:
			stop.Stop()
			return
		case <-r.wake:
		case <-stop.C:
		case <-r.streams.Done():
		}
		stop.Stop()
	}
}

// disconnected keeps the outcomes for the next stream, and lets leases end while there is none.
func (r *run) disconnected() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.isConnected = false
	waiting := append(r.undecided, r.unsettled...)
	r.unsent = append(waiting, r.unsent...)
	r.undecided, r.unsettled = nil, nil
	r.due = nil
	for each := r.first; each != nil; each = each.next {
		each.isDue = false
	}
	r.expireLater()
}

// expireLater sets the timer to the next end of a lease. The mutex is held.
func (r *run) expireLater() {
	if r.expiry != nil {
		r.expiry.Stop()
		r.expiry = nil
	}
	if r.isConnected || r.first == nil {
		return
	}
	soonest := r.first.leaseEnd
	for each := r.first; each != nil; each = each.next {
		if each.leaseEnd.Before(soonest) {
			soonest = each.leaseEnd
		}
	}
	r.expiry = time.AfterFunc(time.Until(soonest), r.expire)
}

// expire gives up the leases that have ended while the worker was cut off: other workers may have the tasks by now.
func (r *run) expire() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isConnected {
		return
	}
	now := time.Now()
	for each := r.first; each != nil; {
		next := each.next
		if !each.leaseEnd.After(now) {
			r.lose(each, ErrLeaseLost)
		}
		each = next
	}
	r.expireLater()
}

// finish ends what is left: handlers see ErrShutdown, and Run waits a moment for them.
func (r *run) finish() {
	r.mu.Lock()
	if r.leaving != nil {
		r.leaving.Stop()
	}
	if r.expiry != nil {
		r.expiry.Stop()
	}
	r.isConnected = true // no lease ends by itself any more
	r.returnAll()
	unsent := len(r.unsent)
	r.mu.Unlock()
	r.hardStop()
	if unsent > 0 {
		r.logger().Warn("codeq: the worker ends with outcomes that the server may not have received", "outcomes", unsent)
	}
	returned := make(chan struct{})
	go func() {
		r.handlers.Wait()
		close(returned)
	}()
	select {
	case <-returned:
	case <-time.After(codeq.LeaveMax):
		r.mu.Lock()
		running := r.running
		r.mu.Unlock()
		r.logger().Warn(fmt.Sprintf("codeq: the worker has ended, but %d handlers still run although their contexts are cancelled", running))
	}
}

// returnAll cancels the handlers of all held tasks, which the server takes back. The mutex is held.
func (r *run) returnAll() {
	for each := r.first; each != nil; {
		next := each.next
		r.end(each, ErrShutdown)
		each = next
	}
}
