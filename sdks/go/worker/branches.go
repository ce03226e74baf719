package worker

import (
	"errors"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/link"
)

// A server with several shards has a process for each, and connections lead to any of them. A stream is served by its
// process for the tasks of all shards, at the cost of a hop for those of the others. So the worker opens one stream for
// each shard, over connections of their own, and prefers those that lead to the process of the shard. Every process serves
// a stream for any shard, so that a stream which leads elsewhere costs the hop and nothing else.
//
// Each branch has a share of the places. A place is with one branch at a time: it is occupied by a task, granted as a
// credit, or about to be granted. A place that becomes free goes to a branch that has used all its own and has fewer;
// credits of a branch without work are returned, and go to one that has used its own. A branch keeps at least one place.

const (
	// placesMin is the number of places for each shard below which one stream is better: a branch without work keeps a place.
	placesMin = 4
	// moveAfterMin and moveAfterMax bound the pause before the process of a shard is looked for again; each pause is twice
	// the previous one.
	moveAfterMin = 10 * time.Second
	moveAfterMax = 5 * time.Minute
	// askAgainAfter is the pause after a stream returned no credit.
	askAgainAfter = 50 * time.Millisecond
)

// errMoves ends the stream of a branch that looks for the process of its shard.
var errMoves = errors.New("the stream moves to the process of its shard")

// workAll works with one branch, or with one for each shard once a server tells that it has several.
func (r *run) workAll() error {
	only := r.branches[0]
	err := only.work()
	if only.shards == 0 {
		return err
	}
	r.split(only.shards)
	ends := make([]error, len(r.branches))
	var working sync.WaitGroup
	for index, each := range r.branches {
		working.Go(func() {
			if ends[index] = each.work(); ends[index] != nil {
				r.abort()
			}
		})
	}
	working.Wait()
	for _, err := range ends {
		if err != nil {
			return err
		}
	}
	return nil
}

// split replaces the only branch, which has no task, by one for each shard.
func (r *run) split(shards int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	places := r.worker.config.Concurrency
	r.branches = nil
	for shard := range shards {
		choice := &codeqv1.ShardChoice{Shard: uint32(shard), Shards: uint32(shards)}
		r.branches = append(r.branches, r.newBranch(choice, (places+shards-1-shard)/shards))
	}
}

// abort ends all branches.
func (r *run) abort() {
	r.mu.Lock()
	r.hasEnded = true
	r.mu.Unlock()
	r.hardStop()
}

// makesWay reports whether the branch ends because the server has several shards, each of which gets a branch of its own.
// It does not while it has tasks or outcomes, or if the places are few.
func (b *branch) makesWay(welcome *codeqv1.WorkerWelcome) bool {
	shards := int(welcome.GetShards())
	b.mu.Lock()
	defer b.mu.Unlock()
	isIdle := b.running == 0 && len(b.unsent) == 0
	if b.shard != nil || shards < 2 || shards > min(link.ShardsMax, b.worker.config.Concurrency/placesMin) || !isIdle {
		return false
	}
	b.shards = shards
	return true
}

// open opens a stream: for a branch of one shard, to the shard's process if one of a few connections leads there, else to
// any.
func (b *branch) open(address string) (*link.Stream, *codeqv1.WorkResponse, error) {
	known := b.worker.endpoint.Servers.Known()
	if b.home != "" && slices.Contains(known, b.home) {
		address = b.home
	}
	at := max(0, slices.Index(known, address))
	for try := 0; b.shard != nil && try < link.ShardTriesMax; try++ {
		next := known[(at+try)%len(known)]
		stream, first, err := b.openAt(next)
		switch {
		case err == nil && b.isServedBy(first.GetWelcome()):
			b.home = next
			return stream, first, nil
		case err == nil:
			stream.Close()
		case len(known) == 1 || b.streams.Err() != nil:
			return nil, nil, err
		default: // a node that is away
			if known = slices.Delete(known, slices.Index(known, next), slices.Index(known, next)+1); next == b.home {
				b.home = ""
			}
			address, at = known[0], 0
		}
	}
	return b.openAt(address)
}

func (b *branch) openAt(address string) (*link.Stream, *codeqv1.WorkResponse, error) {
	config := b.worker.config
	hello := &codeqv1.WorkRequest{Hello: &codeqv1.WorkerHello{
		Name: config.Name, Commands: b.commands, LeaseSeconds: proto.Int32(int32(config.Lease / time.Second)),
		Client: link.Hello(), OnlyShard: b.shard,
	}}
	first := &codeqv1.WorkResponse{}
	b.address = address
	stream, err := b.worker.endpoint.Open(b.streams, address, method, hello, first)
	return stream, first, err
}

// isServedBy reports whether there is no better process for the branch: that of its shard serves it, or the server has no
// such shard, so that the stream is over all shards.
func (b *branch) isServedBy(welcome *codeqv1.WorkerWelcome) bool {
	return b.shard == nil || welcome.GetShards() != b.shard.GetShards() || welcome.GetShard() == b.shard.GetShard()
}

// look notes when to look for the process of the shard again. The mutex is held.
func (b *branch) look(welcome *codeqv1.WorkerWelcome, now time.Time) {
	if b.isServedBy(welcome) {
		b.moveAt, b.moveAfter = time.Time{}, 0
		return
	}
	b.moveAfter = min(moveAfterMax, max(moveAfterMin, 2*b.moveAfter))
	b.moveAt = now.Add(b.moveAfter)
}

// mayMove reports whether the stream can be left without a loss: no task is on its way, and no outcome is unsettled.
func (b *branch) mayMove() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.isMoving && b.stopAt.IsZero() && b.credits <= 0 && len(b.unsettled) == 0
}

// appendReturn asks for credits back: all of them to move, else those that another branch needs. The mutex is held.
func (b *branch) appendReturn(data link.Encoded) link.Encoded {
	if b.isMoving && b.creditsAsked >= 0 {
		b.creditsAsked = max(0, b.credits)
	}
	if b.creditsAsked <= 0 {
		return data
	}
	data = protowire.AppendVarint(protowire.AppendTag(data, returnField, protowire.VarintType), uint64(b.creditsAsked))
	b.creditsAsked = -b.creditsAsked
	return data
}

// returned gives returned credits to the branch that needs them. The mutex is held.
func (b *branch) returned(count int) {
	b.credits -= count
	b.creditsAsked = 0
	if b.isMoving { // the next stream gets them
		return
	}
	if count == 0 { // the server was asking a process for tasks with them
		time.AfterFunc(askAgainAfter, b.balanceLater)
	} else if taker := b.starving(); taker != nil && taker != b {
		b.move(count, taker)
		b.balance()
	} else {
		b.creditsOwed += count
	}
}

func (r *run) balanceLater() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.balance()
}

// passOn gives the place of a task that has ended to a branch that needs it more. The mutex is held.
func (b *branch) passOn() {
	if len(b.branches) < 2 {
		return
	}
	if taker := b.starving(); taker != nil && taker.share+1 < b.share {
		b.creditsOwed--
		b.move(1, taker)
	}
}

// move gives places of this branch to another one, which grants them. The mutex is held.
func (b *branch) move(count int, taker *branch) {
	b.share -= count
	taker.share += count
	taker.creditsOwed += count
	taker.notify()
}

// balance asks the branch with the most credits for half of them if another branch has used its own. The mutex is held.
func (r *run) balance() {
	if len(r.branches) < 2 || r.starving() == nil {
		return
	}
	var giver *branch
	for _, each := range r.branches {
		if each.isTaking() && each.creditsAsked == 0 && each.credits > 1 && (giver == nil || each.credits > giver.credits) {
			giver = each
		}
	}
	if giver != nil {
		giver.creditsAsked = giver.credits / 2
		giver.notify()
	}
}

// starving returns the branch with the fewest places among those that have a task in each; nil: there is none. The mutex
// is held.
func (r *run) starving() *branch {
	var found *branch
	for _, each := range r.branches {
		if each.isTaking() && each.credits <= 0 && each.creditsOwed <= 0 && (found == nil || each.share < found.share) {
			found = each
		}
	}
	return found
}

// isTaking reports whether the branch takes tasks. The mutex is held.
func (b *branch) isTaking() bool {
	return b.isConnected && !b.isLeaving && !b.isMoving && b.stopAt.IsZero()
}
