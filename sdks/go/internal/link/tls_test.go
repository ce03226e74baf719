package link

import (
	"bytes"
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
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, DNSNames: []string{"codeq.example"},
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
	return serveInfo(t, &tls.Config{Certificates: []tls.Certificate{certificate}})
}

func serveInfo(t *testing.T, config *tls.Config) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(config)))
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
	endpoint.credentials, err = credentialsOf(&codeq.TLS{Base: &tls.Config{InsecureSkipVerify: true}}, endpoint.Logger)
	if err != nil {
		t.Fatal(err)
	}
	if err := ask(t, endpoint, secureServer(t, newAuthority(t).sign(t))); err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 2 {
		t.Errorf("there were %d warnings", len(warnings))
	}
}

func TestServerNameReplacesTheHostOfTheAddress(t *testing.T) {
	own := newAuthority(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	own.write(t, file)
	address := secureServer(t, own.sign(t))
	for name, isTrusted := range map[string]bool{"": true, "codeq.example": true, "elsewhere.example": false} {
		for way, settings := range map[string]*codeq.TLS{
			"ServerName":      {CAFile: file, ServerName: name},
			"Base.ServerName": {CAFile: file, Base: &tls.Config{ServerName: name}},
		} {
			endpoint, err := NewEndpoint(Config{TLS: settings}, false)
			if err != nil {
				t.Fatal(err)
			}
			if err := ask(t, endpoint, address); (err == nil) != isTrusted {
				t.Errorf("%s %q: got %v", way, name, err)
			}
		}
	}
}

func TestCertificateIsReadAgainForEachConnection(t *testing.T) {
	own := newAuthority(t)
	folder := t.TempDir()
	settings := &codeq.TLS{
		CAFile: filepath.Join(folder, "ca.pem"), CertFile: filepath.Join(folder, "tls.crt"), KeyFile: filepath.Join(folder, "tls.key"),
	}
	own.write(t, settings.CAFile)
	shown := make(chan *x509.Certificate, 4)
	clients := x509.NewCertPool()
	clients.AddCert(own.certificate)
	address := serveInfo(t, &tls.Config{
		Certificates: []tls.Certificate{own.sign(t)}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients,
		VerifyConnection: func(state tls.ConnectionState) error {
			shown <- state.PeerCertificates[0]
			return nil
		},
	})
	var endpoint *Endpoint
	for range 2 {
		pair := own.sign(t)
		writePair(t, pair, settings)
		if endpoint == nil {
			made, err := NewEndpoint(Config{TLS: settings}, false)
			if err != nil {
				t.Fatal(err)
			}
			endpoint = made
		}
		if err := ask(t, endpoint, address); err != nil {
			t.Fatal(err)
		}
		if got := <-shown; !bytes.Equal(got.Raw, pair.Certificate[0]) {
			t.Errorf("the server saw certificate %s", got.SerialNumber)
		}
	}
	if !endpoint.IsRenewable() {
		t.Error("a client without a token does not count on the next certificate")
	}
}

func writePair(t *testing.T, pair tls.Certificate, settings *codeq.TLS) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		settings.CertFile: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, settings.KeyFile: {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
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
