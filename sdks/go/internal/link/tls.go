package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
)

// settingsOfTLS returns the settings given, or those of the environment; nil for plaintext.
func settingsOfTLS(given *codeq.TLS) (*codeq.TLS, error) {
	if given == nil {
		ca, certificate, key := os.Getenv(codeq.EnvTLSCAFile), os.Getenv(codeq.EnvTLSCertFile), os.Getenv(codeq.EnvTLSKeyFile)
		if ca == "" && certificate == "" && key == "" {
			return nil, nil
		}
		given = &codeq.TLS{CAFile: ca, CertFile: certificate, KeyFile: key}
	}
	if given.Disabled {
		return nil, nil
	}
	if (given.CertFile == "") != (given.KeyFile == "") {
		return nil, codeq.Invalid("TLS.CertFile", "CertFile and KeyFile belong together: set both or neither")
	}
	settings := *given
	return &settings, nil
}

func credentialsOf(settings *codeq.TLS, logger *slog.Logger) (credentials.TransportCredentials, error) {
	if settings == nil {
		return insecure.NewCredentials(), nil
	}
	files := &reloading{settings: settings, logger: logger}
	config, err := files.read()
	if err != nil {
		return nil, err
	}
	files.last = config
	return files, nil
}

// reloading reads its files again for each connection, so that a client that runs for months follows its servers to
// another authority, and renews its own certificate.
type reloading struct {
	settings *codeq.TLS
	logger   *slog.Logger
	mu       sync.Mutex
	last     *tls.Config
}

func (r *reloading) read() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if r.settings.Base != nil {
		config = r.settings.Base.Clone()
	}
	if r.settings.ServerName != "" {
		config.ServerName = r.settings.ServerName
	}
	if r.settings.InsecureSkipVerify {
		config.InsecureSkipVerify = true
	}
	if r.settings.CAFile != "" {
		text, err := os.ReadFile(r.settings.CAFile)
		if err != nil {
			return nil, unreadable("TLS.CAFile", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, codeq.Invalid("TLS.CAFile", "no certificates in "+r.settings.CAFile)
		}
	}
	if r.settings.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(r.settings.CertFile, r.settings.KeyFile)
		if err != nil {
			return nil, unreadable("TLS.CertFile", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func unreadable(field string, cause error) *codeq.Error {
	err := codeq.Invalid(field, cause.Error())
	err.Cause = cause
	return err
}

func (r *reloading) current() *tls.Config {
	config, err := r.read()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil { // half written, or not all replaced: the next connection tries again
		return r.last
	}
	r.last = config
	return config
}

// ClientHandshake secures a new connection.
func (r *reloading) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config := r.current()
	if config.InsecureSkipVerify {
		r.logger.Warn("codeq: certificates are NOT verified (InsecureSkipVerify): anyone in between can read the tokens", "server", authority)
	}
	if config.ServerName != "" { // gRPC verifies the name that it is given here, not that of the configuration
		authority = config.ServerName
	}
	return credentials.NewTLS(config).ClientHandshake(ctx, authority, raw)
}

// ServerHandshake is not supported.
func (r *reloading) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("codeq: not a server")
}

// Info describes the protocol.
func (r *reloading) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone returns a copy.
func (r *reloading) Clone() credentials.TransportCredentials {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &reloading{settings: r.settings, logger: r.logger, last: r.last}
}

// OverrideServerName is deprecated in gRPC; TLS.ServerName sets the name.
func (r *reloading) OverrideServerName(name string) error {
	return fmt.Errorf("codeq: set TLS.ServerName instead of overriding it with %q", name)
}
