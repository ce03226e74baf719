package link

import (
	"time"

	"google.golang.org/protobuf/proto"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

// rateLimitedDelay is the delay after a refusal by a rate limit that asks for none.
const rateLimitedDelay = time.Second

// attemptError is the error of one attempt of a call.
type attemptError struct {
	*codeq.Error
	notSent bool // no request reached a server
}

// following are the attempts of one call. A server that does not lead, or is stopping, rejects a call unprocessed, so the
// call moves on to another one. After a lost connection, only a repeatable call does. A call refused by a rate limit
// returns to its server after the delay asked for. With a single server outside a cluster, nothing else is retried.
type following struct {
	servers    *Servers
	repeatable bool
	deadline   time.Time
	wait       time.Duration
	address    string
}

// timeout starts an attempt at the current server, which is then in address, and returns the time that it may take.
func (f *following) timeout(now time.Time) time.Duration {
	f.address = f.servers.Current()
	left := f.deadline.Sub(now)
	if f.repeatable && f.servers.AreMany() {
		return min(left, codeq.StallMax+f.wait)
	}
	return left
}

// delayAfter returns the time to wait before the next attempt; false if there is none.
func (f *following) delayAfter(err *attemptError, now time.Time) (time.Duration, bool) {
	if err.Reason == codeq.ErrRateLimited {
		delay := err.RetryAfter
		if delay <= 0 {
			delay = rateLimitedDelay
		}
		return delay, now.Add(delay).Before(f.deadline)
	}
	if !f.isSurvived(err) {
		return 0, false
	}
	delay := f.servers.Left(f.address, err.Metadata["leaderGrpc"])
	return delay, now.Add(delay).Before(f.deadline)
}

func (f *following) isSurvived(err *attemptError) bool {
	switch {
	case err.Reason == codeq.ErrNotLeader:
		return true
	case !f.servers.AreMany():
		return false
	case err.notSent || err.Reason == codeq.ErrDraining:
		return true
	default:
		return f.repeatable && (IsUnavailable(err.Error) || err.Reason == codeq.ErrDeadlineExceeded)
	}
}

// isRepeatable reports whether a call may run twice, so that it is retried when its answer is lost.
func isRepeatable(request proto.Message) bool {
	switch request := request.(type) {
	case *codeqv1.CreateTaskRequest:
		return request.GetSpec().IdempotencyKey != nil
	case *codeqv1.BatchCreateTasksRequest:
		if request.GetAtomic() {
			return request.IdempotencyKey != nil
		}
		for _, spec := range request.GetTasks() {
			if spec.IdempotencyKey == nil {
				return false
			}
		}
		return true
	case *codeqv1.BatchSubmitResultsRequest:
		for _, each := range request.GetResults() {
			if each.LeaseToken == nil {
				return false
			}
		}
		return true
	case *codeqv1.SubmitResultRequest:
		return request.LeaseToken != nil
	case *codeqv1.NackTaskRequest:
		return request.LeaseToken != nil
	case *codeqv1.AbandonTaskRequest:
		return request.LeaseToken != nil
	case *codeqv1.ReportProgressRequest:
		return request.LeaseToken != nil
	case *codeqv1.RedriveTasksRequest:
		return request.GetDryRun()
	case *codeqv1.PurgeQueueRequest, *codeqv1.RedriveTaskRequest, *codeqv1.CleanupTasksRequest, *codeqv1.BackUpRequest,
		*codeqv1.AddMemberRequest, *codeqv1.RemoveMemberRequest, *codeqv1.TransferLeadershipRequest,
		*codeqv1.DeleteScheduleRequest, *codeqv1.TriggerScheduleRequest, *codeqv1.CreateSubscriptionRequest,
		*codeqv1.DeleteSubscriptionRequest, *codeqv1.RemoveTenantSubscriptionRequest,
		*codeqv1.RetryTaskCallbacksRequest, *codeqv1.RetryCallbacksRequest, *codeqv1.TestWebhookRequest:
		return false
	default: // reads, claims, heartbeats, cancel, pause, resume, limits of tenants, policies, definitions of schedules
		return true
	}
}

// waitOf returns the time that a request asks the server to wait before it answers.
func waitOf(request proto.Message) time.Duration {
	if waiting, is := request.(interface{ GetWaitSeconds() int32 }); is {
		return time.Duration(max(0, waiting.GetWaitSeconds())) * time.Second
	}
	return 0
}
