// Package codeqtest runs a codeq server for tests. It is a module of its own, so that programs do not link it.
//
//	func TestOrders(t *testing.T) {
//		server := codeqtest.Start(t)
//		orders := server.Producer(t, producer.Config{})
//		…
//	}
package codeqtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/osvaldoandrade/codeq/sdks/go/client"
	"github.com/osvaldoandrade/codeq/sdks/go/producer"
	"github.com/osvaldoandrade/codeq/sdks/go/worker"
)

const (
	// EnvServerCommand is the variable that names the command of the server, with its first arguments. Default: codeq.
	EnvServerCommand = "CODEQ_SERVER_COMMAND"
	// Token is the token of the server for producers, workers, administrators and operators.
	Token = "dev-token"

	host       = "127.0.0.1"
	readyMax   = 60 * time.Second
	readyEvery = 20 * time.Millisecond
	stopMax    = 20 * time.Second
	logTail    = 4096
)

// Server is a running server, whose store is a temporary folder.
type Server struct {
	// ProducerAddr is the address of producers and clients.
	ProducerAddr string
	// WorkerAddr is the address of workers.
	WorkerAddr string
	// HTTPURL is the address of the REST API.
	HTTPURL string

	t         testing.TB
	command   []string
	env       []string
	readyFile string
	mu        sync.Mutex
	process   *exec.Cmd
	ended     chan struct{}
	log       logBuffer
}

// Option changes the server.
type Option func(*Server)

// Env sets an environment variable of the server, such as BACKOFF_BASE_SECONDS.
func Env(name, value string) Option {
	return func(server *Server) { server.env = append(server.env, name+"="+value) }
}

// IsAvailable reports whether there is a command of a server, so that a test may do something else without one.
func IsAvailable() bool {
	_, err := command()
	return err == nil
}

// Start starts a server with a temporary store on free ports and waits until it is ready. The end of the test stops it.
// The test fails if there is no server command; see EnvServerCommand.
func Start(t testing.TB, options ...Option) *Server {
	t.Helper()
	given, err := command()
	if err != nil {
		t.Fatal(err)
	}
	ports, err := freePorts(3)
	if err != nil {
		t.Fatalf("codeqtest: %v", err)
	}
	folder := t.TempDir()
	server := &Server{
		ProducerAddr: ports[0], WorkerAddr: ports[1], HTTPURL: "http://" + ports[2], t: t,
		env: withoutSettings(os.Environ()), readyFile: filepath.Join(folder, "ready.json"),
	}
	server.command = append(given, "serve", "--dev", "--http-host", host, "--port", portOf(ports[2]),
		"--producer-stream-addr", ports[0], "--worker-stream-addr", ports[1],
		"--store", filepath.Join(folder, "store"), "--ready-file", server.readyFile)
	for _, option := range options {
		option(server)
	}
	t.Cleanup(server.Stop)
	server.Restart()
	return server
}

// Restart starts the server again, on the same ports and store, and waits until it is ready.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	_ = os.Remove(s.readyFile) // left by a killed server
	s.mu.Lock()
	process := exec.Command(s.command[0], s.command[1:]...)
	process.Env, process.Stdout, process.Stderr = s.env, &s.log, &s.log
	process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	ended := make(chan struct{})
	err := process.Start()
	if err == nil {
		s.process, s.ended = process, ended
		go func() {
			_ = process.Wait()
			close(ended)
		}()
	}
	s.mu.Unlock()
	if err != nil {
		s.t.Fatalf("codeqtest: %v", err)
	}
	s.awaitReady(ended)
}

func (s *Server) awaitReady(ended <-chan struct{}) {
	s.t.Helper()
	late := time.After(readyMax)
	ticker := time.NewTicker(readyEvery)
	defer ticker.Stop()
	for !s.isReady() {
		select {
		case <-ticker.C:
		case <-ended:
			s.t.Fatalf("codeqtest: the server ended before it was ready:\n%s", s.log.tail())
		case <-late:
			s.t.Fatalf("codeqtest: the server was not ready within %s:\n%s", readyMax, s.log.tail())
		}
	}
}

func (s *Server) isReady() bool {
	text, err := os.ReadFile(s.readyFile)
	return err == nil && len(text) > 0
}

// Stop drains the server and waits for its end. A stopped server does nothing.
func (s *Server) Stop() { s.signal(syscall.SIGTERM) }

// Kill ends the server at once, as a crash would.
func (s *Server) Kill() { s.signal(syscall.SIGKILL) }

func (s *Server) signal(number syscall.Signal) {
	s.t.Helper()
	s.mu.Lock()
	process, ended := s.process, s.ended
	s.process = nil
	s.mu.Unlock()
	if process == nil {
		return
	}
	_ = syscall.Kill(-process.Process.Pid, number)
	select {
	case <-ended:
	case <-time.After(stopMax):
		_ = syscall.Kill(-process.Process.Pid, syscall.SIGKILL)
		<-ended
		s.t.Errorf("codeqtest: the server did not stop within %s:\n%s", stopMax, s.log.tail())
	}
}

// Log returns the last lines of the server's log.
func (s *Server) Log() string { return s.log.tail() }

// Producer returns a producer of the server, which the end of the test closes. Addresses and Token of the config are set
// unless they are given.
func (s *Server) Producer(t testing.TB, config producer.Config) *producer.Producer {
	t.Helper()
	if len(config.Addresses) == 0 {
		config.Addresses = []string{s.ProducerAddr}
	}
	if config.Token == "" && config.TokenFunc == nil {
		config.Token = Token
	}
	made, err := producer.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = made.Close() })
	return made
}

// Client returns a client of the server, which the end of the test closes; see Producer.
func (s *Server) Client(t testing.TB, config client.Config) *client.Client {
	t.Helper()
	if len(config.Addresses) == 0 {
		config.Addresses = []string{s.ProducerAddr}
	}
	if config.Token == "" && config.TokenFunc == nil {
		config.Token = Token
	}
	made, err := client.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = made.Close() })
	return made
}

// Worker returns a worker of the server; see Producer. Run starts it.
func (s *Server) Worker(t testing.TB, config worker.Config) *worker.Worker {
	t.Helper()
	if len(config.Addresses) == 0 {
		config.Addresses = []string{s.WorkerAddr}
	}
	if config.Token == "" && config.TokenFunc == nil {
		config.Token = Token
	}
	made, err := worker.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// Run runs a worker until the end of the test, or until the function that it returns is called, which waits for the
// worker's end. The test fails if the worker ends with an error.
func Run(t testing.TB, w *worker.Worker) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := w.Run(ctx); err != nil {
			t.Errorf("the worker ended: %v", err)
		}
	}()
	stop = func() {
		cancel()
		<-ended
	}
	t.Cleanup(stop)
	return stop
}

func command() ([]string, error) {
	if given := strings.Fields(os.Getenv(EnvServerCommand)); len(given) > 0 {
		return given, nil
	}
	path, err := exec.LookPath("codeq")
	if err != nil {
		return nil, fmt.Errorf("codeqtest: no server: put the command codeq on PATH, or set %s", EnvServerCommand)
	}
	return []string{path}, nil
}

// freePorts returns addresses whose ports were free a moment ago.
func freePorts(count int) ([]string, error) {
	var addresses []string
	for range count {
		listener, err := net.Listen("tcp", host+":0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = listener.Close() }()
		addresses = append(addresses, listener.Addr().String())
	}
	return addresses, nil
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// withoutSettings returns the environment without variables that programs use for their own servers.
func withoutSettings(environment []string) []string {
	var kept []string
	for _, each := range environment {
		if !strings.HasPrefix(each, "CODEQ_") {
			kept = append(kept, each)
		}
	}
	return kept
}

// logBuffer keeps what the server writes.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write keeps text.
func (b *logBuffer) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(text)
}

func (b *logBuffer) tail() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := b.text.String()
	return text[max(0, len(text)-logTail):]
}
