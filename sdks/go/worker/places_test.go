package worker

import (
	"context"
	"fmt"
	"testing"

	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

func TestTasksLostWhileTheyWaitAreNotKept(t *testing.T) {
	made, err := New(Config{Concurrency: 4})
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	Handle(made, "a", func(context.Context, Task[string]) (None, error) {
		<-release
		return None{}, nil
	}, Limit(1))
	r := newRun(made, t.Context(), nil).branches[0]
	r.mu.Lock()
	receive := func(id string) {
		r.receive([]*codeqv1.Task{{Id: id, Command: "a", Payload: []byte(`""`)}})
	}
	receive("running")
	receive("stays")
	for number := range 100 {
		id := fmt.Sprint("lost", number)
		receive(id)
		r.lose(r.held[id], ErrCancelled)
	}
	for _, taken := range r.places {
		if len(taken.waiting) != 1 || taken.waiting[0].ID != "stays" {
			t.Errorf("%d tasks wait", len(taken.waiting))
		}
		r.lose(r.held["stays"], ErrCancelled)
		if len(taken.waiting) != 0 {
			t.Errorf("%d tasks wait for nothing", len(taken.waiting))
		}
	}
	r.mu.Unlock()
	close(release)
	r.hardStop()
	r.handlers.Wait()
}
