package producer

import (
	"cmp"
	"context"
	"iter"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

const (
	// pollMax is the longest wait of one call for a result.
	pollMax = 30 * time.Second
	// InFlightDefault is the number of creates that CreateAll has on their way at once.
	InFlightDefault = 4096
)

// CreateAndWait creates a task and waits until it has ended, however it ends. The context, or without a deadline the
// producer's timeout, bounds the whole call; when it is over, the error is DEADLINE_EXCEEDED and names the task, which
// goes on.
func (p *Producer) CreateAndWait(ctx context.Context, command string, payload any, options ...Option) (*codeq.TaskResult, error) {
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.config.Timeout)
		defer cancel()
	}
	id, err := p.Create(ctx, command, payload, options...)
	if err != nil {
		return nil, err
	}
	return p.Wait(ctx, id)
}

// Wait waits until a task has ended, however it ends, and returns its result record. The context, or without a deadline
// the producer's timeout, bounds the wait.
func (p *Producer) Wait(ctx context.Context, taskID string) (*codeq.TaskResult, error) {
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.config.Timeout)
		defer cancel()
	}
	tasks := codeqv1.NewTaskServiceClient(p.caller)
	for {
		deadline, _ := ctx.Deadline()
		wait := min(pollMax, time.Until(deadline))
		seconds := int32((wait + time.Second - 1) / time.Second)
		reply, err := tasks.GetTaskResult(ctx, &codeqv1.GetTaskResultRequest{TaskId: taskID, WaitSeconds: max(0, seconds)})
		switch {
		case err == nil:
			return codeq.ResultOf(reply.GetResult()), nil
		case ctx.Err() != nil || codeq.ReasonOf(err) == codeq.ErrDeadlineExceeded: // at a server, it may be over a little earlier
			late := ended(cmp.Or(ctx.Err(), context.DeadlineExceeded), "before task "+taskID+" had ended", "")
			late.Metadata = map[string]string{"taskId": taskID}
			return nil, late
		case codeq.ReasonOf(err) != codeq.ErrResultNotFound:
			return nil, err
		}
	}
}

// CreateAll creates the tasks of a sequence and yields an id or an error for each, in order. At most inFlight creates are
// on their way at once (0: 4096); the sequence is read ahead by one more, on another goroutine. A loop that breaks waits
// until the sequence has yielded its current task; creates that were sent go on, the others are dropped.
func (p *Producer) CreateAll(ctx context.Context, tasks iter.Seq[Task], inFlight int) iter.Seq2[string, error] {
	if inFlight <= 0 {
		inFlight = InFlightDefault
	}
	return func(yield func(string, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		answers, room := make(chan *pending, inFlight), make(chan struct{}, inFlight)
		go p.feed(ctx, tasks, answers, room)
		for each := range answers {
			id, err := each.wait(ctx, p)
			<-room
			if p.config.Metrics.Created != nil {
				p.config.Metrics.Created(each.command, time.Since(each.begun), err)
			}
			if !yield(id, err) {
				cancel()
				for left := range answers { // until the feeding goroutine has ended
					_, _ = left.wait(ctx, p)
				}
				return
			}
		}
	}
}

// pending is one create of CreateAll.
type pending struct {
	command string
	begun   time.Time
	one     *single
	err     error
}

func (p *Producer) feed(ctx context.Context, tasks iter.Seq[Task], answers chan<- *pending, room chan<- struct{}) {
	defer close(answers)
	for task := range tasks {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return
		}
		answers <- p.submit(ctx, &task) // never blocks: there is as much room
		if ctx.Err() != nil {
			return
		}
	}
}

func (p *Producer) submit(ctx context.Context, task *Task) *pending {
	made := &pending{command: task.Command, begun: time.Now()}
	data, isKeyed, err := p.encode(ctx, task)
	if err == nil {
		late := time.NewTimer(p.config.Timeout)
		defer late.Stop()
		err = p.creates.admit(ctx, late.C, 1, p.config.FailFast)
	}
	if err != nil {
		made.err = err
		return made
	}
	made.one = newSingle(data, isKeyed)
	p.start()
	p.creates.submit([]*item{&made.one.item})
	return made
}

func (e *pending) wait(ctx context.Context, p *Producer) (string, error) {
	if e.err != nil {
		return "", e.err
	}
	defer func() { signals.Put(e.one.of.done) }()
	select {
	case <-e.one.of.done:
		return e.one.id, e.one.failure()
	default:
	}
	timer := time.NewTimer(time.Until(e.begun.Add(p.config.Timeout)))
	defer timer.Stop()
	select {
	case <-e.one.of.done:
		return e.one.id, e.one.failure()
	case <-ctx.Done():
		p.creates.giveUp([]*item{&e.one.item}, ctx.Err())
	case <-timer.C:
		p.creates.giveUp([]*item{&e.one.item}, context.DeadlineExceeded)
	}
	<-e.one.of.done
	return e.one.id, e.one.failure()
}
