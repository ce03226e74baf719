package producer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/link"
)

// sweepMin is the number of creates given up below which they are left among the pending ones.
const sweepMin = 64

// item is one task on its way. Its fields are guarded by the mutex of creates until it is over; then its caller owns it.
type item struct {
	data    []byte
	isKeyed bool
	inFrame bool // sent on the current stream, not yet acked
	wasSent bool // sent on an earlier stream, whose end left its outcome unknown
	isOver  bool // answered, or given up by its caller
	id      string
	err     *codeq.Error
	group   *group
}

func (i *item) failure() error {
	if i.err == nil {
		return nil
	}
	return i.err
}

// group are the items that one caller waits for. One value comes on done when all are over.
type group struct {
	left int
	done chan struct{}
}

// signals are channels of groups that wait to be used again.
var signals = sync.Pool{New: func() any { return make(chan struct{}, 1) }}

func newGroup(items ...*item) *group {
	group := &group{left: len(items), done: signals.Get().(chan struct{})}
	for _, each := range items {
		each.group = group
	}
	return group
}

// single is a group of one item.
type single struct {
	item
	of group
}

func newSingle(data []byte, isKeyed bool) *single {
	one := &single{item: item{data: data, isKeyed: isKeyed}}
	one.of = group{left: 1, done: signals.Get().(chan struct{})}
	one.group = &one.of
	return one
}

// timers are timers of creates that wait to be used again.
var timers = sync.Pool{New: func() any {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return timer
}}

// creates are the tasks on their way. Each is pending, or in a frame of a stream's window, or over.
type creates struct {
	mu       sync.Mutex
	pending  []*item
	givenUp  int       // pending items given up since the last sweep
	windows  []*window // of the open streams
	turn     int       // counts the tasks that were announced to a stream
	room     int       // tasks that may still be submitted
	most     int
	waiting  []*waiter
	isClosed bool
	trouble  string        // why the last attempt to open a stream failed; empty if it succeeded
	closing  chan struct{} // closed with isClosed
	wake     chan struct{} // wakes the loop that opens the first stream, while there is none
	identity *Identity     // of the first stream; nil while it is not open
	opening  []chan error
}

// waiter is a caller that waits for room.
type waiter struct {
	need    int
	granted chan struct{}
}

func (c *creates) begin(most int) {
	c.most, c.room = most, most
	c.wake, c.closing = make(chan struct{}, 1), make(chan struct{})
}

func (c *creates) notify() { signal(c.wake, struct{}{}) }

// announce wakes one of the open streams, each in turn, for what is pending. The mutex is held.
func (c *creates) announce() {
	if len(c.windows) == 0 {
		c.notify()
		return
	}
	c.turn++
	c.windows[c.turn%len(c.windows)].notify()
}

// enter adds the window of a stream that is open.
func (c *creates) enter(w *window) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.windows = append(c.windows, w)
	w.notify()
}

// leave removes the window of a stream that has ended; others may send what was announced to it.
func (c *creates) leave(w *window) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.windows = slices.DeleteFunc(c.windows, func(each *window) bool { return each == w })
	c.announce()
}

// admit waits until there is room for tasks. More tasks than the limit are admitted once nothing else is on its way.
func (c *creates) admit(ctx context.Context, late <-chan time.Time, count int, failFast bool) error {
	need := min(count, c.most)
	c.mu.Lock()
	if c.isClosed {
		c.mu.Unlock()
		return link.Closed("producer")
	}
	if len(c.waiting) == 0 && c.room >= need {
		c.room -= count
		c.mu.Unlock()
		return nil
	}
	if failFast {
		c.mu.Unlock()
		return &codeq.Error{
			Reason: codeq.ErrLimitReached, Retryable: true,
			Message: fmt.Sprintf("InFlightTasksMax: %d creates are waiting in the producer", c.most),
		}
	}
	waiter := &waiter{need: count, granted: make(chan struct{})}
	c.waiting = append(c.waiting, waiter)
	c.mu.Unlock()
	var cause error
	select {
	case <-waiter.granted:
		return c.checkOpen()
	case <-ctx.Done():
		cause = ctx.Err()
	case <-late:
		cause = context.DeadlineExceeded
	}
	c.withdraw(waiter)
	return ended(cause, "while the producer was full", c.troubled())
}

func (c *creates) checkOpen() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isClosed {
		return link.Closed("producer")
	}
	return nil
}

func (c *creates) withdraw(gone *waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-gone.granted:
		c.release(gone.need)
		return
	default:
	}
	for index, each := range c.waiting {
		if each == gone {
			c.waiting = append(c.waiting[:index], c.waiting[index+1:]...)
			break
		}
	}
	c.release(0)
}

// release returns room, and lets callers in that wait for it, in their order. The mutex is held.
func (c *creates) release(count int) {
	c.room += count
	for len(c.waiting) > 0 && (c.isClosed || c.room >= min(c.waiting[0].need, c.most)) {
		c.room -= c.waiting[0].need
		close(c.waiting[0].granted)
		c.waiting = c.waiting[1:]
	}
}

func (c *creates) submit(items []*item) {
	c.mu.Lock()
	if c.isClosed {
		for _, each := range items {
			c.settle(each, "", link.Closed("producer"))
		}
	} else {
		c.pending = append(c.pending, items...)
		c.announce()
	}
	c.mu.Unlock()
}

// settle ends an item. The mutex is held.
func (c *creates) settle(one *item, id string, err *codeq.Error) {
	if one.isOver {
		return
	}
	one.isOver, one.id, one.err = true, id, err
	c.release(1)
	if one.group.left--; one.group.left == 0 {
		one.group.done <- struct{}{}
	}
}

// giveUp ends the items of a caller that no longer waits.
func (c *creates) giveUp(items []*item, cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, each := range items {
		if !each.inFrame && !each.isOver {
			c.givenUp++
		}
		if each.inFrame || each.wasSent {
			c.settle(each, "", unknown("not answered in time", cause))
		} else {
			c.settle(each, "", ended(cause, "before it was sent", c.trouble))
		}
	}
	c.sweep()
}

// sweep drops the pending items whose callers have given up, once they are many: one at the front that waits for long must
// not keep those behind it. The mutex is held.
func (c *creates) sweep() {
	if c.givenUp >= sweepMin && 2*c.givenUp >= len(c.pending) {
		c.pending = slices.DeleteFunc(c.pending, func(each *item) bool { return each.isOver })
		c.givenUp = 0
	}
}

func (c *creates) troubled() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trouble
}

func (c *creates) setTrouble(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trouble = text
}

// state reports whether something waits for a stream, and whether nothing more will come.
func (c *creates) state() (hasWork, isClosed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trim()
	return len(c.pending) > 0 || len(c.opening) > 0, c.isClosed
}

// trim drops pending items whose callers have given up. The mutex is held.
func (c *creates) trim() {
	for len(c.pending) > 0 && c.pending[0].isOver {
		c.pending[0] = nil
		c.pending = c.pending[1:]
	}
}

func (c *creates) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pending)
}

// fail ends everything that is pending, because the server rejects the producer, or it is closed.
func (c *creates) fail(reason *codeq.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, each := range c.pending {
		if each.wasSent {
			c.settle(each, "", unknown("sent, but the next stream was refused: "+reason.Error(), reason))
		} else {
			c.settle(each, "", reason.Clone())
		}
	}
	c.pending = nil
	c.tellOpening(reason.Clone())
}

// opened records that a stream is open.
func (c *creates) opened(identity Identity) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trouble, c.identity = "", &identity
	c.tellOpening(nil)
}

// disconnected records that the first stream has ended.
func (c *creates) disconnected() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.identity = nil
}

func (c *creates) tellOpening(err error) {
	for _, each := range c.opening {
		each <- err
	}
	c.opening = nil
}

// await returns the identity of the open stream, or a channel that tells when one is open or refused.
func (c *creates) await() (*Identity, chan error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.identity != nil {
		return c.identity, nil
	}
	told := make(chan error, 1)
	if c.isClosed {
		told <- link.Closed("producer")
	} else {
		c.opening = append(c.opening, told)
	}
	return nil, told
}

func (c *creates) noLongerAwaits(gone chan error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opening = slices.DeleteFunc(c.opening, func(each chan error) bool { return each == gone })
}

func (c *creates) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isClosed {
		c.isClosed = true
		close(c.closing)
	}
	c.release(0)
	c.notify()
	for _, each := range c.windows {
		each.notify()
	}
}

func unknown(message string, cause error) *codeq.Error {
	return &codeq.Error{Reason: codeq.ErrOutcomeUnknown, Message: message, Retryable: true, Cause: cause}
}

func fault(message string) *codeq.Error {
	return &codeq.Error{Reason: codeq.ErrInternal, Message: message}
}

// ended returns the error of a create whose context ended before it was sent.
func ended(cause error, when, trouble string) *codeq.Error {
	err := &codeq.Error{Reason: codeq.ErrDeadlineExceeded, Message: "the time was over " + when, Retryable: true, Cause: cause}
	if errors.Is(cause, context.Canceled) {
		err.Reason, err.Message = codeq.ErrCallCancelled, "the context was cancelled "+when
	}
	if trouble != "" {
		err.Message += ": " + trouble
	}
	return err
}
