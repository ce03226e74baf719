package producer

import (
	"time"

	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/link"
)

// spread opens a stream for each of the server's other shards, since a process keeps the tasks that it accepts: the creates
// wake the streams in turn. Tasks with keys have shards of their own, to which any process passes them on, so producers that
// add keys have one stream.
func (p *Producer) spread(welcome *codeqv1.ProducerWelcome) {
	shards := welcome.GetShards()
	if shards < 2 || shards > link.ShardsMax || p.addsKeys() {
		return
	}
	if p.isSpread.Swap(true) {
		return
	}
	for shard := range shards {
		if shard != welcome.GetShard() {
			p.others.Go(func() { p.workOn(shard, shards) })
		}
	}
}

// workOn keeps a stream open to the process of a shard, or to any if none of a few connections leads there, until the
// producer is closed. Errors that last are told by the first stream.
func (p *Producer) workOn(shard, shards uint32) {
	reconnects := link.NewReconnects("producer", p.endpoint)
	for !p.isClosing() {
		begun, address := time.Now(), p.endpoint.Servers.Current()
		stream, first, err := p.openOn(address, shard, shards)
		leader, reason := "", link.ReasonOfEnd(err, false)
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

func (p *Producer) openOn(address string, shard, shards uint32) (*link.Stream, *codeqv1.ProduceResponse, error) {
	for try := 1; ; try++ {
		stream, first, err := p.open(address)
		if err != nil {
			return nil, nil, err
		}
		welcome := first.GetWelcome()
		if welcome.GetShards() != shards || welcome.GetShard() == shard || try == link.ShardTriesMax || p.isClosing() {
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
