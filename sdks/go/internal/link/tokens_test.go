package link

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
)

func TestConcurrentCallsShareATokenFunction(t *testing.T) {
	var calls atomic.Int32
	release, asked := make(chan struct{}), make(chan struct{}, 8)
	source := tokens{function: func(context.Context) (string, error) {
		calls.Add(1)
		asked <- struct{}{}
		<-release
		return "shared", nil
	}}
	var waiting sync.WaitGroup
	for range 4 {
		waiting.Go(func() {
			if token, err := source.get(t.Context()); token != "shared" || err != nil {
				t.Errorf("got %q, %v", token, err)
			}
		})
	}
	<-asked
	late, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := source.get(late); !errors.Is(err, codeq.ErrUnavailable) {
		t.Errorf("a caller that waited too long got %v", err)
	}
	close(release)
	waiting.Wait()
	if count := calls.Load(); count > 4 { // callers that came after the first answer ask again
		t.Errorf("the function was called %d times", count)
	}
}

func TestTokenFunctionThatFailsMakesCallsFail(t *testing.T) {
	for name, function := range map[string]codeq.TokenFunc{
		"no issuer": func(context.Context) (string, error) { return "", errors.New("no issuer") },
		"panicked":  func(context.Context) (string, error) { panic("oops") },
		"sent":      func(context.Context) (string, error) { return "a\nb", nil },
	} {
		source := tokens{function: function}
		_, err := source.get(t.Context())
		if !errors.Is(err, codeq.ErrUnavailable) || !strings.Contains(err.Error(), name) || !codeq.IsRetryable(err) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
