package client_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/osvaldoandrade/codeq/sdks/go/client"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
)

func TestCallbacksAreReadAndRetried(t *testing.T) {
	callbacks := []*codeqv1.Callback{{DeliveryId: "d", TaskId: "x", State: codeqv1.CallbackState_CALLBACK_STATE_GAVE_UP}}
	calls, requests := replying(t, map[string]proto.Message{
		"ListTaskCallbacks":  &codeqv1.ListTaskCallbacksResponse{Callbacks: callbacks},
		"ListCallbacks":      &codeqv1.ListCallbacksResponse{Callbacks: callbacks, PausedHosts: []string{"h:1"}},
		"RetryTaskCallbacks": &codeqv1.RetryTaskCallbacksResponse{Retried: 1},
		"RetryCallbacks":     &codeqv1.RetryCallbacksResponse{Retried: 2, NextPageToken: "next"},
	})
	if got, err := calls.TaskCallbacks(t.Context(), "x"); err != nil || len(got) != 1 || got[0].GetDeliveryId() != "d" {
		t.Errorf("got %v, %v", got, err)
	}
	isSent(t, requests, &codeqv1.ListTaskCallbacksRequest{TaskId: "x"})
	list := &codeqv1.ListCallbacksRequest{Command: "order", State: codeqv1.CallbackState_CALLBACK_STATE_GAVE_UP, PageSize: 7}
	if got, err := calls.ListCallbacks(t.Context(), list); err != nil || got.GetPausedHosts()[0] != "h:1" {
		t.Errorf("got %v, %v", got, err)
	}
	isSent(t, requests, list)
	if got, err := calls.RetryTaskCallbacks(t.Context(), "x", "shop"); err != nil || got != 1 {
		t.Errorf("got %v, %v", got, err)
	}
	isSent(t, requests, &codeqv1.RetryTaskCallbacksRequest{TaskId: "x", Tenant: "shop"})
	retry := &codeqv1.RetryCallbacksRequest{Command: "order", PageToken: "2"}
	if got, err := calls.RetryCallbacks(t.Context(), retry); err != nil || got.GetRetried() != 2 || got.GetNextPageToken() != "next" {
		t.Errorf("got %v, %v", got, err)
	}
	isSent(t, requests, retry)
}

func TestCallbacksAreReadPageByPage(t *testing.T) {
	server := scripted.Start(t, only("ListCallbacks", func(_ context.Context, _ string, request proto.Message) (proto.Message, error) {
		asked := request.(*codeqv1.ListCallbacksRequest)
		found := []*codeqv1.Callback{{DeliveryId: asked.GetTenant() + asked.GetCommand() + asked.GetPageToken()}}
		next := strings.TrimPrefix("2", asked.GetPageToken())
		return &codeqv1.ListCallbacksResponse{Callbacks: found, NextPageToken: next}, nil
	}))
	var ids []string
	for callback, err := range open(t, client.Config{}, server).Callbacks(t.Context(), "A", "shop") {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, callback.GetDeliveryId())
	}
	if got := strings.Join(ids, " "); got != "shopA shopA2" {
		t.Errorf("got %q", got)
	}
}

func TestWebhooksAreSignedPausedAndTested(t *testing.T) {
	secrets := &codeqv1.WebhookSecrets{Endpoint: "https://h/a", Fingerprints: []string{"0123456789abcdef"}}
	calls, requests := replying(t, map[string]proto.Message{
		"PutWebhookSecrets":    &codeqv1.PutWebhookSecretsResponse{Secrets: secrets},
		"GetWebhookSecrets":    &codeqv1.GetWebhookSecretsResponse{Endpoints: []*codeqv1.WebhookSecrets{secrets}},
		"DeleteWebhookSecrets": &codeqv1.DeleteWebhookSecretsResponse{},
		"PauseWebhooks":        &codeqv1.PauseWebhooksResponse{PausedHosts: []string{"h:443"}},
		"ResumeWebhooks":       &codeqv1.ResumeWebhooksResponse{},
		"TestWebhook":          &codeqv1.TestWebhookResponse{Status: 204, DurationMs: 3},
	})
	given := []string{"a-secret-of-16-b", "an-older-secret-"}
	if got, err := calls.PutWebhookSecrets(t.Context(), "https://h/a", given, "shop"); err != nil || !proto.Equal(got, secrets) {
		t.Errorf("got %v, %v", got, err)
	}
	isSent(t, requests, &codeqv1.PutWebhookSecretsRequest{Endpoint: "https://h/a", Secrets: given, Tenant: "shop"})
	if got, err := calls.WebhookSecrets(t.Context(), ""); err != nil || len(got) != 1 || !proto.Equal(got[0], secrets) {
		t.Errorf("got %v, %v", got, err)
	}
	isSent(t, requests, &codeqv1.GetWebhookSecretsRequest{})
	if err := calls.DeleteWebhookSecrets(t.Context(), "", "shop"); err != nil {
		t.Error(err)
	}
	isSent(t, requests, &codeqv1.DeleteWebhookSecretsRequest{Tenant: "shop"})
	if got, err := calls.PauseWebhooks(t.Context(), "h:443", "shop"); err != nil || !slices.Equal(got, []string{"h:443"}) {
		t.Errorf("got %v, %v", got, err)
	}
	isSent(t, requests, &codeqv1.PauseWebhooksRequest{Host: "h:443", Tenant: "shop"})
	if got, err := calls.ResumeWebhooks(t.Context(), "h:443", ""); err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
	isSent(t, requests, &codeqv1.ResumeWebhooksRequest{Host: "h:443"})
	if got, err := calls.TestWebhook(t.Context(), "https://h/a?b", ""); err != nil || got.GetStatus() != 204 {
		t.Errorf("got %v, %v", got, err)
	}
	isSent(t, requests, &codeqv1.TestWebhookRequest{Url: "https://h/a?b"})
}
