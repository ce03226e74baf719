package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

// runREST runs HTTP clients, each over its own keep-alive connection with one call at a time: create a task, claim one
// (its own or another's), send the result.
func runREST(o options, m *meter) error {
	stop := make(chan struct{})
	failures := make(chan error, o.clients)
	var clients sync.WaitGroup
	for i := range o.clients {
		clients.Go(func() { failures <- named("client", i, runClient(o, m, int64(i)<<40, stop)) })
	}
	watched := make(chan struct{})
	go func() { m.watch(o); close(watched) }()
	select {
	case <-watched:
	case err := <-failures:
		return fmt.Errorf("a client ended during the run: %w", err)
	}
	close(stop)
	clients.Wait()
	close(failures)
	var all error
	for err := range failures {
		all = errors.Join(all, err)
	}
	return all
}

// runClient runs whole cycles until stop is closed.
func runClient(o options, m *meter, job int64, stop <-chan struct{}) error {
	http, err := newHTTPClient(o.address, o.token)
	if err != nil {
		return err
	}
	defer http.close()
	claim := fmt.Appendf(nil, `{"commands":[%q],"leaseSeconds":60,"waitSeconds":0}`, o.command)
	result := []byte(`{"status":"COMPLETED","result":{"ok":true}}`)
	var body []byte
	for ; ; job++ {
		select {
		case <-stop:
			return nil
		default:
		}
		sent := time.Now()
		body = fmt.Appendf(body[:0], `{"command":%q,"priority":3,"payload":`, o.command)
		body = append(appendPayload(body, job, sent), '}')
		if _, err := http.post("/v1/codeq/tasks", body, 202); err != nil {
			return err
		}
		m.created.Add(1)
		if m.measuring.Load() {
			m.create.add(time.Since(sent), 1)
		}
		id, err := claimTask(http, m, claim)
		if err != nil {
			return err
		}
		if _, err := http.post("/v1/codeq/tasks/"+id+"/result", result, 200); err != nil {
			return err
		}
		m.completed.Add(1)
	}
}

// claimTask claims until it gets a task: each client creates as many as it claims, so one is available or briefly held
// by another client.
func claimTask(http *httpClient, m *meter, claim []byte) (string, error) {
	deadline := time.Now().Add(endWait)
	for {
		reply, err := http.post("/v1/codeq/tasks/claim", claim, 200, 204)
		if err != nil {
			return "", err
		}
		if len(reply) == 0 {
			m.claimsWithoutTasks.Add(1)
			if time.Now().After(deadline) {
				return "", fmt.Errorf("no task to claim within %v although there must be one", endWait)
			}
			continue
		}
		now := time.Now()
		var task struct {
			ID      string          `json:"id"`
			Payload json.RawMessage `json:"payload"`
		}
		if err := json.Unmarshal(reply, &task); err != nil {
			return "", fmt.Errorf("claimed %q: %w", reply, err)
		}
		age, ours := ageOf(task.Payload, now)
		if task.ID == "" || !ours {
			return "", fmt.Errorf("claimed %q: no task of this run", reply)
		}
		if m.measuring.Load() {
			m.delivery.add(age, 1)
		}
		return task.ID, nil
	}
}

// httpClient is a minimal HTTP/1.1 client over one keep-alive connection; it is lean because it shares the machine with
// the server it measures. It only reads replies with a content length.
type httpClient struct {
	connection net.Conn
	reader     *bufio.Reader
	headers    string
	request    []byte
	body       []byte
}

// bodyBytesMax is the largest reply body the client accepts.
const bodyBytesMax = 1 << 20

func dialHTTP(address string) (net.Conn, error) {
	if secured {
		return tls.Dial("tcp", address, unchecked())
	}
	return net.Dial("tcp", address)
}

// unchecked accepts any certificate: the server is one that the benchmark has started.
func unchecked() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

func newHTTPClient(address, token string) (*httpClient, error) {
	connection, err := dialHTTP(address)
	if err != nil {
		return nil, err
	}
	headers := " HTTP/1.1\r\nHost: " + address + "\r\nAuthorization: Bearer " + token +
		"\r\nContent-Type: application/json\r\nContent-Length: "
	return &httpClient{connection: connection, reader: bufio.NewReader(connection), headers: headers}, nil
}

func (c *httpClient) close() { c.connection.Close() }

// post sends a body and returns the reply's, which is valid until the next call; an unexpected status is an error.
func (c *httpClient) post(path string, body []byte, wanted ...int) ([]byte, error) {
	c.request = append(append(append(c.request[:0], "POST "...), path...), c.headers...)
	c.request = append(strconv.AppendInt(c.request, int64(len(body)), 10), "\r\n\r\n"...)
	c.request = append(c.request, body...)
	if err := c.connection.SetDeadline(time.Now().Add(endWait)); err != nil {
		return nil, err
	}
	if _, err := c.connection.Write(c.request); err != nil {
		return nil, err
	}
	status, err := c.readReply()
	if err != nil {
		return nil, fmt.Errorf("POST %s: %w", path, err)
	}
	for _, want := range wanted {
		if status == want {
			return c.body, nil
		}
	}
	return nil, fmt.Errorf("POST %s: status %d: %s", path, status, c.body)
}

// readReply reads one reply into c.body and returns its status.
func (c *httpClient) readReply() (int, error) {
	line, err := c.readLine()
	if err != nil {
		return 0, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, fmt.Errorf("not an HTTP/1.1 reply: %q", line)
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil {
		return 0, fmt.Errorf("not a status: %q", line)
	}
	length := 0
	for {
		line, err := c.readLine()
		if err != nil {
			return 0, err
		}
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("transfer-encoding")) {
			return 0, fmt.Errorf("a reply without a content length: %q", line)
		}
		if bytes.EqualFold(name, []byte("content-length")) {
			length, err = strconv.Atoi(string(bytes.TrimSpace(value)))
			if err != nil || length < 0 || length > bodyBytesMax {
				return 0, fmt.Errorf("not a length: %q", line)
			}
		}
	}
	if cap(c.body) < length {
		c.body = make([]byte, length)
	}
	c.body = c.body[:length]
	_, err = io.ReadFull(c.reader, c.body)
	return status, err
}

// readLine reads a header line without its line end; it is valid until the next read.
func (c *httpClient) readLine() ([]byte, error) {
	line, err := c.reader.ReadSlice('\n')
	return bytes.TrimRight(line, "\r\n"), err
}
