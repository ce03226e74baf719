// Package producerclient has the names, fields and calls of the producer client that the documents of codeq describe, so
// that programs written for it need only another import path. New programs use package producer, over which this one is
// thin.
//
// It differs in one way: a session reconnects by itself. Limits and errors are those of package producer.
package producerclient

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"google.golang.org/grpc"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	"github.com/osvaldoandrade/codeq/sdks/go/producer"
)

// ErrClosed is the error of calls on a closed session or client.
var ErrClosed = errors.New("producerclient: stream closed")

// Config are the settings of a client.
type Config struct {
	// Addr is the HOST:PORT of the server's producer stream; required. Several members of a cluster are separated by
	// commas.
	Addr string
	// Token is the producer's token; required.
	Token string
	// DialOptions must be empty: the SDK makes the connections. TLS has their settings.
	DialOptions []grpc.DialOption
	// TLS are the settings of encrypted connections. Default: those of the environment, else plaintext.
	TLS *codeq.TLS
	// Logger receives warnings. Default: slog.Default().
	Logger *slog.Logger
}

// Client opens sessions. It is safe for concurrent use.
type Client struct {
	config   Config
	mu       sync.Mutex
	sessions map[*Session]struct{}
	isClosed bool
}

// New checks the settings and returns a client. It does not connect.
func New(config Config) (*Client, error) {
	switch {
	case config.Addr == "":
		return nil, errors.New("producerclient: Addr is required")
	case config.Token == "":
		return nil, errors.New("producerclient: Token is required")
	case len(config.DialOptions) > 0:
		return nil, errors.New("producerclient: DialOptions are not supported: use TLS")
	}
	return &Client{config: config, sessions: map[*Session]struct{}{}}, nil
}

// Connect opens a session, and waits until the server has accepted the token. The session ends with ctx.
func (c *Client) Connect(ctx context.Context) (*Session, error) {
	stream, err := producer.New(producer.Config{
		Addresses: []string{c.config.Addr}, Token: c.config.Token, TLS: c.config.TLS, Logger: c.config.Logger,
	})
	if err != nil {
		return nil, err
	}
	session := &Session{client: c, producer: stream, closed: make(chan struct{})}
	session.ctx, session.cancel = context.WithCancel(ctx)
	context.AfterFunc(session.ctx, func() { _ = session.Close() })
	if !c.add(session) {
		_ = session.Close()
		return nil, ErrClosed
	}
	if session.identity, err = stream.Connect(ctx); err != nil {
		_ = session.Close()
		return nil, err
	}
	return session, nil
}

func (c *Client) add(session *Session) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isClosed {
		return false
	}
	c.sessions[session] = struct{}{}
	return true
}

// Close ends all sessions. It may be called several times.
func (c *Client) Close() error {
	c.mu.Lock()
	c.isClosed = true
	sessions := make([]*Session, 0, len(c.sessions))
	for session := range c.sessions {
		sessions = append(sessions, session)
	}
	c.mu.Unlock()
	for _, session := range sessions {
		_ = session.Close()
	}
	return nil
}

func (c *Client) forget(session *Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sessions, session)
}
