package link

import (
	"context"
	"fmt"
	"sync"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
)

// tokenMax is the longest wait for a token function, unless the call ends earlier.
const tokenMax = 30 * time.Second

// tokens provides the tokens of calls and streams.
type tokens struct {
	fixed    string
	function codeq.TokenFunc
	mu       sync.Mutex
	asked    *asking
}

// asking is a call of the token function, shared by all that wait for it. A function that hangs costs one goroutine.
type asking struct {
	done  chan struct{}
	token string
	err   error
}

func (t *tokens) get(ctx context.Context) (string, error) {
	if t.function == nil {
		return t.fixed, nil
	}
	asked := t.ask()
	select {
	case <-asked.done:
	case <-ctx.Done():
		return "", noToken("the token function did not return in time", context.Cause(ctx))
	}
	if asked.err != nil {
		return "", noToken(asked.err.Error(), asked.err)
	}
	if !isPrintable(asked.token) {
		return "", noToken("the token has characters that cannot be sent", nil)
	}
	return asked.token, nil
}

func (t *tokens) ask() *asking {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.asked == nil {
		asked := &asking{done: make(chan struct{})}
		t.asked = asked
		go t.call(asked)
	}
	return t.asked
}

func (t *tokens) call(asked *asking) {
	ctx, cancel := context.WithTimeout(context.Background(), tokenMax)
	defer cancel()
	defer func() {
		if thrown := recover(); thrown != nil {
			asked.err = fmt.Errorf("the token function panicked: %v", thrown)
		}
		t.mu.Lock()
		t.asked = nil
		t.mu.Unlock()
		close(asked.done)
	}()
	asked.token, asked.err = t.function(ctx)
}

func noToken(message string, cause error) *codeq.Error {
	err := Unavailable("no token: " + message)
	err.Cause = cause
	return err
}

func isPrintable(token string) bool {
	for index := range len(token) {
		if token[index] < ' ' || token[index] > '~' {
			return false
		}
	}
	return true
}
