package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/link"
	"github.com/osvaldoandrade/codeq/sdks/go/producer"
)

// Create creates a task and returns it; Duplicate reports that an earlier request with the same key had created it.
func (c *Client) Create(ctx context.Context, task producer.Task) (*codeq.Task, error) {
	spec, err := task.Spec()
	if err != nil {
		return nil, err
	}
	reply, err := c.tasks.CreateTask(ctx, &codeqv1.CreateTaskRequest{Spec: spec})
	return codeq.TaskOf(reply.GetTask()), err
}

// Created is the answer to one task of a batch.
type Created struct {
	// Task is the task; nil if Err is set.
	Task *codeq.Task
	// Err is why the task was rejected; nil if it exists.
	Err error
}

// CreateBatch creates up to 1000 tasks; each succeeds or fails on its own, and the answers are in the order of the tasks.
func (c *Client) CreateBatch(ctx context.Context, tasks []producer.Task) ([]Created, error) {
	return c.createBatch(ctx, tasks, false, "")
}

// CreateAtomic creates either all of up to 1000 tasks or none. The key, which may be empty, makes a repeated call return
// the tasks of the first one.
func (c *Client) CreateAtomic(ctx context.Context, tasks []producer.Task, idempotencyKey string) ([]Created, error) {
	return c.createBatch(ctx, tasks, true, idempotencyKey)
}

func (c *Client) createBatch(ctx context.Context, tasks []producer.Task, atomic bool, key string) ([]Created, error) {
	request := &codeqv1.BatchCreateTasksRequest{Atomic: atomic}
	if key != "" {
		request.IdempotencyKey = &key
	}
	created, places := make([]Created, len(tasks)), make([]int, 0, len(tasks))
	for index := range tasks {
		spec, err := tasks[index].Spec()
		switch {
		case err == nil:
			request.Tasks, places = append(request.Tasks, spec), append(places, index)
		case atomic:
			return nil, inBatch(index, err)
		default:
			created[index].Err = err
		}
	}
	if len(request.Tasks) == 0 && len(tasks) > 0 {
		return created, nil
	}
	reply, err := c.tasks.BatchCreateTasks(ctx, request)
	if err != nil {
		return nil, err
	}
	if answers := len(reply.GetResults()); answers != len(places) {
		return nil, &codeq.Error{Reason: codeq.ErrInternal, Message: fmt.Sprintf("%d answers came to %d tasks", answers, len(places))}
	}
	for number, each := range reply.GetResults() {
		one := Created{Task: codeq.TaskOf(each.GetTask())}
		if failure := each.GetError(); failure != nil {
			one.Err = link.FromReason(failure.GetReason(), failure.GetMessage())
		}
		created[places[number]] = one
	}
	return created, nil
}

// inBatch returns the error of a task of a batch, whose fields are those of the request.
func inBatch(index int, err error) error {
	var typed *codeq.Error
	if !errors.As(err, &typed) {
		return err
	}
	failure, place := typed.Clone(), fmt.Sprintf("tasks[%d].", index)
	failure.Message = place + failure.Message
	for number := range failure.Violations {
		failure.Violations[number].Field = place + failure.Violations[number].Field
	}
	return failure
}

// Get reads a task, with the history of its deliveries.
func (c *Client) Get(ctx context.Context, taskID string) (*codeq.Task, error) {
	reply, err := c.tasks.GetTask(ctx, &codeqv1.GetTaskRequest{TaskId: taskID})
	return codeq.TaskOf(reply.GetTask()), err
}

// Result waits up to a time (0 to 60 s, rounded up to whole seconds) for a task to end, and returns its result record;
// RESULT_NOT_FOUND if it does not end in time.
func (c *Client) Result(ctx context.Context, taskID string, wait time.Duration) (*codeq.TaskResult, error) {
	reply, err := c.tasks.GetTaskResult(ctx, &codeqv1.GetTaskResultRequest{TaskId: taskID, WaitSeconds: seconds(wait)})
	return codeq.ResultOf(reply.GetResult()), err
}

// Artifact reads a file of a result that the server stores.
func (c *Client) Artifact(ctx context.Context, taskID, name string) (*codeqv1.GetTaskArtifactResponse, error) {
	return c.tasks.GetTaskArtifact(ctx, &codeqv1.GetTaskArtifactRequest{TaskId: taskID, Name: name})
}

// Explain says what a task is waiting for, or that it has ended.
func (c *Client) Explain(ctx context.Context, taskID string) (*codeqv1.ExplainTaskResponse, error) {
	return c.tasks.ExplainTask(ctx, &codeqv1.ExplainTaskRequest{TaskId: taskID})
}

// Cancel ends a task, whether it waits or runs. The reason becomes its error; empty: CANCELLED.
func (c *Client) Cancel(ctx context.Context, taskID, reason string) (*codeq.Task, error) {
	reply, err := c.tasks.CancelTask(ctx, &codeqv1.CancelTaskRequest{TaskId: taskID, Reason: reason})
	return codeq.TaskOf(reply.GetTask()), err
}

// Redrive moves an ended task back to its queue. Only operators name a tenant; empty: the token's.
func (c *Client) Redrive(ctx context.Context, taskID, tenant string) (*codeq.Task, error) {
	reply, err := c.tasks.RedriveTask(ctx, &codeqv1.RedriveTaskRequest{TaskId: taskID, Tenant: tenant})
	return codeq.TaskOf(reply.GetTask()), err
}

// ListTasks reads one page of tasks; the request selects them.
func (c *Client) ListTasks(ctx context.Context, request *codeqv1.ListTasksRequest) (*codeqv1.ListTasksResponse, error) {
	return c.tasks.ListTasks(ctx, request)
}

// Tasks iterates over all tasks that the request selects (nil: all of the tenant), page by page from its page token on. An
// error ends the iteration.
func (c *Client) Tasks(ctx context.Context, request *codeqv1.ListTasksRequest) iter.Seq2[*codeq.Task, error] {
	request = copyOf(request) // the caller may change its own
	return pages(request.GetPageToken(), func(token string) ([]*codeq.Task, string, error) {
		asked := copyOf(request)
		asked.PageToken = token
		page, err := c.tasks.ListTasks(ctx, asked)
		return tasksOf(page.GetTasks()), page.GetNextPageToken(), err
	})
}

// Claim leases one task of the commands (none: all that the token allows), waiting up to a time (0 to 30 s) for it. It
// returns nil if there is none. A lease of 0 has the length that the policy of the command names, else 60 s. The program
// renews the lease with Heartbeat.
func (c *Client) Claim(ctx context.Context, commands []string, lease, wait time.Duration) (*codeq.Task, error) {
	request := &codeqv1.ClaimTaskRequest{Commands: commands, WaitSeconds: seconds(wait), LeaseSeconds: optionalSeconds(lease)}
	reply, err := c.tasks.ClaimTask(ctx, request)
	return codeq.TaskOf(reply.GetTask()), err
}

// ClaimBatch leases up to count tasks, 1 to 100, at once. Otherwise it works as Claim does.
func (c *Client) ClaimBatch(
	ctx context.Context, commands []string, count int, lease, wait time.Duration,
) ([]*codeq.Task, error) {
	reply, err := c.tasks.ClaimTasks(ctx, &codeqv1.ClaimTasksRequest{
		Commands: commands, Count: int32(count), WaitSeconds: seconds(wait), LeaseSeconds: optionalSeconds(lease),
	})
	return tasksOf(reply.GetTasks()), err
}

// Heartbeat extends the lease of a claimed task to a time from now (0: the length of the lease) and returns its end.
func (c *Client) Heartbeat(ctx context.Context, task *codeq.Task, extend time.Duration) (time.Time, error) {
	reply, err := c.tasks.HeartbeatTask(ctx, &codeqv1.HeartbeatTaskRequest{
		TaskId: task.ID, LeaseToken: leaseOf(task), ExtendSeconds: optionalSeconds(extend),
	})
	return timeOf(reply.GetLeaseUntil()), err
}

// ReportProgress stores a JSON value on a claimed task and returns the end of its lease, which it extends to a time from
// now unless that is 0.
func (c *Client) ReportProgress(ctx context.Context, task *codeq.Task, value any, extend time.Duration) (time.Time, error) {
	data, err := codeq.EncodeProgress(value)
	if err != nil {
		return time.Time{}, err
	}
	reply, err := c.tasks.ReportProgress(ctx, &codeqv1.ReportProgressRequest{
		TaskId: task.ID, LeaseToken: leaseOf(task), Progress: data, ExtendSeconds: optionalSeconds(extend),
	})
	return timeOf(reply.GetLeaseUntil()), err
}

// Complete ends a claimed task as COMPLETED. A nil result is none.
func (c *Client) Complete(
	ctx context.Context, task *codeq.Task, result any, artifacts ...*codeqv1.NewArtifact,
) (*codeq.TaskResult, error) {
	request := &codeqv1.SubmitResultRequest{
		TaskId: task.ID, LeaseToken: leaseOf(task), Status: codeqv1.TaskStatus_TASK_STATUS_COMPLETED, Artifacts: artifacts,
	}
	if result != nil {
		data, err := codeq.EncodeJSON(result, "result")
		if err != nil {
			return nil, err
		}
		request.Result = data
	}
	reply, err := c.tasks.SubmitResult(ctx, request)
	return codeq.ResultOf(reply.GetResult()), err
}

// Fail ends a claimed task as FAILED, which is not retried.
func (c *Client) Fail(
	ctx context.Context, task *codeq.Task, reason string, artifacts ...*codeqv1.NewArtifact,
) (*codeq.TaskResult, error) {
	reply, err := c.tasks.SubmitResult(ctx, &codeqv1.SubmitResultRequest{
		TaskId: task.ID, LeaseToken: leaseOf(task), Status: codeqv1.TaskStatus_TASK_STATUS_FAILED, Error: reason,
		Artifacts: artifacts,
	})
	return codeq.ResultOf(reply.GetResult()), err
}

// SubmitBatch ends up to 1000 claimed tasks; each succeeds or fails on its own.
func (c *Client) SubmitBatch(
	ctx context.Context, results []*codeqv1.SubmitResultRequest,
) (*codeqv1.BatchSubmitResultsResponse, error) {
	return c.tasks.BatchSubmitResults(ctx, &codeqv1.BatchSubmitResultsRequest{Results: results})
}

// Nack retries a claimed task after a delay; negative: after the server's backoff.
func (c *Client) Nack(
	ctx context.Context, task *codeq.Task, reason string, delay time.Duration,
) (*codeqv1.NackTaskResponse, error) {
	request := &codeqv1.NackTaskRequest{TaskId: task.ID, LeaseToken: leaseOf(task), Reason: reason}
	if delay >= 0 {
		request.DelaySeconds = proto.Int32(seconds(delay))
	}
	return c.tasks.NackTask(ctx, request)
}

// Abandon gives a claimed task back without counting an attempt, to be delivered again after a delay; 0: at its place.
func (c *Client) Abandon(
	ctx context.Context, task *codeq.Task, delay time.Duration,
) (*codeqv1.AbandonTaskResponse, error) {
	return c.tasks.AbandonTask(ctx, &codeqv1.AbandonTaskRequest{
		TaskId: task.ID, LeaseToken: leaseOf(task), DelaySeconds: optionalSeconds(delay),
	})
}

// ParkKey gives a claimed task back without counting an attempt, and has no task with its rate key, or without one its
// concurrency key, delivered for a while.
func (c *Client) ParkKey(
	ctx context.Context, task *codeq.Task, delay time.Duration,
) (*codeqv1.AbandonTaskResponse, error) {
	return c.tasks.AbandonTask(ctx, &codeqv1.AbandonTaskRequest{
		TaskId: task.ID, LeaseToken: leaseOf(task), DelaySeconds: optionalSeconds(delay), ParkKey: true,
	})
}

// Cleanup removes ended tasks before their retention is over; repeat the call with the page token of the reply until that
// is empty.
func (c *Client) Cleanup(
	ctx context.Context, request *codeqv1.CleanupTasksRequest,
) (*codeqv1.CleanupTasksResponse, error) {
	return c.tasks.CleanupTasks(ctx, request)
}

// copyOf returns a copy of a request, whose page token the caller may set; an empty one for nil.
func copyOf[Request proto.Message](request Request) Request {
	made := request.ProtoReflect().Type().New().Interface().(Request)
	proto.Merge(made, request)
	return made
}

func leaseOf(task *codeq.Task) *uint64 {
	if task.LeaseToken == 0 {
		return nil
	}
	return &task.LeaseToken
}

func seconds(of time.Duration) int32 {
	return int32(min(max(math.Ceil(of.Seconds()), math.MinInt32), math.MaxInt32))
}

func optionalSeconds(of time.Duration) *int32 {
	if of == 0 {
		return nil
	}
	return proto.Int32(seconds(of))
}

func timeOf(at *timestamppb.Timestamp) time.Time {
	if at == nil {
		return time.Time{}
	}
	return at.AsTime()
}
