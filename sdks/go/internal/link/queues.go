package link

// Rest removes the first items of a queue. An empty queue keeps its memory, so that one that is filled and emptied in turn
// does not allocate each time.
func Rest[Item any](queue []Item, taken int) []Item {
	clear(queue[:taken])
	if taken == len(queue) {
		return queue[:0]
	}
	return queue[taken:]
}
