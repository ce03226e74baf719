package client_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/osvaldoandrade/codeq/sdks/go/client"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
)

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
