package webhooks

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"testing"
	"time"
)

func TestVectorsAreVerifiedAsTheTableSays(t *testing.T) {
	data, err := os.ReadFile("../../../tests/golden/webhook_signatures.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Name, Body string
		Headers    map[string]string
		Secrets    []string
		Now        int64
		Valid      bool
		Error      string
	}
	if err := json.Unmarshal(data, &vectors); err != nil || len(vectors) == 0 {
		t.Fatal(err, len(vectors))
	}
	for _, each := range vectors {
		header := http.Header{}
		for name, value := range each.Headers {
			header.Set(name, value)
		}
		id, err := verifyAt(time.Unix(each.Now, 0), []byte(each.Body), header, each.Secrets)
		if (err == nil) != each.Valid || (each.Valid && id != header.Get("webhook-id")) {
			t.Errorf("%s: %q, %v", each.Name, id, err)
		}
		if err != nil && (!errors.Is(err, ErrRejected) || err.Error() != ErrRejected.Error()+": "+each.Error) {
			t.Errorf("%s: %v", each.Name, err)
		}
	}
	if _, err := Verify([]byte("{}"), http.Header{}, "a secret of some length"); !errors.Is(err, ErrRejected) {
		t.Error(err)
	}
}
