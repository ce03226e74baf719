package link

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

// authority signs certificates of localhost.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	encoded, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(encoded)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{certificate, key}
}

func (a *authority) sign(t *testing.T) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	encoded, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{encoded}, PrivateKey: a.key}
}

func (a *authority) write(t *testing.T, file string) {
	t.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// secureServer answers GetServerInfo over TLS.
func secureServer(t *testing.T, certificate tls.Certificate) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&certificate)))
	codeqv1.RegisterServerServiceServer(server, &infos{})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

type infos struct {
	codeqv1.UnimplementedServerServiceServer
}

// GetServerInfo returns a version.
func (*infos) GetServerInfo(context.Context, *codeqv1.GetServerInfoRequest) (*codeqv1.GetServerInfoResponse, error) {
	return &codeqv1.GetServerInfoResponse{Server: &codeqv1.ServerInfo{Version: "1"}}, nil
}

func ask(t *testing.T, endpoint *Endpoint, address string) error {
	t.Helper()
	connection, err := endpoint.Dial(address)
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = codeqv1.NewServerServiceClient(connection).GetServerInfo(ctx, &codeqv1.GetServerInfoRequest{})
	return err
}

func TestAuthorityIsReadAgainForEachConnection(t *testing.T) {
	old, renewed := newAuthority(t), newAuthority(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	old.write(t, file)
	endpoint, err := NewEndpoint(Config{TLS: &codeq.TLS{CAFile: file}}, false)
	if err != nil {
		t.Fatal(err)
	}
	first, second := secureServer(t, old.sign(t)), secureServer(t, renewed.sign(t))
	if err := ask(t, endpoint, first); err != nil {
		t.Errorf("a server of the authority: %v", err)
	}
	if err := ask(t, endpoint, second); err == nil {
		t.Error("a server of another authority is trusted")
	}
	if err := os.WriteFile(file, []byte("half written"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ask(t, endpoint, first); err != nil {
		t.Errorf("with a file that cannot be used, the earlier one does not stay: %v", err)
	}
	renewed.write(t, file)
	if err := ask(t, endpoint, second); err != nil {
		t.Errorf("a server of the renewed authority: %v", err)
	}
}

func TestUnixSocketsAreAddressesToo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	codeqv1.RegisterServerServiceServer(server, &infos{})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // never used
	endpoint, err := NewEndpoint(Config{Addresses: []string{"unix:" + path}}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := ask(t, endpoint, endpoint.Servers.Current()); err != nil {
		t.Error(err)
	}
}

func TestUnverifiedConnectionsLogAWarning(t *testing.T) {
	warnings := make(chan string, 4)
	endpoint, err := NewEndpoint(Config{
		TLS: &codeq.TLS{InsecureSkipVerify: true}, Logger: slog.New(telling{warnings}),
	}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := ask(t, endpoint, secureServer(t, newAuthority(t).sign(t))); err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 1 {
		t.Errorf("there were %d warnings", len(warnings))
	}
}

// telling is a log handler that passes messages on.
type telling struct{ to chan<- string }

// Enabled is always true.
func (telling) Enabled(context.Context, slog.Level) bool { return true }

// Handle passes the message on.
func (h telling) Handle(_ context.Context, record slog.Record) error {
	h.to <- record.Message
	return nil
}

// WithAttrs returns the handler.
func (h telling) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup returns the handler.
func (h telling) WithGroup(string) slog.Handler { return h }

func TestPlaintextAndEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	newAuthority(t).write(t, file)
	t.Setenv(codeq.EnvTLSCAFile, file)
	if settings, err := settingsOfTLS(nil); err != nil || settings == nil || settings.CAFile != file {
		t.Errorf("the environment gives %+v, %v", settings, err)
	}
	if settings, err := settingsOfTLS(&codeq.TLS{Disabled: true}); err != nil || settings != nil {
		t.Errorf("plaintext gives %+v, %v", settings, err)
	}
	t.Setenv(codeq.EnvTLSCertFile, file)
	if _, err := settingsOfTLS(nil); codeq.ReasonOf(err) != codeq.ErrInvalidArgument {
		t.Errorf("a certificate without a key gives %v", err)
	}
}
