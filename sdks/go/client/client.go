// Package client makes single calls: it reads and cancels tasks, claims them without a stream, and administers queues and
// their policies, schedules, subscriptions, callbacks, tenants and servers.
//
// Records of tasks are values of package codeq. Administrative records are the generated messages of package codeqv1, whose
// comments explain each field.
package client

import (
	"context"
	"log/slog"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/link"
)

const timeoutMax = 24 * time.Hour

// Config are the settings of a client. Every field may be left out.
type Config struct {
	// Addresses are HOST:PORT, [IPV6]:PORT or unix:PATH of a server, or of several members of a cluster; each may also be
	// a list separated by commas. Default: CODEQ_PRODUCER_ADDR, else localhost:9092.
	Addresses []string
	// Token is sent with every call. Default: CODEQ_TOKEN, else none.
	Token string
	// TokenFunc returns tokens that expire; it replaces Token.
	TokenFunc codeq.TokenFunc
	// TLS are the settings of encrypted connections. Default: those of CODEQ_TLS_CA_FILE, CODEQ_TLS_CERT_FILE and
	// CODEQ_TLS_KEY_FILE, else plaintext.
	TLS *codeq.TLS
	// Logger receives warnings. Default: slog.Default().
	Logger *slog.Logger
	// Timeout is the time of calls whose context has no deadline; the wait that a call asks for comes on top. Default: 30 s;
	// at most a day.
	Timeout time.Duration
	// RequestKeys adds a random idempotency key to each create that has neither a key nor an id, so that it is repeated
	// when its answer is lost. Clients that know several servers always do. Default: false.
	RequestKeys bool
}

// Client makes calls. It is safe for concurrent use and connects at its first call. Close it when it is no longer needed.
//
// A call ends at the deadline of its context, or else after Config.Timeout. Calls follow the leader of a cluster. Those
// that may run twice, such as reads, creates with a key, claims, and outcomes with a lease token, are repeated when their
// answer is lost; calls that a rate limit refuses wait as long as the server asks, if their time allows. All errors are
// *codeq.Error.
//
// Only operators name a tenant in calls that take one; empty: the token's.
type Client struct {
	caller *link.Caller

	tasks         codeqv1.TaskServiceClient
	queues        codeqv1.QueueServiceClient
	topics        codeqv1.TopicServiceClient
	schedules     codeqv1.ScheduleServiceClient
	subscriptions codeqv1.SubscriptionServiceClient
	webhooks      codeqv1.WebhookServiceClient
	tenants       codeqv1.TenantServiceClient
	audit         codeqv1.AuditServiceClient
	cluster       codeqv1.ClusterServiceClient
	server        codeqv1.ServerServiceClient
}

// New checks the settings and returns a client. It does not connect.
func New(config Config) (*Client, error) {
	endpoint, err := link.NewEndpoint(link.Config{
		Addresses: config.Addresses, Token: config.Token, TokenFunc: config.TokenFunc, TLS: config.TLS, Logger: config.Logger,
	}, false)
	if err != nil {
		return nil, err
	}
	if config.Timeout == 0 {
		config.Timeout = codeq.DefaultTimeout
	}
	if config.Timeout < 0 || config.Timeout > timeoutMax {
		return nil, codeq.Invalid("Timeout", "must be over 0 and at most a day")
	}
	caller := link.NewCaller(endpoint, config.Timeout, config.RequestKeys)
	return &Client{
		caller:        caller,
		tasks:         codeqv1.NewTaskServiceClient(caller),
		queues:        codeqv1.NewQueueServiceClient(caller),
		topics:        codeqv1.NewTopicServiceClient(caller),
		schedules:     codeqv1.NewScheduleServiceClient(caller),
		subscriptions: codeqv1.NewSubscriptionServiceClient(caller),
		webhooks:      codeqv1.NewWebhookServiceClient(caller),
		tenants:       codeqv1.NewTenantServiceClient(caller),
		audit:         codeqv1.NewAuditServiceClient(caller),
		cluster:       codeqv1.NewClusterServiceClient(caller),
		server:        codeqv1.NewServerServiceClient(caller),
	}, nil
}

// Close disconnects. Calls in flight, and later ones, fail with CLOSED.
func (c *Client) Close() error {
	c.caller.Close()
	return nil
}

// Invoke makes any unary call by its full name, such as "/codeq.v1.TaskService/GetTask", with its request and a reply to
// fill. It behaves as the methods do. Programs need it only for calls that are newer than the methods.
func (c *Client) Invoke(ctx context.Context, method string, request, reply any) error {
	return c.caller.Invoke(ctx, method, request, reply)
}
