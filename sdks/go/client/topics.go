package client

import (
	"context"
	"iter"

	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

// deletionPolicy is what the server wants to read in every request that deletes a topic.
const deletionPolicy = "Delete"

// Topics iterates over the policies of a tenant's queues, ordered by command. An error ends the iteration.
func (c *Client) Topics(ctx context.Context, tenant string) iter.Seq2[*codeqv1.Topic, error] {
	return pages("", func(token string) ([]*codeqv1.Topic, string, error) {
		page, err := c.topics.ListTopics(ctx, &codeqv1.ListTopicsRequest{Tenant: tenant, PageToken: token})
		return page.GetTopics(), page.GetNextPageToken(), err
	})
}

// Topic reads the policy of a queue.
func (c *Client) Topic(ctx context.Context, command, tenant string) (*codeqv1.Topic, error) {
	reply, err := c.topics.GetTopic(ctx, &codeqv1.GetTopicRequest{Command: command, Tenant: tenant})
	return reply.GetTopic(), err
}

// PutTopic sets the whole policy of a queue, which need not exist: limits that the policy does not name no longer apply.
func (c *Client) PutTopic(
	ctx context.Context, command string, policy *codeqv1.QueuePolicy, tenant string,
) (*codeqv1.Topic, error) {
	reply, err := c.topics.PutTopic(ctx, &codeqv1.PutTopicRequest{Command: command, Policy: policy, Tenant: tenant})
	return reply.GetTopic(), err
}

// DeleteTopic removes the policy of a queue; the queue and its tasks stay. Without a policy it does nothing.
func (c *Client) DeleteTopic(ctx context.Context, command, tenant string) error {
	_, err := c.topics.DeleteTopic(ctx, &codeqv1.DeleteTopicRequest{
		Command: command, DeletionPolicy: deletionPolicy, Tenant: tenant,
	})
	return err
}
