// Package link connects producers, workers and clients to servers: addresses, tokens, TLS, reconnects, and calls that
// follow the leader of a cluster.
package link

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	grpcbackoff "google.golang.org/grpc/backoff"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

const (
	producerAddressDefault = "localhost:9092"
	workerAddressDefault   = "localhost:9091"
	unixPrefix             = "unix:"

	// connectMax is the longest time to connect to one address of a server.
	connectMax = 3 * time.Second
	// messageBytesMax is the largest message accepted from a server; the server's own limits are far below.
	messageBytesMax = 32 << 20
	// topologyMax is the longest wait for the members of the cluster.
	topologyMax = 2 * time.Second
)

// Config says how to reach the servers.
type Config struct {
	Addresses []string
	Token     string
	TokenFunc codeq.TokenFunc
	TLS       *codeq.TLS
	Logger    *slog.Logger
}

// Endpoint makes connections to a server or cluster, and provides their tokens.
type Endpoint struct {
	// Servers are the known servers.
	Servers *Servers
	// Logger receives the lines of the SDK.
	Logger *slog.Logger

	tokens      tokens
	credentials credentials.TransportCredentials
	isCertified bool
}

// NewEndpoint checks the settings, and replaces those missing by the environment's and the defaults.
func NewEndpoint(config Config, forWorker bool) (*Endpoint, error) {
	addresses, err := addressesOf(config.Addresses, forWorker)
	if err != nil {
		return nil, err
	}
	endpoint := &Endpoint{Servers: NewServers(addresses), Logger: config.Logger}
	if endpoint.Logger == nil {
		endpoint.Logger = slog.Default()
	}
	endpoint.tokens.function = config.TokenFunc
	if config.Token != "" && config.TokenFunc != nil {
		return nil, codeq.Invalid("TokenFunc", "cannot be combined with Token")
	}
	if endpoint.tokens.fixed = config.Token; config.Token == "" {
		endpoint.tokens.fixed = os.Getenv(codeq.EnvToken)
	}
	if !isPrintable(endpoint.tokens.fixed) {
		return nil, codeq.Invalid("Token", "has characters that cannot be sent")
	}
	settings, err := settingsOfTLS(config.TLS)
	if err != nil {
		return nil, err
	}
	if endpoint.credentials, err = credentialsOf(settings, endpoint.Logger); err != nil {
		return nil, err
	}
	hasToken := endpoint.tokens.function != nil || endpoint.tokens.fixed != ""
	endpoint.isCertified = !hasToken && settings != nil && settings.CertFile != ""
	return endpoint, nil
}

// IsRenewable reports whether the next stream may carry another token, or show another certificate.
func (e *Endpoint) IsRenewable() bool { return e.tokens.function != nil || e.isCertified }

// Token returns the token of the next call or stream; empty for none.
func (e *Endpoint) Token(ctx context.Context) (string, error) { return e.tokens.get(ctx) }

// WithToken returns a context whose calls carry the token.
func WithToken(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// Dial returns a new connection to a server, which connects at its first call. Proxies are never used.
func (e *Endpoint) Dial(address string, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	options := append([]grpc.DialOption{
		grpc.WithTransportCredentials(e.credentials),
		grpc.WithContextDialer(dial),
		grpc.WithNoProxy(),
		grpc.WithUserAgent(codeq.SDKName + "/" + codeq.Version),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: codeq.KeepaliveInterval, Timeout: codeq.KeepaliveTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           grpcbackoff.Config{BaseDelay: codeq.FollowMin, Multiplier: 2, Jitter: 0.5, MaxDelay: codeq.FollowMax},
			MinConnectTimeout: connectMax,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytesMax), grpc.MaxCallSendMsgSize(messageBytesMax)),
	}, more...)
	if strings.HasPrefix(address, unixPrefix) {
		options = append(options, grpc.WithAuthority("localhost"))
	}
	connection, err := grpc.NewClient("passthrough:///"+address, options...)
	if err != nil {
		return nil, Unavailable(err.Error())
	}
	return connection, nil
}

// Refresh asks a server for the members of its cluster. If it does not answer, the known ones stay.
func (e *Endpoint) Refresh(ctx context.Context, connection grpc.ClientConnInterface, token string) {
	ctx, cancel := context.WithTimeout(WithToken(ctx, token), topologyMax)
	defer cancel()
	reply, err := codeqv1.NewClusterServiceClient(connection).GetTopology(ctx, &codeqv1.GetTopologyRequest{})
	if err != nil {
		return
	}
	members := []string{reply.GetTopology().GetLeaderGrpcAddr()}
	for _, member := range reply.GetTopology().GetMembers() {
		members = append(members, member.GetGrpcAddr())
	}
	e.Servers.Learn(members)
}

func dial(ctx context.Context, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: connectMax}
	if path, isUnix := strings.CutPrefix(address, unixPrefix); isUnix {
		return dialer.DialContext(ctx, "unix", path)
	}
	return dialer.DialContext(ctx, "tcp", address)
}

func addressesOf(given []string, forWorker bool) ([]string, error) {
	field, variable, fallback := "Addresses", codeq.EnvProducerAddr, producerAddressDefault
	if forWorker {
		variable, fallback = codeq.EnvWorkerAddr, workerAddressDefault
	}
	if len(given) == 0 {
		if told := os.Getenv(variable); told != "" {
			given, field = []string{told}, variable
		} else {
			given = []string{fallback}
		}
	}
	var addresses []string
	for _, several := range given {
		for address := range strings.SplitSeq(several, ",") {
			if address = strings.TrimSpace(address); address == "" {
				continue
			}
			if !isAddress(address) {
				return nil, codeq.Invalid(field, strconv.Quote(address)+" is not HOST:PORT, [IPV6]:PORT or unix:PATH")
			}
			addresses = append(addresses, address)
		}
	}
	if len(addresses) == 0 {
		return nil, codeq.Invalid(field, "an address is needed")
	}
	return addresses, nil
}

func isAddress(address string) bool {
	if path, isUnix := strings.CutPrefix(address, unixPrefix); isUnix {
		return path != ""
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || strings.ContainsAny(host, "/ ") {
		return false
	}
	number, err := strconv.ParseUint(port, 10, 16)
	return err == nil && number > 0
}
