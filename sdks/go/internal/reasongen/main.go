// Command reasongen writes the reasons of codeq.v1.ErrorReason as constants of package codeq.
package main

import (
	"fmt"
	"os"

	"github.com/osvaldoandrade/codeq/sdks/go/internal/reasontable"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: reasongen FILE")
		os.Exit(2)
	}
	source, err := reasontable.Source()
	if err == nil {
		err = os.WriteFile(os.Args[1], source, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "reasongen:", err)
		os.Exit(1)
	}
}
