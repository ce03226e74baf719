package producer

import (
	"time"

	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/link"
)

// spread opens a stream for each of the server's other shards, since a process keeps the tasks that it accepts: the creates
// wake the streams in turn. Tasks with keys have shards of their own, to which any process passes them on, so producers that
// add keys have one stream. A server that comes back may have another number of shards.
func (p *Producer) spread(welcome *codeqv1.ProducerWelcome) {
	if p.addsKeys() || welcome.GetShards() > link.ShardsMax {
		return
	}
	p.first.Store(welcome.GetShard())
	p.shards.Store(welcome.GetShards())
	for number := uint32(1); p.hasStream(number); number++ {
		bit := uint32(1) << number
		if p.running.Or(bit)&bit == 0 {
			p.others.Go(func() {
				defer p.running.And(^bit)
				p.workOn(number)
			})
		}
	}
}

// hasStream reports whether the server has so many shards that a further stream is for one of them; they count from 1.
func (p *Producer) hasStream(number uint32) bool { return number < p.shards.Load() }

// workOn keeps a further stream open to the process of its shard, or to any if none of a few connections leads there, until
// the producer is closed or the server has too few shards. Errors that last are told by the first stream.
func (p *Producer) workOn(number uint32) {
	reconnects := link.NewReconnects("producer", p.endpoint)
	for p.hasStream(number) && !p.isClosing() {
		begun, address := time.Now(), p.endpoint.Servers.Current()
		stream, first, err := p.openOn(address, number)
		leader, reason := "", link.ReasonOfEnd(err, false)
		if err == nil && !p.hasStream(number) {
			stream.Close()
			return
		}
		if err == nil {
			reconnects.Opened(address)
			leader, reason = p.serve(stream, first)
		}
		if p.isClosing() {
			return
		}
		delay := reconnects.DelayAfter(reason, address, leader, err == nil && time.Since(begun) >= link.StableAfter)
		reconnects.Tell(reason, address, delay)
		select {
		case <-time.After(delay):
		case <-p.creates.closing:
		}
	}
}

func (p *Producer) openOn(address string, number uint32) (*link.Stream, *codeqv1.ProduceResponse, error) {
	for try := 1; ; try++ {
		stream, first, err := p.open(address)
		if err != nil {
			return nil, nil, err
		}
		shards := first.GetWelcome().GetShards()
		p.shards.Store(shards)
		isThere := number >= shards || first.GetWelcome().GetShard() == (p.first.Load()+number)%shards
		if isThere || try == link.ShardTriesMax || p.isClosing() {
			return stream, first, nil
		}
		stream.Close()
	}
}

func (p *Producer) isClosing() bool {
	select {
	case <-p.creates.closing:
		return true
	default:
		return p.ctx.Err() != nil
	}
}
