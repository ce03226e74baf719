package main

import "sync"

// gate limits the number of tasks that are created but not yet completed.
type gate struct {
	mutex  sync.Mutex
	room   sync.Cond
	used   int
	limit  int
	closed bool
}

func newGate(limit int) *gate {
	g := &gate{limit: limit}
	g.room.L = &g.mutex
	return g
}

// enter waits for room for n tasks; it returns false if the gate is closed and no more tasks may be created.
func (g *gate) enter(n int) bool {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	for !g.closed && g.used+n > g.limit {
		g.room.Wait()
	}
	if g.closed {
		return false
	}
	g.used += n
	return true
}

// leave frees the room of n tasks.
func (g *gate) leave(n int) {
	g.mutex.Lock()
	g.used -= n
	g.mutex.Unlock()
	g.room.Broadcast()
}

// close rejects all callers, including those waiting.
func (g *gate) close() {
	g.mutex.Lock()
	g.closed = true
	g.mutex.Unlock()
	g.room.Broadcast()
}
