package worker

import (
	"context"
	"log/slog"
	"slices"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/link"
)

// places are the tasks of a handler with a limit.
type places struct {
	running int
	waiting []*Delivery // beyond the limit
}

// leave ends the wait of a delivery, usually the first.
func (p *places) leave(delivery *Delivery) {
	delivery.isWaiting = false
	if p.waiting[0] == delivery {
		p.waiting = link.Rest(p.waiting, 1)
		return
	}
	p.waiting = slices.DeleteFunc(p.waiting, func(each *Delivery) bool { return each == delivery })
}

// receive takes deliveries. The mutex is held.
func (b *branch) receive(messages []*codeqv1.Task) {
	b.credits -= len(messages)
	if b.isHalfClosed {
		return // these deliveries crossed the half-close: the server takes them back
	}
	now, received := time.Now(), int64(0)
	for _, message := range messages {
		delivery := newDelivery(b, message)
		if !b.stopAt.IsZero() { // crossed the drain
			crossed, _ := newReport(delivery, outcome{kind: abandoned}, nil)
			b.unsent = append(b.unsent, crossed)
			continue
		}
		if older := b.held[delivery.ID]; older != nil {
			b.lose(older, ErrLeaseLost)
		}
		delivery.leaseEnd = now.Add(b.lease)
		b.hold(delivery, now)
		b.running++
		b.runningBytes += delivery.bytes
		received++
		b.admit(delivery)
	}
	b.worker.count(func(stats *Stats) { stats.Received += received })
	b.balance()
}

// admit starts the handler of a delivery, or makes it wait for its handler's limit. The mutex is held.
func (b *branch) admit(delivery *Delivery) {
	delivery.handler = b.worker.handlerOf(delivery.Command)
	if delivery.handler == nil {
		unknown, _ := newReport(delivery, outcome{kind: nacked, err: "no handler for command " + delivery.Command}, nil)
		b.over(delivery, unknown)
		return
	}
	if delivery.handler.limit > 0 {
		taken := b.places[delivery.handler]
		if taken == nil {
			taken = &places{}
			b.places[delivery.handler] = taken
		}
		if taken.running >= delivery.handler.limit {
			delivery.isWaiting = true
			taken.waiting = append(taken.waiting, delivery)
			return
		}
		taken.running++
	}
	b.start(delivery)
}

// job is a delivery whose handler is to run.
type job struct {
	ctx      context.Context
	delivery *Delivery
}

// start runs the handler of a delivery on an idle goroutine, or on a new one. The mutex is held.
func (r *run) start(delivery *Delivery) {
	var ctx context.Context
	ctx, delivery.cancel = context.WithCancelCause(r.values)
	made := job{ctx: ctx, delivery: delivery}
	select {
	case r.jobs <- made:
	default:
		r.handlers.Go(func() { r.handleAll(made) })
	}
}

// handleAll runs a job, and then others as long as there are few idle goroutines: a goroutine whose stack has grown is
// cheaper than a new one.
func (r *run) handleAll(next job) {
	goroutine := currentGoroutine()
	for {
		next.delivery.goroutine.Store(goroutine)
		r.handle(next.ctx, next.delivery)
		next = job{}
		if r.idle.Add(1) > idleMax {
			r.idle.Add(-1)
			return
		}
		isLast := false
		select {
		case next = <-r.jobs:
		case <-r.streams.Done():
			isLast = true
		}
		r.idle.Add(-1)
		if isLast {
			return
		}
	}
}

func (r *run) handle(ctx context.Context, delivery *Delivery) {
	if timeout := delivery.handler.timeout; timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, ErrTimeout)
		defer cancel()
		timer := time.AfterFunc(timeout, func() { r.timedOut(delivery) })
		defer timer.Stop()
	}
	begun, done := time.Now(), outcome{kind: nacked, err: goexit}
	defer func() { r.conclude(delivery, done, begun) }() // also if the handler ends its goroutine
	done = r.execute(ctx, delivery)
}

// conclude reports how a handler ended.
func (r *run) conclude(delivery *Delivery, done outcome, begun time.Time) {
	told, err := newReport(delivery, done, delivery.attached())
	if err != nil {
		done = outcome{kind: nacked, err: "the artifacts cannot be sent: " + err.Error()}
		told, _ = newReport(delivery, done, nil)
	}
	isDropped := r.done(delivery, told)
	delivery.cancel(nil)
	if r.worker.config.Metrics.TaskEnded == nil {
		return
	}
	how := done.kind.text()
	if isDropped {
		how = "dropped"
	}
	defer func() {
		if thrown := recover(); thrown != nil {
			r.logPanic("TaskEnded", delivery, thrown)
		}
	}()
	r.worker.config.Metrics.TaskEnded(delivery.Command, how, time.Since(begun))
}

// done takes the outcome of a handler, starts the next task that waits for the handler's limit, and reports whether the
// outcome was dropped.
func (r *run) done(delivery *Delivery, told *report) (isDropped bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	isDropped = delivery.ending != nil
	delivery.branch.over(delivery, told)
	if taken := r.places[delivery.handler]; taken != nil {
		taken.running--
		r.startWaiting(taken, delivery.handler.limit)
	}
	return isDropped
}

// startWaiting starts tasks that waited for their handler's limit. The mutex is held.
func (r *run) startWaiting(taken *places, limit int) {
	for len(taken.waiting) > 0 && taken.running < limit {
		next := taken.waiting[0]
		taken.leave(next)
		taken.running++
		r.start(next)
	}
}

// over ends a delivery; an outcome whose lease is gone is dropped. The mutex is held.
func (b *branch) over(delivery *Delivery, told *report) {
	delivery.isOver = true
	if delivery.stuck != nil {
		delivery.stuck.Stop()
	}
	b.running--
	b.runningBytes -= delivery.bytes
	b.creditsOwed++
	b.bytesOwed += delivery.bytes
	b.passOn()
	switch {
	case delivery.ending == nil:
		b.release(delivery)
		b.unsent = append(b.unsent, told)
	case delivery.ending != ErrShutdown && told != nil:
		b.worker.count(func(stats *Stats) { stats.Refused++ })
	}
	b.notify()
}

// hold adds a delivery to those whose leases are renewed. The mutex is held.
func (b *branch) hold(delivery *Delivery, now time.Time) {
	delivery.renewAt = now.Add(b.lease / codeq.RenewalsPerLease)
	delivery.renewedAt = now
	b.held[delivery.ID] = delivery
	delivery.isHeld = true
	b.push(delivery)
}

func (b *branch) push(delivery *Delivery) {
	delivery.previous, delivery.next = b.last, nil
	if b.last == nil {
		b.first = delivery
	} else {
		b.last.next = delivery
	}
	b.last = delivery
}

func (b *branch) unlink(delivery *Delivery) {
	if delivery.previous == nil {
		b.first = delivery.next
	} else {
		delivery.previous.next = delivery.next
	}
	if delivery.next == nil {
		b.last = delivery.previous
	} else {
		delivery.next.previous = delivery.previous
	}
	delivery.previous, delivery.next = nil, nil
}

// release ends the renewals of a delivery. The mutex is held.
func (b *branch) release(delivery *Delivery) {
	if !delivery.isHeld {
		return
	}
	delivery.isHeld, delivery.isDue = false, false
	b.unlink(delivery)
	if b.held[delivery.ID] == delivery {
		delete(b.held, delivery.ID)
	}
}

// lose gives up the lease of a delivery and cancels its handler. The mutex is held.
func (b *branch) lose(delivery *Delivery, cause error) {
	b.worker.count(func(stats *Stats) { stats.Lost++ })
	level := slog.LevelWarn
	if cause == ErrCancelled {
		level = slog.LevelInfo
	}
	b.logger().Log(b.values, level, "codeq: the handler of a task is cancelled", "task", delivery.ID, "command", delivery.Command,
		"leaseToken", delivery.LeaseToken, "cause", cause)
	b.end(delivery, cause)
}

// end cancels the handler of a delivery, whose outcome will be dropped. The mutex is held.
func (b *branch) end(delivery *Delivery, cause error) {
	b.release(delivery)
	delivery.ending = cause
	delivery.progress, delivery.isReporting = nil, false
	if delivery.isWaiting {
		b.places[delivery.handler].leave(delivery)
		b.over(delivery, nil)
		return
	}
	if delivery.isOver || delivery.cancel == nil {
		return
	}
	delivery.cancel(cause)
	b.watchStuck(delivery)
}

func (r *run) timedOut(delivery *Delivery) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchStuck(delivery)
}

// watchStuck notices a handler that goes on although its context is cancelled. The mutex is held.
func (r *run) watchStuck(delivery *Delivery) {
	if delivery.isOver || delivery.stuck != nil {
		return
	}
	delivery.stuck = time.AfterFunc(stuckGrace, func() { r.tellStuck(delivery) })
}

func (r *run) tellStuck(delivery *Delivery) {
	stack := r.stackOf(delivery)
	r.mu.Lock()
	defer r.mu.Unlock()
	if delivery.isOver {
		return
	}
	r.worker.count(func(stats *Stats) { stats.Stuck++ })
	r.logger().Warn("codeq: a handler goes on although its context is cancelled, and keeps its place",
		"task", delivery.ID, "command", delivery.Command, "stack", stack)
}

// report takes the progress of a delivery.
func (b *branch) report(delivery *Delivery, data []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if delivery.ending != nil {
		return delivery.ending
	}
	if delivery.isOver {
		return ErrLeaseLost
	}
	b.queueProgress(delivery, data)
	b.notify()
	return nil
}

// queueProgress takes a value to be sent. The mutex is held.
func (b *branch) queueProgress(delivery *Delivery, data []byte) {
	if !delivery.isReporting {
		b.progress = append(b.progress, delivery)
	}
	delivery.progress, delivery.isReporting = data, true
}

// repeatProgress sends the last value again on a new stream, since the server may not have received it. The mutex is held.
func (b *branch) repeatProgress(delivery *Delivery) {
	if delivery.progress != nil {
		b.queueProgress(delivery, delivery.progress)
	}
}

// settle takes the server's answers to the oldest outcomes. The mutex is held.
func (b *branch) settle(count int, refused []*codeqv1.OutcomeError) error {
	if count > len(b.unsettled) {
		return &codeq.Error{Reason: codeq.ErrInternal, Message: "the server settled more outcomes than were sent"}
	}
	var refusals map[int]*codeqv1.OutcomeError
	if len(refused) > 0 {
		refusals = map[int]*codeqv1.OutcomeError{}
	}
	for _, each := range refused {
		refusals[int(each.GetNumber()-b.firstNumber)] = each
	}
	settled := int64(0)
	for index, told := range b.unsettled[:count] {
		refusal := refusals[index]
		if refusal == nil {
			settled++
			continue
		}
		reason := link.FromReason(refusal.GetReason(), refusal.GetMessage())
		if link.IsUnavailable(reason) { // sent again on the next stream
			b.undecided = append(b.undecided, told)
			b.isLeaving = true
		} else {
			b.refuse(told, reason)
		}
	}
	b.unsettled = link.Rest(b.unsettled, count)
	b.firstNumber += uint64(count)
	b.worker.count(func(stats *Stats) { stats.Settled += settled })
	return nil
}

// refuse handles a rejected outcome. The mutex is held.
func (b *branch) refuse(told *report, reason *codeq.Error) {
	b.worker.count(func(stats *Stats) { stats.Refused++ })
	delivery := told.delivery
	b.logger().Warn("codeq: the outcome of a task is rejected", "task", delivery.ID, "leaseToken", delivery.LeaseToken, "error", reason)
	if told.isReplacement || !link.IsOfContent(reason) {
		return
	}
	// Without an outcome the task would be redelivered when its lease ends, with no trace of the reason.
	instead, _ := newReport(delivery, outcome{kind: nacked, err: "outcome rejected: " + reason.Error()}, nil)
	instead.isReplacement = true
	b.unsent = append(b.unsent, instead)
}
