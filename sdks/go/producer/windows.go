package producer

import (
	"fmt"
	"slices"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/link"
)

// frame is a message with tasks that the server has not acked.
type frame struct {
	items []*item
	bytes int64
}

// window are the frames that one stream has sent. The mutex of creates guards it.
type window struct {
	unacked []frame
	bytes   int64         // of the unacked frames
	isFull  bool          // something was pending that did not fit
	wake    chan struct{} // wakes the stream
}

func newWindow() *window { return &window{wake: make(chan struct{}, 1)} }

func (w *window) notify() { signal(w.wake, struct{}{}) }

// areUnanswered reports whether a caller waits for an ack.
func (c *creates) areUnanswered(w *window) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, each := range w.unacked {
		if slices.ContainsFunc(each.items, func(one *item) bool { return !one.isOver }) {
			return true
		}
	}
	return false
}

// cut moves pending items into a frame and returns its encoding; nil if nothing waits or the server's window is full.
func (c *creates) cut(w *window, limits *codeqv1.ProducerWelcome) link.Encoded {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trim()
	if len(c.pending) == 0 {
		return nil
	}
	if len(w.unacked) >= int(limits.GetUnackedFramesMax()) {
		w.isFull = true
		return nil
	}
	room := min(limits.GetFrameBytesMax(), limits.GetUnackedBytesMax()-w.bytes, codeq.FrameBytesMax)
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
		w.isFull = true
		return nil
	}
	c.pending = link.Rest(c.pending, taken)
	data := make(link.Encoded, 0, size)
	for _, each := range items {
		each.inFrame = true
		data = append(data, each.data...)
	}
	w.unacked = append(w.unacked, frame{items: items, bytes: size})
	w.bytes += size
	return data
}

// take passes the answers of the oldest frame to their callers. It reports whether tasks with a key have to be sent again,
// because the server could not tell their outcome.
func (c *creates) take(w *window, ack *codeqv1.FrameAck) (isUndecided bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(w.unacked) == 0 {
		return false, fault("ack without a frame")
	}
	oldest := w.unacked[0]
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
	if w.isFull { // otherwise other streams have their turn
		w.isFull = false
		w.notify()
	}
	w.unacked[0] = frame{}
	w.unacked = w.unacked[1:]
	w.bytes -= oldest.bytes
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
func (c *creates) lose(w *window, reason *codeq.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var again []*item
	for _, lost := range w.unacked {
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
	w.unacked, w.bytes = nil, 0
	c.pending = append(again, c.pending...)
}
