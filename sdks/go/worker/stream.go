package worker

import (
	"runtime"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/link"
)

const (
	method = "/codeq.v1.WorkerService/Work"

	// progressItemsMax and progressBytesMax bound the progress values in one message.
	progressItemsMax = 16
	progressBytesMax = 1 << 20
	// creditsBytesMax is the size of the fields that usually follow the outcomes.
	creditsBytesMax = 32
	// gathersMax is how often a message waits for goroutines that are about to add to it; no time passes if none are.
	gathersMax = 2
)

// session is one stream of the worker.
type session struct {
	*branch
	stream  *link.Stream
	renewal *link.Renewal
	ended   chan struct{}
	end     error // valid once ended is closed
}

// attempt runs one stream to its end. Without a reason, the branch ended it itself, to move or to make way.
func (b *branch) attempt(address string, reconnects *link.Reconnects) (wasOpen bool, reason *codeq.Error) {
	b.mu.Lock()
	b.isLeaving, b.isMoving, b.isHalfClosed, b.isDrainTold, b.leader = false, false, false, false, ""
	b.mu.Unlock()
	stream, first, err := b.open(address)
	if err != nil {
		return false, link.ReasonOfEnd(err, false)
	}
	defer stream.Close()
	welcome := first.GetWelcome()
	if welcome.GetLeaseSeconds() < 1 || welcome.GetCreditsMax() < 1 {
		return false, &codeq.Error{Reason: codeq.ErrBadHandshake, Message: "the server's first message is not a valid welcome"}
	}
	b.worker.endpoint.Servers.Reached()
	b.worker.endpoint.CheckProtocol(welcome.GetServerVersion(), welcome.GetProtocol())
	reconnects.Opened(b.address)
	if b.makesWay(welcome) {
		return true, nil
	}
	b.opened(welcome)
	running := &session{branch: b, stream: stream, ended: make(chan struct{})}
	running.renewal = stream.NewRenewal(b.notify)
	stream.Learn()
	if err = running.take(first); err == nil {
		go running.read()
		err = running.write()
		if err != nil {
			stream.Break(err)
		}
		<-running.ended
	}
	if err == nil {
		err = running.end
	}
	if err == errMoves {
		return true, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return true, link.ReasonOfEnd(err, b.isLeaving)
}

// opened begins a stream: the server gets credits for the free places, and all leases are renewed, since they may be about
// to end.
func (b *branch) opened(welcome *codeqv1.WorkerWelcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wasOpen || b == b.branches[0] { // the first streams of several branches count as one
		b.worker.count(func(stats *Stats) { stats.Streams++ })
	}
	b.wasOpen = true
	b.isConnected = true
	if b.expiry != nil {
		b.expiry.Stop()
		b.expiry = nil
	}
	b.firstNumber = 1
	b.lease = time.Duration(welcome.GetLeaseSeconds()) * time.Second
	b.tenant, b.workerID = welcome.GetTenantId(), welcome.GetWorkerId()
	b.creditsOwed = max(0, min(b.share, int(welcome.GetCreditsMax()))-b.running)
	b.bytesOwed = max(0, b.worker.config.WindowBytes/int64(len(b.branches))-b.runningBytes)
	now := time.Now()
	b.look(welcome, now)
	for each := b.first; each != nil; each = each.next {
		each.renewAt = now.Add(b.lease / codeq.RenewalsPerLease)
		each.isDue = true
		b.due = append(b.due, each)
		b.repeatProgress(each)
	}
	for _, told := range b.unsent {
		b.repeatProgress(told.delivery)
	}
	b.notify()
}

func (s *session) read() {
	defer close(s.ended)
	for s.end == nil {
		response := &codeqv1.WorkResponse{}
		if s.end = s.stream.Receive(response); s.end == nil {
			s.end = s.take(response)
		}
	}
	s.mu.Lock()
	s.isEnded = s.end == link.ErrEnded && !s.stopAt.IsZero() &&
		len(s.unsent) == 0 && len(s.unsettled) == 0 && len(s.undecided) == 0
	s.mu.Unlock()
	s.stream.Break(s.end)
	s.notify()
}

func (s *session) take(response *codeqv1.WorkResponse) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(response.GetTasks()) > 0 {
		s.receive(response.GetTasks())
	}
	if response.ReturnedCredits != nil {
		s.returned(int(response.GetReturnedCredits()))
	}
	if settled := response.GetSettled(); settled > 0 {
		if err := s.settle(int(settled), response.GetOutcomeErrors()); err != nil {
			return err
		}
	}
	for _, grant := range response.GetExtended() {
		if held := s.held[grant.GetTaskId()]; held != nil && held.LeaseToken == grant.GetLeaseToken() {
			held.leaseEnd, held.leaseUntil = held.renewedAt.Add(s.lease), grant.GetLeaseUntil().AsTime()
		}
	}
	s.loseAll(response.GetLost(), ErrLeaseLost)
	s.loseAll(response.GetCancelled(), ErrCancelled)
	if notice := response.GetNotice(); notice.GetReason() == codeqv1.ErrorReason_ERROR_REASON_UNAUTHENTICATED {
		s.renewal.Start(time.Duration(notice.GetGraceMs()) * time.Millisecond)
	} else if notice != nil {
		s.isLeaving, s.leader = true, notice.GetLeader()
	}
	s.notify()
	return nil
}

func (s *session) loseAll(leases []*codeqv1.LostLease, cause error) {
	for _, each := range leases {
		if held := s.held[each.GetTaskId()]; held != nil && held.LeaseToken == each.GetLeaseToken() {
			s.lose(held, cause)
		}
	}
}

// write sends messages until the stream is over or is left. It returns an error only if it ends the stream itself.
func (s *session) write() error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		data, isLast, until := s.next()
		switch {
		case len(data) > 0:
			if s.stream.Send(data) != nil {
				return nil // receiving gives the reason
			}
			s.gather()
			continue
		case isLast:
			return s.leave()
		case s.mayBreak():
			// Tasks are still running. A half-close would give them back, but a broken stream keeps their leases.
			return &codeq.Error{Reason: codeq.ErrDraining, Message: "the stream is ending", Retryable: true}
		case s.mayMove():
			return errMoves
		}
		timer.Reset(time.Until(until))
		select {
		case <-s.wake:
			s.gather()
		case <-timer.C:
		case <-s.ended:
			return nil
		}
	}
}

// gather lets goroutines that are about to end their tasks go first, so that their outcomes share the next message.
func (s *session) gather() {
	for range gathersMax {
		before := s.unsentCount()
		runtime.Gosched()
		if s.unsentCount() == before {
			return
		}
	}
}

func (s *session) unsentCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.unsent)
}

func (s *session) mayBreak() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.isLeaving && len(s.unsettled) == 0
}

// leave half-closes: the server settles what it has read, takes back unfinished deliveries, and ends the call.
func (s *session) leave() error {
	_ = s.stream.CloseSend()
	timer := time.NewTimer(codeq.LeaveMax)
	defer timer.Stop()
	select {
	case <-s.ended:
		return nil
	case <-timer.C:
		return link.Unavailable("the server did not end the stream")
	}
}

// next returns the next message, with everything that waits up to the limits. Without anything to send, it tells whether
// nothing more will be sent on the stream, and the time of the next renewal or of the end of the drain.
func (s *session) next() (data link.Encoded, isLast bool, until time.Time) {
	token := s.renewal.TakeFresh()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isLeaving = s.isLeaving || s.renewal.IsLate()
	now := time.Now()
	s.isMoving = s.isMoving || (!s.moveAt.IsZero() && !now.Before(s.moveAt))
	s.renewDue(now)
	data = s.appendProgress(data)
	data = s.appendOutcomes(data)
	data = s.appendHeartbeats(data)
	isStopping := !s.stopAt.IsZero()
	if isStopping && !s.isDrainTold {
		data = protowire.AppendVarint(protowire.AppendTag(data, drainField, protowire.VarintType), 1)
		s.isDrainTold = true
	}
	if token != "" {
		data = protowire.AppendString(protowire.AppendTag(data, tokenField, protowire.BytesType), token)
	}
	isTaking := !isStopping && !s.isLeaving
	if isTaking && !s.isMoving && len(s.unsettled) < codeq.UnsettledMax {
		data = s.appendCredits(data)
	}
	if isTaking {
		data = s.appendReturn(data)
	}
	if len(data) > 0 {
		return data, false, until
	}
	isDrained := isStopping && !time.Now().Before(s.stopAt)
	if isDrained || (s.running == 0 && (s.isLeaving || isStopping)) {
		s.isHalfClosed = true
		s.returnAll()
		return nil, true, until
	}
	until = time.Now().Add(time.Hour)
	if s.first != nil {
		until = s.first.renewAt
	}
	if isStopping && s.stopAt.Before(until) {
		until = s.stopAt
	}
	if !s.moveAt.IsZero() && !s.isMoving && s.moveAt.Before(until) {
		until = s.moveAt
	}
	return nil, false, until
}

func (s *session) appendProgress(data link.Encoded) link.Encoded {
	taken := 0
	for taken < len(s.progress) && taken < progressItemsMax && len(data) < progressBytesMax {
		delivery := s.progress[taken]
		taken++
		if delivery.isReporting {
			data = appendProgress(data, delivery, delivery.progress)
			delivery.isReporting = false
		}
	}
	s.progress = link.Rest(s.progress, taken)
	return data
}

func (s *session) appendOutcomes(data link.Encoded) link.Encoded {
	waiting := 0
	for _, told := range s.unsent[:min(len(s.unsent), codeq.MessageItemsMax)] {
		waiting += len(told.data)
	}
	if waiting > 0 {
		data = slices.Grow(data, min(waiting, codeq.MessageBytesMax)+creditsBytesMax)
	}
	size, taken := 0, 0
	for taken < len(s.unsent) && taken < codeq.MessageItemsMax && size < codeq.MessageBytesMax {
		told := s.unsent[taken]
		// The server handles the progress of a message before its outcomes; progress that still waits must go out first.
		if (size+len(told.data) > codeq.MessageBytesMax && taken > 0) || told.delivery.isReporting {
			break
		}
		size += len(told.data)
		data = append(data, told.data...)
		s.unsettled = append(s.unsettled, told)
		taken++
	}
	s.unsent = link.Rest(s.unsent, taken)
	return data
}

func (s *session) appendHeartbeats(data link.Encoded) link.Encoded {
	taken := min(len(s.due), codeq.MessageItemsMax)
	now := time.Now()
	for _, delivery := range s.due[:taken] {
		if delivery.isDue {
			delivery.isDue, delivery.renewedAt = false, now
			data = appendHeartbeat(data, delivery)
		}
	}
	s.due = link.Rest(s.due, taken)
	return data
}

func (s *session) appendCredits(data link.Encoded) link.Encoded {
	if s.creditsOwed > 0 {
		data = protowire.AppendVarint(protowire.AppendTag(data, creditsField, protowire.VarintType), uint64(s.creditsOwed))
		s.credits += s.creditsOwed
		s.creditsOwed = 0
		s.balance()
	}
	if s.bytesOwed > 0 {
		data = protowire.AppendVarint(protowire.AppendTag(data, creditBytesField, protowire.VarintType), uint64(s.bytesOwed))
		s.bytesOwed = 0
	}
	return data
}

// renewDue queues the renewals that are due, or will be soon. The mutex is held.
func (s *session) renewDue(now time.Time) {
	period := s.lease / codeq.RenewalsPerLease
	soon := now.Add(period / 10) // renewals due a little later share the message
	if s.first == nil || s.first.renewAt.After(now) {
		return
	}
	if since := now.Sub(s.first.renewedAt); since > s.lease/2 {
		s.warnLate(since)
	}
	for s.first != nil && !s.first.renewAt.After(soon) {
		delivery := s.first
		s.unlink(delivery)
		delivery.renewAt = now.Add(period)
		s.push(delivery)
		if !delivery.isDue {
			delivery.isDue = true
			s.due = append(s.due, delivery)
		}
	}
}

func (s *session) warnLate(since time.Duration) {
	s.worker.count(func(stats *Stats) { stats.LateRenewals++ })
	if now := time.Now(); now.Sub(s.warnedLate) >= lateWarningEach {
		s.warnedLate = now
		s.logger().Warn("codeq: leases are renewed late: the process is short of CPU time, or was stopped; use longer leases",
			"after", since.Round(time.Millisecond), "lease", s.lease)
	}
}
