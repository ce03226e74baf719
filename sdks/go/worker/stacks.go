package worker

import (
	"bytes"
	"runtime"
	"strconv"
	"sync"
	"time"
)

const (
	// stackEvery is the shortest time between two looks at all stacks of the process, each of which stops it for a moment.
	// It is not longer than stuckGrace: a look shared by several handlers shows each after its context was cancelled.
	stackEvery  = time.Second
	stackPrefix = "goroutine " // of the first line of each stack
	// stacksBytesMax is the size up to which stacks are searched; a process with more goroutines may show none.
	stacksBytesMax = 1 << 20
	// noStack takes the place of a stack that is not shown.
	noStack = "not shown: many handlers are stuck, or the process has too many goroutines"
)

// stacks are the stacks of all goroutines as of a moment, so that handlers that get stuck together share one look.
type stacks struct {
	mu     sync.Mutex
	text   []byte
	seenAt time.Time
}

// stackOf returns the stack of the goroutine that runs a delivery's handler.
func (r *run) stackOf(delivery *Delivery) string {
	r.stacks.mu.Lock()
	defer r.stacks.mu.Unlock()
	if now := time.Now(); now.Sub(r.stacks.seenAt) >= stackEvery {
		text := make([]byte, stacksBytesMax)
		r.stacks.text, r.stacks.seenAt = bytes.Clone(text[:runtime.Stack(text, true)]), now
	}
	begin := append(strconv.AppendUint([]byte(stackPrefix), delivery.goroutine.Load(), 10), ' ')
	for one := range bytes.SplitSeq(r.stacks.text, []byte("\n\n")) {
		if bytes.HasPrefix(one, begin) {
			return string(one)
		}
	}
	return noStack
}

// currentGoroutine returns the number of the calling goroutine, by which its stack is found; 0 if it cannot be told.
func currentGoroutine() uint64 {
	var text [64]byte
	line := bytes.TrimPrefix(text[:runtime.Stack(text[:], false)], []byte(stackPrefix))
	digits, _, _ := bytes.Cut(line, []byte(" "))
	number, _ := strconv.ParseUint(string(digits), 10, 64)
	return number
}
