// Package codeq holds what the packages of the Go SDK of codeq share: errors and their reasons, tasks and results, tokens, TLS, metrics and
// trace context.
//
// Programs create tasks with package producer, work on them with package worker, and make single calls with package
// client. Nothing in the SDK is global: each producer, worker and client has its own connections, and ends them when it
// is closed.
package codeq

// Version is the version of the SDK.
const Version = "0.1.0"

// SDKName is the name by which the SDK introduces itself to servers.
const SDKName = "codeq-go"

// Protocol is the version of the stream protocol that the SDK speaks, and the lowest version that it expects of a server.
const Protocol = 1
