package client_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/osvaldoandrade/codeq/sdks/go/client"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
)

// replying answers every call of a server with a reply of its method, and gives the requests in their order.
func replying(t *testing.T, replies map[string]proto.Message) (*client.Client, <-chan proto.Message) {
	t.Helper()
	requests := make(chan proto.Message, 64)
	server := scripted.Start(t, scripted.Script{Unary: func(_ context.Context, method string, request proto.Message) (proto.Message, error) {
		reply, has := replies[method[strings.LastIndex(method, "/")+1:]]
		if !has {
			return nil, nil
		}
		requests <- request
		return reply, nil
	}})
	return open(t, client.Config{}, server), requests
}

func isSent(t *testing.T, requests <-chan proto.Message, want proto.Message) {
	t.Helper()
	if got := scripted.Receive(t, requests, "request"); !proto.Equal(got, want) {
		t.Errorf("sent %v, want %v", got, want)
	}
}

func TestTopicIsPutReadAndDeleted(t *testing.T) {
	policy := &codeqv1.QueuePolicy{
		PriorityTiers: []int32{1, 5}, MaxConsumers: proto.Int32(3), Backoff: &codeqv1.Backoff{Policy: proto.String("fixed")},
	}
	topic := &codeqv1.Topic{TopicName: "order", Policy: policy, Version: 2}
	calls, requests := replying(t, map[string]proto.Message{
		"PutTopic": &codeqv1.PutTopicResponse{Topic: topic}, "GetTopic": &codeqv1.GetTopicResponse{Topic: topic},
		"DeleteTopic": &codeqv1.DeleteTopicResponse{},
	})
	if put, err := calls.PutTopic(t.Context(), "order", policy, "shop"); err != nil || !proto.Equal(put, topic) {
		t.Errorf("put %v, %v", put, err)
	}
	isSent(t, requests, &codeqv1.PutTopicRequest{Command: "order", Policy: policy, Tenant: "shop"})
	if read, err := calls.Topic(t.Context(), "order", ""); err != nil || !proto.Equal(read, topic) {
		t.Errorf("read %v, %v", read, err)
	}
	isSent(t, requests, &codeqv1.GetTopicRequest{Command: "order"})
	if err := calls.DeleteTopic(t.Context(), "order", "shop"); err != nil {
		t.Error(err)
	}
	isSent(t, requests, &codeqv1.DeleteTopicRequest{Command: "order", DeletionPolicy: "Delete", Tenant: "shop"})
}

func TestTopicsAreReadPageByPage(t *testing.T) {
	server := scripted.Start(t, only("ListTopics", func(_ context.Context, _ string, request proto.Message) (proto.Message, error) {
		asked := request.(*codeqv1.ListTopicsRequest)
		topic := &codeqv1.Topic{TopicName: asked.GetTenant() + asked.GetPageToken()}
		return &codeqv1.ListTopicsResponse{
			Topics: []*codeqv1.Topic{topic}, NextPageToken: strings.TrimPrefix("2", asked.GetPageToken()),
		}, nil
	}))
	var names []string
	for topic, err := range open(t, client.Config{}, server).Topics(t.Context(), "shop") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, topic.GetTopicName())
	}
	if got := strings.Join(names, " "); got != "shop shop2" {
		t.Errorf("got %q", got)
	}
}

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
