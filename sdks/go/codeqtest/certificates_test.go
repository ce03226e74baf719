package codeqtest_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	"github.com/osvaldoandrade/codeq/sdks/go/client"
	"github.com/osvaldoandrade/codeq/sdks/go/codeqtest"
	"github.com/osvaldoandrade/codeq/sdks/go/producer"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

const identities = `{"subject": "san-uri", "identities": [{"match": "spiffe://acme.example/*", "tenant": "acme",
	"roles": ["ADMIN"], "eventTypes": ["*"],
	"scopes": ["codeq:claim", "codeq:heartbeat", "codeq:result", "codeq:nack", "codeq:abandon"]}]}`

// authority signs certificates into the files of a folder.
type authority struct {
	t           *testing.T
	folder      string
	file        string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	made := &authority{t: t, folder: t.TempDir(), key: key, certificate: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	encoded, err := x509.CreateCertificate(rand.Reader, made.certificate, made.certificate, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	made.file = made.write("ca.crt", "CERTIFICATE", encoded)
	return made
}

// sign writes a certificate of 127.0.0.1 with a name, and its key.
func (a *authority) sign(name string, use x509.ExtKeyUsage) (certFile, keyFile string) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	encoded, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{use},
		URIs: []*url.URL{{Scheme: "spiffe", Host: "acme.example", Path: "/" + name}}, KeyUsage: x509.KeyUsageDigitalSignature,
	}, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.write(name+".crt", "CERTIFICATE", encoded), a.write(name+".key", "PRIVATE KEY", private)
}

func (a *authority) write(name, kind string, encoded []byte) string {
	a.t.Helper()
	path := filepath.Join(a.folder, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: encoded}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

func TestCertificatesReplaceTokensOnEveryConnection(t *testing.T) {
	own, other := newAuthority(t), newAuthority(t)
	serverCert, serverKey := own.sign("server", x509.ExtKeyUsageServerAuth)
	server := codeqtest.Start(t, codeqtest.Env("TLS_CERT_FILE", serverCert), codeqtest.Env("TLS_KEY_FILE", serverKey),
		codeqtest.Env("TLS_CLIENT_CA_FILE", own.file), codeqtest.Env("TLS_CLIENT_AUTH", "require"),
		codeqtest.Env("PRODUCER_AUTH_PROVIDER", "mtls"), codeqtest.Env("PRODUCER_AUTH_CONFIG", identities),
		codeqtest.Env("WORKER_AUTH_PROVIDER", "mtls"), codeqtest.Env("WORKER_AUTH_CONFIG", identities))
	certFile, keyFile := own.sign("shop", x509.ExtKeyUsageClientAuth)
	shown := &codeq.TLS{CAFile: own.file, CertFile: certFile, KeyFile: keyFile}
	work, err := worker.New(worker.Config{Addresses: []string{server.WorkerAddr}, TLS: shown})
	if err != nil {
		t.Fatal(err)
	}
	ids := make(chan string, 1)
	worker.Handle(work, "order", func(_ context.Context, task worker.Task[order]) (receipt, error) {
		ids <- task.WorkerID
		return receipt{Shipped: task.Payload.ID}, nil
	})
	codeqtest.Run(t, work)
	tasks, err := producer.New(producer.Config{Addresses: []string{server.ProducerAddr}, TLS: shown})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tasks.Close() })
	got, err := producer.Call[receipt](t.Context(), tasks, "order", order{ID: "42"}) // a stream and a unary call
	if err != nil || got.Shipped != "42" {
		t.Fatalf("got %+v, %v", got, err)
	}
	if id := <-ids; id != "spiffe://acme.example/shop" {
		t.Errorf("the worker is %q", id)
	}
	otherCert, otherKey := other.sign("shop", x509.ExtKeyUsageClientAuth)
	for who, refused := range map[string]*codeq.TLS{
		"a client without a certificate":          {CAFile: own.file},
		"a client of another authority":           {CAFile: own.file, CertFile: otherCert, KeyFile: otherKey},
		"a client that trusts another authority":  {CAFile: other.file, CertFile: certFile, KeyFile: keyFile},
		"a client that expects another host name": {CAFile: own.file, CertFile: certFile, KeyFile: keyFile, ServerName: "elsewhere.example"},
	} {
		calls, err := client.New(client.Config{Addresses: []string{server.ProducerAddr}, TLS: refused, Timeout: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := calls.ServerInfo(t.Context()); !errors.Is(err, codeq.ErrUnavailable) {
			t.Errorf("%s got %v", who, err)
		}
		_ = calls.Close()
	}
}
