// Package examples holds programs that use the Go SDK, one per folder, and a test that runs them.
package examples
