package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func clientOf(t *testing.T, handler http.HandlerFunc) *httpClient {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	client, err := newHTTPClient(strings.TrimPrefix(server.URL, "http://"), "dev-token")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.close)
	return client
}

func TestPostSendsBodyAndTokenAndReturnsTheReply(t *testing.T) {
	client := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization")+" "+string(body))
	})
	for range 2 { // twice over one connection
		reply, err := client.post("/v1/codeq/tasks", []byte(`{}`), 202)
		if want := "POST /v1/codeq/tasks Bearer dev-token {}"; err != nil || string(reply) != want {
			t.Fatalf("got %q, %v", reply, err)
		}
	}
}

func TestPostWithoutContentReturnsAnEmptyReply(t *testing.T) {
	client := clientOf(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	reply, err := client.post("/", nil, 200, 204)
	if err != nil || len(reply) != 0 {
		t.Errorf("got %q, %v", reply, err)
	}
}

func TestPostWithUnwantedStatusFailsWithTheReply(t *testing.T) {
	client := clientOf(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusConflict)
		io.WriteString(w, "stale")
	})
	if _, err := client.post("/", nil, 200); err == nil || !strings.Contains(err.Error(), "409: stale") {
		t.Errorf("got %v", err)
	}
}

func TestPostWithChunkedReplyFails(t *testing.T) {
	client := clientOf(t, func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush()
		io.WriteString(w, "a reply of unknown length")
	})
	if _, err := client.post("/", nil, 200); err == nil || !strings.Contains(err.Error(), "without a content length") {
		t.Errorf("got %v", err)
	}
}
