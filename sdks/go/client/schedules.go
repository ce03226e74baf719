package client

import (
	"context"
	"iter"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

// Schedules iterates over the schedules of a tenant, ordered by name and without their next instants. An error ends the
// iteration.
func (c *Client) Schedules(ctx context.Context, tenant string) iter.Seq2[*codeqv1.Schedule, error] {
	return pages("", func(token string) ([]*codeqv1.Schedule, string, error) {
		page, err := c.schedules.ListSchedules(ctx, &codeqv1.ListSchedulesRequest{Tenant: tenant, PageToken: token})
		return page.GetSchedules(), page.GetNextPageToken(), err
	})
}

// Schedule reads a schedule, with its next ten instants.
func (c *Client) Schedule(ctx context.Context, name, tenant string) (*codeqv1.Schedule, error) {
	reply, err := c.schedules.GetSchedule(ctx, &codeqv1.GetScheduleRequest{Name: name, Tenant: tenant})
	return reply.GetSchedule(), err
}

// PutSchedule creates a schedule or replaces its definition; a definition that equals the stored one changes nothing.
func (c *Client) PutSchedule(
	ctx context.Context, name string, spec *codeqv1.ScheduleSpec, tenant string,
) (*codeqv1.Schedule, error) {
	reply, err := c.schedules.PutSchedule(ctx, &codeqv1.PutScheduleRequest{Name: name, Spec: spec, Tenant: tenant})
	return reply.GetSchedule(), err
}

// DeleteSchedule removes a schedule and its history; its tasks stay.
func (c *Client) DeleteSchedule(ctx context.Context, name, tenant string) error {
	_, err := c.schedules.DeleteSchedule(ctx, &codeqv1.DeleteScheduleRequest{Name: name, Tenant: tenant})
	return err
}

// PauseSchedule stops a schedule from firing until it is resumed.
func (c *Client) PauseSchedule(ctx context.Context, name, tenant string) (*codeqv1.Schedule, error) {
	reply, err := c.schedules.PauseSchedule(ctx, &codeqv1.PauseScheduleRequest{Name: name, Tenant: tenant})
	return reply.GetSchedule(), err
}

// ResumeSchedule lets a schedule fire again; Misfire of its definition says what happens to the instants of the pause.
func (c *Client) ResumeSchedule(ctx context.Context, name, tenant string) (*codeqv1.Schedule, error) {
	reply, err := c.schedules.ResumeSchedule(ctx, &codeqv1.ResumeScheduleRequest{Name: name, Tenant: tenant})
	return reply.GetSchedule(), err
}

// TriggerSchedule creates a task of a schedule now, even if the schedule is paused. Each call creates one.
func (c *Client) TriggerSchedule(ctx context.Context, name, tenant string) (*codeqv1.ScheduleFire, error) {
	reply, err := c.schedules.TriggerSchedule(ctx, &codeqv1.TriggerScheduleRequest{Name: name, Tenant: tenant})
	return reply.GetFire(), err
}

// BackfillSchedule creates the tasks of the past instants from a time, inclusive, to a time, exclusive: at most 1000.
// Instants whose task is still stored are only counted.
func (c *Client) BackfillSchedule(
	ctx context.Context, name string, from, to time.Time, tenant string,
) (*codeqv1.BackfillScheduleResponse, error) {
	return c.schedules.BackfillSchedule(ctx, &codeqv1.BackfillScheduleRequest{
		Name: name, From: timestamppb.New(from), To: timestamppb.New(to), Tenant: tenant,
	})
}

// ScheduleHistory reads the last 100 tasks that a schedule created, the latest first.
func (c *Client) ScheduleHistory(ctx context.Context, name, tenant string) ([]*codeqv1.ScheduleFire, error) {
	request := &codeqv1.GetScheduleHistoryRequest{Name: name, Tenant: tenant}
	reply, err := c.schedules.GetScheduleHistory(ctx, request)
	return reply.GetFires(), err
}

// RecomputeSchedule computes the stored instants of a schedule again, with the server's present data of time zones, and
// says which moved.
func (c *Client) RecomputeSchedule(
	ctx context.Context, name, tenant string,
) (*codeqv1.RecomputeScheduleResponse, error) {
	return c.schedules.RecomputeSchedule(ctx, &codeqv1.RecomputeScheduleRequest{Name: name, Tenant: tenant})
}
