// Command webapp is a web server: POST /orders enqueues an order, and waits for its receipt if asked to (?wait=1). It stops
// gracefully: requests in flight end before the producer is closed.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	"github.com/osvaldoandrade/codeq/sdks/go/producer"
)

const (
	waitMax = 10 * time.Second
	stopMax = 15 * time.Second
	bodyMax = 64 << 10
)

type shop struct{ tasks *producer.Producer }

func main() {
	tasks, err := producer.New(producer.Config{Token: cmp.Or(os.Getenv("CODEQ_TOKEN"), "dev-token"), RequestKeys: true})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = tasks.Close() }()
	listener, err := net.Listen("tcp", cmp.Or(os.Getenv("ADDR"), "127.0.0.1:8000"))
	if err != nil {
		log.Fatal(err)
	}
	routes := http.NewServeMux()
	routes.HandleFunc("POST /orders", (&shop{tasks}).order)
	server := &http.Server{Handler: routes, ReadHeaderTimeout: stopMax}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		late, cancel := context.WithTimeout(context.Background(), stopMax)
		defer cancel()
		_ = server.Shutdown(late)
	}()
	log.Println("listening on", listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}

// order enqueues the body of the request. The header Idempotency-Key makes it safe to repeat the request.
func (s *shop) order(out http.ResponseWriter, request *http.Request) {
	var body json.RawMessage
	if err := json.NewDecoder(http.MaxBytesReader(out, request.Body, bodyMax)).Decode(&body); err != nil {
		http.Error(out, err.Error(), http.StatusBadRequest)
		return
	}
	key := producer.IdempotencyKey(request.Header.Get("Idempotency-Key"))
	ctx, cancel := context.WithTimeout(request.Context(), waitMax)
	defer cancel()
	if request.URL.Query().Get("wait") == "" {
		id, err := s.tasks.Create(ctx, "order", body, key)
		answer(out, http.StatusAccepted, map[string]string{"id": id}, err)
		return
	}
	receipt, err := producer.Call[json.RawMessage](ctx, s.tasks, "order", body, key)
	answer(out, http.StatusOK, receipt, err)
}

func answer(out http.ResponseWriter, status int, value any, err error) {
	if err != nil {
		status, value = statusOf(err), map[string]string{"error": err.Error()}
	}
	out.Header().Set("Content-Type", "application/json")
	out.WriteHeader(status)
	_ = json.NewEncoder(out).Encode(value)
}

func statusOf(err error) int {
	if _, failed := codeq.AsTaskError(err); failed {
		return http.StatusUnprocessableEntity
	}
	switch codeq.ReasonOf(err) {
	case codeq.ErrDeadlineExceeded:
		return http.StatusGatewayTimeout
	case codeq.ErrInvalidField, codeq.ErrInvalidArgument, codeq.ErrTooLarge:
		return http.StatusBadRequest
	default:
		return http.StatusServiceUnavailable
	}
}
