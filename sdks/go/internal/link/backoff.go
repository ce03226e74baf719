package link

import (
	"math/rand/v2"
	"time"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
)

// backoff returns the time to wait after a number of failed attempts in a row, 1 or more: random below a bound that
// doubles, so that the clients of a restarted server spread out.
func backoff(attempt int) time.Duration {
	bound := codeq.BackoffMax
	if attempt < 30 {
		bound = min(codeq.BackoffMax, codeq.BackoffMin<<(attempt-1))
	}
	return time.Duration(rand.Float64() * float64(bound))
}
