package codeq_test

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the files of the public API instead of comparing them")

// TestPublicAPIIsTheRecordedOne fails when the public API changes, so that each change is seen. To record it:
// go test -run TestPublicAPI . -update
func TestPublicAPIIsTheRecordedOne(t *testing.T) {
	packages := map[string]string{
		".": "codeq", "./client": "client", "./producer": "producer", "./worker": "worker", "./reasons": "reasons",
		"./producerclient": "producerclient", "./workerclient": "workerclient", "./webhooks": "webhooks",
	}
	for path, name := range packages {
		t.Run(name, func(t *testing.T) { compareAPI(t, path, filepath.Join("api", name+".txt")) })
	}
}

func compareAPI(t *testing.T, path, file string) {
	t.Helper()
	var problems bytes.Buffer
	command := exec.CommandContext(t.Context(), "go", "doc", "-all", path)
	command.Stderr = &problems
	got, err := command.Output()
	if err != nil {
		t.Fatalf("go doc: %v\n%s", err, problems.Bytes())
	}
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is out of date: look at the changes of the public API, then run go test -run TestPublicAPI . -update", file)
	}
}
