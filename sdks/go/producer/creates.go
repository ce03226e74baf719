package producer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
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

// frame is a message with tasks that the server has not acked.
type frame struct {
	items []*item
	bytes int64
}

// creates are the tasks on their way. Each is pending, or in a frame of unacked, or over.
type creates struct {
	mu       sync.Mutex
	pending  []*item
	givenUp  int // pending items given up since the last sweep
	unacked  []frame
	bytes    int64 // of the unacked frames
	room     int   // tasks that may still be submitted
	most     int
	waiting  []*waiter
	isClosed bool
	trouble  string // why the last attempt to open a stream failed; empty if it succeeded
	wake     chan struct{}
	identity *Identity // of the open stream; nil while there is none
	opening  []chan error
}

// waiter is a caller that waits for room.
type waiter struct {
	need    int
	granted chan struct{}
}

func (c *creates) begin(most int) {
	c.most, c.room = most, most
	c.wake = make(chan struct{}, 1)
}

func (c *creates) notify() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
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
	}
	c.mu.Unlock()
	c.notify()
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

// areUnanswered reports whether a caller waits for an ack.
func (c *creates) areUnanswered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, each := range c.unacked {
		if slices.ContainsFunc(each.items, func(one *item) bool { return !one.isOver }) {
			return true
		}
	}
	return false
}

func (c *creates) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pending)
}

// cut moves pending items into a frame and returns its encoding; nil if nothing waits or the server's window is full.
func (c *creates) cut(limits *codeqv1.ProducerWelcome) link.Encoded {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trim()
	if len(c.pending) == 0 || len(c.unacked) >= int(limits.GetUnackedFramesMax()) {
		return nil
	}
	room := min(limits.GetFrameBytesMax(), limits.GetUnackedBytesMax()-c.bytes, codeq.FrameBytesMax)
	tasksMax := min(int(limits.GetFrameTasksMax()), codeq.FrameTasksMax)
	var size int64
	taken, items := 0, make([]*item, 0, min(len(c.pending), tasksMax))
	for _, each := range c.pending {
		if !each.isOver && (len(items) == tasksMax || size+int64(len(each.data)) > room) {
			break
		}
		taken++
		if !each.isOver {
			size += int64(len(each.data))
			items = append(items, each)
		}
	}
	if len(items) == 0 {
		return nil
	}
	c.pending = link.Rest(c.pending, taken)
	data := make(link.Encoded, 0, size)
	for _, each := range items {
		each.inFrame = true
		data = append(data, each.data...)
	}
	c.unacked = append(c.unacked, frame{items: items, bytes: size})
	c.bytes += size
	return data
}

// take passes the answers of the oldest frame to their callers. It reports whether tasks with a key have to be sent again,
// because the server could not tell their outcome.
func (c *creates) take(ack *codeqv1.FrameAck) (isUndecided bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.unacked) == 0 {
		return false, fault("ack without a frame")
	}
	oldest := c.unacked[0]
	ids := ack.GetTaskIds()
	if len(ids) != len(oldest.items) {
		return false, fault(fmt.Sprintf("ack of %d tasks for a frame of %d", len(ids), len(oldest.items)))
	}
	var rejected map[int]*codeq.Error
	if len(ack.GetErrors()) > 0 {
		rejected = map[int]*codeq.Error{}
	}
	for _, each := range ack.GetErrors() {
		if int(each.GetIndex()) >= len(ids) {
			return false, fault(fmt.Sprintf("ack with an error of item %d for a frame of %d", each.GetIndex(), len(ids)))
		}
		rejected[int(each.GetIndex())] = link.FromReason(each.GetReason(), each.GetMessage())
	}
	c.unacked[0] = frame{}
	c.unacked = c.unacked[1:]
	c.bytes -= oldest.bytes
	var again []*item
	for index, each := range oldest.items {
		each.inFrame = false
		failure := rejected[index]
		if failure != nil && failure.Reason == codeq.ErrOutcomeUnknown && each.isKeyed && !each.isOver {
			each.wasSent = true
			again = append(again, each)
			continue
		}
		c.settle(each, ids[index], failure)
	}
	if len(again) > 0 {
		c.pending = append(again, c.pending...)
	}
	return len(again) > 0, nil
}

// lose handles the tasks of a broken stream: those with a key are sent again, the outcome of the others is unknown.
func (c *creates) lose(reason *codeq.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var again []*item
	for _, lost := range c.unacked {
		for _, each := range lost.items {
			each.inFrame, each.wasSent = false, true
			if each.isOver {
				continue
			}
			if each.isKeyed && !c.isClosed {
				again = append(again, each)
			} else {
				c.settle(each, "", unknown("sent, but the stream broke: "+reason.Error(), reason))
			}
		}
	}
	c.unacked, c.bytes, c.identity = nil, 0, nil
	c.pending = append(again, c.pending...)
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
	c.isClosed = true
	c.release(0)
	c.mu.Unlock()
	c.notify()
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
