package scripted

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Freezer carries TCP to a server, and can go silent as a host does whose cable is pulled: connections stay open, but
// nothing passes any more.
type Freezer struct {
	// Addr is its address.
	Addr string

	target   string
	mu       sync.Mutex
	frozen   chan struct{} // closed when the connections made so far are frozen
	ends     []net.Conn
	carrying sync.WaitGroup
}

// StartFreezer starts to carry; the end of the test ends it.
func StartFreezer(t testing.TB, target string) *Freezer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	carrier := &Freezer{Addr: listener.Addr().String(), target: target, frozen: make(chan struct{})}
	carrier.carrying.Go(func() { carrier.accept(listener) })
	t.Cleanup(func() {
		_ = listener.Close()
		carrier.mu.Lock()
		for _, end := range carrier.ends {
			_ = end.Close()
		}
		carrier.mu.Unlock()
		carrier.carrying.Wait()
	})
	return carrier
}

// Freeze silences the connections made so far; later ones are carried.
func (f *Freezer) Freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.frozen)
	f.frozen = make(chan struct{})
}

func (f *Freezer) accept(listener net.Listener) {
	for {
		near, err := listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", f.target)
		if err != nil {
			_ = near.Close()
			continue
		}
		f.mu.Lock()
		frozen := f.frozen
		f.ends = append(f.ends, near, far)
		f.mu.Unlock()
		f.carrying.Go(func() { carry(far, near, frozen) })
		f.carrying.Go(func() { carry(near, far, frozen) })
	}
}

// carry copies one way until its end, and drops what comes once the connection is frozen.
func carry(to, from net.Conn, frozen <-chan struct{}) {
	data := make([]byte, 32<<10)
	for {
		count, err := from.Read(data)
		select {
		case <-frozen:
			_, _ = io.Copy(io.Discard, from)
			return
		default:
		}
		if err == nil {
			_, err = to.Write(data[:count])
		}
		if err != nil {
			_ = to.Close()
			return
		}
	}
}
