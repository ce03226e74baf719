package main

import "sync"

// gate bounds the number of tasks that are created and not yet completed.
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

// enter waits for room for n tasks; false: the gate was closed, create no more.
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

// leave makes room for n tasks.
func (g *gate) leave(n int) {
	g.mutex.Lock()
	g.used -= n
	g.mutex.Unlock()
	g.room.Broadcast()
}

// close turns everybody away, those who wait included.
func (g *gate) close() {
	g.mutex.Lock()
	g.closed = true
	g.mutex.Unlock()
	g.room.Broadcast()
}
