package examples_test

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/osvaldoandrade/codeq/sdks/go/codeqtest"
	"github.com/osvaldoandrade/codeq/sdks/go/producer"
)

// build compiles an example, or a file with a program, and returns a command that runs it with the server.
func build(t *testing.T, server *codeqtest.Server, name string, env ...string) *exec.Cmd {
	t.Helper()
	if !filepath.IsAbs(name) {
		name = "./" + name
	}
	program := filepath.Join(t.TempDir(), "program")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, name).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	command := exec.CommandContext(t.Context(), program)
	command.Env = append(os.Environ(), "CODEQ_PRODUCER_ADDR="+server.ProducerAddr, "CODEQ_WORKER_ADDR="+server.WorkerAddr,
		"CODEQ_TOKEN="+codeqtest.Token)
	command.Env = append(command.Env, env...)
	return command
}

func TestQuickStartOfTheReadmeRuns(t *testing.T) {
	text, err := os.ReadFile("../../sdks/go/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```go\npackage main\n")
	source, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("the README has no whole program")
	}
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte("package main\n"+source), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := build(t, codeqtest.Start(t), file).Output()
	if err != nil || string(got) != "shipped 42\n" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestProgramsThatEnd(t *testing.T) {
	server := codeqtest.Start(t)
	for name, want := range map[string]string{
		"quickstart": "Hello, world\n",
		"retries":    "attempt 1\nattempt 2\nDLQ the bank is closed\ndead letter true the bank is closed\nattempt 1\nCOMPLETED \"charged\"\n",
		"fanout":     "tasks 10000 sum 333283335000\n",
	} {
		t.Run(name, func(t *testing.T) {
			var problems bytes.Buffer
			command := build(t, server, name)
			command.Stderr = &problems
			got, err := command.Output()
			if err != nil || string(got) != want {
				t.Errorf("got %q, %v\n%s", got, err, problems.Bytes())
			}
		})
	}
}

func TestWorkerReportsItsTasks(t *testing.T) {
	server := codeqtest.Start(t)
	tasks := server.Producer(t, producer.Config{})
	command := build(t, server, "worker")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	resized, err := producer.Call[map[string]string](t.Context(), tasks, "resize", map[string]any{"path": "a.png", "width": 10})
	if err != nil || resized["path"] != "a.png@10" {
		t.Errorf("got %v, %v", resized, err)
	}
	result, err := tasks.CreateAndWait(t.Context(), "resize", map[string]any{"path": "b.png"})
	if err != nil || result.Status != "FAILED" || result.Error != "width 0 of b.png" {
		t.Errorf("got %+v, %v", result, err)
	}
	if err := command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := command.Wait(); err != nil {
		t.Error(err)
	}
}

func TestLongTaskIsSavedWhenTheWorkerStops(t *testing.T) {
	server := codeqtest.Start(t)
	tasks := server.Producer(t, producer.Config{})
	command := build(t, server, "shutdown")
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := tasks.Create(t.Context(), "long", 100_000)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "working" {
	}
	if err := command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	result, err := tasks.Wait(t.Context(), id)
	if err != nil || !strings.HasPrefix(string(result.Result), `"saved at`) {
		t.Errorf("got %+v, %v", result, err)
	}
	for lines.Scan() {
	}
	if err := command.Wait(); err != nil {
		t.Error(err)
	}
}

func TestWebAppEnqueuesAndWaits(t *testing.T) {
	server := codeqtest.Start(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	command := build(t, server, "webapp", "ADDR="+address)
	problems, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(problems)
	for lines.Scan() && !strings.Contains(lines.Text(), "listening") {
	}
	web := http.Client{Timeout: 30 * time.Second}
	reply, err := web.Post("http://"+address+"/orders", "application/json", strings.NewReader(`{"id":1}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = reply.Body.Close()
	if reply.StatusCode != http.StatusAccepted {
		t.Errorf("the status is %s", reply.Status)
	}
	reply, err = web.Post("http://"+address+"/orders", "application/json", strings.NewReader(`{`))
	if err != nil {
		t.Fatal(err)
	}
	_ = reply.Body.Close()
	if reply.StatusCode != http.StatusBadRequest {
		t.Errorf("the status of a malformed order is %s", reply.Status)
	}
	if err := command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
	}
	if err := command.Wait(); err != nil {
		t.Error(err)
	}
}
