package client_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/osvaldoandrade/codeq/sdks/go/client"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
)

func TestCallsOnOneScheduleSendItsNameAndReturnIt(t *testing.T) {
	spec := &codeqv1.ScheduleSpec{Cron: proto.String("0 6 * * *"), Command: "report", Payload: []byte(`{"kind":"daily"}`)}
	schedule := &codeqv1.Schedule{Name: "daily", Spec: spec, Next: []string{"2031-01-01T06:00:00+00:00"}}
	replies := map[string]proto.Message{
		"PutSchedule": &codeqv1.PutScheduleResponse{Schedule: schedule}, "GetSchedule": &codeqv1.GetScheduleResponse{Schedule: schedule},
		"PauseSchedule":  &codeqv1.PauseScheduleResponse{Schedule: schedule},
		"ResumeSchedule": &codeqv1.ResumeScheduleResponse{Schedule: schedule}, "DeleteSchedule": &codeqv1.DeleteScheduleResponse{},
	}
	calls, requests := replying(t, replies)
	cases := []struct {
		call func() (*codeqv1.Schedule, error)
		want proto.Message
	}{
		{func() (*codeqv1.Schedule, error) { return calls.PutSchedule(t.Context(), "daily", spec, "shop") },
			&codeqv1.PutScheduleRequest{Name: "daily", Spec: spec, Tenant: "shop"}},
		{func() (*codeqv1.Schedule, error) { return calls.Schedule(t.Context(), "daily", "") },
			&codeqv1.GetScheduleRequest{Name: "daily"}},
		{func() (*codeqv1.Schedule, error) { return calls.PauseSchedule(t.Context(), "daily", "shop") },
			&codeqv1.PauseScheduleRequest{Name: "daily", Tenant: "shop"}},
		{func() (*codeqv1.Schedule, error) { return calls.ResumeSchedule(t.Context(), "daily", "shop") },
			&codeqv1.ResumeScheduleRequest{Name: "daily", Tenant: "shop"}},
	}
	for _, each := range cases {
		if got, err := each.call(); err != nil || !proto.Equal(got, schedule) {
			t.Errorf("%T: got %v, %v", each.want, got, err)
		}
		isSent(t, requests, each.want)
	}
	if err := calls.DeleteSchedule(t.Context(), "daily", "shop"); err != nil {
		t.Error(err)
	}
	isSent(t, requests, &codeqv1.DeleteScheduleRequest{Name: "daily", Tenant: "shop"})
}

func TestFiresOfASchedule(t *testing.T) {
	from, to := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), time.Date(2026, 1, 4, 0, 0, 0, 0, time.UTC)
	fire := &codeqv1.ScheduleFire{
		ScheduledAt: timestamppb.New(from), TaskId: "x", Kind: codeqv1.ScheduleFireKind_SCHEDULE_FIRE_KIND_BACKFILL,
	}
	fires := []*codeqv1.ScheduleFire{fire}
	calls, requests := replying(t, map[string]proto.Message{
		"TriggerSchedule":    &codeqv1.TriggerScheduleResponse{Fire: fire},
		"BackfillSchedule":   &codeqv1.BackfillScheduleResponse{Fires: fires, Duplicates: 1},
		"GetScheduleHistory": &codeqv1.GetScheduleHistoryResponse{Fires: fires},
		"RecomputeSchedule":  &codeqv1.RecomputeScheduleResponse{Moved: true, TzdataVersion: "2026a"},
	})
	if got, err := calls.TriggerSchedule(t.Context(), "daily", "shop"); err != nil || got.GetTaskId() != "x" {
		t.Errorf("trigger: got %v, %v", got, err)
	}
	isSent(t, requests, &codeqv1.TriggerScheduleRequest{Name: "daily", Tenant: "shop"})
	filled, err := calls.BackfillSchedule(t.Context(), "daily", from, to, "shop")
	if err != nil || len(filled.GetFires()) != 1 || filled.GetDuplicates() != 1 {
		t.Errorf("backfill: got %v, %v", filled, err)
	}
	isSent(t, requests, &codeqv1.BackfillScheduleRequest{
		Name: "daily", From: timestamppb.New(from), To: timestamppb.New(to), Tenant: "shop",
	})
	if got, err := calls.ScheduleHistory(t.Context(), "daily", ""); err != nil || len(got) != 1 || got[0].GetTaskId() != "x" {
		t.Errorf("history: got %v, %v", got, err)
	}
	isSent(t, requests, &codeqv1.GetScheduleHistoryRequest{Name: "daily"})
	if got, err := calls.RecomputeSchedule(t.Context(), "daily", ""); err != nil || !got.GetMoved() {
		t.Errorf("recompute: got %v, %v", got, err)
	}
	isSent(t, requests, &codeqv1.RecomputeScheduleRequest{Name: "daily"})
}

func TestSchedulesAreReadPageByPage(t *testing.T) {
	server := scripted.Start(t, only("ListSchedules", func(_ context.Context, _ string, request proto.Message) (proto.Message, error) {
		asked := request.(*codeqv1.ListSchedulesRequest)
		schedule := &codeqv1.Schedule{Name: asked.GetTenant() + asked.GetPageToken()}
		return &codeqv1.ListSchedulesResponse{
			Schedules: []*codeqv1.Schedule{schedule}, NextPageToken: strings.TrimPrefix("2", asked.GetPageToken()),
		}, nil
	}))
	var names []string
	for schedule, err := range open(t, client.Config{}, server).Schedules(t.Context(), "shop") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, schedule.GetName())
	}
	if got := strings.Join(names, " "); got != "shop shop2" {
		t.Errorf("got %q", got)
	}
}
