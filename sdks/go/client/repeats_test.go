package client_test

import (
	"context"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/osvaldoandrade/codeq/sdks/go/client"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
)

func TestLostCallIsRepeatedOnlyIfItMayRunTwice(t *testing.T) {
	cases := map[string]struct {
		call       func(*client.Client) error
		reply      proto.Message
		isRepeated bool
	}{
		"PutTopic": {func(calls *client.Client) error {
			_, err := calls.PutTopic(t.Context(), "a", &codeqv1.QueuePolicy{}, "")
			return err
		}, &codeqv1.PutTopicResponse{}, true},
		"DeleteTopic": {func(calls *client.Client) error {
			return calls.DeleteTopic(t.Context(), "a", "")
		}, &codeqv1.DeleteTopicResponse{}, true},
		"PutSchedule": {func(calls *client.Client) error {
			_, err := calls.PutSchedule(t.Context(), "a", &codeqv1.ScheduleSpec{}, "")
			return err
		}, &codeqv1.PutScheduleResponse{}, true},
		"PauseSchedule": {func(calls *client.Client) error {
			_, err := calls.PauseSchedule(t.Context(), "a", "")
			return err
		}, &codeqv1.PauseScheduleResponse{}, true},
		"TriggerSchedule": {func(calls *client.Client) error {
			_, err := calls.TriggerSchedule(t.Context(), "a", "")
			return err
		}, &codeqv1.TriggerScheduleResponse{}, false},
		"RecomputeSchedule": {func(calls *client.Client) error {
			_, err := calls.RecomputeSchedule(t.Context(), "a", "")
			return err
		}, &codeqv1.RecomputeScheduleResponse{}, true},
		"DeleteSchedule": {func(calls *client.Client) error {
			return calls.DeleteSchedule(t.Context(), "a", "")
		}, &codeqv1.DeleteScheduleResponse{}, false},
		"HeartbeatSubscription": {func(calls *client.Client) error {
			_, err := calls.HeartbeatSubscription(t.Context(), "a", 0)
			return err
		}, &codeqv1.HeartbeatSubscriptionResponse{}, true},
		"CreateSubscription": {func(calls *client.Client) error {
			_, err := calls.CreateSubscription(t.Context(), &codeqv1.CreateSubscriptionRequest{})
			return err
		}, &codeqv1.CreateSubscriptionResponse{}, false},
		"PauseWebhooks": {func(calls *client.Client) error {
			_, err := calls.PauseWebhooks(t.Context(), "h:443", "")
			return err
		}, &codeqv1.PauseWebhooksResponse{}, true},
		"RetryTaskCallbacks": {func(calls *client.Client) error {
			_, err := calls.RetryTaskCallbacks(t.Context(), "a", "")
			return err
		}, &codeqv1.RetryTaskCallbacksResponse{}, false},
		"TestWebhook": {func(calls *client.Client) error {
			_, err := calls.TestWebhook(t.Context(), "https://h/", "")
			return err
		}, &codeqv1.TestWebhookResponse{}, false},
	}
	for method, each := range cases {
		t.Run(method, func(t *testing.T) {
			var count atomic.Int32
			lose := only(method, func(context.Context, string, proto.Message) (proto.Message, error) {
				if count.Add(1) == 1 {
					return nil, scripted.Failure(codes.Unavailable, "OUTCOME_UNKNOWN")
				}
				return each.reply, nil
			})
			err := each.call(open(t, client.Config{}, scripted.Start(t, lose), scripted.Start(t, lose)))
			if isRepeated := count.Load() == 2; isRepeated != each.isRepeated || (err == nil) != each.isRepeated {
				t.Errorf("got %v after %d calls", err, count.Load())
			}
		})
	}
}
