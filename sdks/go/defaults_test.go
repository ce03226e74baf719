package codeq_test

import (
	"testing"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
)

func TestDefaultsAreThoseOfEveryLanguage(t *testing.T) {
	want := map[string]float64{
		"concurrency": 16, "leaseSeconds": 60, "renewalsPerLease": 3, "drainSeconds": 30, "leaveSecondsMax": 5,
		"windowBytes": 16777216, "timeoutSeconds": 30, "unsettledMax": 4096, "messageItemsMax": 4096,
		"messageBytesMax": 2097152, "frameTasksMax": 4096, "frameBytesMax": 8388608, "inFlightTasksMax": 65536,
		"backoffMinMs": 200, "backoffMaxMs": 10000, "backoffFactor": 2, "followMinMs": 50, "followMaxMs": 500,
		"refreshSeconds": 60, "stallSeconds": 5, "keepaliveSeconds": 15, "keepaliveTimeoutSeconds": 5,
	}
	got := codeq.Defaults()
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is %v, want %v", name, got[name], value)
		}
	}
	if len(got) != len(want) {
		t.Errorf("there are %d defaults, want %d", len(got), len(want))
	}
}
