package worker

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/link"
)

// run is one call of Worker.Run: what its branches share.
type run struct {
	worker   *Worker
	commands []string
	values   context.Context // of handlers; never cancelled
	streams  context.Context // of streams; cancelled when the time to leave is over
	hardStop context.CancelFunc
	stopping chan struct{} // closed when the run begins to stop
	handlers sync.WaitGroup
	jobs     chan job
	idle     atomic.Int64 // goroutines that wait for a job
	stacks   stacks

	mu       sync.Mutex // also guards the branches
	branches []*branch
	places   map[*handler]*places // of handlers with a limit
	hasEnded bool                 // a branch has ended for good
	stopAt   time.Time            // end of the drain; zero while working
	leaving  *time.Timer
}

// branch is the part of a run that has one stream at a time: its tasks and its outcomes. There is one branch, or one for
// each shard of the server.
//
// A delivery is running from its arrival until its handler has returned, and occupies one of the places of its branch. It
// is held while its lease needs renewal. An outcome is kept until the server has settled it; if the stream breaks, it is
// sent again on the next one, which its lease token makes harmless.
type branch struct {
	*run
	shard *codeqv1.ShardChoice // the only one whose tasks it takes; nil: all
	wake  chan struct{}

	share        int // places; those of all branches are Config.Concurrency
	running      int
	runningBytes int64
	held         map[string]*Delivery
	first, last  *Delivery // the held deliveries in the order of renewAt
	due          []*Delivery
	progress     []*Delivery
	unsent       []*report
	unsettled    []*report
	undecided    []*report // outcomes of which the server could not tell whether they took effect
	creditsOwed  int
	credits      int // granted on the stream, and not spent
	creditsAsked int // to be returned; negative: the request was sent
	bytesOwed    int64
	firstNumber  uint64 // of unsettled
	lease        time.Duration
	tenant       string
	workerID     string
	shards       int  // of a server to whose shards the branch makes way; 0: it stays
	wasOpen      bool // a stream was opened
	isConnected  bool
	isLeaving    bool
	isMoving     bool // to another process
	isHalfClosed bool
	isDrainTold  bool
	isEnded      bool // the server has settled everything and ended the stream
	leader       string
	address      string        // of the latest stream
	home         string        // address at which the process of the shard was met
	moveAt       time.Time     // when to look for the process of the shard again; zero if it serves the stream
	moveAfter    time.Duration // since the last look
	expiry       *time.Timer   // ends leases while there is no stream
	warnedLate   time.Time
}

func newRun(w *Worker, ctx context.Context, commands []string) *run {
	r := &run{
		worker: w, commands: commands, values: context.WithoutCancel(ctx), stopping: make(chan struct{}),
		jobs: make(chan job), places: map[*handler]*places{},
	}
	r.streams, r.hardStop = context.WithCancel(context.Background())
	r.branches = []*branch{r.newBranch(nil, w.config.Concurrency)}
	return r
}

func (r *run) newBranch(shard *codeqv1.ShardChoice, share int) *branch {
	return &branch{
		run: r, shard: shard, share: share, wake: make(chan struct{}, 1), held: map[string]*Delivery{}, lease: r.worker.config.Lease,
	}
}

func (r *run) logger() *slog.Logger { return r.worker.endpoint.Logger }

func (b *branch) notify() {
	select {
	case b.wake <- struct{}{}:
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
	err := r.workAll()
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
		if running := r.runningTasks(); running > 0 {
			r.logger().Info("codeq: the worker stops; running tasks have time to finish", "tasks", running, "time", grace)
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
	for _, each := range r.branches {
		each.notify()
	}
}

// runningTasks returns the number of tasks that are running. The mutex is held.
func (r *run) runningTasks() int {
	sum := 0
	for _, each := range r.branches {
		sum += each.running
	}
	return sum
}

// work keeps a stream open until the run is over, or the branch makes way to others.
func (b *branch) work() error {
	reconnects := link.NewReconnects("worker", b.worker.endpoint)
	endpoint := b.worker.endpoint
	for !b.isOver() {
		begun, address := time.Now(), endpoint.Servers.Current()
		wasOpen, reason := b.attempt(address, reconnects)
		b.disconnected()
		if b.isOver() || b.shards > 0 {
			return nil
		}
		if reason == nil { // it moves to the process of its shard
			continue
		}
		mayRenew := wasOpen || link.IsOfExpiredToken(reason)
		if link.IsFinal(reason) && !(mayRenew && endpoint.IsRenewable()) {
			return reason
		}
		delay := reconnects.DelayAfter(reason, address, b.leaderNamed(), wasOpen && time.Since(begun) >= link.StableAfter)
		reconnects.Tell(reason, b.address, delay)
		b.rest(delay)
	}
	return nil
}

func (b *branch) leaderNamed() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.leader
}

// isOver reports whether the run is stopped and has nothing left to report, or its time is up.
func (b *branch) isOver() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.hasEnded || b.stopAt.IsZero() {
		return b.hasEnded
	}
	late := time.Since(b.stopAt)
	owesNothing := len(b.unsent) == 0 && len(b.undecided) == 0 && (b.running == 0 || late >= 0)
	return b.isEnded || owesNothing || late >= codeq.LeaveMax
}

// rest waits before the next attempt; less once the run is over.
func (b *branch) rest(delay time.Duration) {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for !b.isOver() {
		left := codeq.LeaveMax
		b.mu.Lock()
		if !b.stopAt.IsZero() {
			if left = time.Until(b.stopAt); left <= 0 {
				left += codeq.LeaveMax
			}
		}
		b.mu.Unlock()
		stop := time.NewTimer(left)
		select {
		case <-timer.C:
			stop.Stop()
			return
		case <-b.wake:
		case <-stop.C:
		case <-b.streams.Done():
		}
		stop.Stop()
	}
}

// disconnected keeps the outcomes for the next stream, and lets leases end while there is none.
func (b *branch) disconnected() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.isConnected, b.credits, b.creditsAsked = false, 0, 0
	waiting := append(b.undecided, b.unsettled...)
	b.unsent = append(waiting, b.unsent...)
	b.undecided, b.unsettled = nil, nil
	b.due = nil
	for each := b.first; each != nil; each = each.next {
		each.isDue = false
	}
	b.expireLater()
}

// expireLater sets the timer to the next end of a lease. The mutex is held.
func (b *branch) expireLater() {
	if b.expiry != nil {
		b.expiry.Stop()
		b.expiry = nil
	}
	if b.isConnected || b.first == nil {
		return
	}
	soonest := b.first.leaseEnd
	for each := b.first; each != nil; each = each.next {
		if each.leaseEnd.Before(soonest) {
			soonest = each.leaseEnd
		}
	}
	b.expiry = time.AfterFunc(time.Until(soonest), b.expire)
}

// expire gives up the leases that have ended while the worker was cut off: other workers may have the tasks by now.
func (b *branch) expire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.isConnected {
		return
	}
	now := time.Now()
	for each := b.first; each != nil; {
		next := each.next
		if !each.leaseEnd.After(now) {
			b.lose(each, ErrLeaseLost)
		}
		each = next
	}
	b.expireLater()
}

// finish ends what is left: handlers see ErrShutdown, and Run waits a moment for them.
func (r *run) finish() {
	r.mu.Lock()
	if r.leaving != nil {
		r.leaving.Stop()
	}
	unsent := 0
	for _, each := range r.branches {
		if each.expiry != nil {
			each.expiry.Stop()
		}
		each.isConnected = true // no lease ends by itself any more
		each.returnAll()
		unsent += len(each.unsent)
	}
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
		running := r.runningTasks()
		r.mu.Unlock()
		r.logger().Warn(fmt.Sprintf("codeq: the worker has ended, but %d handlers still run although their contexts are cancelled", running))
	}
}

// returnAll cancels the handlers of all held tasks, which the server takes back. The mutex is held.
func (b *branch) returnAll() {
	for each := b.first; each != nil; {
		next := each.next
		b.end(each, ErrShutdown)
		each = next
	}
}
