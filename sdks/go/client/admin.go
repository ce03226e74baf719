package client

import (
	"context"
	"iter"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

// Queues iterates over the queues of a tenant, ordered by name. An error ends the iteration.
func (c *Client) Queues(ctx context.Context, tenant string) iter.Seq2[*codeqv1.Queue, error] {
	return pages("", func(token string) ([]*codeqv1.Queue, string, error) {
		page, err := c.queues.ListQueues(ctx, &codeqv1.ListQueuesRequest{Tenant: tenant, PageToken: token})
		return page.GetQueues(), page.GetNextPageToken(), err
	})
}

// Workers iterates over the workers of a tenant that are connected by streams, longest connected first. Callers that claim
// tasks with single calls are not connected. An error ends the iteration.
func (c *Client) Workers(ctx context.Context, tenant string) iter.Seq2[*codeqv1.ConnectedWorker, error] {
	return pages("", func(token string) ([]*codeqv1.ConnectedWorker, string, error) {
		page, err := c.queues.ListWorkers(ctx, &codeqv1.ListWorkersRequest{Tenant: tenant, PageToken: token})
		return page.GetWorkers(), page.GetNextPageToken(), err
	})
}

// Queue reads a queue.
func (c *Client) Queue(ctx context.Context, command, tenant string) (*codeqv1.Queue, error) {
	reply, err := c.queues.GetQueue(ctx, &codeqv1.GetQueueRequest{Command: command, Tenant: tenant})
	return reply.GetQueue(), err
}

// PauseQueue stops the deliveries of a queue, which still accepts tasks. A queue that does not exist is created.
func (c *Client) PauseQueue(ctx context.Context, command, tenant string) (*codeqv1.Queue, error) {
	reply, err := c.queues.PauseQueue(ctx, &codeqv1.PauseQueueRequest{Command: command, Tenant: tenant})
	return reply.GetQueue(), err
}

// ResumeQueue resumes the deliveries of a queue.
func (c *Client) ResumeQueue(ctx context.Context, command, tenant string) (*codeqv1.Queue, error) {
	reply, err := c.queues.ResumeQueue(ctx, &codeqv1.ResumeQueueRequest{Command: command, Tenant: tenant})
	return reply.GetQueue(), err
}

// PurgeQueue cancels every waiting task of a queue, in the background.
func (c *Client) PurgeQueue(ctx context.Context, command, tenant string) (*codeqv1.Queue, error) {
	reply, err := c.queues.PurgeQueue(ctx, &codeqv1.PurgeQueueRequest{Command: command, Tenant: tenant})
	return reply.GetQueue(), err
}

// ListDeadLetters reads one page of the dead letters of a queue; the first page also groups them by error.
func (c *Client) ListDeadLetters(
	ctx context.Context, request *codeqv1.ListDeadLettersRequest,
) (*codeqv1.ListDeadLettersResponse, error) {
	return c.queues.ListDeadLetters(ctx, request)
}

// DeadLetters iterates over the dead letters of a queue, oldest first. An error ends the iteration.
func (c *Client) DeadLetters(ctx context.Context, command, tenant string) iter.Seq2[*codeq.Task, error] {
	return pages("", func(token string) ([]*codeq.Task, string, error) {
		request := &codeqv1.ListDeadLettersRequest{Command: command, Tenant: tenant, PageToken: token}
		page, err := c.queues.ListDeadLetters(ctx, request)
		return tasksOf(page.GetTasks()), page.GetNextPageToken(), err
	})
}

// RedriveQueue moves ended tasks that match the request back to their queue. Repeat the call with the page token of the
// reply until that is empty.
func (c *Client) RedriveQueue(
	ctx context.Context, request *codeqv1.RedriveTasksRequest,
) (*codeqv1.RedriveTasksResponse, error) {
	return c.queues.RedriveTasks(ctx, request)
}

// Usage says what a tenant uses, and its limits.
func (c *Client) Usage(ctx context.Context, tenant string) (*codeqv1.Tenant, error) {
	reply, err := c.tenants.GetUsage(ctx, &codeqv1.GetUsageRequest{Tenant: tenant})
	return reply.GetTenant(), err
}

// Tenants iterates over the tenants, ordered by name; for operators. An error ends the iteration.
func (c *Client) Tenants(ctx context.Context) iter.Seq2[*codeqv1.Tenant, error] {
	return pages("", func(token string) ([]*codeqv1.Tenant, string, error) {
		page, err := c.tenants.ListTenants(ctx, &codeqv1.ListTenantsRequest{PageToken: token})
		return page.GetTenants(), page.GetNextPageToken(), err
	})
}

// Tenant reads a tenant, or "_default", the limits of all tenants without limits of their own; for operators.
func (c *Client) Tenant(ctx context.Context, name string) (*codeqv1.Tenant, error) {
	reply, err := c.tenants.GetTenant(ctx, &codeqv1.GetTenantRequest{Name: name})
	return reply.GetTenant(), err
}

// UpdateTenant changes limits of a tenant, or of "_default"; for operators.
func (c *Client) UpdateTenant(ctx context.Context, request *codeqv1.UpdateTenantRequest) (*codeqv1.Tenant, error) {
	reply, err := c.tenants.UpdateTenant(ctx, request)
	return reply.GetTenant(), err
}

// Audit iterates over the administrative acts and refused accesses that the request selects. An error ends the iteration.
func (c *Client) Audit(
	ctx context.Context, request *codeqv1.ListAuditRecordsRequest,
) iter.Seq2[*codeqv1.AuditRecord, error] {
	request = copyOf(request) // the caller may change its own
	return pages(request.GetPageToken(), func(token string) ([]*codeqv1.AuditRecord, string, error) {
		asked := copyOf(request)
		asked.PageToken = token
		page, err := c.audit.ListAuditRecords(ctx, asked)
		return page.GetRecords(), page.GetNextPageToken(), err
	})
}

// ServerInfo reads the server's version, mode and limits.
func (c *Client) ServerInfo(ctx context.Context) (*codeqv1.ServerInfo, error) {
	reply, err := c.server.GetServerInfo(ctx, &codeqv1.GetServerInfoRequest{})
	return reply.GetServer(), err
}

// BackUp makes a backup on the server; for operators.
func (c *Client) BackUp(ctx context.Context, name string) (*codeqv1.Backup, error) {
	reply, err := c.server.BackUp(ctx, &codeqv1.BackUpRequest{Name: name})
	return reply.GetBackup(), err
}

// Topology reads the members of the cluster.
func (c *Client) Topology(ctx context.Context) (*codeqv1.Topology, error) {
	reply, err := c.cluster.GetTopology(ctx, &codeqv1.GetTopologyRequest{})
	return reply.GetTopology(), err
}

// RaftStatus reads the state of the consensus groups; for operators.
func (c *Client) RaftStatus(ctx context.Context) (*codeqv1.RaftStatus, error) {
	reply, err := c.cluster.GetRaftStatus(ctx, &codeqv1.GetRaftStatusRequest{})
	return reply.GetStatus(), err
}

// AddMember adds a member to the cluster; for operators.
func (c *Client) AddMember(ctx context.Context, request *codeqv1.AddMemberRequest) (*codeqv1.AddMemberResponse, error) {
	return c.cluster.AddMember(ctx, request)
}

// RemoveMember removes a member from the cluster; for operators.
func (c *Client) RemoveMember(ctx context.Context, id string) (*codeqv1.RemoveMemberResponse, error) {
	return c.cluster.RemoveMember(ctx, &codeqv1.RemoveMemberRequest{Id: id})
}

// TransferLeadership makes another member the leader; empty: any other. For operators.
func (c *Client) TransferLeadership(ctx context.Context, id string) (*codeqv1.TransferLeadershipResponse, error) {
	return c.cluster.TransferLeadership(ctx, &codeqv1.TransferLeadershipRequest{Id: id})
}
