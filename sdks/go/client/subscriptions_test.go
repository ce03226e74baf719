package client_test

import (
	"context"
	"iter"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/osvaldoandrade/codeq/sdks/go/client"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
)

func TestSubscriptionIsMadeRenewedReadAndEnded(t *testing.T) {
	end := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	calls, requests := replying(t, map[string]proto.Message{
		"CreateSubscription": &codeqv1.CreateSubscriptionResponse{SubscriptionId: "s", ExpiresAt: timestamppb.New(end)},
		"HeartbeatSubscription": &codeqv1.HeartbeatSubscriptionResponse{
			SubscriptionId: "s", ExpiresAt: timestamppb.New(end.Add(time.Minute)),
		},
		"GetSubscription":          &codeqv1.GetSubscriptionResponse{Subscription: &codeqv1.Subscription{SubscriptionId: "s"}},
		"DeleteSubscription":       &codeqv1.DeleteSubscriptionResponse{},
		"RemoveTenantSubscription": &codeqv1.RemoveTenantSubscriptionResponse{},
	})
	request := &codeqv1.CreateSubscriptionRequest{
		CallbackUrl: "https://hooks.example.com/a", EventTypes: []string{"order"}, MinIntervalSeconds: proto.Int32(0),
	}
	if made, err := calls.CreateSubscription(t.Context(), request); err != nil || made.GetSubscriptionId() != "s" {
		t.Errorf("got %v, %v", made, err)
	}
	isSent(t, requests, request)
	if until, err := calls.HeartbeatSubscription(t.Context(), "s", 0); err != nil || !until.Equal(end.Add(time.Minute)) {
		t.Errorf("got %v, %v", until, err)
	}
	isSent(t, requests, &codeqv1.HeartbeatSubscriptionRequest{Id: "s"})
	if _, err := calls.HeartbeatSubscription(t.Context(), "s", 90*time.Second); err != nil {
		t.Error(err)
	}
	isSent(t, requests, &codeqv1.HeartbeatSubscriptionRequest{Id: "s", TtlSeconds: proto.Int32(90)})
	if read, err := calls.Subscription(t.Context(), "s"); err != nil || read.GetSubscriptionId() != "s" {
		t.Errorf("got %v, %v", read, err)
	}
	isSent(t, requests, &codeqv1.GetSubscriptionRequest{Id: "s"})
	if err := calls.DeleteSubscription(t.Context(), "s"); err != nil {
		t.Error(err)
	}
	isSent(t, requests, &codeqv1.DeleteSubscriptionRequest{Id: "s"})
	if err := calls.RemoveTenantSubscription(t.Context(), "s", "shop"); err != nil {
		t.Error(err)
	}
	isSent(t, requests, &codeqv1.RemoveTenantSubscriptionRequest{Id: "s", Tenant: "shop"})
}

func TestSubscriptionsAreReadPageByPage(t *testing.T) {
	server := scripted.Start(t, scripted.Script{Unary: func(_ context.Context, _ string, request proto.Message) (proto.Message, error) {
		switch asked := request.(type) {
		case *codeqv1.ListSubscriptionsRequest:
			found := []*codeqv1.Subscription{{SubscriptionId: "own" + asked.GetPageToken()}}
			next := strings.TrimPrefix("2", asked.GetPageToken())
			return &codeqv1.ListSubscriptionsResponse{Subscriptions: found, NextPageToken: next}, nil
		case *codeqv1.ListTenantSubscriptionsRequest:
			found := []*codeqv1.Subscription{{SubscriptionId: asked.GetTenant() + asked.GetPageToken()}}
			next := strings.TrimPrefix("2", asked.GetPageToken())
			return &codeqv1.ListTenantSubscriptionsResponse{Subscriptions: found, NextPageToken: next}, nil
		}
		return nil, nil
	}})
	calls := open(t, client.Config{}, server)
	for want, list := range map[string]iter.Seq2[*codeqv1.Subscription, error]{
		"own own2": calls.Subscriptions(t.Context()), "shop shop2": calls.TenantSubscriptions(t.Context(), "shop"),
	} {
		var ids []string
		for each, err := range list {
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, each.GetSubscriptionId())
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
