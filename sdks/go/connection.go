package codeq

import (
	"context"
	"crypto/tls"
)

// Environment variables that producers, workers and clients read for settings that are not given.
const (
	// EnvProducerAddr names the servers of producers and clients. Default: localhost:9092.
	EnvProducerAddr = "CODEQ_PRODUCER_ADDR"
	// EnvWorkerAddr names the servers of workers. Default: localhost:9091.
	EnvWorkerAddr = "CODEQ_WORKER_ADDR"
	// EnvToken is the token.
	EnvToken = "CODEQ_TOKEN"
	// EnvTLSCAFile is a PEM file with the authorities that servers' certificates come from.
	EnvTLSCAFile = "CODEQ_TLS_CA_FILE"
	// EnvTLSCertFile is a PEM file with the certificate to present.
	EnvTLSCertFile = "CODEQ_TLS_CERT_FILE"
	// EnvTLSKeyFile is a PEM file with the key of that certificate.
	EnvTLSKeyFile = "CODEQ_TLS_KEY_FILE"
)

// TokenFunc returns a token, without "Bearer". The SDK calls it for each call and each stream, and again when the token of
// a stream is about to expire, so it should cache its token until shortly before that. It may block for up to 30 s; calls
// that start in the meantime share its result. An error makes the call fail with UNAVAILABLE.
type TokenFunc func(ctx context.Context) (string, error)

// TLS are the settings of encrypted connections. The zero value trusts the system's roots.
type TLS struct {
	// Disabled makes connections plaintext, whatever the environment says.
	Disabled bool
	// CAFile is a PEM file with the authorities that servers' certificates come from. Empty: the system's roots.
	CAFile string
	// CertFile is a PEM file with the certificate to present, followed by those between it and its authority. It needs
	// KeyFile. Files are read again for each new connection; if they cannot be used then, the earlier ones stay.
	CertFile string
	// KeyFile is a PEM file with the key of CertFile, without a password.
	KeyFile string
	// ServerName is the name that the server's certificate must have. Empty: the host of the address.
	ServerName string
	// InsecureSkipVerify accepts every certificate, which lets anyone in between read the tokens. Each connection logs a
	// warning.
	InsecureSkipVerify bool
	// Base, if set, is the configuration to which the fields above are added.
	Base *tls.Config
}
