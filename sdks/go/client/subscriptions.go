package client

import (
	"context"
	"iter"
	"time"

	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

// CreateSubscription makes a subscription of a worker: its URL gets a signal when work becomes ready. It ends after its
// time to live unless HeartbeatSubscription renews it.
func (c *Client) CreateSubscription(
	ctx context.Context, request *codeqv1.CreateSubscriptionRequest,
) (*codeqv1.CreateSubscriptionResponse, error) {
	return c.subscriptions.CreateSubscription(ctx, request)
}

// HeartbeatSubscription makes a subscription of a worker last for a time from now, 10 s to a day (0: its time to live),
// and returns its end.
func (c *Client) HeartbeatSubscription(ctx context.Context, id string, ttl time.Duration) (time.Time, error) {
	reply, err := c.subscriptions.HeartbeatSubscription(ctx, &codeqv1.HeartbeatSubscriptionRequest{
		Id: id, TtlSeconds: optionalSeconds(ttl),
	})
	return timeOf(reply.GetExpiresAt()), err
}

// Subscription reads a subscription of a worker.
func (c *Client) Subscription(ctx context.Context, id string) (*codeqv1.Subscription, error) {
	reply, err := c.subscriptions.GetSubscription(ctx, &codeqv1.GetSubscriptionRequest{Id: id})
	return reply.GetSubscription(), err
}

// Subscriptions iterates over the subscriptions that a worker's token may see, ordered by id. An error ends the
// iteration.
func (c *Client) Subscriptions(ctx context.Context) iter.Seq2[*codeqv1.Subscription, error] {
	return pages("", func(token string) ([]*codeqv1.Subscription, string, error) {
		page, err := c.subscriptions.ListSubscriptions(ctx, &codeqv1.ListSubscriptionsRequest{PageToken: token})
		return page.GetSubscriptions(), page.GetNextPageToken(), err
	})
}

// DeleteSubscription ends a subscription of a worker.
func (c *Client) DeleteSubscription(ctx context.Context, id string) error {
	_, err := c.subscriptions.DeleteSubscription(ctx, &codeqv1.DeleteSubscriptionRequest{Id: id})
	return err
}

// TenantSubscriptions iterates over all subscriptions of a tenant, ordered by id; for administrators. An error ends the
// iteration.
func (c *Client) TenantSubscriptions(ctx context.Context, tenant string) iter.Seq2[*codeqv1.Subscription, error] {
	return pages("", func(token string) ([]*codeqv1.Subscription, string, error) {
		request := &codeqv1.ListTenantSubscriptionsRequest{Tenant: tenant, PageToken: token}
		page, err := c.subscriptions.ListTenantSubscriptions(ctx, request)
		return page.GetSubscriptions(), page.GetNextPageToken(), err
	})
}

// RemoveTenantSubscription ends a subscription of a tenant, whoever made it; for administrators.
func (c *Client) RemoveTenantSubscription(ctx context.Context, id, tenant string) error {
	request := &codeqv1.RemoveTenantSubscriptionRequest{Id: id, Tenant: tenant}
	_, err := c.subscriptions.RemoveTenantSubscription(ctx, request)
	return err
}
