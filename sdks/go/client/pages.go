package client

import (
	"iter"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

// pages iterates over a list from the page of a token on. read returns the items of a page and the token of the next one,
// empty after the last. An error ends the iteration.
func pages[Item any](token string, read func(token string) ([]Item, string, error)) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		for at := token; ; {
			items, next, err := read(at)
			if err != nil {
				var none Item
				yield(none, err)
				return
			}
			for _, item := range items {
				if !yield(item, nil) {
					return
				}
			}
			if at = next; at == "" {
				return
			}
		}
	}
}

func tasksOf(messages []*codeqv1.Task) []*codeq.Task {
	tasks := make([]*codeq.Task, len(messages))
	for index, message := range messages {
		tasks[index] = codeq.TaskOf(message)
	}
	return tasks
}
