package link

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
)

// knownMax is the number of addresses kept; a cluster has far fewer members.
const knownMax = 64

// Servers are the members of a cluster, and the one in use. Calls go to the leader; the other members name it, or the
// client searches for it. No I/O.
type Servers struct {
	mu          sync.Mutex
	given       []string
	known       []string
	current     string
	asked       string // the last server chosen in turn, not because it was named as the leader
	followed    map[string]bool
	failures    int
	refreshedAt time.Time
}

// NewServers starts with the given addresses, at least one; the first is tried first.
func NewServers(addresses []string) *Servers {
	var given []string
	for _, address := range addresses {
		if !slices.Contains(given, address) && len(given) < knownMax {
			given = append(given, address)
		}
	}
	return &Servers{
		given: given, known: slices.Clone(given), current: given[0], asked: given[0], followed: map[string]bool{},
	}
}

// Current returns the server to use.
func (s *Servers) Current() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// Known returns every known server, beginning with the given ones.
func (s *Servers) Known() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.known)
}

// AreMany reports whether more than one server is known.
func (s *Servers) AreMany() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.known) > 1
}

// Reached records that the current server served a request.
func (s *Servers) Reached() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = 0
	clear(s.followed)
}

// Left records that a server did not serve a request, chooses the next one, and returns the time to wait before using
// it: none for a leader just named, unless it was already tried.
func (s *Servers) Left(address, leader string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if leader != "" && leader != address && !s.followed[leader] {
		s.followed[leader] = true
		s.add(leader)
		s.current = leader
		return 0
	}
	if s.current != address { // another call has moved on already
		return 0
	}
	clear(s.followed)
	s.failures++
	s.current = s.next(address)
	bound := min(codeq.FollowMax, codeq.FollowMin<<min(s.failures, 10))
	return max(codeq.FollowMin, bound/2+time.Duration(rand.Float64()*float64(bound/2)))
}

// Learn sets the members of the cluster. They replace those learned before, but not the given servers.
func (s *Servers) Learn(members []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = slices.Clone(s.given)
	for _, address := range members {
		s.add(address)
	}
	s.add(s.current)
}

// IsRefreshDue reports whether to read the members now; if so, it starts the next interval.
func (s *Servers) IsRefreshDue(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	due := s.refreshedAt.IsZero() || now.Sub(s.refreshedAt) >= codeq.TopologyRefresh
	if due {
		s.refreshedAt = now
	}
	return due
}

// next returns the next server in turn; wrong hints about the leader never make the rotation skip a server.
func (s *Servers) next(address string) string {
	place := slices.Index(s.known, s.asked)
	for step := range s.known {
		candidate := s.known[(place+1+step)%len(s.known)]
		if candidate != address {
			s.asked = candidate
			return candidate
		}
	}
	return address
}

func (s *Servers) add(address string) {
	if address != "" && !slices.Contains(s.known, address) && len(s.known) < knownMax {
		s.known = append(s.known, address)
	}
}
