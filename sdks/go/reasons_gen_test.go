package codeq_test

import (
	"os"
	"testing"

	"github.com/osvaldoandrade/codeq/sdks/go/internal/reasontable"
)

func TestReasonsAreThoseOfTheProtos(t *testing.T) {
	want, err := reasontable.Source()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("reasons_gen.go")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Error("reasons_gen.go is out of date: run go generate in sdks/go")
	}
}
