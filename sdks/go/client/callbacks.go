package client

import (
	"context"
	"iter"

	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

// TaskCallbacks reads the callbacks of a task, oldest first: one for each of its last ten ends.
func (c *Client) TaskCallbacks(ctx context.Context, taskID string) ([]*codeqv1.Callback, error) {
	reply, err := c.webhooks.ListTaskCallbacks(ctx, &codeqv1.ListTaskCallbacksRequest{TaskId: taskID})
	return reply.GetCallbacks(), err
}

// ListCallbacks reads one page of the callbacks of a command that are not delivered, and the hosts that get none at the
// moment.
func (c *Client) ListCallbacks(
	ctx context.Context, request *codeqv1.ListCallbacksRequest,
) (*codeqv1.ListCallbacksResponse, error) {
	return c.webhooks.ListCallbacks(ctx, request)
}

// Callbacks iterates over the callbacks of a command that are not delivered, in the order in which their tasks ended. An
// error ends the iteration.
func (c *Client) Callbacks(ctx context.Context, command, tenant string) iter.Seq2[*codeqv1.Callback, error] {
	return pages("", func(token string) ([]*codeqv1.Callback, string, error) {
		request := &codeqv1.ListCallbacksRequest{Command: command, Tenant: tenant, PageToken: token}
		page, err := c.webhooks.ListCallbacks(ctx, request)
		return page.GetCallbacks(), page.GetNextPageToken(), err
	})
}

// RetryTaskCallbacks attempts the callbacks of a task at once that were given up or wait, and returns their number.
func (c *Client) RetryTaskCallbacks(ctx context.Context, taskID, tenant string) (int64, error) {
	reply, err := c.webhooks.RetryTaskCallbacks(ctx, &codeqv1.RetryTaskCallbacksRequest{TaskId: taskID, Tenant: tenant})
	return reply.GetRetried(), err
}

// RetryCallbacks attempts the callbacks of a command at once that were given up. Repeat the call with the page token of
// the reply until that is empty.
func (c *Client) RetryCallbacks(
	ctx context.Context, request *codeqv1.RetryCallbacksRequest,
) (*codeqv1.RetryCallbacksResponse, error) {
	return c.webhooks.RetryCallbacks(ctx, request)
}

// PutWebhookSecrets sets the one or two secrets, newest first, that sign requests to an endpoint; empty: to all endpoints
// without secrets of their own.
func (c *Client) PutWebhookSecrets(
	ctx context.Context, endpoint string, secrets []string, tenant string,
) (*codeqv1.WebhookSecrets, error) {
	reply, err := c.webhooks.PutWebhookSecrets(ctx, &codeqv1.PutWebhookSecretsRequest{
		Endpoint: endpoint, Secrets: secrets, Tenant: tenant,
	})
	return reply.GetSecrets(), err
}

// WebhookSecrets reads which endpoints have secrets, with fingerprints of the secrets.
func (c *Client) WebhookSecrets(ctx context.Context, tenant string) ([]*codeqv1.WebhookSecrets, error) {
	reply, err := c.webhooks.GetWebhookSecrets(ctx, &codeqv1.GetWebhookSecretsRequest{Tenant: tenant})
	return reply.GetEndpoints(), err
}

// DeleteWebhookSecrets removes the secrets of an endpoint; empty: those for all endpoints without secrets of their own.
func (c *Client) DeleteWebhookSecrets(ctx context.Context, endpoint, tenant string) error {
	request := &codeqv1.DeleteWebhookSecretsRequest{Endpoint: endpoint, Tenant: tenant}
	_, err := c.webhooks.DeleteWebhookSecrets(ctx, request)
	return err
}

// PauseWebhooks has the tenant's callbacks to a host, such as "hooks.example.com:443", wait, and returns the paused hosts.
func (c *Client) PauseWebhooks(ctx context.Context, host, tenant string) ([]string, error) {
	reply, err := c.webhooks.PauseWebhooks(ctx, &codeqv1.PauseWebhooksRequest{Host: host, Tenant: tenant})
	return reply.GetPausedHosts(), err
}

// ResumeWebhooks delivers the callbacks to a host again, and returns the hosts that are still paused.
func (c *Client) ResumeWebhooks(ctx context.Context, host, tenant string) ([]string, error) {
	reply, err := c.webhooks.ResumeWebhooks(ctx, &codeqv1.ResumeWebhooksRequest{Host: host, Tenant: tenant})
	return reply.GetPausedHosts(), err
}

// TestWebhook sends one callback of a task that does not exist to a URL, and returns the answer.
func (c *Client) TestWebhook(ctx context.Context, url, tenant string) (*codeqv1.TestWebhookResponse, error) {
	return c.webhooks.TestWebhook(ctx, &codeqv1.TestWebhookRequest{Url: url, Tenant: tenant})
}
